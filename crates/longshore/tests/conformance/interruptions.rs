//! What interrupts a thread ends no dispatch: D9. On Windows an APC, on Linux a signal.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{
    harness::{Counter, Test, port, spawn, tick},
    support::{Seat, note, passed_in_a_child, rounds, seen},
    threads::{Interrupted, Target},
};

pub const TESTS: &[Test] = tests![
    d09_an_interruption_neither_ends_nor_fails_a_dispatch,
    d09_an_interruption_makes_no_time_out_early,
];

const EACH: usize = 5;

fn d09_an_interruption_neither_ends_nor_fails_a_dispatch() {
    if passed_in_a_child() {
        return;
    }
    let rounds = rounds(300);
    let port = port();
    let (seat, about_to) = (Arc::new(Mutex::new(None)), Arc::new(Counter::new()));
    let dispatching = {
        let (port, seat, about_to) = (port.clone(), seat.clone(), about_to.clone());
        spawn(move || {
            *seat.lock().unwrap() = Some((Seat::here(), Target::here()));
            for round in 0..rounds {
                about_to.add(1);
                match round % 3 {
                    0 => port.dispatch().unwrap(),
                    1 => assert!(port.dispatch_timeout(Duration::MAX).unwrap()),
                    _ => assert!(port.dispatch_timeout(Duration::from_secs(3600)).unwrap()),
                }
                assert_eq!(seen(), [round], "a post ended it, and nothing else");
            }
            assert!(cfg!(not(windows)) || !Interrupted::may_have_run_early());
            Interrupted::total()
        })
    };
    for round in 0..rounds {
        about_to.wait_for(round + 1);
        let (seat, target) = seat.lock().unwrap().clone().unwrap();
        for _ in 0..EACH {
            seat.until_asleep();
            target.interrupt();
        }
        port.post(round, note).unwrap();
        tick();
    }
    let total = dispatching.join().unwrap();
    // Signals that come together are one; calls are counted each.
    assert!(
        total > 0 && (cfg!(not(windows)) || total == rounds * EACH),
        "{total}"
    );
}

fn d09_an_interruption_makes_no_time_out_early() {
    if passed_in_a_child() {
        return;
    }
    const TIMEOUT: Duration = Duration::from_millis(20);
    let (seat, step) = (Arc::new(Mutex::new(None)), Arc::new(Counter::new()));
    let go = Arc::new(Counter::new());
    let waiting = {
        let (seat, step, go) = (seat.clone(), step.clone(), go.clone());
        spawn(move || {
            let port = port();
            *seat.lock().unwrap() = Some((Seat::here(), Target::here()));
            step.add(1);
            for _ in 0..5 {
                let begin = Instant::now();
                assert!(!port.dispatch_timeout(TIMEOUT).unwrap());
                assert!(begin.elapsed() >= TIMEOUT);
            }
            step.add(1);
            // A thread that has ended cannot be interrupted.
            go.wait_for(1);
        })
    };
    step.wait_for(1);
    let (seat, target) = seat.lock().unwrap().clone().unwrap();
    while step.get() < 2 && !waiting.is_finished() {
        seat.until_asleep();
        target.interrupt();
    }
    go.add(1);
    waiting.join().unwrap();
}
