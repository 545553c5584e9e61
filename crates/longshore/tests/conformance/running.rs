//! `run`, `stop` and `restart`, and what plain dispatchers notice of them (D6).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    harness::{Counter, Test, port, spawn, tick},
    support::{assert_closed, join, note, pause, rounds, seen, sleepers, spin_until},
};

pub const TESTS: &[Test] = tests![
    d06_run_goes_on_until_a_callback_stops_it,
    d06_stop_releases_every_blocked_run,
    d06_a_stop_before_the_run_is_not_lost,
    d06_stop_leaves_what_is_queued,
    d06_stopping_does_not_end_a_plain_dispatch,
    d06_surplus_stop_tokens_do_no_harm,
    d06_a_stop_that_races_a_run_is_not_lost,
    d06_the_runs_share_the_entries,
    d10_closing_ends_every_run,
];

fn d06_run_goes_on_until_a_callback_stops_it() {
    let port = port();
    for word in 0..3 {
        port.post(word, note).unwrap();
    }
    let remote = port.clone();
    port.post_fn(move || remote.stop().unwrap()).unwrap();
    assert!(!port.is_stopped());
    assert_eq!(port.run().unwrap(), 4);
    assert!(port.is_stopped());
    assert_eq!(seen(), [0, 1, 2]);
    // Again, after a restart.
    port.restart();
    assert!(!port.is_stopped());
    let remote = port.clone();
    port.post_fn(move || remote.stop().unwrap()).unwrap();
    assert_eq!(port.run().unwrap(), 1);
}

fn d06_stop_releases_every_blocked_run() {
    let port = port();
    let _work = port.work_guard();
    for _ in 0..rounds(200) {
        let runners = sleepers(&port, 4, |port| port.run());
        port.stop().unwrap();
        for result in join(runners) {
            assert_eq!(result.unwrap(), 0);
        }
        port.restart();
        tick();
    }
    assert!(!port.try_dispatch().unwrap());
}

fn d06_a_stop_before_the_run_is_not_lost() {
    let port = port();
    port.post(1, note).unwrap();
    port.stop().unwrap();
    assert_eq!(port.run().unwrap(), 0);
    assert_eq!(port.run().unwrap(), 0);
    port.dispatch().unwrap();
    assert_eq!(seen(), [1], "plain dispatches are not stopped");
}

fn d06_stop_leaves_what_is_queued() {
    let port = port();
    let remote = port.clone();
    port.post_fn(move || remote.stop().unwrap()).unwrap();
    for word in 0..3 {
        port.post(word, note).unwrap();
    }
    assert_eq!(port.run().unwrap(), 1);
    assert_eq!(seen(), []);
    while port.try_dispatch().unwrap() {}
    assert_eq!(seen(), [0, 1, 2]);
}

fn d06_stopping_does_not_end_a_plain_dispatch() {
    // Plain dispatchers go to sleep before the run or after it, so that the stop meets both
    // orders, whichever sleeper the system wakes first.
    for round in 0..rounds(400) {
        let port = port();
        let _work = port.work_guard();
        let plain = |count| {
            sleepers(&port, count, |port| {
                port.dispatch().unwrap();
                seen()
            })
        };
        let mut dispatchers = plain(round % 3);
        let runner = sleepers(&port, 1, |port| port.run());
        dispatchers.extend(plain(2 - round % 3));
        port.stop().unwrap();
        for result in join(runner) {
            assert_eq!(result.unwrap(), 0);
        }
        for _ in 0..2 {
            port.post(round, note).unwrap();
        }
        for result in join(dispatchers) {
            assert_eq!(result, [round], "each was ended by a post");
        }
        assert!(!port.try_dispatch().unwrap());
        tick();
    }
}

fn d06_surplus_stop_tokens_do_no_harm() {
    let port = port();
    let _work = port.work_guard();
    for _ in 0..rounds(50) {
        let runners = sleepers(&port, 2, |port| port.run());
        // One stop would do. Each of these leaves a token for each run that is still blocked.
        while !runners.iter().all(|runner| runner.is_finished()) {
            port.stop().unwrap();
        }
        join(runners).into_iter().for_each(|result| {
            result.unwrap();
        });
        port.restart();
        // A token is no entry: neither for a poll, nor for a wait, nor for a run.
        port.post(1, note).unwrap();
        port.dispatch().unwrap();
        assert_eq!(seen(), [1]);
        assert!(!port.try_dispatch().unwrap());
        let remote = port.clone();
        port.post_fn(move || remote.stop().unwrap()).unwrap();
        assert_eq!(port.run().unwrap(), 1);
        port.restart();
        tick();
    }
}

fn d06_a_stop_that_races_a_run_is_not_lost() {
    let rounds = rounds(50_000);
    let (port, step) = (port(), Arc::new(AtomicUsize::new(0)));
    let _work = port.work_guard();
    let (remote, counter) = (port.clone(), step.clone());
    let running = spawn(move || {
        for round in 0..rounds {
            spin_until(|| counter.load(Ordering::SeqCst) == 2 * round + 1);
            assert_eq!(remote.run().unwrap(), 0);
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    for round in 0..rounds {
        // The run begins; each round the stop comes a little later.
        step.fetch_add(1, Ordering::SeqCst);
        pause(round % 64);
        port.stop().unwrap();
        spin_until(|| step.load(Ordering::SeqCst) == 2 * round + 2);
        port.restart();
        tick();
    }
    running.join().unwrap();
    assert!(!port.try_dispatch().unwrap());
}

fn d06_the_runs_share_the_entries() {
    let posts = rounds(40_000);
    let (port, done) = (port(), Arc::new(Counter::new()));
    let _work = port.work_guard();
    let runners = sleepers(&port, 4, |port| port.run());
    for _ in 0..posts {
        let done = done.clone();
        port.post_fn(move || done.add(1)).unwrap();
    }
    done.wait_for(posts);
    port.stop().unwrap();
    let dispatched: u64 = join(runners).into_iter().map(|count| count.unwrap()).sum();
    assert_eq!(dispatched, posts as u64);
}

fn d10_closing_ends_every_run() {
    let port = port();
    let _work = port.work_guard();
    let runners = sleepers(&port, 3, |port| port.run());
    port.clone().close().unwrap();
    join(runners).into_iter().for_each(assert_closed);
    assert_closed(port.run());
    assert_closed(port.stop());
    port.restart();
    assert_closed(port.run());
}
