//! The Windows backend: a kernel completion port, used as directly as it can be.
//!
//! # The mechanism
//! The kernel keeps the queue. `post` is one `PostQueuedCompletionStatus`, `take` one
//! `GetQueuedCompletionStatusEx` for one entry, and an operation is the plain overlapped call with
//! the caller's header as its `OVERLAPPED`. There is no thread, no batch and no copy of a packet in
//! this process: what a thread has not taken is in the kernel, where any thread finds it (B7, B8).
//! The wait is not alertable, so an APC never ends it (A23).
//!
//! # When a packet comes
//! A handle is attached without skip-on-success. Then the rule of the I/O manager is short: *a
//! packet is queued unless the call failed at once with an error status* (0xC…, A4). It follows
//! after success (A1), after pending, and after a warning (0x8…), which Win32 shows as a failure
//! although bytes have moved (A5). `start` decides by the call's own result and never looks at the
//! header again (A3, B1): another thread may have dispatched the packet and freed it by then.
//! Skip-on-success is left out because a completion must come through dispatch anyway, and because
//! the mode is sticky and shared with duplicates (A9); a handle that comes with it set is refused.
//! So A2, A6, A7, A8 and A10's fallback are out of reach. `FILE_SKIP_SET_EVENT_ON_HANDLE` (A11) is left out too: see `attached`.
//!
//! `GetQueuedCompletionStatusEx` succeeds for failed I/O (A22), so `take` never looks at a status.
//! The outcome is read from the header, as an `NTSTATUS` (A14, A15), and gets a Winsock code where
//! the handle is a socket (A16, A17). The entry's own `Internal` is reserved and ignored.
//!
//! # Strangers
//! Whoever holds the port handle can post any three words (C4 to C6), so every packet must be
//! checked before it is believed; the backend says so (`STRANGERS`) and the dispatcher does it.
//! The one packet that the backend believes is its own CLOSE packet, and only once it is shut.
//!
//! # Closing
//! `CloseHandle` under a waiter is a race with handle reuse, and old Wine leaves the waiter asleep
//! for ever (C18). So `shut` sets a flag and posts a CLOSE packet for each sleeper until none is
//! left, and the handle is closed later, when nobody can hold a reference. Sleepers count
//! themselves *before* they look at the flag once more and `shut` sets the flag *before* it counts,
//! both sequentially consistent: one of the two sees the other, and no sleeper is missed.
//! A port that was adopted as a loan is not closed, and goes on: nothing of ours may stay in its
//! queue, and what others queued goes back in, with the status it had (`lent`, `put_back`).
//! Winsock is started once for each port and cleaned up once (C24); std keeps a start-up of its
//! own, so that the last port's clean-up does not end other people's sockets.
//!
//! # Handles
//! A file object is bound to a port for its life (C1, C7, C19) and the system gives one error code
//! for four different mistakes, so `attached` keeps a table and tells them apart. Cancellation is
//! always of one operation, by its header (C12, C13): that never disturbs what others issued, not
//! even on a handle value that was reused (C8).
// UNSAFETY: reads headers the kernel has written, and passes the submission contract on.
#![expect(unsafe_code)]

