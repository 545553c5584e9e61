//! One operation that can be awaited: its block, and the future.
//!
//! The block holds the header the kernel sees, the state, and what the operation needs: buffers, the
//! handle. It is counted. From submission to packet one reference is the kernel's, as a bare
//! pointer; the packet gives it back. So a future may be dropped, or forgotten, at any time.
// UNSAFETY: lends the memory of blocks to the operating system until their packet.
#![expect(unsafe_code)]

use std::{
    fmt, io,
    pin::Pin,
    ptr::NonNull,
    task::{Context, Poll, Waker},
};

use super::state::{News, Polled, State};
use crate::{
    completion::Completion,
    dispatcher::{Door, Inner, Recipient, Started},
    overlapped::RawOverlapped,
    submission::Submission,
    sync::{Arc, Cell},
};

/// The port's own half of a dispatcher.
type Port = std::sync::Arc<Inner>;

/// The block of one operation. The header comes first: its address is the block's.
#[repr(C)]
pub(crate) struct Op<T> {
    header: RawOverlapped,
    state: State,
    /// Whoever has the outcome has the payload; while the operation runs it is the kernel's.
    payload: Cell<Option<T>>,
}

// SAFETY: the payload moves between threads (`T: Send`) and is only accessed by one at a time: the
// one that begins, then nobody (the kernel), then the one that `state` gave the outcome to.
unsafe impl<T: Send> Send for Op<T> {}
// SAFETY: see Send.
unsafe impl<T: Send> Sync for Op<T> {}

impl<T: Send> Op<T> {
    fn new(payload: T) -> Arc<Self> {
        Arc::new(Self {
            header: RawOverlapped::new(),
            state: State::new(),
            payload: Cell::new(Some(payload)),
        })
    }

    /// The header's address, to ask for it to be cancelled.
    fn header(this: &Arc<Self>) -> NonNull<RawOverlapped> {
        let block = Arc::as_ptr(this).cast_mut();
        NonNull::new(block.cast()).unwrap_or(NonNull::dangling())
    }

    const RECIPIENT: Recipient = Recipient {
        door: Door::Queue,
        deliver: Self::deliver,
    };

    /// The packet came.
    ///
    /// # Safety
    /// `header` is that of an `Op<T>` that was lent to the kernel, and no longer is in flight.
    unsafe fn deliver(header: NonNull<RawOverlapped>, completion: Completion) {
        // SAFETY: `begin` lent this reference with the header, and a packet is delivered once.
        let op = unsafe { Arc::from_raw(header.as_ptr().cast::<Self>().cast_const()) };
        op.tell(completion);
    }

    /// Hands the outcome to whoever waits; nothing is locked by us meanwhile.
    fn tell(&self, completion: Completion) {
        match self.state.complete(completion) {
            News::Wake(waker) => waker.wake(),
            News::Call(then, completion) => then(completion),
            News::Keep | News::Unwanted => {}
        }
    }

    /// Counts the kernel in, and returns what it is given: the address that `deliver` takes.
    fn lend(this: &Arc<Self>) -> NonNull<RawOverlapped> {
        // From the block's own pointer, so that it may be turned back into it (F7).
        let block = Arc::into_raw(this.clone()).cast_mut();
        NonNull::new(block.cast()).unwrap_or(NonNull::dangling())
    }

    /// The outcome with the payload, or word to the waker.
    fn poll(&self, waker: &Waker) -> Poll<(io::Result<Completion>, Option<T>)> {
        let result = match self.state.poll(waker) {
            Polled::Pending => return Poll::Pending,
            Polled::Ended(completion) => Ok(completion),
            Polled::Nothing => return Poll::Ready((Err(already_ready()), None)),
        };
        // SAFETY: the operation has ended, and `state` gives its outcome to one caller only.
        Poll::Ready((result, unsafe { self.take() }))
    }

    /// # Safety
    /// The operation does not run, and the caller is who may have the payload (see the field).
    unsafe fn take(&self) -> Option<T> {
        // SAFETY: the caller has the payload to itself.
        self.payload
            .with_mut(|payload| unsafe { (*payload).take() })
    }
}

/// An operation in flight: resolves to its outcome and what it used.
///
/// Dropping it asks for cancellation; the memory lives on until the packet.
#[must_use = "futures do nothing unless they are awaited"]
pub(crate) struct Operation<T: Send + 'static> {
    inner: Port,
    op: Arc<Op<T>>,
    /// Why it could not be started.
    refused: Option<io::Error>,
}

