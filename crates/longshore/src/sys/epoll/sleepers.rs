//! How a push finds a sleeping thread: the protocol, without the system calls.
//!
//! Two words. `state` counts the threads that sleep or are about to, and carries two flags.
//! `notified` says that a wake-up is on its way: the bell was rung, and nobody has answered yet.
//! At most one is, because a wake-up between cores costs more than anything else here; the thread
//! that answers rings again if there is more to do.
//!
//! ```text
//! pusher   push entry;  fence;  read state;    asleep > 0 and notified was false -> ring
//! sleeper  asleep += 1; fence;  look at queue; empty -> wait for the bell;  asleep -= 1
//! answer   notified = false;    take an entry; more entries and asleep > 0       -> ring
//! ```
//!
//! **No wake-up is lost.** *Pusher and sleeper:* each writes one thing, passes a SeqCst fence,
//! and reads the other's, so they cannot both miss: the pusher sees the sleeper, or the sleeper
//! sees the entry before it waits. *Pusher and a wake-up on its way:* the pusher leaves the bell
//! alone only if its swap found `notified` true, that is before the answering thread's swap to
//! false. That swap then reads the pusher's, and both are AcqRel, so the answering thread's look
//! at the queue, which follows, sees the entry; it takes it or rings for it. *The bell itself*
//! remembers: it may ring before the sleeper waits.
//!
//! So whenever an entry waits while a thread sleeps, the bell is ringing or some thread that is
//! awake has yet to take an entry and look back. The model below checks it, and fails when either
//! fence is taken out.

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
mod model {
    use super::*;
    use loom::sync::{Arc, Condvar, Mutex};

    /// The queue and the bell around the protocol. The queue is a bare atomic count, so that it
    /// orders nothing but itself: a lock would hide a missing fence. The bell is an eventfd seen
    /// edge-triggered: each ring releases one waiter, now or later.
    struct Port {
        sleepers: Sleepers,
        entries: AtomicUsize,
        bell: Mutex<usize>,
        heard: Condvar,
    }

    impl Port {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                sleepers: Sleepers::new(),
                entries: AtomicUsize::new(0),
                bell: Mutex::new(0),
                heard: Condvar::new(),
            })
        }

        fn ring(&self) {
            *self.bell.lock().unwrap() += 1;
            self.heard.notify_one();
        }

        fn push(&self) {
            self.entries.fetch_add(1, Ordering::Release);
            let state = self.sleepers.after_push();
            if self.sleepers.must_ring(state) {
                self.ring();
            }
        }

        fn pop(&self) -> bool {
            let mut count = self.entries.load(Ordering::Acquire);
            while count > 0 {
                let next = count - 1;
                match self.entries.compare_exchange(
                    count,
                    next,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                ) {
                    Ok(_) => return true,
                    Err(now) => count = now,
                }
            }
            false
        }

        fn take(&self) {
            loop {
                if self.pop() {
                    return;
                }
                let asleep = self.sleepers.commit();
                if self.entries.load(Ordering::Acquire) > 0 {
                    continue;
                }
                let mut rings = self.bell.lock().unwrap();
                while *rings == 0 {
                    rings = self.heard.wait(rings).unwrap();
                }
                *rings -= 1;
                drop(rings);
                drop(asleep);
                self.sleepers.answer();
                let taken = self.pop();
                if self.entries.load(Ordering::Acquire) > 0
                    && self.sleepers.must_ring(self.sleepers.state())
                {
                    self.ring();
                }
                if taken {
                    return;
                }
            }
        }
    }

    /// loom reports a lost wake-up as a deadlock: a taker that waits for ever.
    #[test]
    fn loom_one_pusher_one_sleeper() {
        loom::model(|| {
            let port = Port::new();
            let pusher = loom::thread::spawn({
                let port = port.clone();
                move || port.push()
            });
            port.take();
            pusher.join().unwrap();
        });
    }

    #[test]
    fn loom_one_wake_on_its_way_serves_two_sleepers() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let port = Port::new();
            let takers = [(); 2].map(|()| {
                let port = port.clone();
                loom::thread::spawn(move || port.take())
            });
            port.push();
            port.push();
            for taker in takers {
                taker.join().unwrap();
            }
        });
    }
}
