//! The block of one operation of the caller's: counted, pinned, the system's header first.
//!
//! From submission to packet one reference is the kernel's, as a bare pointer; the packet gives it
//! back. The registration holds another one, so that it can ask for the operation's end.
// UNSAFETY: lends the memory of blocks to the operating system until their packet.
#![expect(unsafe_code)]

use std::{
    any::Any,
    io, mem,
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    registered::{Cause, Registration},
    state::{News, State},
    wait::Aborted,
};
use crate::{
    completion::Completion,
    dispatcher::{Door, Inner, Recipient, Started, Ticket},
    error::Error,
    overlapped::RawOverlapped,
    sys::ABORTED,
};

/// The header comes first: its address is the block's.
#[repr(C)]
pub(super) struct Block {
    header: RawOverlapped,
    pub(super) state: State,
    link: Mutex<Link>,
    kept: Mutex<Option<Box<dyn Any + Send>>>,
    offset: AtomicU64,
}

/// What ties an operation to its handle, and to whoever waits for it.
#[derive(Default)]
struct Link {
    /// Where it was started last.
    on: Option<Arc<Registration>>,
    /// The wait that has this operation. A wait of an operation that was taken back finds another
    /// number here, or none, and must leave everything alone.
    claimed: Option<u64>,
    /// ... and is counted as waiting.
    counted: bool,
    /// The packet has come.
    ended: bool,
    /// Somebody asked for cancellation.
    asked: bool,
    cause: Option<Cause>,
    last: Option<Completion>,
}

// SAFETY: the header's shared part is accessed atomically or by the kernel; everything else in a
// block is Send and behind locks.
unsafe impl Send for Block {}
// SAFETY: see Send.
unsafe impl Sync for Block {}

impl Block {
    pub(super) const RECIPIENT: Recipient = Recipient {
        door: Door::Queue,
        deliver: Self::deliver,
    };

