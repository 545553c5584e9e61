//! The contract every backend keeps.
//!
//! A backend moves [`Packet`]s and runs [`Submission`]s. It never learns what a packet means, who
//! waits for an operation, or what follows the [`RawOverlapped`] header it is handed.
//!
//! 1. **Exactly once.** A packet that `post` accepted, and a packet owed for an operation, leaves
//!    `take` or `take_rest` exactly once, on whichever thread asks first. It may do so before the
//!    call that caused it has returned.
//! 2. **One at a time.** `take` hands out one packet. What a thread harvested beyond that is where
//!    any other thread finds it.
//! 3. **No lost wake-up.** A packet that is there before or after a thread decides to sleep ends
//!    the sleep of one thread.
//! 4. **Fairness.** Packets leave in the order in which they became ready, as far as one thread
//!    can see; a flood of posts cannot keep finished I/O out, and the reverse.
//! 5. **The submitting call's own result decides.** `submit` returns `PacketOwed` when a packet
//!    with the handle's key and the header's address will come; `Done` when the operation ended without one,
//!    and the caller posts it; an error when nothing was started and the header is the caller's.
//! 6. **The header belongs to the backend** from `submit` until `take` has returned its packet.
//! 7. **Shut.** After `shut` every `post` fails with [`Error::Closed`](crate::Error::Closed) and
//!    its packet is not queued, every `take`, blocked ones included, returns that error, and
//!    `take_rest` serves the one thread that cleans up, and drops what is the backend's own. Operations go on until they are cancelled.
//! 8. **No foreign code** runs inside a backend, and no lock is held when a call returns. (What
//!    `call` queued runs on a thread of its own.)
// UNSAFETY: declares the operations whose memory the caller must keep valid.
#![expect(unsafe_code)]

use std::{
    hint::black_box,
    io,
    ptr::NonNull,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    completion::Completion,
    error::Error,
    handle::Handle,
    overlapped::RawOverlapped,
    packet::Packet,
    submission::{Issued, Submission},
    sys::{call::Errand, doze::Doze},
};

/// How long `take` may wait for a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    /// Not at all.
    Poll,
    /// Until this moment; never less.
    Until(Instant),
    /// For ever.
    Forever,
}

impl Wait {
    /// From now on. What goes past the end of the clock is for ever.
    pub(crate) fn at_most(timeout: Duration) -> Self {
        let deadline = Instant::now().checked_add(timeout);
        deadline.map_or(Self::Forever, Self::Until)
    }

    /// Whether a limit was set, and is passed.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Until(deadline) if Instant::now() >= deadline)
    }
}

/// What `take` returns when an alarm goes off: a word to look at the timers, which anybody may say.
/// A mechanism queues one at most. Its key is an address of ours, so that nobody has it by chance.
pub(crate) fn alarm() -> Packet {
    Packet {
        key: ring as *const () as usize,
        overlapped: 0,
        bytes: 0,
    }
}

// Its body is like no other, so that no linker can give another function its address.
#[inline(never)]
extern "C-unwind" fn ring(payload: usize) {
    black_box(("alarm", payload));
}

/// A packet that closing took, with all that is needed to put it back as it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rest {
    pub(crate) packet: Packet,
    /// The status that it was queued with, beside its three words: an `NTSTATUS`, on Windows.
    pub(crate) status: i32,
}

/// What a handle is attached for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Terms {
    /// The key of its packets.
    pub(crate) key: usize,
    /// An operation that ends inside `submit` may say `Done` and queue no packet. A permission: a
    /// mechanism uses it where that is safe.
    pub(crate) may_skip: bool,
}

impl Terms {
    /// For Contexts: key 0, and every completion comes through dispatch.
    pub(crate) const CONTEXTS: Self = Self {
        key: 0,
        may_skip: false,
    };

    /// Why a handle that is attached on these terms cannot be attached on others.
    pub(crate) fn attached_already(self, others: Self) -> Error {
        match (self.key, others.key) {
            (mine, theirs) if mine == theirs => Error::AlreadyAttached,
            (0, _) => Error::AttachedForContexts,
            _ => Error::AttachedForQueue,
        }
    }
}

/// What the submitting system call's own result said.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Submitted {
    /// A packet will come, or has come already.
    PacketOwed,
    /// The operation has ended and no packet will come.
    Done(Completion),
}

/// One thing that went wrong while a port was closed.
///
/// # Examples
/// ```
/// let port = longshore::Dispatcher::new()?;
/// let again = port.clone();
/// port.close()?;
/// let error = again.close().unwrap_err();
/// let failure = &error.failures()[0];
/// assert_eq!(failure.attempt(), "close the dispatcher");
/// assert_eq!(longshore::Error::of(failure.error()), Some(longshore::Error::Closed));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct CloseFailure {
    pub(crate) what: &'static str,
    pub(crate) error: io::Error,
}

impl CloseFailure {
    /// What longshore tried to do: "close the completion port", say.
    pub fn attempt(&self) -> &str {
        self.what
    }

    /// Why it failed.
    pub fn error(&self) -> &io::Error {
        &self.error
    }
}

