//! Linux: epoll, edge-triggered, turned into completions.
//!
//! epoll tells when a descriptor is *ready*; a port tells when an operation has *finished*. In
//! between stands the [`source`]: it tries an operation at once, and when the call would block it
//! keeps the operation until the kernel reports a change. Whoever sees the change, on whichever
//! thread, carries the operation out, writes its result into the caller's header and queues a
//! packet. Files are always ready for epoll and yet make the caller wait, so they go their own way
//! ([`file`]).
//!
//! One queue holds posts and packets alike ([`inbox`]); every dispatching thread takes from it,
//! one entry at a time. A thread that finds it empty sleeps in `epoll_wait` on the one shared
//! epoll set: the kernel wakes one thread for each event, so nothing has to be handed over. A
//! post wakes a sleeper through an eventfd in the same set, and only if somebody sleeps and no
//! wake-up is on its way ([`sleepers`]): a post to a busy port is two atomic operations on the
//! queue and no system call.
//!
//! Descriptors are registered once, for both directions; re-arming one for each operation would
//! cost a system call each time. The epoll token is a generation and the descriptor's number, never
//! an address, so that a stale event finds nothing.
//!
//! What this mechanism cannot know: a descriptor that is closed without `detach` vanishes from the
//! set in silence, and its operations with it. That is why `submit` asks that the handle stays
//! open.
// UNSAFETY: passes on the contract of `submit`.
#![expect(unsafe_code)]

mod calls;
mod file;
mod inbox;
mod op;
mod pipe;
mod sleepers;
mod source;
mod table;
mod watched;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    process,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) use self::watched::Watched;
use self::{
    file::Pool,
    inbox::{BELL, Inbox},
    table::Table,
};
use super::{
    backend::{Backend, CloseFailure, Rest, SleepStats, Submitted, Terms, Wait},
    call::Errand,
    doze::{Doze, Dozing, Unwatched},
};
use crate::{
    completion::Completion,
    error::Error,
    handle::{Handle, Kind},
    overlapped::RawOverlapped,
    packet::Packet,
    submission::{Issued, Submission},
};

/// After how many entries a thread asks the kernel for finished I/O although more entries wait, so
/// that a flood of posts cannot keep I/O out. A power of two.
const LOOK_AFTER: u32 = 64;

#[derive(Debug)]
pub(crate) struct Epoll {
    /// Open until `release`.
    epoll: Option<OwnedFd>,
    inbox: Arc<Inbox>,
    table: Table,
    pool: Pool,
    taken: Taken,
    /// The process that opened it: a forked child shares the epoll set.
    process: u32,
}

/// Entries taken since the kernel was last asked, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Taken(AtomicU32);

impl Epoll {
    fn epoll(&self) -> io::Result<&OwnedFd> {
        self.epoll.as_ref().ok_or_else(|| Error::Closed.into())
    }

    /// Starts an operation that ends when an attached descriptor is ready for one of these epoll
    /// events, or broken. Its count of bytes is the set of what was found.
    ///
    /// # Safety
    /// As for [`submit`](Backend::submit).
    pub(crate) unsafe fn watch(
        &self,
        fd: RawFd,
        header: NonNull<RawOverlapped>,
        events: i32,
    ) -> io::Result<Submitted> {
        let source = self.table.by_fd(fd).ok_or(Error::NotAttached)?;
        let events = events | libc::EPOLLERR | libc::EPOLLHUP;
        // SAFETY: passed on.
        unsafe { source.watch(header, events as u32, &self.inbox) }
    }