impl<T: Send + 'static> Operation<T> {
    /// Starts an operation on what `describe` says of the payload, which stays in place from now
    /// on until the outcome.
    ///
    /// # Safety
    /// What the submission points to, and its handle, belong to the payload, and moving the
    /// payload's owner does not move them.
    pub(crate) unsafe fn start<F>(inner: &Port, payload: T, describe: F) -> Self
    where
        F: for<'a> FnOnce(&'a mut T) -> Submission<'a>,
    {
        let op = Op::new(payload);
        // SAFETY: the block was made just above, nothing runs on it.
        let result = unsafe { Self::begin(inner, &op, describe) };
        Self {
            inner: inner.clone(),
            op,
            refused: result.err(),
        }
    }

    /// # Safety
    /// As for [`start`](Self::start); the block is fresh.
    unsafe fn begin<F>(inner: &Port, op: &Arc<Op<T>>, describe: F) -> io::Result<()>
    where
        F: for<'a> FnOnce(&'a mut T) -> Submission<'a>,
    {
        op.state.begin()?;
        // The kernel's reference: given back by `deliver`, or below.
        let header = Op::lend(op);
        // SAFETY: nothing runs yet, so the payload is ours to describe. The lent reference keeps it
        // and the header until the packet; the payload holds the rest, says the caller.
        let started = op.payload.with_mut(|payload| unsafe {
            match &mut *payload {
                Some(payload) => inner.start(header, Op::<T>::RECIPIENT, describe(payload)),
                None => Err(already_ready()),
            }
        });
        match started {
            Ok((Started::Running, _)) => Ok(()),
            Ok((Started::Ended(completion), ticket)) => {
                if inner.finish_at_once(header, ticket) {
                    // SAFETY: no packet will come, so nobody else takes this reference.
                    unsafe { Op::<T>::deliver(header, completion) };
                }
                Ok(())
            }
            Err(refused) => {
                op.state.undo();
                // SAFETY: as above: nothing was started.
                drop(unsafe { Arc::from_raw(header.as_ptr().cast::<Op<T>>().cast_const()) });
                Err(refused)
            }
        }
    }

    /// Asks for cancellation. The future still resolves, to what happened.
    pub(crate) fn cancel(&self) {
        if self.op.state.is_in_flight() {
            self.inner.cancel_event(Op::header(&self.op));
        }
    }
}

impl<T: Send + 'static> Future for Operation<T> {
    type Output = (io::Result<Completion>, Option<T>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.refused.take() {
            // SAFETY: it was refused, so nothing runs, and only this future takes.
            Some(refused) => Poll::Ready((Err(refused), unsafe { self.op.take() })),
            None => self.op.poll(cx.waker()),
        }
    }
}

fn already_ready() -> io::Error {
    io::Error::other("polled after it was ready")
}

impl<T: Send + 'static> Unpin for Operation<T> {}

impl<T: Send + 'static> Drop for Operation<T> {
    fn drop(&mut self) {
        // Our own reference keeps block and handle until the cancelling is done.
        if self.op.state.abandon() {
            self.inner.cancel_event(Op::header(&self.op));
        }
    }
}

impl<T: Send + 'static> fmt::Debug for Operation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("in_flight", &self.op.state.is_in_flight())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(longshore_loom)))]
mod tests {
    use super::*;

    type Drops = std::sync::Arc<()>;
    type Payload = (Vec<u8>, Drops);

    /// A block in flight that owns a buffer and a token, and what its packet carries.
    fn in_flight(token: &Drops) -> (Arc<Op<Payload>>, NonNull<RawOverlapped>) {
        let op = Op::new((vec![0; 16], token.clone()));
        op.state.begin().unwrap();
        let header = Op::lend(&op);
        (op, header)
    }

    /// The kernel's last write, and the packet.
    fn packet(header: NonNull<RawOverlapped>) {
        // SAFETY: `in_flight` lent it, and this is its one packet.
        unsafe {
            let op = header.cast::<Op<Payload>>();
            op.as_ref().payload.with_mut(|payload| {
                if let Some((buffer, _)) = &mut *payload {
                    buffer[..5].copy_from_slice(b"hello");
                }
            });
            Op::<Payload>::deliver(header, Completion::ok(5));
        }
    }

    #[test]
    fn q02_the_payload_comes_back_with_the_outcome() {
        let token = Drops::default();
        let (op, header) = in_flight(&token);
        assert!(op.poll(Waker::noop()).is_pending());
        assert!(op.state.begin().is_err(), "in flight once");
        packet(header);
        let Poll::Ready((result, payload)) = op.poll(Waker::noop()) else {
            panic!("its packet has come");
        };
        assert_eq!(result.unwrap(), Completion::ok(5));
        let (buffer, mine) = payload.unwrap();
        assert_eq!(&buffer[..5], b"hello");
        drop((op, mine));
        assert_eq!(std::sync::Arc::strong_count(&token), 1);
    }

    #[test]
    fn q06_a_block_that_was_given_up_lives_until_its_packet() {
        let token = Drops::default();
        let (op, header) = in_flight(&token);
        assert!(op.state.abandon(), "there is something to cancel");
        drop(op);
        assert_eq!(std::sync::Arc::strong_count(&token), 2, "the kernel has it");
        packet(header);
        assert_eq!(std::sync::Arc::strong_count(&token), 1);
    }