use std::{
    io,
    ops::ControlFlow,
    os::windows::io::BorrowedHandle,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use windows_sys::Win32::{
    Foundation::{ERROR_NOT_FOUND, ERROR_OPERATION_ABORTED, HANDLE},
    Networking::WinSock::WSAEMSGSIZE,
    System::IO::{CancelIoEx, OVERLAPPED},
};

use crate::{
    completion::Completion,
    error::Error,
    handle::{Handle, Kind},
    overlapped::{PENDING, RawOverlapped, Words},
    packet::Packet,
    submission::{Issued, Submission, Then},
    sys::{
        backend::{Backend, CloseFailure, Rest, SleepStats, Submitted, Terms, Wait, alarm},
        call::Errand,
        doze::{Doze, Dozing},
        pool::{NoTransfer, Pool},
    },
};

mod attached;
mod datagram;
mod pipe;
mod queue;
mod sleepers;
mod start;
mod status;
#[cfg(test)]
mod tests;
mod wait;
mod winsock;

use attached::Attached;
use queue::Queue;
pub(crate) use queue::{Origin, timeout_ms};
pub(crate) use sleepers::Sleeper;
use wait::{Alarm, Mechanism, Waits};
use winsock::Winsock;

// The kernel writes our header as an OVERLAPPED.
const _: () = {
    assert!(size_of::<RawOverlapped>() == size_of::<OVERLAPPED>());
    assert!(align_of::<RawOverlapped>() == align_of::<OVERLAPPED>());
    assert!(std::mem::offset_of!(Words, internal) == std::mem::offset_of!(OVERLAPPED, Internal));
    assert!(
        std::mem::offset_of!(Words, internal_high)
            == std::mem::offset_of!(OVERLAPPED, InternalHigh)
    );
    assert!(std::mem::offset_of!(Words, offset) == std::mem::offset_of!(OVERLAPPED, Anonymous));
    assert!(std::mem::offset_of!(Words, event) == std::mem::offset_of!(OVERLAPPED, hEvent));
};

#[derive(Debug)]
pub(crate) struct Iocp {
    /// Ended before the port is closed, to which they post.
    waits: Waits,
    alarm: Alarm,
    mechanism: Mechanism,
    queue: Queue,
    attached: Attached,
    shut: AtomicBool,
    /// Threads that may be asleep in the kernel.
    waiting: AtomicUsize,
    /// For calls that have no overlapped form; operations need no thread.
    pool: Pool<NoTransfer>,
    /// Dropped after the queue, if nobody has cleaned up: Winsock outlives the port's use of it.
    winsock: Winsock,
}

impl Iocp {
    /// The port itself, for those who post or wait on it by themselves.
    pub(crate) fn as_handle(&self) -> BorrowedHandle<'_> {
        self.queue.as_handle()
    }

    /// Whether an attached handle skips the port when an operation succeeds at once.
    pub(crate) fn skips(&self, handle: Handle<'_>) -> bool {
        self.attached.modes(handle).is_some_and(|modes| modes.skips)
    }

    /// What the result of a caller's own system call on an attached handle says of the packet.
    ///
    /// # Safety
    /// The header was given to that call, and is live.
    pub(crate) unsafe fn judge(
        &self,
        handle: Handle<'_>,
        header: NonNull<RawOverlapped>,
        result: io::Result<()>,
    ) -> io::Result<Submitted> {
        // SAFETY: passed on.
        unsafe { start::judge(header, result, self.skips(handle)) }
    }

    fn open_with(concurrency: u32, origin: Origin, mechanism: Mechanism) -> io::Result<Self> {
        // Winsock first: it must be up before the port can carry a socket's packet, and dropping
        // `winsock` cleans up when the port cannot be made.
        let winsock = Winsock::start()?;
        Ok(Self {
            waits: Waits::default(),
            alarm: Alarm::default(),
            mechanism,
            queue: Queue::open(concurrency, origin)?,
            attached: Attached::default(),
            shut: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            pool: Pool::new(),
            winsock,
        })
    }

    /// What a packet of the kernel's is to the dispatcher.
    #[inline]
    fn translate(&self, packet: Packet) -> Packet {
        match wait::is_wait(packet) {
            true => self.end_wait(packet),
            false => packet,
        }
    }

    #[cold]
    fn end_wait(&self, packet: Packet) -> Packet {
        match self.alarm.claim(packet) {
            true => alarm(),
            // Not ours: somebody else's, who found out the key.
            false => self.waits.claim(packet).unwrap_or(packet),
        }
    }

    fn refuse_if_shut(&self) -> io::Result<()> {
        match self.is_shut() {
            true => Err(Error::Closed.into()),
            false => Ok(()),
        }
    }

    /// Before a thread sleeps: looks at the queue, but only if the thread would rather not sleep,
    /// because the look is a system call. (A packet that another thread has just taken, and not
    /// told anybody of, is still in flight as far as the dispatcher's table knows.)
    fn last_look(&self, doze: &dyn Doze) -> io::Result<ControlFlow<Option<Packet>>> {
        if doze.may_sleep() {
            return Ok(ControlFlow::Continue(()));
        }
        let found = self.queue.take(Wait::Poll)?;
        Ok(match found.is_none() && doze.may_sleep() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(found),
        })
    }

    fn cancel_on(handle: usize, header: NonNull<RawOverlapped>) -> io::Result<bool> {
        // SAFETY: CancelIoEx compares the header's address with those of pending operations and
        // does not dereference it. A stale handle value is harmless for the same reason.
        let asked = unsafe { CancelIoEx(handle as HANDLE, header.as_ptr().cast()) };
        if asked != 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        // Not found: it has ended already and its packet is queued or taken (C11).
        match error.raw_os_error() {
            Some(code) if code == ERROR_NOT_FOUND as i32 => Ok(false),
            _ => Err(error),
        }
    }
}

