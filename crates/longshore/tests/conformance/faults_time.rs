//! Timers that are given up by the thousand, and deadlines at the ends of the clock. Only `Instant`s are
//! deadlines, so a wall clock that is set moves nothing: `clippy.toml` keeps `SystemTime` out.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};

use futures_lite::future::{block_on, poll_once};
use longshore::{Dispatcher, time::Sleep};

use crate::{
    allocations::held_by_this_thread,
    harness::{Counter, Test, port, scaled, spawn, tick},
    io_things::workers,
    support::{join, note, seen, sleepers},
};

pub const TESTS: &[Test] = tests![
    fault_cancelled_timers_by_the_thousand_leave_no_memory_and_never_fire,
    fault_timers_cancelled_by_other_threads_leave_the_others_alone,
    fault_cancelled_timeouts_and_tasks_leave_no_timer,
    fault_deadlines_in_the_past_are_over_and_take_what_is_there,
    fault_deadlines_at_the_end_of_the_clock_neither_end_nor_overflow,
    fault_a_far_timer_hides_no_near_one,
];

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

struct Told(Counter);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.add(1);
    }
}

/// Sets a timer, for a task that only counts how often it was woken.
fn set(mut sleep: Sleep, waker: &Waker) -> Sleep {
    let polled = Pin::new(&mut sleep).poll(&mut Context::from_waker(waker));
    assert!(polled.is_pending());
    sleep
}

fn fault_cancelled_timers_by_the_thousand_leave_no_memory_and_never_fire() {
    let count = scaled(10_000) as u32;
    let port = port();
    let told = Arc::new(Told(Counter::new()));
    let waker = Waker::from(told.clone());
    let round = || {
        // So far away that none is due while they are set, in no order, and many of them equal.
        let begun = Instant::now() + HOUR;
        let sleep = |i: u32| set(port.sleep_until(begun + MS * (i * 7919 % 1000)), &waker);
        let mut sleeps: Vec<_> = (0..count).map(sleep).collect();
        // Given up from both ends and from the middle.
        while !sleeps.is_empty() {
            drop(sleeps.swap_remove(sleeps.len() / 2));
            drop(sleeps.pop());
        }
        while port.try_dispatch().unwrap() {}
        tick();
    };
    round();
    let before = held_by_this_thread();
    (0..5).for_each(|_| round());
    assert_eq!(held_by_this_thread(), before, "bytes are left behind");
    assert_eq!(Arc::strong_count(&told), 2, "a waker is left behind");
    // These would be due at once.
    for _ in 0..100 {
        drop(set(port.sleep(20 * MS), &waker));
    }
    assert!(!port.dispatch_timeout(30 * MS).unwrap());
    assert_eq!(told.0.get(), 0);
    assert_eq!(port.run().unwrap(), 0, "no timer keeps a run");
}

fn fault_timers_cancelled_by_other_threads_leave_the_others_alone() {
    let count = scaled(5_000);
    let port = port();
    let pool = workers(&port, 2);
    let (gone, stays) = (
        Arc::new(Told(Counter::new())),
        Arc::new(Told(Counter::new())),
    );
    let [far, near] = [&gone, &stays].map(|told| Waker::from(told.clone()));
    let (given_up, kept): (Vec<_>, Vec<_>) = (0..count)
        .map(|_| {
            let deadline = Instant::now() + HOUR;
            let near = (port.sleep_until(deadline - HOUR + 200 * MS), &near);
            (set(port.sleep_until(deadline), &far), set(near.0, near.1))
        })
        .unzip();
    let mut parts: Vec<Vec<_>> = (0..4).map(|_| Vec::new()).collect();
    for (i, sleep) in given_up.into_iter().enumerate() {
        parts[i % 4].push(sleep);
    }
    join(
        parts
            .into_iter()
            .map(|part| spawn(move || drop(part)))
            .collect(),
    );
    stays.0.wait_for(count);
    drop((kept, far, near));
    pool.finish();
    assert_eq!((gone.0.get(), stays.0.get()), (0, count));
    assert_eq!(Arc::strong_count(&gone), 1, "a waker is left behind");
}

fn fault_cancelled_timeouts_and_tasks_leave_no_timer() {
    let count = scaled(2_000);
    let port = port();
    for _ in 0..count {
        let mut limited = Box::pin(port.timeout(HOUR, std::future::pending::<()>()));
        assert!(block_on(poll_once(&mut limited)).is_none());
    }
    let tasks: Vec<_> = (0..count)
        .map(|_| port.spawn(port.sleep(Duration::MAX)))
        .collect();
    while port.try_dispatch().unwrap() {}
    for task in tasks {
        let cancelled = port.block_on(task.cancel()).unwrap();
        assert!(cancelled.is_none());
        tick();
    }
    // A timer that is left would keep this from ending.
    port.run().unwrap();
}

