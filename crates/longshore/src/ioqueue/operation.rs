//! One operation that can be awaited: its block, and the future.
//!
//! The block holds the header the kernel sees, the state, and what the operation needs: buffers, the
//! handle. It is counted. From submission to packet one reference is the kernel's, as a bare
//! pointer; the packet gives it back. So a future may be dropped, or forgotten, at any time.
// UNSAFETY: lends the memory of blocks to the operating system until their packet.
#![expect(unsafe_code)]

use std::{
    cell::UnsafeCell,
    fmt, io,
    pin::Pin,
    ptr::NonNull,
    sync::Arc,
    task::{Context, Poll},
};

use super::state::{News, Polled, State};
use crate::{
    completion::Completion,
    dispatcher::{Door, Inner, Recipient, Started},
    overlapped::RawOverlapped,
    submission::Submission,
};

/// The block of one operation. The header comes first: its address is the block's.
#[repr(C)]
pub(crate) struct Op<T> {
    header: RawOverlapped,
    state: State,
    /// Whoever has the outcome has the payload; while the operation runs it is the kernel's.
    payload: UnsafeCell<Option<T>>,
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
            payload: UnsafeCell::new(Some(payload)),
        })
    }

    fn header(self: &Arc<Self>) -> NonNull<RawOverlapped> {
        // From the block's own pointer, so that it may be turned back into it (F7).
        let block = Arc::as_ptr(self).cast_mut();
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

    /// # Safety
    /// The operation does not run, and the caller is who may have the payload (see the field).
    unsafe fn take(&self) -> Option<T> {
        // SAFETY: the caller has the payload to itself.
        unsafe { (*self.payload.get()).take() }
    }
}

/// An operation in flight: resolves to its outcome and what it used.
///
/// Dropping it asks for cancellation; the memory lives on until the packet.
#[must_use = "futures do nothing unless they are awaited"]
pub(crate) struct Operation<T: Send + 'static> {
    inner: Arc<Inner>,
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
    pub(crate) unsafe fn start<F>(inner: &Arc<Inner>, payload: T, describe: F) -> Self
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
    unsafe fn begin<F>(inner: &Arc<Inner>, op: &Arc<Op<T>>, describe: F) -> io::Result<()>
    where
        F: for<'a> FnOnce(&'a mut T) -> Submission<'a>,
    {
        op.state.begin()?;
        // SAFETY: nothing runs, and the block is ours alone.
        let payload = unsafe { (*op.payload.get()).as_mut() };
        let Some(payload) = payload else {
            return Ok(());
        };
        let submission = describe(payload);
        // The kernel's reference: given back by `deliver`, or below.
        let lent = Arc::into_raw(op.clone());
        let header = op.header();
        // SAFETY: the lent reference keeps the header and the payload until the packet; the
        // payload holds the rest, says the caller.
        match unsafe { inner.start(header, Op::<T>::RECIPIENT, submission) } {
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
                drop(unsafe { Arc::from_raw(lent) });
                Err(refused)
            }
        }
    }

    /// Asks for cancellation. The future still resolves, to what happened.
    pub(crate) fn cancel(&self) {
        if self.op.state.is_in_flight() {
            self.inner.cancel_event(self.op.header());
        }
    }
}

impl<T: Send + 'static> Future for Operation<T> {
    type Output = (io::Result<Completion>, Option<T>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match self.refused.take() {
            Some(refused) => Err(refused),
            None => match self.op.state.poll(cx.waker()) {
                Polled::Pending => return Poll::Pending,
                Polled::Ended(completion) => Ok(completion),
                Polled::Nothing => Err(io::Error::other("polled after it was ready")),
            },
        };
        // SAFETY: the operation was refused or has ended, and only this future takes.
        let payload = unsafe { self.op.take() };
        Poll::Ready((result, payload))
    }
}

impl<T: Send + 'static> Unpin for Operation<T> {}

impl<T: Send + 'static> Drop for Operation<T> {
    fn drop(&mut self) {
        // Our own reference keeps block and handle until the cancelling is done.
        if self.op.state.abandon() {
            self.inner.cancel_event(self.op.header());
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