impl Backend for Iocp {
    const STRANGERS: bool = true;
    const ABORTED: u32 = ERROR_OPERATION_ABORTED;
    const TOO_LONG: u32 = WSAEMSGSIZE.cast_unsigned();

    type Origin = Origin;

    fn open(concurrency: u32, origin: Origin) -> io::Result<Self> {
        Self::open_with(concurrency, origin, Mechanism::best())
    }

    #[inline]
    fn post(&self, packet: Packet) -> io::Result<()> {
        self.refuse_if_shut()?;
        self.queue.post(packet)
    }

    #[inline]
    fn take(&self, wait: Wait, doze: &dyn Doze) -> io::Result<Option<Packet>> {
        self.refuse_if_shut()?;
        let taken = match wait {
            // A look that does not block needs no waking, so it is not counted.
            Wait::Poll => self.queue.take(wait)?,
            Wait::Until(_) | Wait::Forever => {
                let _watched = Dozing::new(doze);
                let _sleeper = self.fall_asleep()?;
                match self.last_look(doze)? {
                    ControlFlow::Break(taken) => taken,
                    ControlFlow::Continue(()) => self.queue.take(wait)?,
                }
            }
        };
        match taken {
            // Before `shut` nobody has posted this key but a stranger, whose packet is no order.
            Some(packet) if Self::is_close(packet) && self.is_shut() => Err(Error::Closed.into()),
            taken => Ok(taken.map(|packet| self.translate(packet))),
        }
    }

    fn sleep_stats(&self) -> SleepStats {
        SleepStats {
            sleeping: self.waiting.load(Ordering::SeqCst),
            ..SleepStats::default()
        }
    }

    fn set_alarm(&self, deadline: Option<Instant>) {
        self.alarm.set(self.mechanism, &self.queue, deadline);
    }

    fn attach(&self, handle: Handle<'_>, terms: Terms) -> io::Result<()> {
        let elsewhere = match handle.kind() {
            Kind::Waitable => self.attached.terms(handle.raw()),
            _ => self.waits.terms(handle.raw()),
        };
        match (elsewhere, handle.kind()) {
            (Some(before), _) => Err(before.attached_already(terms).into()),
            (None, Kind::Waitable) => self.waits.attach(handle, terms),
            (None, _) => self.attached.attach(&self.queue, handle, terms),
        }
    }

    /// Only forgets the handle: the association cannot be undone (C7), and the operations in
    /// flight are known to the caller, who cancels each by its header.
    fn detach(&self, handle: Handle<'_>) -> io::Result<()> {
        match handle.kind() {
            Kind::Waitable => self.waits.detach(handle.raw()),
            _ => self.attached.detach(handle),
        }
    }

    /// Told by the mode that was set when it was attached: a new object would not have it. A value
    /// whose object does not skip the port shows only whether it is open, and of what kind.
    fn forget_if_stale(&self, handle: usize, terms: Terms) -> bool {
        let stale = self.waits.forget_if_stale(handle, terms);
        stale.unwrap_or_else(|| self.attached.forget_if_stale(handle, terms))
    }

    unsafe fn submit(
        &self,
        header: NonNull<RawOverlapped>,
        submission: &Submission<'_>,
    ) -> io::Result<Submitted> {
        self.refuse_if_shut()?;
        if let Submission::Wait { object } = *submission {
            // SAFETY: the caller keeps header and object until the packet.
            unsafe {
                self.waits
                    .start(self.mechanism, &self.queue, header, object)?;
            }
            return Ok(Submitted::PacketOwed);
        }
        // Without the association there would be no packet, ever (A10).
        let modes = self.attached.modes(submission.handle());
        let modes = modes.ok_or(Error::NotAttached)?;
        submission.fits(modes.has_messages)?;
        // SAFETY: the caller keeps `submit`'s contract, which is `start`'s.
        unsafe { start::start(header, submission, modes.skips) }
    }

