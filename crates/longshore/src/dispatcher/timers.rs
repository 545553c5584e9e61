//! Timers: wakers by deadline, served by whoever dispatches.
//!
//! There is no timer thread. Whoever waits in the port *keeps* the earliest deadline: the wait ends
//! then, and the thread wakes the tasks that are due. One keeper is enough, so a thread that waits
//! for longer, because it came when there was no timer or none that early, must hear of it when
//! there is no other keeper: with a tick, a packet that is for whoever takes it. That is so when a
//! timer is set, and when the last keeper leaves the port to run an entry, which may take long.
//!
//! Why no timer is overslept: a thread counts itself as waiting, *then* looks whether there are
//! timers; whoever sets one, or leaves it behind, says that there are timers, *then* looks whether
//! anybody waits. All SeqCst, so one of them sees the other. Deadlines and keepers are under a lock.

use std::{
    any::Any,
    collections::BTreeMap,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::Waker,
    time::Instant,
};

use super::{Inner, tokens::TICK};
use crate::{
    packet::Packet,
    port::Port,
    sys::{
        backend::{Wait, alarm},
        doze::Doze,
    },
};

/// Names one timer: its deadline, and a number that tells equal deadlines apart.
pub(crate) type TimerKey = (Instant, u64);

#[derive(Debug)]
pub(crate) struct Timers {
    /// Whether there are any: the one thing a dispatch without timers looks at.
    any: AtomicBool,
    /// Threads that wait in the port, or are about to.
    waiting: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    wakers: BTreeMap<TimerKey, Waker>,
    count: u64,
    /// When the waits of threads end that wait for a timer.
    keepers: Vec<Instant>,
}

impl State {
    fn first(&self) -> Option<Instant> {
        self.wakers.keys().next().map(|key| key.0)
    }

    /// Whether there is a timer for which no waiting thread would wake up.
    fn is_uncovered(&self) -> bool {
        let first = self.first();
        first.is_some_and(|first| self.keepers.iter().all(|&kept| kept > first))
    }
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self {
            any: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a timer is set.
    pub(super) fn are_any(&self) -> bool {
        self.any.load(SeqCst) && !self.state().wakers.is_empty()
    }

    /// Wakes everybody: the port is closed.
    pub(crate) fn end(&self) -> Option<Panic> {
        let all = mem::take(&mut self.state().wakers);
        wake_all(all)
    }
}

pub(super) type Panic = Box<dyn Any + Send>;

/// Wakes everybody, also when one of them panics; returns the first panic.
fn wake_all(wakers: BTreeMap<TimerKey, Waker>) -> Option<Panic> {
    let mut first = None;
    for waker in wakers.into_values() {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
            first.get_or_insert(panic);
        }
    }
    first
}

