//! Waiting and waking: D7 and D8, and what time-outs mean.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    harness::{Counter, Test, port, tick},
    support::{assert_closed, join, note, pause, rounds, seen, sleepers, spin_until},
};

pub const TESTS: &[Test] = tests![
    d06_a_dispatch_waits_for_the_next_post,
    d06_a_post_is_not_lost_while_a_dispatch_falls_asleep,
    d07_try_dispatch_never_waits_for_a_busy_callback,
    d07_a_time_out_is_never_early,
    d07_a_timed_dispatch_takes_exactly_one,
    d07_a_time_out_past_32_bits_of_milliseconds_is_not_cut_short,
    d07_the_longest_time_out_is_for_ever,
    d07_a_deadline_in_the_past_dispatches_what_waits,
    d08_a_wake_is_an_entry_of_its_own,
    d08_one_wake_releases_exactly_one_of_n_sleepers,
    d08_n_wakes_release_n_blocked_dispatches,
    d08_wakes_are_never_merged,
    d08_a_wake_ends_a_timed_dispatch,
];

/// An hour: never over before the watchdog has spoken.
const LONG: Duration = Duration::from_secs(3600);

fn d06_a_dispatch_waits_for_the_next_post() {
    let port = port();
    for round in 0..rounds(500) {
        let waiting = sleepers(&port, 1, |port| port.dispatch().map(|()| seen()));
        port.post(round, note).unwrap();
        for result in join(waiting) {
            assert_eq!(result.unwrap(), [round]);
        }
        tick();
    }
}

fn d06_a_post_is_not_lost_while_a_dispatch_falls_asleep() {
    let rounds = rounds(100_000);
    let (port, taken) = (port(), Arc::new(AtomicUsize::new(0)));
    let signal = taken.clone();
    let dispatching = sleepers(&port, 1, move |port| {
        for _ in 0..rounds {
            port.dispatch().unwrap();
            signal.fetch_add(1, Ordering::SeqCst);
        }
    });
    for round in 0..rounds {
        // The dispatcher is on its way to sleep; each round the post comes a little later.
        spin_until(|| taken.load(Ordering::SeqCst) == round);
        pause(round % 64);
        port.wake_one().unwrap();
        tick();
    }
    join(dispatching);
    assert!(!port.try_dispatch().unwrap());
}

fn d07_try_dispatch_never_waits_for_a_busy_callback() {
    let port = port();
    let (entered, go_on) = (Arc::new(Counter::new()), Arc::new(Counter::new()));
    let (signal, wait) = (entered.clone(), go_on.clone());
    port.post_fn(move || {
        signal.add(1);
        wait.wait_for(1);
    })
    .unwrap();
    let busy = sleepers(&port, 1, |port| port.dispatch());
    entered.wait_for(1);
    assert!(!port.try_dispatch().unwrap(), "the only entry is taken");
    port.post(3, note).unwrap();
    assert!(port.try_dispatch().unwrap());
    assert_eq!(seen(), [3]);
    go_on.add(1);
    join(busy).into_iter().for_each(|result| result.unwrap());
}

fn d07_a_time_out_is_never_early() {
    let port = port();
    assert!(!port.dispatch_timeout(Duration::ZERO).unwrap());
    let micros = |count| Duration::from_micros(count);
    let short = [
        Duration::from_nanos(1),
        micros(400),
        micros(900),
        micros(1001),
    ];
    let long = [1, 5, 20].map(Duration::from_millis);
    for timeout in short.into_iter().chain(long) {
        for _ in 0..10 {
            let begin = Instant::now();
            assert!(!port.dispatch_timeout(timeout).unwrap());
            let took = begin.elapsed();
            assert!(took >= timeout, "{took:?} for {timeout:?}");

            let deadline = Instant::now() + timeout;
            assert!(!port.dispatch_deadline(deadline).unwrap());
            assert!(Instant::now() >= deadline);
        }
        tick();
    }
}

fn d07_a_timed_dispatch_takes_exactly_one() {
    let port = port();
    for word in 0..4 {
        port.post(word, note).unwrap();
    }
    assert!(port.dispatch_timeout(Duration::ZERO).unwrap());
    assert_eq!(seen(), [0]);
    assert!(port.dispatch_timeout(Duration::from_nanos(1)).unwrap());
    assert_eq!(seen(), [1]);
    assert!(port.dispatch_timeout(Duration::MAX).unwrap());
    assert_eq!(seen(), [2]);
    assert!(port.dispatch_deadline(Instant::now() + LONG).unwrap());
    assert_eq!(seen(), [3]);
    assert!(!port.try_dispatch().unwrap());
}

