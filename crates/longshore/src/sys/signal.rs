//! Signals of the process: what a handler may do, and what a listener finds afterwards.
//!
//! Each listener has a count for each of its signals, and a *bell*: an object that is signalled while
//! a signal has not been taken. The handler raises a count, *then* rings. Whoever takes hushes the
//! bell, *then* looks at the counts. So a signal is not lost: if its count was raised too late to be
//! seen, the bell was rung after it was hushed, and stays rung. One that takes a signal and leaves
//! others rings again, so that at rest the bell is rung whenever a count is not 0. (It may also be rung
//! for one that was taken between the handler's two steps.)
//!
//! On Linux [`Heard::tell`] runs in a signal handler, which may interrupt any thread anywhere. It walks a
//! slice that never changes, adds to an atomic and makes one system call: no lock, no allocation,
//! nothing that could panic or unwind. See `linux` for what stands around it.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
use linux as os;
#[cfg(windows)]
use windows as os;

use crate::sync::{AtomicUsize, Ordering::SeqCst};
pub(crate) use os::{HANG_UP, INTERRUPT, Listener, QUIT, TERMINATE, name};

/// An object that can be waited for while it is rung.
trait Bell {
    fn ring(&self);
    fn hush(&self);
}

/// What one listener has heard and not taken yet.
#[derive(Debug)]
struct Heard<B> {
    bell: B,
    counts: Box<[(i32, AtomicUsize)]>,
}

impl<B: Bell> Heard<B> {
    /// Every signal once.
    fn new(bell: B, signals: &[i32]) -> Self {
        let mut numbers = Vec::new();
        for &number in signals {
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        let counts = numbers.into_iter().map(|n| (n, AtomicUsize::new(0)));
        Self {
            bell,
            counts: counts.collect(),
        }
    }

    #[cfg_attr(
        all(windows, not(test)),
        expect(dead_code, reason = "only Linux registers each of them")
    )]
    fn numbers(&self) -> impl Iterator<Item = i32> {
        self.counts.iter().map(|&(number, _)| number)
    }

    /// A signal has come: whether this listener is told of it. The handler's part.
    fn tell(&self, signal: i32) -> bool {
        for (number, count) in &self.counts {
            if *number == signal {
                count.fetch_add(1, SeqCst);
                self.bell.ring();
                return true;
            }
        }
        false
    }

    /// Takes one signal: the first of the list that has come.
    fn take(&self) -> Option<i32> {
        self.bell.hush();
        let mut taken = None;
        for (number, count) in &self.counts {
            if taken.is_none() && take_one(count) {
                taken = Some(*number);
            }
            if taken.is_some() && count.load(SeqCst) > 0 {
                self.bell.ring();
                break;
            }
        }
        taken
    }
}

fn take_one(count: &AtomicUsize) -> bool {
    let mut left = count.load(SeqCst);
    while left > 0 {
        match count.compare_exchange(left, left - 1, SeqCst, SeqCst) {
            Ok(_) => return true,
            Err(now) => left = now,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    /// Swaps stand for the kernel, which changes an eventfd or an event under a lock of its own: whoever
    /// hushes it sees what was done before it was rung.
    #[derive(Debug)]
    struct Rung(AtomicUsize);

    impl Bell for Rung {
        fn ring(&self) {
            self.0.swap(1, SeqCst);
        }

        fn hush(&self) {
            self.0.swap(0, SeqCst);
        }
    }

    fn heard(signals: &[i32]) -> Heard<Rung> {
        Heard::new(Rung(AtomicUsize::new(0)), signals)
    }

    fn is_rung(heard: &Heard<Rung>) -> bool {
        heard.bell.0.load(SeqCst) > 0
    }

    #[cfg(not(longshore_loom))]
    #[test]
    fn signal_each_one_is_counted_and_the_bell_rings_until_the_last() {
        let heard = heard(&[3, 5, 3]);
        assert_eq!(heard.numbers().collect::<Vec<_>>(), [3, 5]);
        assert!(!heard.tell(4) && !is_rung(&heard));
        for signal in [5, 3, 5] {
            assert!(heard.tell(signal));
        }
        for signal in [3, 5, 5] {
            assert!(is_rung(&heard));
            assert_eq!(heard.take(), Some(signal));
        }
        assert!(!is_rung(&heard));
        assert_eq!(heard.take(), None);
    }

    /// Nothing that has come is missing from both the takers' hands and the bell.
    #[cfg(longshore_loom)]
    #[test]
    fn loom_a_signal_is_taken_or_the_bell_is_rung() {
        use crate::sync::{self, Arc};

        sync::model(3, || {
            let heard = Arc::new(heard(&[3, 5]));
            let handler = loom::thread::spawn({
                let heard = heard.clone();
                move || heard.tell(5)
            });
            let other = loom::thread::spawn({
                let heard = heard.clone();
                move || usize::from(heard.take().is_some())
            });
            heard.tell(3);
            let mut taken = usize::from(heard.take().is_some());
            assert!(handler.join().unwrap());
            taken += other.join().unwrap();
            let left = heard.counts.iter().map(|(_, count)| count.load(SeqCst));
            let left: usize = left.sum();
            assert_eq!(taken + left, 2);
            assert!(left == 0 || is_rung(&heard), "it waits, and nobody is told");
        });
    }
}