/// One thread's look for a packet.
pub(super) struct Watch<'a> {
    timers: &'a Timers,
    port: &'a Port,
    /// It may wait, so it counts.
    waits: bool,
    keeps: Option<Instant>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(timers: &'a Timers, port: &'a Port, wait: Wait) -> Self {
        let waits = !matches!(wait, Wait::Poll);
        timers.waiting.fetch_add(usize::from(waits), SeqCst);
        Self {
            timers,
            port,
            waits,
            keeps: None,
        }
    }

    /// Wakes whoever is due. Returns when the wait has to end for the sake of a timer, if that is
    /// earlier than it ends anyway.
    pub(super) fn fire(&mut self, wait: Wait) -> (Option<Instant>, Option<Panic>) {
        // A thread that keeps a deadline forgets it under the lock, also when no timer is left.
        if self.keeps.is_none() && !self.timers.any.load(SeqCst) {
            return (None, None);
        }
        let mut state = self.timers.state();
        self.forget(&mut state);
        let now = Instant::now();
        let due = match state.first() {
            Some(first) if first <= now => {
                // Everything up to now, whatever its number.
                let later = state.wakers.split_off(&(now, u64::MAX));
                mem::replace(&mut state.wakers, later)
            }
            _ => BTreeMap::new(),
        };
        let first = state.first();
        self.timers.any.store(first.is_some(), SeqCst);
        // Under the lock, so that an older alarm never replaces a newer one.
        self.port.set_alarm(first);
        let first = first.filter(|&first| match wait {
            Wait::Poll => false,
            Wait::Until(deadline) => first < deadline,
            Wait::Forever => true,
        });
        self.keeps = first;
        state.keepers.extend(first);
        drop(state);
        (first, wake_all(due))
    }

    fn forget(&mut self, state: &mut State) {
        let kept = self.keeps.take();
        let place = kept.and_then(|kept| state.keepers.iter().position(|&other| other == kept));
        place.map(|place| state.keepers.swap_remove(place));
    }

    /// This thread will be busy elsewhere: whether another one has to hear of the timers.
    pub(super) fn leave(mut self) -> bool {
        let timers = self.timers;
        if self.keeps.is_none() && !timers.any.load(SeqCst) {
            return false;
        }
        let mut state = timers.state();
        self.forget(&mut state);
        state.is_uncovered() && timers.waiting.load(SeqCst) > usize::from(self.waits)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.keeps.is_some() {
            let timers = self.timers;
            self.forget(&mut timers.state());
        }
        self.timers
            .waiting
            .fetch_sub(usize::from(self.waits), SeqCst);
    }
}

impl Inner {
    /// Takes one packet, and serves the timers that are due meanwhile.
    #[inline]
    pub(super) fn take(&self, wait: Wait, doze: &dyn Doze) -> io::Result<Option<Packet>> {
        // Relaxed: as long as this call does not wait, it cannot oversleep.
        let has_timers = self.timers.any.load(Relaxed);
        if !has_timers
            && let Some(packet) = self.port.take_queued()?
            && !self.is_tick(packet)
        {
            return Ok(Some(packet));
        }
        self.take_and_watch(wait, doze, has_timers)
    }

    /// `look_first`: at what is at hand, before the kernel is asked. Once for each call, because
    /// "nothing" may mean that it is the kernel's turn.
    fn take_and_watch(
        &self,
        wait: Wait,
        doze: &dyn Doze,
        look_first: bool,
    ) -> io::Result<Option<Packet>> {
        let mut watch = Watch::new(&self.timers, &self.port, wait);
        let (mut due, panic) = watch.fire(wait);
        if let Some(panic) = panic {
            self.leave_for_panic(watch, panic);
        }
        let mut taken = match look_first {
            true => self.port.take_queued()?,
            false => None,
        };
        loop {
            if taken.is_none() {
                taken = self.port.take(due.map_or(wait, Wait::Until), doze)?;
            }
            match taken {
                None if due.is_some() => {}
                // Swallowed here, so that nobody who was told goes away without passing it on.
                Some(packet) if self.is_tick(packet) => taken = None,
                taken => {
                    if taken.is_none() {
                        self.set_alarm();
                    }
                    if watch.leave() {
                        // Refused only when the port is closed, or by a kernel out of memory.
                        let _ = self.tick();
                    }
                    return Ok(taken);
                }
            }
            let panic;
            (due, panic) = watch.fire(wait);
            if let Some(panic) = panic {
                self.leave_for_panic(watch, panic);
            }
        }
    }

    /// A waker has panicked: the others were woken, and the timers are left to another thread.
    #[cold]
    fn leave_for_panic(&self, watch: Watch<'_>, panic: Panic) -> ! {
        if watch.leave() {
            // Refused only when the port is closed, or by a kernel out of memory.
            let _ = self.tick();
        }
        resume_unwind(panic)
    }

    pub(super) fn is_tick(&self, packet: Packet) -> bool {
        packet == alarm()
            || packet.key == TICK as usize && (!Port::STRANGERS || self.believes_post(packet))
    }

