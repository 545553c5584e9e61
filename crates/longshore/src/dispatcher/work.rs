//! Who is at work, and whether there is any: when a `run` has come to its end.
//!
//! A run ends when there is nothing left that could bring an entry: no *work* (an operation in
//! flight, a timer, a task, a guard, a `block_on`), no entry in the queue, and no callback running,
//! which might make more of each. Counting callbacks as they run would cost every dispatch two
//! atomic operations on one cache line, so it is the *sleeping* that is counted: a thread inside
//! `run` is awake but while it sleeps in the port, and callbacks run on threads that are awake. One
//! word holds how many are awake and how often one has woken up.
//!
//! ```text
//! last to sleep   awake -= 1;  look at queue;  look at work;  look at the word again
//! a thread waked  awake += 1, wakings += 1;  take an entry;  run it;  awake -= 1 ...
//! ```
//!
//! **A run does not end too early.** Say that a thread finds nobody awake, no entry and no work, and
//! the word unchanged at the end. Then nobody was awake from its first look to its last, because
//! waking changes the word for good. An entry that another thread had taken would have been taken
//! after that thread woke up: its waking is visible to whoever finds the entry gone (the queue is
//! taken from by an acquire-release operation; where the kernel has the queue, the entry counts as
//! work until its thread, awake, takes it out of the table). So there was none.
//!
//! **A run does not sleep too long.** Work ends on a thread that is awake, which looks when it goes
//! to sleep or leaves; or elsewhere (a guard is dropped, a timer is forgotten), and whoever ended it
//! looks at the word *afterwards*. The sleeper changed the word *before* it looked at the work. Between
//! the two steps each passes a SeqCst fence, so one of them sees the other: the sleeper that there is no
//! work, or the other that all sleep, and then it posts a token. A thread that
//! leaves a run that has ended does so too, for the next sleeper.
//!
//! Threads in a plain `dispatch` join in for the time of the call if anybody is inside `run` when they
//! take their entry. Otherwise they look once more when they have run it: a run that began meanwhile
//! may have found the entry still in the table, which is work, and sleeps. The table's lock orders the
//! two: if the run looked first, its coming is visible to whoever takes the entry out.

use std::{cell::Cell, fmt, sync::Arc};

use super::{Dispatcher, Inner, tokens::STOP};
use crate::{
    port::Port,
    sync::{AtomicUsize, Ordering, fence},
    sys::doze::Doze,
};

/// How many threads are awake: the low bits of the word. The others count wakings.
const AWAKE: usize = (1 << 16) - 1;
const WAKING: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct Presence {
    /// Threads inside `run`.
    runners: AtomicUsize,
    word: AtomicUsize,
    guards: AtomicUsize,
}

impl Presence {
    pub(super) fn new() -> Self {
        Self {
            runners: AtomicUsize::new(0),
            word: AtomicUsize::new(0),
            guards: AtomicUsize::new(0),
        }
    }

    /// Whether a thread that takes an entry now has to be counted.
    #[inline]
    fn is_anybody_inside(&self) -> bool {
        self.runners.load(Ordering::SeqCst) > 0
    }

    fn join(&self) {
        self.word.fetch_add(WAKING + 1, Ordering::AcqRel);
    }

    /// Returns the word. What is looked at afterwards is looked at by a thread that sleeps.
    fn leave(&self) -> usize {
        let word = self.word.fetch_sub(1, Ordering::AcqRel) - 1;
        fence(Ordering::SeqCst);
        word
    }

    /// Whether the runs have come to their end, for a thread that has found the queue empty after
    /// it left with this word.
    fn is_over(&self, word: usize, has_work: impl FnOnce() -> bool) -> bool {
        word & AWAKE == 0 && !has_work() && self.word.load(Ordering::SeqCst) == word
    }

    /// Some work has ended: whether a sleeper has to be told that there is none left.
    fn must_tell(&self, has_work: impl FnOnce() -> bool) -> bool {
        fence(Ordering::SeqCst);
        self.is_anybody_inside() && self.word.load(Ordering::SeqCst) & AWAKE == 0 && !has_work()
    }

    /// Somebody comes who is inside no run. `true`: there is one to join.
    #[inline]
    fn visit(&self) -> bool {
        let joins = self.is_anybody_inside();
        if joins {
            self.join();
        }
        joins
    }

    /// The visit is over, and the entry done with: whether anybody might have to be told.
    #[inline]
    fn end_visit(&self, joined: bool) -> bool {
        if joined {
            self.leave();
        }
        joined || self.is_anybody_inside()
    }

    fn has_guards(&self) -> bool {
        self.guards.load(Ordering::SeqCst) > 0
    }
}