    pub(super) fn new(kept: Option<Box<dyn Any + Send>>) -> Arc<Self> {
        Arc::new(Self {
            header: RawOverlapped::new(),
            state: State::new(),
            link: Mutex::default(),
            kept: Mutex::new(kept),
            offset: AtomicU64::new(0),
        })
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Option<Box<dyn Any + Send>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_offset(&self, offset: u64) {
        self.offset.store(offset, Relaxed);
    }

    /// How the last operation ended.
    pub(super) fn last(&self) -> Option<Completion> {
        self.link().last
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn header(self: &Arc<Self>) -> NonNull<RawOverlapped> {
        // From the block's own pointer, so that it may be turned back into it (F7).
        let block = Arc::as_ptr(self).cast_mut();
        NonNull::new(block.cast()).unwrap_or(NonNull::dangling())
    }

    pub(super) fn address(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset.load(Relaxed)
    }

    /// Makes the block ready for one operation, and lends it. `take_back` is to follow if nothing
    /// is started.
    pub(super) fn lend(self: &Arc<Self>, on: &Arc<Registration>) -> Result<(), Error> {
        let unread = {
            let link = self.link();
            // Nobody can ask for the result of an operation whose handle is gone.
            let gone = link.on.as_ref().is_some_and(|on| !on.is_live());
            link.ended && link.claimed.is_none() && gone
        };
        if unread && !self.state.is_in_flight() {
            self.state.abandon();
        }
        let before = {
            let mut link = self.link();
            self.state.begin()?;
            let fresh = Link {
                on: Some(on.clone()),
                ..Link::default()
            };
            mem::replace(&mut *link, fresh)
        };
        drop(before);
        on.enter(self).inspect_err(|_| drop(self.state.undo()))?;
        // Given back by `deliver` or `take_back`.
        let _lent = Arc::into_raw(self.clone());
        Ok(())
    }

    /// Nothing was started.
    ///
    /// # Safety
    /// The block was lent, and no packet will come.
    pub(super) unsafe fn take_back(self: &Arc<Self>) {
        // SAFETY: `lend` made this reference, and nobody else takes it.
        let lent = unsafe { Arc::from_raw(Arc::as_ptr(self)) };
        let link = mem::take(&mut *self.link());
        let waker = self.state.undo();
        if let Some(on) = link.on {
            on.leave(self);
            if link.counted {
                on.end_wait();
            }
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        drop(lent);
    }

    /// Starts one operation with whatever `start` does.
    ///
    /// # Safety
    /// What the operation refers to is valid until its packet.
    pub(super) unsafe fn launch(
        self: &Arc<Self>,
        on: &Arc<Registration>,
        start: impl FnOnce(&Inner, NonNull<RawOverlapped>) -> io::Result<(Started, Ticket)>,
    ) -> io::Result<()> {
        self.lend(on)?;
        let (inner, header) = (&on.core.inner, self.header());
        match start(inner, header) {
            Ok((Started::Running, _)) => {}
            Ok((Started::Ended(completion), ticket)) => {
                if inner.finish_at_once(header, ticket) {
                    // SAFETY: no packet will come, so nobody else takes the reference that was lent.
                    unsafe { Self::deliver(header, completion) };
                }
            }
            Err(refused) => {
                // SAFETY: nothing was started.
                unsafe { self.take_back() };
                return Err(refused);
            }
        }
        self.look_behind(on);
        Ok(())
    }

    /// A handle that was unregistered while the operation was being started has not cancelled it.
    pub(super) fn look_behind(self: &Arc<Self>, on: &Registration) {
        if !on.is_live() && self.state.is_in_flight() {
            // A refusal means that there is nothing left to cancel; the packet tells.
            let _ = on.core.inner.cancel_on(on.raw, self.header());
        }
    }

    /// The packet came.
    ///
    /// # Safety
    /// `header` is that of a block that was lent to the kernel, and no longer is in flight.
    unsafe fn deliver(header: NonNull<RawOverlapped>, completion: Completion) {
        // SAFETY: `lend` made this reference, and a packet is delivered once.
        let block = unsafe { Arc::from_raw(header.as_ptr().cast::<Self>().cast_const()) };
        block.end(completion);
    }

    fn end(self: &Arc<Self>, completion: Completion) {
        let (on, asked, cause) = {
            let link = self.link();
            (link.on.clone(), link.asked, link.cause)
        };
        let Some(on) = on else { return };
        on.leave(self);
        let aborted = completion.error == ABORTED;
        let found = match cause {
            // It can only be known by now; and what has moved is not lost by closing.
            None if aborted && on.core.inner.port.open_or_err().is_err() => Some(Cause::Closed),
            None if aborted && !asked && on.is_closed() => Some(Cause::PrematureClose),
            cause => cause,
        };
        let counted = {
            let mut link = self.link();
            link.ended = true;
            link.last = Some(completion);
            link.cause = link.cause.or(found);
            if link.cause == Some(Cause::Unregistered) && link.claimed.is_none() {
                // Nobody can ask any more. Before the news, and under the lock: from then on the
                // block may be used for another operation.
                self.state.abandon();
            }
            mem::take(&mut link.counted)
        };
        // After the news, so that whoever goes on and waits again is not missed in between.
        let _after = counted.then(|| WaitEnds(&on));
        match self.state.complete(completion) {
            News::Wake(waker) => waker.wake(),
            News::Call(then, completion) => then(completion),
            News::Keep | News::Unwanted => {}
        }
    }

    /// The operation is going to be ended for this reason, unless it has ended already.
    pub(super) fn blame(&self, on: &Registration, cause: Cause) {
        let mut link = self.link();
        let is_here = link
            .on
            .as_deref()
            .is_some_and(|here| std::ptr::eq(here, on));
        if is_here && !link.ended {
            link.cause.get_or_insert(cause);
        }
    }

    /// Takes the operation for one wait, and numbers the wait.
    pub(super) fn claim(&self, on: &Arc<Registration>, only_one: bool) -> Result<u64, Error> {
        static WAITS: AtomicU64 = AtomicU64::new(0);
        let mut link = self.link();
        match &link.on {
            None => return Err(Error::NotInFlight),
            Some(here) if !Arc::ptr_eq(here, on) => return Err(Error::UnregisteredHandle),
            Some(_) if link.claimed.is_some() => return Err(Error::AlreadyWaiting),
            Some(_) => {}
        }
        if !link.ended {
            if !on.begin_wait(only_one) {
                return Err(Error::AlreadyWaiting);
            }
            link.counted = true;
        }
        let number = WAITS.fetch_add(1, Relaxed);
        link.claimed = Some(number);
        Ok(number)
    }

    /// Whether this wait still has the operation.
    pub(super) fn is_claimed_by(&self, number: u64) -> bool {
        self.link().claimed == Some(number)
    }

    /// Somebody stops waiting; the outcome is kept for whoever asks next.
    pub(super) fn disclaim(&self, number: u64) {
        let mut link = self.link();
        if link.claimed != Some(number) {
            return;
        }
        let waiter = self.state.leave();
        link.claimed = None;
        let counted = mem::take(&mut link.counted);
        let on = link.on.clone();
        if link.ended && link.cause == Some(Cause::Unregistered) {
            // Under the lock: afterwards the block may be used for another operation.
            self.state.abandon();
        }
        drop(link);
        // A waker's drop is foreign code.
        drop(waiter);
        if let Some(on) = on.filter(|_| counted) {
            on.end_wait();
        }
    }

    /// What whoever waited gets, now that the outcome was taken. The block is free again.
    pub(super) fn result(&self, completion: Completion) -> io::Result<usize> {
        let (on, cause) = {
            let mut link = self.link();
            link.claimed = None;
            (link.on.take(), link.cause)
        };
        drop(on);
        match cause {
            Some(Cause::Unregistered) => Err(Aborted::new(completion).into()),
            Some(Cause::PrematureClose) => Err(Error::PrematureClose.into()),
            Some(Cause::Closed) => Err(Error::Closed.into()),
            None => completion.result().map(|bytes| bytes as usize),
        }
    }

    /// Asks for the operation's end. `false`: there was nothing to cancel.
    pub(super) fn cancel(self: &Arc<Self>) -> io::Result<bool> {
        let on = {
            let mut link = self.link();
            link.asked = true;
            link.on.clone()
        };
        match on {
            Some(on) if self.state.is_in_flight() => on.core.inner.cancel_on(on.raw, self.header()),
            _ => Ok(false),
        }
    }
}

/// Ends a wait when it is dropped, also by a panic.
struct WaitEnds<'a>(&'a Registration);

impl Drop for WaitEnds<'_> {
    fn drop(&mut self) {
        self.0.end_wait();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Overlapped, queue::IoQueue, state::tests::Told};
    use super::*;
    use crate::{dispatcher::Dispatcher, handle::Handle};
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    #[test]
    fn q02_a_block_stays_where_it_is_and_keeps_its_offset() {
        let overlapped = Overlapped::new();
        let header = overlapped.as_ptr();
        assert_eq!(header.addr(), overlapped.block.address());
        assert_eq!(overlapped.block.offset(), 0);
        let moved = Box::new(overlapped);
        assert_eq!(moved.as_ptr(), header);
        let far = (5 << 32) + 7;
        moved.set_offset(far);
        assert_eq!(moved.block.offset(), far);
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs a socket")]
    fn q04_a_wait_of_what_was_taken_back_leaves_the_next_one_alone() {
        let port = Dispatcher::new().unwrap();
        let queue = IoQueue::new(&port);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = queue.register(listener).map_err(|(error, _)| error);
        let listener = listener.unwrap();
        let overlapped = Overlapped::new();
        let on = queue.shared.touch(Handle::from(&listener)).unwrap();
        let block = &overlapped.block;
        block.lend(&on).unwrap();
        let mut first = Box::pin(queue.wait(&listener, &overlapped));
        let mut nobody = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut nobody).is_pending());
        // SAFETY: it was lent above, and nothing was started.
        unsafe { block.take_back() };

        block.lend(&on).unwrap();
        let told = Arc::<Told>::default();
        let waker = Waker::from(told.clone());
        let mut second = pin!(queue.wait(&listener, &overlapped));
        let mut context = Context::from_waker(&waker);
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert!(first.as_mut().poll(&mut nobody).is_ready(), "not in flight");
        drop(first);
        assert!(queue.running());
        // SAFETY: it was lent once more, and this is its only packet.
        unsafe { Block::deliver(block.header(), Completion::ok(3)) };
        assert!(told.0.load(Relaxed));
        assert!(second.as_mut().poll(&mut context).is_ready());
        assert!(!queue.running());
    }
}
