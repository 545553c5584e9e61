//! Timers: wakers by deadline, served by whoever dispatches.
//!
//! There is no timer thread. Each wait in the port ends at the earliest deadline at the latest, and
//! whoever finds a deadline passed wakes its task. A new earliest deadline is announced with a tick,
//! so that a thread that waits for longer computes anew.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::Instant,
};

use super::Inner;

/// Names one timer: its deadline, and a number that tells equal deadlines apart.
pub(crate) type TimerKey = (Instant, u64);

#[derive(Debug)]
pub(crate) struct Timers {
    /// Whether there are any: the one thing a dispatch without timers looks at.
    any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    wakers: BTreeMap<TimerKey, Waker>,
    count: u64,
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self {
            any: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever is due; returns the earliest deadline that is left.
    #[inline]
    pub(crate) fn fire(&self) -> Option<Instant> {
        // Relaxed: a timer set by another thread is announced by a tick, which is a packet.
        match self.any.load(Ordering::Relaxed) {
            true => self.fire_due(),
            false => None,
        }
    }

    fn fire_due(&self) -> Option<Instant> {
        let mut state = self.state();
        let now = Instant::now();
        // Everything up to now, whatever its number.
        let later = state.wakers.split_off(&(now, u64::MAX));
        let due = mem::replace(&mut state.wakers, later);
        let next = state.wakers.keys().next().map(|key| key.0);
        self.any.store(next.is_some(), Ordering::Relaxed);
        drop(state);
        due.into_values().for_each(Waker::wake);
        next
    }

    /// Forgets a timer, if it is still there.
    pub(crate) fn remove(&self, key: &TimerKey) {
        let removed = self.state().wakers.remove(key);
        // A waker's drop is foreign code: not under the lock.
        drop(removed);
    }

    /// Wakes everybody: the port is closed.
    pub(crate) fn end(&self) {
        let all = mem::take(&mut self.state().wakers);
        all.into_values().for_each(Waker::wake);
    }
}

impl Inner {
    /// Has `waker` woken at `deadline`, or soon after.
    pub(crate) fn set_timer(&self, deadline: Instant, waker: Waker) -> TimerKey {
        let mut state = self.timers.state();
        state.count += 1;
        let key = (deadline, state.count);
        state.wakers.insert(key, waker);
        self.timers.any.store(true, Ordering::Relaxed);
        let is_first = state.wakers.keys().next() == Some(&key);
        drop(state);
        if is_first {
            // Refused only when the port is closed; then nobody waits in it any more.
            let _ = self.tick();
        }
        key
    }

    /// Replaces the waker of a timer that has not fired. `false`: it has.
    pub(crate) fn renew_timer(&self, key: &TimerKey, waker: &Waker) -> bool {
        let mut state = self.timers.state();
        let Some(mine) = state.wakers.get_mut(key) else {
            return false;
        };
        if mine.will_wake(waker) {
            return true;
        }
        let old = mem::replace(mine, waker.clone());
        drop(state);
        drop(old);
        true
    }
}