    fn cancel(&self, handle: Option<usize>, header: NonNull<RawOverlapped>) -> io::Result<bool> {
        if let Some(cancelled) = self.waits.cancel(&self.queue, header) {
            return Ok(cancelled);
        }
        if let Some(handle) = handle {
            return Self::cancel_on(handle, header);
        }
        // A handle that was closed without detaching is no reason to stop looking.
        let handles = self.attached.all();
        Ok(handles
            .into_iter()
            .any(|handle| matches!(Self::cancel_on(handle, header), Ok(true))))
    }

    unsafe fn outcome(
        &self,
        issued: Option<&Issued>,
        header: NonNull<RawOverlapped>,
    ) -> Option<Completion> {
        // SAFETY: the header is live, says the caller.
        let (word, bytes) =
            unsafe { (RawOverlapped::status(header), RawOverlapped::bytes(header)) };
        // The status is the low half; the word is a union with a pointer (A14).
        let status = word as u32;
        if status == PENDING as u32 {
            return None;
        }
        let kind = issued.map(|issued| issued.kind);
        Some(status::completion(status.cast_signed(), bytes, kind))
    }

    unsafe fn settle(&self, issued: &Issued, completion: Completion) -> Completion {
        match issued.then {
            Then::Nothing => completion,
            // SAFETY: the packet was taken, so the slot is ours again, and the caller keeps it
            // valid until we return.
            Then::FinishAccept { listener, slot } => unsafe {
                winsock::finish_accept(listener, slot, completion)
            },
            Then::FinishRead => start::finish_read(completion),
            Then::FinishConnect { socket } => winsock::finish_connect(socket, completion),
        }
    }

    fn call(&self, call: Arc<dyn Errand>) -> io::Result<()> {
        self.pool.call(call)
    }

    fn end_calls(&self) {
        self.pool.end_calls();
    }

    fn shut(&self, failures: &mut Vec<CloseFailure>) -> bool {
        if self.shut.swap(true, Ordering::SeqCst) {
            return false;
        }
        if let Err(error) = self.wake_sleepers() {
            failures.push(CloseFailure {
                what: "release the waiting threads",
                error,
            });
        }
        // Nobody waits for a time any more, and on a port that goes on nothing of ours may follow.
        self.alarm.stop();
        true
    }

    fn is_shut(&self) -> bool {
        self.shut.load(Ordering::SeqCst)
    }

    fn take_rest(&self, wait: Wait) -> io::Result<Option<Rest>> {
        loop {
            match self.queue.take_whole(wait)? {
                // Left over from waking: its sleeper left with another packet in hand.
                Some(rest) if Self::is_close(rest.packet) || Alarm::is_alarm(rest.packet) => {}
                Some(Rest { packet, status }) => {
                    let packet = self.translate(packet);
                    return Ok(Some(Rest { packet, status }));
                }
                None => return Ok(None),
            }
        }
    }

    fn lent(&self) -> io::Result<Option<usize>> {
        self.queue.lent_depth()
    }

    fn put_back(&self, rest: Rest) -> io::Result<()> {
        self.queue.put_back(rest)
    }

    fn clean_up(&self, failures: &mut Vec<CloseFailure>) {
        // A sleeper that the concurrency limit held back finds its order whenever it wakes up.
        for _ in 0..self.waiting.load(Ordering::SeqCst) {
            let _ = self.queue.post(Self::close_packet());
        }
        if let Err(error) = self.winsock.stop() {
            failures.push(CloseFailure {
                what: "clean up Winsock",
                error,
            });
        }
    }

    fn release(&mut self, leak: bool, failures: &mut Vec<CloseFailure>) {
        if leak {
            // The kernel still owns operations: neither their port nor their sockets may go.
            self.waits.forget();
            self.alarm.forget();
            self.winsock.forget();
            self.queue.forget();
            return;
        }
        self.alarm.stop();
        self.clean_up(failures);
        if let Err(error) = self.queue.close() {
            failures.push(CloseFailure {
                what: "close the completion port",
                error,
            });
        }
    }
}
