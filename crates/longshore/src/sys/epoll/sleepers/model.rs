//! The protocol in every schedule. loom reports a lost wake-up as a deadlock: a thread that waits for
//! ever, with nobody left to ring.

use super::*;
use crate::sync::{BareQueue, model};
use loom::{
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// The queue and the bell around the protocol. The bell is an eventfd seen edge-triggered: each ring
/// releases one waiter, now or later.
struct Port {
    sleepers: Sleepers,
    entries: BareQueue,
    bell: Mutex<Bell>,
    heard: Condvar,
}

#[derive(Default)]
struct Bell {
    rings: usize,
    /// Closed: level-triggered from here on.
    is_level: bool,
}

/// How long a thread waits.
#[derive(Clone, Copy, PartialEq)]
enum Wait {
    Forever,
    /// Its time is up as soon as it waits.
    Briefly,
}

/// What a thread came back with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Took {
    Entry,
    TimedOut,
    Closed,
}

impl Port {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            sleepers: Sleepers::new(),
            entries: BareQueue::new(0),
            bell: Mutex::default(),
            heard: Condvar::new(),
        })
    }

    fn ring(&self) {
        self.bell.lock().unwrap().rings += 1;
        self.heard.notify_one();
    }

    fn wake(&self, state: State) {
        if self.sleepers.must_ring(state) {
            self.ring();
        }
    }

    /// `false`: the port was closed, and the entry is taken back.
    fn push(&self) -> bool {
        self.entries.push();
        let state = self.sleepers.after_push();
        if state.is_closed() {
            return !self.entries.pop();
        }
        self.wake(state);
        true
    }

    fn pop_and_look_back(&self) -> bool {
        let taken = self.entries.pop();
        if let Some(state) = self.sleepers.look_back(|| self.entries.is_empty()) {
            self.wake(state);
        }
        taken
    }

    /// The kernel reported `events` finished operations: each is an entry, the first for ourselves.
    fn harvest(&self, events: usize) -> bool {
        for _ in 0..events {
            self.entries.push();
        }
        self.pop_and_look_back()
    }

    fn is_closed(&self) -> bool {
        self.sleepers.state().is_closed()
    }

    /// Sleeps until the bell rings. `false` if it did not.
    fn sleep(&self, wait: Wait) -> bool {
        let asleep = self.sleepers.commit();
        if !self.entries.is_empty() || self.is_closed() {
            return false;
        }
        let mut bell = self.bell.lock().unwrap();
        while bell.rings == 0 && !bell.is_level && wait == Wait::Forever {
            bell = self.heard.wait(bell).unwrap();
        }
        let heard = bell.rings > 0;
        bell.rings -= usize::from(heard);
        drop(bell);
        drop(asleep);
        heard
    }

    fn take(&self, wait: Wait) -> Took {
        loop {
            if self.is_closed() {
                return Took::Closed;
            }
            if self.entries.pop() {
                return Took::Entry;
            }
            if self.sleep(wait) {
                self.sleepers.answer();
            }
            if self.is_closed() {
                return Took::Closed;
            }
            if self.pop_and_look_back() {
                return Took::Entry;
            }
            if wait == Wait::Briefly {
                return Took::TimedOut;
            }
        }
    }

    /// Closes and returns what nobody took.
    fn close(&self) -> usize {
        assert!(self.sleepers.close());
        self.bell.lock().unwrap().is_level = true;
        self.heard.notify_all();
        std::iter::from_fn(|| self.entries.pop().then_some(())).count()
    }
}

fn taker(port: &Arc<Port>, wait: Wait) -> thread::JoinHandle<Took> {
    let port = port.clone();
    thread::spawn(move || port.take(wait))
}

#[test]
fn loom_one_pusher_one_sleeper() {
    loom::model(|| {
        let port = Port::new();
        let pusher = thread::spawn({
            let port = port.clone();
            move || assert!(port.push())
        });
        assert_eq!(port.take(Wait::Forever), Took::Entry);
        pusher.join().unwrap();
    });
}

#[test]
fn loom_one_wake_on_its_way_serves_two_sleepers() {
    model(3, || {
        let port = Port::new();
        let takers = [(); 2].map(|()| taker(&port, Wait::Forever));
        port.push();
        port.push();
        for taker in takers {
            assert_eq!(taker.join().unwrap(), Took::Entry);
        }
    });
}

/// Two events come at once: one is the harvester's, the other has to find the sleeper, who may be
/// about to fall asleep.
#[test]
fn loom_a_harvester_calls_for_help_with_what_it_leaves() {
    loom::model(|| {
        let port = Port::new();
        let other = taker(&port, Wait::Forever);
        let mine = port.harvest(2);
        assert!(mine, "only two threads, and two entries");
        assert_eq!(other.join().unwrap(), Took::Entry);
    });
}

/// A post and events at the same time, one wake-up for both.
#[test]
fn loom_a_harvest_and_a_post_reach_the_sleeper() {
    model(3, || {
        let port = Port::new();
        let sleeper = taker(&port, Wait::Forever);
        let poster = thread::spawn({
            let port = port.clone();
            move || assert!(port.push())
        });
        port.harvest(2);
        poster.join().unwrap();
        assert_eq!(sleeper.join().unwrap(), Took::Entry);
    });
}

/// A thread's time is up when the bell rings: it may answer for the other one, and leaves.
#[test]
fn loom_a_thread_that_exits_passes_on_what_it_answered_for() {
    model(3, || {
        let port = Port::new();
        let (stays, leaves) = (taker(&port, Wait::Forever), taker(&port, Wait::Briefly));
        port.push();
        port.push();
        assert_eq!(stays.join().unwrap(), Took::Entry);
        let left = match leaves.join().unwrap() {
            Took::Entry => 0,
            _ => 1,
        };
        assert_eq!(port.close(), left);
    });
}

/// Every post is taken, handed over by the closing thread, or refused; nobody sleeps on.
#[test]
fn loom_closing_wakes_the_sleeper_and_loses_no_post() {
    model(3, || {
        let port = Port::new();
        let sleeper = taker(&port, Wait::Forever);
        let poster = thread::spawn({
            let port = port.clone();
            move || port.push()
        });
        let handed_over = port.close();
        let accepted = usize::from(poster.join().unwrap());
        let taken = usize::from(sleeper.join().unwrap() == Took::Entry);
        assert_eq!(accepted, taken + handed_over);
        assert!(port.entries.is_empty());
    });
}