fn fault_deadlines_in_the_past_are_over_and_take_what_is_there() {
    let port = port();
    let now = Instant::now();
    // As far back as the clock goes, and as little.
    let pasts = [1, 1_000_000_000, u64::MAX / 4].map(Duration::from_nanos);
    let pasts = pasts.map(|back| now.checked_sub(back).unwrap_or(now));
    for past in pasts {
        block_on(port.sleep_until(past)).unwrap();
        assert!(!port.dispatch_deadline(past).unwrap());
        port.post(1, note).unwrap();
        assert!(port.dispatch_deadline(past).unwrap());
        port.post(2, note).unwrap();
        assert_eq!(port.run_until(past).unwrap(), 1);
        assert_eq!(seen(), [1, 2]);
        // One is in line behind a timer that is over before it is set.
        let _work = port.work_guard();
        assert_eq!(port.run_until(past).unwrap(), 0);
    }
    block_on(port.sleep(Duration::ZERO)).unwrap();
}

/// The last moment that the clock can name.
fn the_end() -> Instant {
    let mut end = Instant::now();
    let mut step = Duration::MAX;
    while step > Duration::ZERO {
        match end.checked_add(step) {
            Some(later) => end = later,
            None => step /= 2,
        }
    }
    end
}

/// Waits that go on until there is an entry; none of them may panic or end for the time's sake.
fn long_waits() -> Vec<fn(&Dispatcher) -> bool> {
    vec![
        |port| port.dispatch_timeout(Duration::MAX).unwrap(),
        |port| {
            port.dispatch_timeout(Duration::from_secs(u64::MAX))
                .unwrap()
        },
        |port| {
            port.dispatch_timeout(Duration::from_secs(u64::MAX / 1000))
                .unwrap()
        },
        |port| port.dispatch_timeout(Duration::from_secs(1 << 40)).unwrap(),
        // Past 32 bits of milliseconds, and of seconds.
        |port| {
            port.dispatch_timeout(Duration::from_millis(1 << 32))
                .unwrap()
        },
        |port| port.dispatch_timeout(Duration::from_secs(1 << 32)).unwrap(),
        |port| port.dispatch_deadline(the_end()).unwrap(),
    ]
}

fn fault_deadlines_at_the_end_of_the_clock_neither_end_nor_overflow() {
    assert!(the_end().checked_add(MS).is_none());
    for wait in long_waits() {
        let port = port();
        let waiting = sleepers(&port, 1, wait);
        port.wake_one().unwrap();
        assert_eq!(join(waiting), [true]);
        // Whoever waits for the port from outside gets an alarm for its timers.
        #[cfg(target_os = "linux")]
        port.pollable().unwrap();
        // The same while the port's own timers are as far away.
        let told = Arc::new(Told(Counter::new()));
        let waker = Waker::from(told.clone());
        let far = [
            port.sleep(Duration::MAX),
            port.sleep(Duration::from_secs(u64::MAX)),
            port.sleep(Duration::from_secs(1 << 40)),
            port.sleep_until(the_end()),
        ];
        let far = far.map(|sleep| set(sleep, &waker));
        let waiting = sleepers(&port, 1, wait);
        port.wake_one().unwrap();
        assert_eq!(join(waiting), [true]);
        assert!(!port.dispatch_timeout(MS).unwrap());
        assert_eq!(told.0.get(), 0);
        drop(far);
        tick();
    }
    let port = port();
    let _work = port.work_guard();
    let runs = sleepers(&port, 1, |port| port.run_for(Duration::MAX));
    let until = sleepers(&port, 1, |port| port.run_until(the_end()));
    port.stop().unwrap();
    join(runs)
        .into_iter()
        .chain(join(until))
        .for_each(|ran| assert_eq!(ran.unwrap(), 0));
}

fn fault_a_far_timer_hides_no_near_one() {
    let port = port();
    let told = Arc::new(Told(Counter::new()));
    let waker = Waker::from(told.clone());
    for _ in 0..20 {
        let _end = set(port.sleep_until(the_end()), &waker);
        let begun = Instant::now();
        port.block_on(port.sleep(2 * MS)).unwrap().unwrap();
        assert!(begun.elapsed() >= 2 * MS);
        let _max = set(port.sleep(Duration::MAX), &waker);
        assert!(!port.dispatch_timeout(2 * MS).unwrap());
        assert!(begun.elapsed() >= 4 * MS);
        tick();
    }
    assert_eq!(told.0.get(), 0);
}