/// How the threads that take packets sleep.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SleepStats {
    /// Threads that sleep, or are about to.
    pub(crate) sleeping: usize,
    /// Wake-ups that were sent to a sleeper, where the mechanism has to send them.
    pub(crate) wakes_made: u64,
    /// Those that were not needed, because one was on its way.
    pub(crate) wakes_saved: u64,
}

/// A mechanism that delivers packets. See the module's contract.
pub(crate) trait Backend: Sized + Send + Sync {
    /// Whether others can put packets on the port, so that each one must be checked.
    const STRANGERS: bool;

    /// The error code of a cancelled operation.
    const ABORTED: u32;

    /// The error code of a datagram that did not fit into its buffer, or that is too long to send.
    const TOO_LONG: u32;

    /// Where the port comes from, if the caller has a say in it. Default: it is made.
    type Origin: Default;

    /// A new port, or the caller's. `concurrency` is the number of threads meant to run at once; a
    /// mechanism without such a limit, and a port that is there already, ignore it.
    fn open(concurrency: u32, origin: Self::Origin) -> io::Result<Self>;

    /// Queues one packet.
    fn post(&self, packet: Packet) -> io::Result<()>;

    /// Takes a packet that is at hand, without asking the kernel; `None` sends the caller to `take`.
    #[inline]
    fn take_queued(&self) -> io::Result<Option<Packet>> {
        Ok(None)
    }

    /// Asks the kernel for one packet, waiting as told; `None` when the time is up, or when `doze`
    /// would not have the thread sleep.
    fn take(&self, wait: Wait, doze: &dyn Doze) -> io::Result<Option<Packet>>;

    /// How the threads that take packets sleep.
    fn sleep_stats(&self) -> SleepStats;

    /// Ends a wait for the port at `deadline`, more exactly than that wait's own time-out would: one from
    /// outside, where the port can be waited for so, or a `take`, which returns [`alarm`]. A hint.
    fn set_alarm(&self, _deadline: Option<Instant>) {}

    /// Binds a handle to the port, on these terms.
    fn attach(&self, handle: Handle<'_>, terms: Terms) -> io::Result<()>;

    /// Forgets a handle that is about to be closed; what is in flight on it is aborted.
    fn detach(&self, handle: Handle<'_>) -> io::Result<()>;

    /// Whether a value no longer names the object it was attached for on these terms, as far as the
    /// system lets that be known. Then it is forgotten, and what waits for it here is cancelled;
    /// whatever the value names now is not touched. A value that is not attached, or on other terms
    /// by now, counts as such.
    fn forget_if_stale(&self, handle: usize, terms: Terms) -> bool;

    /// Starts one operation. The header was prepared by the caller.
    ///
    /// # Safety
    /// The header, the buffer, the slot and the handle stay valid and unmoved until the packet
    /// was taken, or until an error is returned.
    unsafe fn submit(
        &self,
        header: NonNull<RawOverlapped>,
        submission: &Submission<'_>,
    ) -> io::Result<Submitted>;

    /// Asks for the cancellation of one operation. The packet comes in any case; `false` when
    /// there was nothing left to cancel. `handle` is the raw value the operation was issued for;
    /// `None` looks at every attached handle.
    fn cancel(&self, handle: Option<usize>, header: NonNull<RawOverlapped>) -> io::Result<bool>;

    /// What a packet says about its operation; `None` while the header still says pending (so the
    /// packet is not the operation's own). `issued` is `None` for the caller's own system call.
    ///
    /// # Safety
    /// The header is live.
    unsafe fn outcome(
        &self,
        issued: Option<&Issued>,
        header: NonNull<RawOverlapped>,
    ) -> Option<Completion>;

    /// Does what remains once an operation's packet has come; returns the final outcome.
    ///
    /// # Safety
    /// As for [`submit`](Self::submit): what the operation refers to is still valid.
    unsafe fn settle(&self, issued: &Issued, completion: Completion) -> Completion;

    /// Has a call that may block made by a thread of the port's own.
    fn call(&self, call: Arc<dyn Errand>) -> io::Result<()>;

    /// Gives up the calls that are on their way, so that nobody waits for them, and takes no more.
    /// It wakes tasks, so no lock may be held.
    fn end_calls(&self);

    /// Refuses posts from now on and releases every blocked `take`. `false` when it was shut
    /// before. Failures go to `failures`.
    fn shut(&self, failures: &mut Vec<CloseFailure>) -> bool;

    /// Whether `shut` was called.
    fn is_shut(&self) -> bool;

    /// `take` for the thread that cleans up after `shut`. May return `None` early.
    fn take_rest(&self, wait: Wait) -> io::Result<Option<Rest>>;

    /// How many packets are queued on a port that goes on without us: those that are not ours
    /// have to be [put back](Self::put_back). `None` for a port that ends with the dispatcher.
    fn lent(&self) -> io::Result<Option<usize>> {
        Ok(None)
    }

    /// Queues a packet of somebody else's again.
    fn put_back(&self, _rest: Rest) -> io::Result<()> {
        Ok(())
    }

    /// Gives up process-wide resources (Winsock) after the last packet was taken.
    fn clean_up(&self, failures: &mut Vec<CloseFailure>);

    /// Closes the port itself. With `leak` it stays open for ever, because the kernel still owns
    /// memory that refers to it.
    fn release(&mut self, leak: bool, failures: &mut Vec<CloseFailure>);
}