impl Inner {
    /// Whether anything may still bring an entry that is not in the queue yet.
    pub(super) fn has_work(&self) -> bool {
        self.presence.has_guards()
            || self.tasks.are_any()
            || self.timers.are_any()
            || self.in_flight.has_events()
            || (Port::STRANGERS && self.in_flight.has_posts())
    }

    /// Some work has ended: tells a sleeping run if it was the last.
    pub(crate) fn work_ended(&self) {
        if self.presence.must_tell(|| self.has_work()) {
            // Refused only when the port is closed, which ends every run, or by a kernel that is out
            // of memory; then the next entry ends it.
            let _ = self.post(STOP as usize, 0);
        }
    }
}

/// A thread inside `run`.
pub(super) struct Runner<'a> {
    inner: &'a Inner,
    /// The word when it fell asleep.
    word: Cell<usize>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(inner: &'a Inner) -> Self {
        inner.presence.runners.fetch_add(1, Ordering::SeqCst);
        inner.presence.join();
        Self {
            inner,
            word: Cell::new(0),
        }
    }
}

impl Doze for Runner<'_> {
    fn falls_asleep(&self) {
        self.word.set(self.inner.presence.leave());
    }

    fn may_sleep(&self) -> bool {
        let has_work = || self.inner.has_work();
        !self.inner.presence.is_over(self.word.get(), has_work)
    }

    fn wakes_up(&self) {
        self.inner.presence.join();
    }
}

impl Drop for Runner<'_> {
    fn drop(&mut self) {
        self.inner.presence.leave();
        self.inner.presence.runners.fetch_sub(1, Ordering::SeqCst);
        self.inner.work_ended();
    }
}

/// A thread in a plain dispatch, which may run callbacks that a `run` has to wait for.
pub(super) struct Visitor<'a> {
    inner: &'a Inner,
    joined: Cell<bool>,
}

impl<'a> Visitor<'a> {
    #[inline]
    pub(super) fn new(inner: &'a Inner) -> Self {
        let visitor = Self {
            inner,
            joined: Cell::new(false),
        };
        visitor.join_runners();
        visitor
    }

    #[inline]
    fn join_runners(&self) {
        self.joined.set(self.inner.presence.visit());
    }

    #[inline]
    fn leave(&self) {
        if self.inner.presence.end_visit(self.joined.replace(false)) {
            self.inner.work_ended();
        }
    }
}

impl Doze for Visitor<'_> {
    fn falls_asleep(&self) {
        self.leave();
    }

    fn may_sleep(&self) -> bool {
        true
    }

    fn wakes_up(&self) {
        self.join_runners();
    }
}

impl Drop for Visitor<'_> {
    #[inline]
    fn drop(&mut self) {
        self.leave();
    }
}

/// Keeps every [`run`](Dispatcher::run) of a port going although there is nothing to do yet.
///
/// Dropping the last one lets the runs end once everything else has. It may be made, cloned and
/// dropped on any thread. It does not keep the port open: closing ends the runs all the same.
///
/// # Examples
/// ```
/// let port = longshore::Dispatcher::new()?;
/// let guard = port.work_guard();
/// let worker = std::thread::spawn({
///     let port = port.clone();
///     move || port.run()
/// });
/// port.post_fn(|| println!("the worker waited for this"))?;
/// drop(guard);
/// assert_eq!(worker.join().unwrap()?, 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "executor_work_guard")]
#[must_use = "it keeps runs going for as long as it lives"]
pub struct WorkGuard {
    inner: Arc<Inner>,
}

impl WorkGuard {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        inner.presence.guards.fetch_add(1, Ordering::SeqCst);
        Self {
            inner: inner.clone(),
        }
    }
}

impl Clone for WorkGuard {
    fn clone(&self) -> Self {
        Self::new(&self.inner)
    }
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        if self.inner.presence.guards.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.inner.work_ended();
        }
    }
}

impl fmt::Debug for WorkGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkGuard").finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// Work that has no operation, timer or task yet: while the guard lives, [`run`](Self::run) waits
    /// instead of ending.
    ///
    /// # Examples
    /// See [`WorkGuard`].
    pub fn work_guard(&self) -> WorkGuard {
        WorkGuard::new(&self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one schedule that the models reach only beyond their bounds, written out.
    #[test]
    fn d06_who_wakes_up_and_falls_asleep_between_two_looks_is_noticed() {
        let presence = Presence::new();
        presence.join();
        presence.join();
        presence.leave();
        let word = presence.leave();
        assert!(presence.is_over(word, || false));
        let other_wakes = || {
            presence.join();
            presence.leave();
            false
        };
        assert!(!presence.is_over(word, other_wakes));
    }
}

#[cfg(all(test, longshore_loom))]
mod model;
