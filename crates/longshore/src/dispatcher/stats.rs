//! What a port has done, counted without a lock and without a shared cache line.
//!
//! Two counts rise with every post and every dispatch, so they must cost next to nothing: each thread
//! has a slot of its own, which nobody else writes, and adds with a plain load and store. Reading sums
//! the slots. Threads beyond the number of slots share the last one, and add atomically. A thread that
//! ends gives its slot back under a lock, so the next owner goes on from the count it left.

use std::{
    cell::Cell,
    sync::{
        Mutex, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use super::{Dispatcher, Inner};

/// Threads that have a slot of their own, in the whole process.
const OWN: usize = 63;

/// Slots that nobody has, to be handed out.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());
/// Slots that were handed out before, or are.
static USED: AtomicUsize = AtomicUsize::new(0);

/// This thread's slot, until it ends.
struct Seat(Cell<Option<usize>>);

thread_local! {
    static SEAT: Seat = const { Seat(Cell::new(None)) };
}

impl Seat {
    #[inline]
    fn slot(&self) -> usize {
        match self.0.get() {
            Some(slot) => slot,
            None => self.take(),
        }
    }

    #[cold]
    fn take(&self) -> usize {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let slot = free.unwrap_or_else(|| USED.fetch_add(1, Relaxed)).min(OWN);
        self.0.set(Some(slot));
        slot
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take().filter(|&slot| slot < OWN) {
            FREE.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(slot);
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    Posted,
    Dispatched,
    Completed,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Slot([AtomicU64; 3]);

#[derive(Debug)]
pub(crate) struct Counters {
    slots: [Slot; OWN + 1],
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| Slot::default()),
        }
    }

    #[inline]
    pub(super) fn add(&self, what: Count) {
        // A thread that is ending has no seat any more.
        let slot = SEAT.try_with(Seat::slot).unwrap_or(OWN);
        // The mask only tells the compiler what `slot` says already.
        let count = &self.slots[slot & OWN].0[what as usize];
        match slot {
            OWN => {
                count.fetch_add(1, Release);
            }
            // Nobody else writes it.
            _ => count.store(count.load(Relaxed) + 1, Release),
        }
    }

    fn sum(&self, what: Count) -> u64 {
        let counts = self.slots.iter().map(|slot| &slot.0[what as usize]);
        counts.fold(0, |sum, count| sum.wrapping_add(count.load(Acquire)))
    }
}

/// What a port has done so far, and what it is doing: see [`Dispatcher::stats`].
///
/// # Examples
/// ```
/// let port = longshore::Dispatcher::new()?;
/// port.post_fn(|| {})?;
/// port.dispatch()?;
/// let stats = port.stats();
/// assert_eq!((stats.posted, stats.dispatched, stats.in_flight), (1, 1, 0));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Packets that longshore has posted: callbacks, closures, wakes, runnable tasks, and its own
    /// housekeeping. One that was refused, because the port is closed or the kernel out of memory,
    /// counts all the same.
    pub posted: u64,
    /// Entries that were dispatched, completions and foreign packets among them.
    pub dispatched: u64,
    /// Operations that have ended through a dispatch.
    pub completed: u64,
    /// Packets that longshore did not queue (Windows).
    pub foreign: u64,
    /// Operations in flight at this moment.
    pub in_flight: usize,
    /// Threads that sleep in the port at this moment, or are about to.
    pub sleeping: usize,
    /// Times that a sleeping thread was woken. 0 on Windows, where the kernel does that.
    pub wakes_made: u64,
    /// Times that a thread slept, but needed no waking because a wake-up was on its way already. 0 on
    /// Windows.
    pub wakes_saved: u64,
}

impl Dispatcher {
    /// What this port has done so far, and what it is doing.
    ///
    /// Any thread may ask at any time. Nobody who posts waits for it; who begins or ends an operation
    /// may, for the moment in which one of the sixteen parts of their table is counted. The numbers
    /// are read one after the other while others go on, so they need not fit each other to the last
    /// digit. What is counted never runs backwards.
    ///
    /// # Examples
    /// See [`Stats`].
    pub fn stats(&self) -> Stats {
        let Inner {
            port,
            counters,
            in_flight,
            foreign,
            ..
        } = &*self.inner;
        let sleep = port.sleep_stats();
        Stats {
            // Before what follows from it, so that nothing seems to be dispatched before it was posted.
            completed: counters.sum(Count::Completed),
            dispatched: counters.sum(Count::Dispatched),
            posted: counters.sum(Count::Posted),
            foreign: foreign.count(),
            in_flight: in_flight.events(),
            sleeping: sleep.sleeping,
            wakes_made: sleep.wakes_made,
            wakes_saved: sleep.wakes_saved,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn stats_a_thread_that_ends_leaves_its_seat_to_the_next() {
        const THREADS: usize = 200;
        let before = USED.load(Relaxed);
        let counters = Counters::new();
        for _ in 0..THREADS {
            // Returns after the thread's own values were dropped, unlike a scope.
            thread::spawn(|| SEAT.with(Seat::slot)).join().unwrap();
            counters.add(Count::Posted);
        }
        assert_eq!(counters.sum(Count::Posted), THREADS as u64);
        let taken = USED.load(Relaxed) - before;
        assert!(taken < THREADS / 2, "{taken} seats, other tests' included");
    }
}
