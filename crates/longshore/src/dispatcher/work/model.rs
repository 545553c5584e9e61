//! When runs end, in every schedule: an early end is an assertion that fails, a late one a deadlock.

use super::*;
use crate::sync::{self, BareQueue};
use loom::sync::{Arc, Condvar, Mutex};

/// A queue around the protocol, and a bell that remembers each ring.
struct Model {
    presence: Presence,
    entries: BareQueue,
    /// What the next callback does: 1 posts another entry, 2 gives work up and takes up new.
    fertile: AtomicUsize,
    ran: AtomicUsize,
    bell: Mutex<usize>,
    heard: Condvar,
    renewed: Mutex<bool>,
    heard_of_it: Condvar,
    /// The table of what is in flight, where a model has one. (A lock may hide a missing fence.)
    in_flight: Option<Mutex<bool>>,
}

impl Model {
    fn new(entries: usize, guards: usize) -> Arc<Self> {
        let model = Self {
            presence: Presence::new(),
            entries: BareQueue::new(entries),
            fertile: AtomicUsize::new(1),
            ran: AtomicUsize::new(0),
            bell: Mutex::new(0),
            heard: Condvar::new(),
            renewed: Mutex::new(false),
            heard_of_it: Condvar::new(),
            in_flight: None,
        };
        model.presence.guards.store(guards, Ordering::SeqCst);
        Arc::new(model)
    }

    fn ring(&self) {
        *self.bell.lock().unwrap() += 1;
        self.heard.notify_one();
    }

    fn callback(&self) {
        if let Some(table) = &self.in_flight {
            *table.lock().unwrap() = false;
        }
        match self.fertile.swap(0, Ordering::AcqRel) {
            1 => {
                self.entries.push();
                self.ring();
            }
            2 => {
                self.presence.guards.fetch_sub(1, Ordering::SeqCst);
                self.presence.guards.fetch_add(1, Ordering::SeqCst);
                *self.renewed.lock().unwrap() = true;
                self.heard_of_it.notify_one();
            }
            _ => {}
        }
        self.ran.fetch_add(1, Ordering::Release);
    }

    fn has_work(&self) -> bool {
        let in_flight = self.in_flight.as_ref();
        self.presence.has_guards() || in_flight.is_some_and(|table| *table.lock().unwrap())
    }

    fn tell(&self) {
        if self.presence.must_tell(|| self.has_work()) {
            self.ring();
        }
    }

    fn run(&self) {
        self.presence.runners.fetch_add(1, Ordering::SeqCst);
        self.presence.join();
        loop {
            while self.entries.pop() {
                self.callback();
            }
            let word = self.presence.leave();
            let is_empty = self.entries.is_empty();
            let is_over = is_empty && self.presence.is_over(word, || self.has_work());
            if is_empty && !is_over {
                let mut rings = self.bell.lock().unwrap();
                while *rings == 0 {
                    rings = self.heard.wait(rings).unwrap();
                }
                *rings -= 1;
            }
            self.presence.join();
            if is_over {
                break;
            }
        }
        self.presence.leave();
        self.presence.runners.fetch_sub(1, Ordering::SeqCst);
        self.tell();
    }
}

/// An early end is an assertion that fails, a late one a deadlock.
#[test]
fn loom_no_run_ends_while_a_callback_may_post() {
    sync::model(3, || {
        let model = Model::new(1, 0);
        let other = loom::thread::spawn({
            let model = model.clone();
            move || {
                model.run();
                model.ran.load(Ordering::Acquire)
            }
        });
        model.run();
        let mine = model.ran.load(Ordering::Acquire);
        let theirs = other.join().unwrap();
        // A run that began when all was over may have seen everything or nothing to do.
        assert_eq!((mine, theirs), (2, 2));
    });
}

/// The callback's thread was asleep when the other one fell asleep; it wakes up, gives the work
/// up that it was told of, takes new work up, and falls asleep again.
#[test]
fn loom_a_thread_that_woke_up_in_between_is_noticed() {
    sync::model(2, || {
        let model = Model::new(0, 1);
        let done = Arc::new(AtomicUsize::new(0));
        let runners = [(); 2].map(|()| {
            let (model, done) = (model.clone(), done.clone());
            loom::thread::spawn(move || {
                model.run();
                assert_eq!(done.load(Ordering::Acquire), 1, "there was work left");
            })
        });
        model.fertile.store(2, Ordering::Release);
        model.entries.push();
        model.ring();
        // The new work comes to its end elsewhere.
        let mut ran = model.renewed.lock().unwrap();
        while !*ran {
            ran = model.heard_of_it.wait(ran).unwrap();
        }
        drop(ran);
        done.store(1, Ordering::Release);
        model.presence.guards.fetch_sub(1, Ordering::SeqCst);
        model.tell();
        for runner in runners {
            runner.join().unwrap();
        }
    });
}

#[test]
fn loom_dropping_the_last_guard_ends_the_run() {
    loom::model(|| {
        let model = Model::new(0, 1);
        let runner = loom::thread::spawn({
            let model = model.clone();
            move || model.run()
        });
        model.presence.guards.fetch_sub(1, Ordering::SeqCst);
        model.tell();
        runner.join().unwrap();
    });
}

/// The entry is a completion: work, until whoever dispatches it takes it out of the table.
#[test]
fn loom_a_run_that_begins_beside_a_dispatch_hears_of_its_end() {
    loom::model(|| {
        let mut model = Model::new(1, 0);
        Arc::get_mut(&mut model).unwrap().in_flight = Some(Mutex::new(true));
        model.fertile.store(0, Ordering::Release);
        let runner = loom::thread::spawn({
            let model = model.clone();
            move || model.run()
        });
        let joined = model.presence.visit();
        if model.entries.pop() {
            model.callback();
        }
        if model.presence.end_visit(joined) {
            model.tell();
        }
        runner.join().unwrap();
        assert_eq!(model.ran.load(Ordering::Acquire), 1);
    });
}

#[test]
fn loom_the_last_run_releases_the_others() {
    sync::model(2, || {
        let model = Model::new(0, 1);
        let runners = [(); 2].map(|()| {
            let model = model.clone();
            loom::thread::spawn(move || model.run())
        });
        model.presence.guards.fetch_sub(1, Ordering::SeqCst);
        model.tell();
        for runner in runners {
            runner.join().unwrap();
        }
    });
}