    #[test]
    fn q02_an_outcome_nobody_asks_for_is_freed_with_its_block() {
        let token = Drops::default();
        let (op, header) = in_flight(&token);
        packet(header);
        assert!(!op.state.abandon(), "there is nothing to cancel");
        drop(op);
        assert_eq!(std::sync::Arc::strong_count(&token), 1);
    }

    #[test]
    fn q02_an_operation_that_was_not_started_gives_its_payload_back() {
        let token = Drops::default();
        let (op, header) = in_flight(&token);
        drop(op.state.undo());
        // SAFETY: nothing was started, so no packet takes this reference.
        drop(unsafe { Arc::from_raw(header.as_ptr().cast::<Op<Payload>>().cast_const()) });
        // SAFETY: as above, and nobody else takes.
        assert!(unsafe { op.take() }.is_some());
        assert_eq!(std::sync::Arc::strong_count(&token), 1);
    }
}

#[cfg(all(test, longshore_loom))]
mod model {
    use super::*;
    use std::task::Wake;

    /// A payload that says when it is dropped, and that loom sees being used.
    struct Payload(std::sync::Arc<std::sync::atomic::AtomicUsize>);

    impl Drop for Payload {
        fn drop(&mut self) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    struct Notify(loom::sync::Notify);

    impl Wake for Notify {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.notify();
        }
    }

    type Drops = std::sync::Arc<std::sync::atomic::AtomicUsize>;

    /// A block in flight, and what its packet carries.
    fn in_flight() -> (Arc<Op<Payload>>, usize, Drops) {
        let drops = Drops::default();
        let op = Op::new(Payload(drops.clone()));
        op.state.begin().unwrap();
        let header = Op::lend(&op);
        (op, header.as_ptr().expose_provenance(), drops)
    }

    /// The kernel has finished: its last write to the payload, then the packet.
    fn packet(header: usize) {
        let header = NonNull::new(std::ptr::with_exposed_provenance_mut(header)).unwrap();
        // SAFETY: the model's `in_flight` lent it, and this is its one packet.
        unsafe {
            let block = header.cast::<Op<Payload>>();
            block.as_ref().payload.with_mut(|_| {});
            Op::<Payload>::deliver(header, Completion::ok(7));
        }
    }

    /// Waits as a task does: polls, sleeps until woken, polls again.
    fn wait(op: &Op<Payload>) -> Completion {
        let notify = std::sync::Arc::new(Notify(loom::sync::Notify::new()));
        let waker = Waker::from(notify.clone());
        loop {
            if let Poll::Ready((result, payload)) = op.poll(&waker) {
                assert!(payload.is_some(), "the payload comes with the outcome");
                return result.unwrap();
            }
            notify.0.wait();
        }
    }

    fn drops(drops: &Drops) -> usize {
        drops.load(std::sync::atomic::Ordering::Relaxed)
    }

    #[test]
    fn loom_an_outcome_reaches_who_waits() {
        loom::model(|| {
            let (op, header, count) = in_flight();
            let kernel = loom::thread::spawn(move || packet(header));
            assert_eq!(wait(&op), Completion::ok(7));
            kernel.join().unwrap();
            drop(op);
            assert_eq!(drops(&count), 1);
        });
    }

    #[test]
    fn loom_a_dropped_future_leaves_the_memory_to_the_kernel() {
        loom::model(|| {
            let (op, header, count) = in_flight();
            let kernel = loom::thread::spawn(move || packet(header));
            let _cancelled = op.state.abandon();
            drop(op);
            kernel.join().unwrap();
            assert_eq!(drops(&count), 1, "freed once, after the packet");
        });
    }

    #[test]
    fn loom_a_poll_then_a_drop_races_the_packet() {
        loom::model(|| {
            let (op, header, count) = in_flight();
            let kernel = loom::thread::spawn(move || packet(header));
            let notify = std::sync::Arc::new(Notify(loom::sync::Notify::new()));
            let taken = op.poll(&Waker::from(notify));
            let _cancelled = op.state.abandon();
            drop((op, taken));
            kernel.join().unwrap();
            assert_eq!(drops(&count), 1);
        });
    }

    #[test]
    fn loom_a_continuation_runs_exactly_once() {
        loom::model(|| {
            let (op, header, count) = in_flight();
            let ran = Drops::default();
            let kernel = loom::thread::spawn(move || packet(header));
            let seen = ran.clone();
            let left = op.state.then(Box::new(move |completion| {
                assert_eq!(completion, Completion::ok(7));
                seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }));
            assert!(left.is_ok());
            kernel.join().unwrap();
            drop(op);
            assert_eq!((drops(&ran), drops(&count)), (1, 1));
        });
    }
}
