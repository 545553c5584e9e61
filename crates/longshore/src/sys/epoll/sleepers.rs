//! How a push finds a sleeping thread: the protocol, without the system calls.
//!
//! Two words. `state` counts the threads that sleep or are about to, and carries two flags.
//! `notified` says that a wake-up is on its way: the bell was rung, and nobody has answered yet.
//! At most one is, because a wake-up between cores costs more than anything else here; the thread
//! that answers rings again if there is more to do.
//!
//! ```text
//! pusher     push entry;  fence;  read state;    asleep > 0 and notified was false -> ring
//! sleeper    asleep += 1; fence;  look at queue; empty -> wait for the bell;  asleep -= 1
//! answer     notified = false;    take an entry; look back
//! harvester  push entries;        take an entry; look back
//! look back  more entries; fence; read state;    asleep > 0 and notified was false -> ring
//! ```
//!
//! **No wake-up is lost.** *Pusher and sleeper:* each writes one thing, passes a SeqCst fence,
//! and reads the other's, so they cannot both miss: the pusher sees the sleeper, or the sleeper
//! sees the entry before it waits. *Pusher and a wake-up on its way:* the pusher leaves the bell
//! alone only if its swap found `notified` true, that is before the answering thread's swap to
//! false. That swap then reads the pusher's, and both are AcqRel, so the answering thread's look
//! at the queue, which follows, sees the entry; it takes it or rings for it. *Harvester:* what it
//! leaves behind it looks back at, like a pusher. *A thread that stops waiting,* because its time is
//! up: it answered the bell, and then takes and looks back before it goes, or it did not. Then *the
//! bell itself* remembers: it may ring before a sleeper waits, and a ring that nobody heard wakes the
//! next one who waits. *Closing* sets its flag as a pusher pushes; a sleeper's last look is at both.
//!
//! So whenever an entry waits while a thread sleeps, the bell is ringing or some thread that is
//! awake has yet to take an entry and look back. The models in `model` check it, and fail when a
//! fence, the answer or the look back is taken out.

use crate::sync::{AtomicBool, AtomicUsize, Ordering, fence};

const CLOSED: usize = 1 << (usize::BITS - 1);
const POLLABLE: usize = 1 << (usize::BITS - 2);

#[derive(Debug)]
pub(super) struct Sleepers {
    state: AtomicUsize,
    notified: AtomicBool,
}

/// What a pusher must do, if anything.
#[derive(Clone, Copy, Debug)]
pub(super) struct State(usize);

impl State {
    /// Nobody sleeps, nobody polls, nobody has closed: the common case.
    #[inline]
    pub(super) fn is_quiet(self) -> bool {
        self.0 == 0
    }

    pub(super) fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    /// Whether somebody may be waiting for the pollable descriptor.
    pub(super) fn is_pollable(self) -> bool {
        self.0 & POLLABLE != 0
    }

    pub(super) fn asleep(self) -> usize {
        self.0 & !(CLOSED | POLLABLE)
    }
}

impl Sleepers {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicUsize::new(0),
            notified: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(super) fn state(&self) -> State {
        State(self.state.load(Ordering::Acquire))
    }

    /// After a push: what the pusher has to care about.
    #[inline]
    pub(super) fn after_push(&self) -> State {
        fence(Ordering::SeqCst);
        State(self.state.load(Ordering::Relaxed))
    }

    /// What a thread has to care about that leaves entries behind: it queued them without ringing,
    /// or it answered a bell that rang for them. `None` if nothing is left, or nobody waits.
    pub(super) fn look_back(&self, is_empty: impl FnOnce() -> bool) -> Option<State> {
        if is_empty() {
            return None;
        }
        Some(self.after_push()).filter(|state| !state.is_quiet())
    }

    /// Whether to ring the bell, because somebody sleeps and no wake-up is on its way.
    pub(super) fn must_ring(&self, state: State) -> bool {
        state.asleep() > 0 && !self.notified.swap(true, Ordering::AcqRel)
    }

    /// Counts this thread as asleep. The last look at the queue comes after this call.
    pub(super) fn commit(&self) -> Asleep<'_> {
        self.state.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Asleep(self)
    }

    /// The bell was heard. The look at the queue comes after this call.
    pub(super) fn answer(&self) {
        self.notified.swap(false, Ordering::AcqRel);
    }

    /// Closes; `false` if it was closed before.
    pub(super) fn close(&self) -> bool {
        let before = self.state.fetch_or(CLOSED, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        before & CLOSED == 0
    }

    /// From now on somebody may wait for the pollable descriptor at any time.
    pub(super) fn set_pollable(&self) {
        self.state.fetch_or(POLLABLE, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

/// One thread that counts as asleep.
pub(super) struct Asleep<'a>(&'a Sleepers);

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(all(test, longshore_loom))]
mod model;
