//! The queue of entries that any dispatching thread takes from, and the bells that wake one.
// UNSAFETY: writes results into headers lent by the caller.
#![expect(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    ptr::NonNull,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use crossbeam_queue::SegQueue;

use super::{
    calls,
    sleepers::{Sleepers, State},
};
use crate::{
    completion::Completion, error::Error, overlapped::RawOverlapped, packet::Packet,
    sys::backend::SleepStats,
};

/// The epoll token of the bell. No source has it: their generations begin at 0 and the descriptor
/// in the low half is never negative.
pub(super) const BELL: u64 = u64::MAX;

/// (key, overlapped). The byte count of a completion is in its header.
type Entry = (usize, usize);

#[derive(Debug)]
pub(super) struct Inbox {
    entries: SegQueue<Entry>,
    sleepers: Sleepers,
    /// An eventfd that is never read: each write is one edge, and one edge wakes one thread.
    bell: OwnedFd,
    /// Entries that were pushed when the port was closed already; see `push_late`.
    strays: Mutex<Vec<Entry>>,
    doorbell: OnceLock<Doorbell>,
    wakes_made: AtomicU64,
    wakes_saved: AtomicU64,
}

/// What another event loop waits for: level-triggered, readable while an entry waits.
#[derive(Debug)]
struct Doorbell {
    /// An epoll set over `rung`, `alarm` and the port's own epoll set.
    outer: OwnedFd,
    rung: OwnedFd,
    is_rung: AtomicBool,
    /// A timerfd, for the earliest timer.
    alarm: OwnedFd,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            entries: SegQueue::new(),
            sleepers: Sleepers::new(),
            bell: calls::eventfd()?,
            strays: Mutex::default(),
            doorbell: OnceLock::new(),
            wakes_made: AtomicU64::new(0),
            wakes_saved: AtomicU64::new(0),
        })
    }

    pub(super) fn sleep_stats(&self) -> SleepStats {
        SleepStats {
            sleeping: self.sleepers.state().asleep(),
            wakes_made: self.wakes_made.load(Ordering::Relaxed),
            wakes_saved: self.wakes_saved.load(Ordering::Relaxed),
        }
    }

    pub(super) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    pub(super) fn sleepers(&self) -> &Sleepers {
        &self.sleepers
    }

    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.sleepers.state().is_closed()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Queues a post. Makes no system call when nobody sleeps.
    #[inline]
    pub(super) fn post(&self, packet: Packet) -> io::Result<()> {
        let entry = (packet.key, packet.overlapped);
        self.entries.push(entry);
        let state = self.sleepers.after_push();
        if state.is_quiet() {
            return Ok(());
        }
        if state.is_closed() {
            return self.take_back(entry);
        }
        self.wake(state);
        Ok(())
    }

    #[inline]
    pub(super) fn pop(&self) -> Option<Packet> {
        let (key, overlapped) = self.entries.pop()?;
        Some(Packet {
            key,
            overlapped,
            bytes: 0,
        })
    }

    /// Publishes the result of an operation and queues its packet, waking nobody: for the thread
    /// that harvests, which takes an entry itself and then looks back (`wake_if_more`).
    pub(super) fn complete_quietly(&self, header: Header, completion: Completion) {
        self.entries.push(header.publish(completion));
    }

    /// Publishes the result of an operation, queues its packet and wakes a sleeper.
    pub(super) fn complete(&self, header: Header, completion: Completion) {
        self.complete_quietly(header, completion);
        let state = self.sleepers.after_push();
        if !state.is_quiet() {
            self.wake(state);
        }
    }

    /// After taking an entry on a path that answered the bell or harvested: somebody else is
    /// needed if there is more.
    pub(super) fn wake_if_more(&self) {
        if let Some(state) = self.sleepers.look_back(|| self.entries.is_empty()) {
            self.wake(state);
        }
    }

    #[cold]
    fn wake(&self, state: State) {
        if self.sleepers.must_ring(state) {
            self.wakes_made.fetch_add(1, Ordering::Relaxed);
            calls::ring(&self.bell);
        } else if state.asleep() > 0 {
            self.wakes_saved.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(doorbell) = self.doorbell.get().filter(|_| state.is_pollable()) {
            doorbell.ring();
        }
    }

    /// Takes back an entry that was pushed after the port was closed.
    ///
    /// Closing sets its flag and then empties the queue; the post pushed and then read the flag.
    /// The entry may be in the queue, or the closing thread may have handed it over already. Each
    /// late post moves what it finds to `strays`, under the lock that `take_rest` takes too, and
    /// claims one entry equal to its own; equal entries are interchangeable. If there is none, the
    /// entry was delivered or handed over, so the post did succeed.
    #[cold]
    fn take_back(&self, entry: Entry) -> io::Result<()> {
        let mut strays = self.strays();
        strays.extend(std::iter::from_fn(|| self.entries.pop()));
        match strays.iter().position(|stray| *stray == entry) {
            Some(found) => {
                strays.swap_remove(found);
                Err(Error::Closed.into())
            }
            None => Ok(()),
        }
    }

    /// One entry for the thread that closes the port.
    pub(super) fn take_rest(&self) -> Option<Packet> {
        let mut strays = self.strays();
        let (key, overlapped) = self.entries.pop().or_else(|| strays.pop())?;
        Some(Packet {
            key,
            overlapped,
            bytes: 0,
        })
    }

    fn strays(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the descriptor for other loops, once.
    pub(super) fn doorbell(&self, epoll: &OwnedFd) -> io::Result<&OwnedFd> {
        if let Some(doorbell) = self.doorbell.get() {
            return Ok(&doorbell.outer);
        }
        let (outer, rung) = (calls::epoll_create()?, calls::eventfd()?);
        let alarm = calls::timerfd()?;
        calls::epoll_add(&outer, epoll.as_raw_fd(), libc::EPOLLIN as u32, 0)?;
        calls::epoll_add(&outer, rung.as_raw_fd(), libc::EPOLLIN as u32, 1)?;
        calls::epoll_add(&outer, alarm.as_raw_fd(), libc::EPOLLIN as u32, 2)?;
        let is_rung = AtomicBool::new(false);
        // Two threads may get here; the second one's descriptors are closed again.
        let doorbell = self.doorbell.get_or_init(|| Doorbell {
            outer,
            rung,
            is_rung,
            alarm,
        });
        self.sleepers.set_pollable();
        // A post before the flag was set rang nothing.
        if !self.entries.is_empty() {
            doorbell.ring();
        }
        Ok(&doorbell.outer)
    }

    /// Has the pollable descriptor become readable at `deadline`, or not for a time's sake.
    pub(super) fn set_alarm(&self, deadline: Option<Instant>) {
        if let Some(doorbell) = self.doorbell.get() {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            calls::set_timer(&doorbell.alarm, left);
        }
    }

    /// About to say that no entry is there. `false`: there is one after all.
    pub(super) fn silence_doorbell(&self) -> bool {
        let Some(doorbell) = self.doorbell.get() else {
            return true;
        };
        calls::hush(&doorbell.rung);
        doorbell.is_rung.swap(false, Ordering::AcqRel);
        // As in `sleepers`: we cleared, then look; a post pushes, then looks at what we cleared.
        crate::sync::fence(Ordering::SeqCst);
        if self.entries.is_empty() {
            return true;
        }
        doorbell.ring();
        false
    }
}

impl Doorbell {
    fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            calls::ring(&self.rung);
        }
    }
}

/// A header lent to this backend, from `submit` to its packet. Whoever has it completes it.
#[derive(Debug)]
pub(super) struct Header {
    header: NonNull<RawOverlapped>,
    /// The key of its packet.
    key: usize,
}

// SAFETY: the header may be completed on any thread: its words are accessed as atomics, and
// `submit`'s caller keeps it in place until the packet.
unsafe impl Send for Header {}

impl Header {
    /// # Safety
    /// The header is live until its packet is taken, and in flight.
    pub(super) unsafe fn new(header: NonNull<RawOverlapped>, key: usize) -> Self {
        Self { header, key }
    }

    pub(super) fn is(&self, header: NonNull<RawOverlapped>) -> bool {
        self.header == header
    }

    /// Writes the result and gives the header up; what remains is its packet.
    fn publish(self, completion: Completion) -> Entry {
        // SAFETY: live and in flight (`new`), and `self` is consumed: nobody completes it twice.
        unsafe {
            RawOverlapped::complete(self.header, completion.error as usize, completion.bytes);
        }
        (self.key, self.header.as_ptr().expose_provenance())
    }
}