    /// The descriptor that other event loops wait for.
    pub(crate) fn pollable(&self) -> io::Result<BorrowedFd<'_>> {
        Ok(self.inbox.doorbell(self.epoll()?)?.as_fd())
    }

    /// Whether it is the kernel's turn. Counted for the port, not for the thread, which may serve
    /// several ports in turn.
    #[inline]
    fn look_is_due(&self) -> bool {
        // Not a read-modify-write: threads may overwrite each other's count, but none can get past
        // a multiple without seeing it.
        let taken = self.taken.0.load(Ordering::Relaxed).wrapping_add(1);
        self.taken.0.store(taken, Ordering::Relaxed);
        taken & (LOOK_AFTER - 1) == 0 && !self.table.has_no_sockets()
    }

    /// Takes an entry, asking the kernel first, and sleeping if there is none.
    #[cold]
    fn take_slow(&self, wait: Wait, doze: &dyn Doze) -> io::Result<Option<Packet>> {
        loop {
            let timeout = match wait {
                Wait::Poll => Some(Duration::ZERO),
                Wait::Until(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
                Wait::Forever => None,
            };
            let Some(seen) = self.look(timeout, doze)? else {
                return Ok(None);
            };
            if let Some(packet) = self.take_and_look_back()? {
                return Ok(Some(packet));
            }
            if seen == calls::BATCH {
                // There may be more, so this was no full look yet.
                continue;
            }
            // A wait that a signal cut short is not over; the clock decides.
            let is_over = match wait {
                Wait::Poll => self.inbox.silence_doorbell(),
                Wait::Until(deadline) => Instant::now() >= deadline,
                Wait::Forever => false,
            };
            if is_over {
                return Ok(None);
            }
        }
    }

    /// Takes an entry after a harvest, and calls for help if there are more.
    fn take_and_look_back(&self) -> io::Result<Option<Packet>> {
        if self.inbox.is_closed() {
            return Err(Error::Closed.into());
        }
        let taken = self.inbox.pop();
        self.inbox.wake_if_more();
        Ok(taken)
    }

    /// Collects what the kernel has to report, sleeping for as long as there is nothing at all.
    /// Returns how many events there were; `None` if the thread shall not sleep.
    fn look(&self, timeout: Option<Duration>, doze: &dyn Doze) -> io::Result<Option<usize>> {
        let mut events = calls::NO_EVENTS;
        let count = match timeout {
            Some(Duration::ZERO) => calls::epoll_wait(self.epoll()?, &mut events, timeout)?,
            _ => {
                let _watched = Dozing::new(doze);
                match self.sleep(&mut events, timeout, doze)? {
                    Some(count) => count,
                    None => return Ok(None),
                }
            }
        };
        self.handle(&events[..count]);
        Ok(Some(count))
    }

    fn sleep(
        &self,
        events: &mut calls::Events,
        timeout: Option<Duration>,
        doze: &dyn Doze,
    ) -> io::Result<Option<usize>> {
        let _asleep = self.inbox.sleepers().commit();
        // The last look, after this thread is counted as asleep; see `sleepers`.
        let is_empty = self.inbox.is_empty() && !self.inbox.is_closed();
        if is_empty && !doze.may_sleep() {
            // A wake-up that was meant for this thread is another's now.
            self.inbox.wake_if_more();
            return Ok(None);
        }
        let timeout = if is_empty {
            timeout
        } else {
            Some(Duration::ZERO)
        };
        calls::epoll_wait(self.epoll()?, events, timeout).map(Some)
    }

    fn handle(&self, events: &[libc::epoll_event]) {
        let mut queued = 0;
        for event in events {
            // Copied out: the struct is packed on some architectures.
            let (token, events) = (event.u64, event.events);
            if token == BELL {
                self.inbox.sleepers().answer();
            } else if let Some(source) = self.table.by_token(token) {
                let before = queued;
                queued += source.on_ready(events, &self.inbox);
                // One entry is for this thread. From the second on there is work for another,
                // which need not wait until this thread is through with the batch.
                if before < 2 && queued >= 2 {
                    self.inbox.wake_if_more();
                }
            }
        }
    }
}

impl Backend for Epoll {
    const STRANGERS: bool = false;
    const ABORTED: u32 = libc::ECANCELED as u32;
    const TOO_LONG: u32 = libc::EMSGSIZE as u32;

    type Origin = ();

    fn open(_concurrency: u32, _origin: ()) -> io::Result<Self> {
        let epoll = calls::epoll_create()?;
        let inbox = Inbox::new()?;
        let edges = (libc::EPOLLIN | libc::EPOLLET) as u32;
        calls::epoll_add(&epoll, inbox.bell().as_raw_fd(), edges, BELL)?;
        Ok(Self {
            epoll: Some(epoll),
            inbox: Arc::new(inbox),
            table: Table::new(),
            pool: Pool::new(),
            taken: Taken::default(),
            process: process::id(),
        })
    }

    #[inline]
    fn post(&self, packet: Packet) -> io::Result<()> {
        self.inbox.post(packet)
    }

    #[inline]
    fn take_queued(&self) -> io::Result<Option<Packet>> {
        if self.inbox.is_closed() {
            return Err(Error::Closed.into());
        }
        match self.look_is_due() {
            true => Ok(None),
            false => Ok(self.inbox.pop()),
        }
    }

    #[inline]
    fn take(&self, wait: Wait, doze: &dyn Doze) -> io::Result<Option<Packet>> {
        if self.inbox.is_closed() {
            return Err(Error::Closed.into());
        }
        self.take_slow(wait, doze)
    }

    fn sleep_stats(&self) -> SleepStats {
        self.inbox.sleep_stats()
    }

    fn set_alarm(&self, deadline: Option<Instant>) {
        self.inbox.set_alarm(deadline);
    }

    fn attach(&self, handle: Handle<'_>, terms: Terms) -> io::Result<()> {
        let replaced = self.table.attach(handle, terms, self.epoll()?)?;
        if let Some(stale) = replaced {
            // Its descriptor was closed without `detach`; the number has a new owner now.
            stale.detach(&self.inbox);
        }
        Ok(())
    }