/// A dispatch with this time-out still waits after more than 50 ms, and a post ends it.
fn outlasts(timeout: Duration) {
    let (port, clock) = (port(), port());
    let waiting = sleepers(&port, 2, move |port| {
        let dispatched = port.dispatch_timeout(timeout).unwrap();
        (dispatched, seen())
    });
    // Cut to 32 bits, the time-out would be over before this one is, and nothing dispatched.
    assert!(!clock.dispatch_timeout(Duration::from_millis(120)).unwrap());
    port.post(1, note).unwrap();
    port.post(1, note).unwrap();
    for result in join(waiting) {
        assert_eq!(result, (true, vec![1]));
    }
}

fn d07_a_time_out_past_32_bits_of_milliseconds_is_not_cut_short() {
    outlasts(Duration::from_millis((1 << 32) + 50));
    outlasts(Duration::from_millis(u32::MAX.into()));
    outlasts(Duration::from_nanos((1 << 32) + 50_000_000));
}

fn d07_the_longest_time_out_is_for_ever() {
    outlasts(Duration::MAX);
    outlasts(Duration::from_secs(u64::MAX / 2));
    outlasts(Duration::from_secs(i64::MAX as u64 / 1_000_000_000));
}

fn d07_a_deadline_in_the_past_dispatches_what_waits() {
    let port = port();
    let past = Instant::now();
    port.post(5, note).unwrap();
    assert!(port.dispatch_deadline(past).unwrap());
    assert_eq!(seen(), [5]);
    assert!(!port.dispatch_deadline(past).unwrap());
}

fn d08_a_wake_is_an_entry_of_its_own() {
    let port = port();
    port.wake_one().unwrap();
    port.post(1, note).unwrap();
    port.wake_one().unwrap();
    port.dispatch().unwrap();
    assert_eq!(seen(), []);
    port.dispatch().unwrap();
    assert_eq!(seen(), [1]);
    assert!(port.try_dispatch().unwrap());
    assert_eq!(seen(), []);
    assert!(!port.try_dispatch().unwrap());
}

fn d08_one_wake_releases_exactly_one_of_n_sleepers() {
    const SLEEPERS: usize = 4;
    for _ in 0..rounds(200) {
        let port = port();
        let returned = Arc::new(Counter::new());
        let signal = returned.clone();
        let waiting = sleepers(&port, SLEEPERS, move |port| {
            port.dispatch().unwrap();
            signal.add(1);
            seen().len()
        });
        port.wake_one().unwrap();
        returned.wait_for(1);
        // Had the wake released a second one, a post would find nobody and stay behind.
        for _ in 1..SLEEPERS {
            port.post(0, note).unwrap();
        }
        let mut callbacks = join(waiting);
        callbacks.sort_unstable();
        assert_eq!(callbacks, [0, 1, 1, 1]);
        assert!(!port.try_dispatch().unwrap());
        tick();
    }
}

fn d08_n_wakes_release_n_blocked_dispatches() {
    const SLEEPERS: usize = 8;
    for _ in 0..rounds(100) {
        let port = port();
        let waiting = sleepers(&port, SLEEPERS, |port| port.dispatch());
        (0..SLEEPERS).for_each(|_| port.wake_one().unwrap());
        join(waiting).into_iter().for_each(|result| result.unwrap());
        assert!(!port.try_dispatch().unwrap());
        tick();
    }
}

fn d08_wakes_are_never_merged() {
    const THREADS: usize = 3;
    let (port, returns) = (port(), Arc::new(Counter::new()));
    let signal = returns.clone();
    let threads = sleepers(&port, THREADS, move |port| {
        while port.dispatch().is_ok() {
            signal.add(1);
        }
    });
    let mut sent = 0;
    for round in 0..rounds(5000) {
        let wakes = 1 + round % 7;
        (0..wakes).for_each(|_| port.wake_one().unwrap());
        sent += wakes;
        returns.wait_for(sent);
        tick();
    }
    assert!(!port.try_dispatch().unwrap());
    assert_eq!(returns.get(), sent, "and none was answered twice");
    port.clone().close().unwrap();
    join(threads);
    assert_closed(port.dispatch());
}

fn d08_a_wake_ends_a_timed_dispatch() {
    let port = port();
    let waiting = sleepers(&port, 2, |port| port.dispatch_timeout(LONG));
    port.wake_one().unwrap();
    port.wake_one().unwrap();
    for result in join(waiting) {
        assert!(result.unwrap());
    }
}