    /// Has the pollable descriptor, if there is one, become readable when the next timer is due.
    pub(crate) fn set_alarm(&self) {
        let state = self.timers.state();
        // Under the lock, so that an older alarm never replaces a newer one.
        self.port.set_alarm(state.first());
    }

    /// Has `waker` woken at `deadline`, or soon after.
    pub(crate) fn set_timer(&self, deadline: Instant, waker: Waker) -> TimerKey {
        let mut state = self.timers.state();
        state.count += 1;
        let key = (deadline, state.count);
        state.wakers.insert(key, waker);
        self.timers.any.store(true, SeqCst);
        let is_uncovered = state.is_uncovered();
        if state.first() == Some(deadline) {
            self.port.set_alarm(Some(deadline));
        }
        drop(state);
        if is_uncovered && self.timers.waiting.load(SeqCst) > 0 {
            // Refused only when the port is closed; then nobody waits in it any more.
            let _ = self.tick();
        }
        key
    }

    /// Forgets a timer, if it is still there.
    pub(crate) fn remove_timer(&self, key: &TimerKey) {
        let removed = self.timers.state().wakers.remove(key);
        // A waker's drop is foreign code: not under the lock.
        drop(removed);
        self.work_ended();
    }

    /// Replaces the waker of a timer that has not fired. `false`: it has.
    pub(crate) fn renew_timer(&self, key: &TimerKey, waker: &Waker) -> bool {
        // Cloned before the lock is taken: that is foreign code.
        let fresh = waker.clone();
        let mut state = self.timers.state();
        let Some(mine) = state.wakers.get_mut(key) else {
            return false;
        };
        let old = mem::replace(mine, fresh);
        drop(state);
        drop(old);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dispatcher::{Dispatcher, work::Visitor};

    const HOUR: Duration = Duration::from_secs(3600);

    fn waker() -> Waker {
        Waker::noop().clone()
    }

    #[test]
    fn time_a_wait_covers_a_timer_that_is_due_no_earlier_than_it_ends() {
        let now = Instant::now();
        let mut state = State::default();
        assert!(!state.is_uncovered(), "there is none");
        state.wakers.insert((now, 0), waker());
        assert!(state.is_uncovered());
        state.keepers.push(now + HOUR);
        assert!(state.is_uncovered());
        state.keepers.push(now);
        assert!(!state.is_uncovered());
    }

    #[test]
    fn time_who_leaves_tells_of_a_timer_if_there_is_anybody_to_tell() {
        let port = Dispatcher::new().unwrap();
        let inner = &port.inner;
        let watch = |wait| Watch::new(&inner.timers, &inner.port, wait);
        assert!(!watch(Wait::Forever).leave(), "no timer");
        let deadline = Instant::now() + HOUR;
        inner.set_timer(deadline, waker());
        assert!(!watch(Wait::Forever).leave(), "nobody waits");
        assert!(!watch(Wait::Poll).leave());
        let mut other = watch(Wait::Until(deadline));
        assert!(
            other.fire(Wait::Until(deadline)).0.is_none(),
            "it ends then"
        );
        assert!(watch(Wait::Forever).leave());
        assert!(watch(Wait::Poll).leave());
        assert_eq!(other.fire(Wait::Forever).0, Some(deadline));
        assert!(!watch(Wait::Forever).leave(), "there is a keeper");
        drop(other);
        let other = watch(Wait::Forever);
        assert!(watch(Wait::Forever).leave(), "the keeper went away");
        drop(other);
        assert!(inner.port.take_queued().unwrap().is_none());
    }

    #[test]
    fn time_a_tick_is_no_entry() {
        let port = Dispatcher::new().unwrap();
        let inner = &port.inner;
        for _ in 0..2 {
            inner.tick().unwrap();
            let taken = inner.take(Wait::Poll, &Visitor::new(inner)).unwrap();
            assert_eq!(taken, None);
            inner.set_timer(Instant::now() + HOUR, waker());
        }
    }
}