    fn detach(&self, handle: Handle<'_>) -> io::Result<()> {
        let source = self.table.remove(handle.raw() as RawFd)?;
        if source.kind != Kind::File {
            // It fails only if the descriptor was closed before, which has the same effect.
            let _ = calls::epoll_delete(self.epoll()?, source.fd);
        }
        source.detach(&self.inbox);
        if source.kind == Kind::File {
            file::detach(&self.pool, source.token());
        }
        Ok(())
    }

    fn forget_if_stale(&self, handle: usize, terms: Terms) -> bool {
        let Ok(fd) = RawFd::try_from(handle) else {
            return true;
        };
        let (is_stale, source) = self.table.remove_if_stale(fd, terms);
        if let Some(source) = source {
            // Its descriptor went out of the epoll set when it was closed. (If a duplicate keeps
            // the object open, its events find a newer generation, or nothing.)
            source.detach(&self.inbox);
            file::detach(&self.pool, source.token());
        }
        is_stale
    }

    unsafe fn submit(
        &self,
        header: NonNull<RawOverlapped>,
        submission: &Submission<'_>,
    ) -> io::Result<Submitted> {
        let handle = submission.handle();
        let source = self.table.by_fd(handle.raw() as RawFd);
        // A number that was a socket's and now is a pipe's names what was not attached.
        let source = source.filter(|source| source.kind == handle.kind());
        let source = source.ok_or(Error::NotAttached)?;
        // SAFETY: the caller's contract is passed on.
        unsafe {
            match source.kind {
                Kind::Socket | Kind::Pipe => source.start(header, submission, &self.inbox),
                Kind::File => file::start(&source, header, submission, &self.inbox, &self.pool),
                Kind::Waitable => source.wait(header, submission, &self.inbox),
            }
        }
    }

    fn cancel(&self, handle: Option<usize>, header: NonNull<RawOverlapped>) -> io::Result<bool> {
        let source = handle.and_then(|raw| self.table.by_fd(raw as RawFd));
        let cancelled = source.is_some_and(|source| source.cancel(header, &self.inbox));
        Ok(cancelled || file::cancel(&self.pool, header))
    }

    unsafe fn outcome(
        &self,
        _issued: Option<&Issued>,
        header: NonNull<RawOverlapped>,
    ) -> Option<Completion> {
        // SAFETY: the header is live, as the caller says.
        let (status, bytes) =
            unsafe { (RawOverlapped::status(header), RawOverlapped::bytes(header)) };
        // Only we queue packets, and only after the result was written, so it is never pending.
        Some(Completion {
            bytes,
            error: status as u32,
        })
    }

    unsafe fn settle(&self, _issued: &Issued, completion: Completion) -> Completion {
        completion
    }

    fn call(&self, call: Arc<dyn Errand>) -> io::Result<()> {
        self.pool.call(call)
    }

    fn end_calls(&self) {
        self.pool.end_calls();
    }

    fn shut(&self, failures: &mut Vec<CloseFailure>) -> bool {
        if !self.inbox.sleepers().close() {
            return false;
        }
        if self.process != process::id() {
            // A forked child: what it would change here is its parent's.
            return true;
        }
        // Level-triggered and never read, the bell wakes every sleeper from here on.
        // (Miri knows edges only; nobody sleeps in what it runs.)
        let edge = if cfg!(miri) { libc::EPOLLET } else { 0 };
        let level = (libc::EPOLLIN | edge) as u32;
        let modified = self.epoll().and_then(|epoll| {
            calls::epoll_modify(epoll, self.inbox.bell().as_raw_fd(), level, BELL)
        });
        calls::ring(self.inbox.bell());
        failures.extend(modified.err().map(|error| CloseFailure {
            what: "wake the threads that wait",
            error,
        }));
        true
    }

    fn is_shut(&self) -> bool {
        self.inbox.is_closed()
    }

    fn take_rest(&self, _wait: Wait) -> io::Result<Option<Rest>> {
        let rest = |packet| Rest { packet, status: 0 };
        if let Some(packet) = self.inbox.take_rest() {
            return Ok(Some(rest(packet)));
        }
        if self.process != process::id() {
            // A forked child: what it would harvest here is its parent's.
            return Ok(None);
        }
        self.look(Some(Duration::ZERO), &Unwatched)?;
        Ok(self.inbox.take_rest().map(rest))
    }

    fn clean_up(&self, _failures: &mut Vec<CloseFailure>) {}

    fn release(&mut self, _leak: bool, failures: &mut Vec<CloseFailure>) {
        // Nothing in the kernel refers to memory of an operation; a file thread that is still at
        // work has its own descriptor, and the caller's buffer until its packet. So there is
        // nothing to leak: the set can always be closed.
        let closed = self.epoll.take().map_or(Ok(()), calls::close);
        failures.extend(closed.err().map(|error| CloseFailure {
            what: "close the epoll set",
            error,
        }));
    }
}
