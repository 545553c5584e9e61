//! Sleeping, and giving a future a limit. Nothing here expects a time to be short, except that
//! `dispatch` must not wait for the hour that another timer has.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};

use futures_lite::future::{block_on, poll_once};
use longshore::Dispatcher;

use crate::{
    harness::{Counter, Test, port, scaled, spawn, tick},
    io_things::workers,
    support::{assert_closed, join, sleepers},
    task::yield_now,
};

pub const TESTS: &[Test] = tests![
    time_a_sleep_is_never_early,
    time_sleeps_end_in_the_order_of_their_deadlines,
    time_sleeps_with_one_deadline_all_end,
    time_a_shorter_sleep_is_served_while_all_threads_are_blocked,
    time_a_sleep_ends_although_the_thread_that_kept_it_is_busy,
    time_a_sleep_ends_although_a_poll_took_its_tick,
    time_thousands_of_sleeps_end_each_once,
    time_dropped_sleeps_wake_nobody,
    time_a_flood_of_posts_does_not_keep_sleeps_waiting,
    time_a_sleep_on_a_closed_port_is_over,
    time_a_sleep_without_end_only_ends_with_the_port,
    time_a_sleep_may_change_its_task,
    time_a_sleep_that_is_polled_twice_is_one_timer,
    time_a_dispatch_with_a_limit_serves_sleeps_and_keeps_its_limit,
    time_timeout_prefers_what_is_ready,
    time_timeout_gives_the_future_back,
    time_a_sleep_is_not_missed_by_a_thread_that_kept_a_dropped_one,
    time_a_panicking_waker_keeps_no_other_from_waking,
];

const HOUR: Duration = Duration::from_secs(3600);
const MS: Duration = Duration::from_millis(1);

fn time_a_sleep_is_never_early() {
    let port = port();
    for i in 0..scaled(100) as u32 {
        let (begun, limit) = (
            Instant::now(),
            Duration::from_micros(u64::from(i * 37 % 5000)),
        );
        port.block_on(port.sleep(limit)).unwrap().unwrap();
        assert!(begun.elapsed() >= limit);
        let deadline = Instant::now() + limit / 2;
        port.block_on(port.sleep_until(deadline)).unwrap().unwrap();
        assert!(Instant::now() >= deadline);
        tick();
    }
    // The past is over.
    port.block_on(port.sleep_until(Instant::now()))
        .unwrap()
        .unwrap();
}

fn time_sleeps_with_one_deadline_all_end() {
    let port = port();
    let deadline = Instant::now() + 2 * MS;
    let tasks: Vec<_> = (0..3)
        .map(|_| port.spawn(port.sleep_until(deadline)))
        .collect();
    for task in tasks {
        port.block_on(task).unwrap().unwrap().unwrap();
    }
}

fn time_sleeps_end_in_the_order_of_their_deadlines() {
    let port = port();
    let (begun, order) = (Instant::now() + 5 * MS, Arc::new(Mutex::new(Vec::new())));
    let tasks: Vec<_> = [7, 2, 9, 0, 4, 1, 8, 3, 6, 5]
        .into_iter()
        .map(|place: u32| {
            let (sleep, order) = (port.sleep_until(begun + place * 4 * MS), order.clone());
            port.spawn(async move {
                sleep.await.unwrap();
                order.lock().unwrap().push(place);
            })
        })
        .collect();
    // One thread: those that are due together are woken in order, and run in order.
    for task in tasks {
        port.block_on(task).unwrap().unwrap();
    }
    assert_eq!(*order.lock().unwrap(), (0..10).collect::<Vec<_>>());
}

/// A task that sleeps, and a sign when it has.
fn nap(port: &Dispatcher, limit: Duration) -> Arc<Counter> {
    let (sleep, done) = (port.sleep(limit), Arc::new(Counter::new()));
    let sign = done.clone();
    port.spawn(async move {
        sleep.await.unwrap();
        sign.add(1);
    })
    .detach();
    done
}

fn dispatch_all(port: &Dispatcher) {
    while port.dispatch().is_ok() {}
}

fn time_a_shorter_sleep_is_served_while_all_threads_are_blocked() {
    let port = port();
    let threads = sleepers(&port, 3, dispatch_all);
    // Foreign executors set the timers, so that no thread of the port happens to look.
    let long = port.sleep(HOUR);
    let waiter = spawn(move || block_on(long));
    for _ in 0..scaled(50) {
        let begun = Instant::now();
        block_on(port.sleep(3 * MS)).unwrap();
        assert!(begun.elapsed() >= 3 * MS);
        tick();
    }
    port.close().unwrap();
    join(threads);
    assert_closed(waiter.join().unwrap());
}

fn time_a_sleep_ends_although_the_thread_that_kept_it_is_busy() {
    const THREADS: usize = 3;
    for _ in 0..scaled(20) {
        let port = port();
        // All of them wait without a limit: there is no timer yet.
        let threads = sleepers(&port, THREADS, dispatch_all);
        let done = nap(&port, 5 * MS);
        // Whichever threads have heard of it, all but one are kept busy until it is over.
        for _ in 1..THREADS {
            let done = done.clone();
            port.post_fn(move || done.wait_for(1)).unwrap();
        }
        done.wait_for(1);
        port.close().unwrap();
        join(threads);
        tick();
    }
}

fn time_a_sleep_ends_although_a_poll_took_its_tick() {
    for _ in 0..scaled(50) {
        let port = port();
        let threads = sleepers(&port, 1, dispatch_all);
        let sleep = port.sleep(3 * MS);
        let waiter = spawn(move || block_on(sleep));
        // This thread takes what it can get, and stays away once the sleep must be over.
        let enough = Instant::now() + 2 * MS;
        while Instant::now() < enough {
            port.try_dispatch().unwrap();
        }
        waiter.join().unwrap().unwrap();
        port.close().unwrap();
        join(threads);
        tick();
    }
}

fn time_thousands_of_sleeps_end_each_once() {
    let count = scaled(20_000);
    let port = port();
    let done = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..count)
        .map(|i| {
            let (sleep, done) = (port.sleep(MS * (i as u32 * 7 % 50)), done.clone());
            port.spawn(async move {
                sleep.await.unwrap();
                done.fetch_add(1, SeqCst);
            })
        })
        .collect();
    let pool = workers(&port, 2);
    for task in tasks {
        block_on(task).unwrap();
        tick();
    }
    assert_eq!(done.load(SeqCst), count);
    pool.finish();
    assert!(!port.try_dispatch().unwrap());
}

fn time_dropped_sleeps_wake_nobody() {
    let port = port();
    let polled = Arc::new(AtomicUsize::new(0));
    let there = (port.clone(), polled.clone());
    let task = port.spawn(async move {
        let (port, polled) = there;
        for _ in 0..1000 {
            let mut sleep = pin!(port.sleep(MS));
            std::future::poll_fn(|context| {
                assert!(sleep.as_mut().poll(context).is_pending() || polled.load(SeqCst) > 0);
                polled.fetch_add(1, SeqCst);
                std::task::Poll::Ready(())
            })
            .await;
        }
        std::future::pending::<()>().await;
    });
    assert!(port.try_dispatch().unwrap());
    assert_eq!(polled.load(SeqCst), 1000);
    // None of them is left: nothing wakes the task, which would count as an entry.
    assert!(!port.dispatch_timeout(10 * MS).unwrap());
    port.block_on(task.cancel()).unwrap();
}

fn time_a_flood_of_posts_does_not_keep_sleeps_waiting() {
    let port = port();
    let stop = Arc::new(AtomicBool::new(false));
    fn flood(port: &Dispatcher, stop: &Arc<AtomicBool>) {
        let (again, stop) = (port.clone(), stop.clone());
        if !stop.load(SeqCst) {
            port.post_fn(move || flood(&again, &stop)).unwrap();
        }
    }
    (0..8).for_each(|_| flood(&port, &stop));
    for _ in 0..5 {
        port.block_on(port.sleep(2 * MS)).unwrap().unwrap();
        tick();
    }
    stop.store(true, SeqCst);
    while port.try_dispatch().unwrap() {}
}

fn time_a_sleep_on_a_closed_port_is_over() {
    let port = port();
    let sleep = port.sleep(HOUR);
    let before = spawn(move || block_on(sleep));
    let (unpolled, task) = (port.sleep(HOUR), {
        let sleep = port.sleep(HOUR);
        port.spawn(sleep)
    });
    port.try_dispatch().unwrap();
    port.clone().close().unwrap();
    assert_closed(before.join().unwrap());
    assert_closed(block_on(unpolled));
    assert_closed(block_on(port.sleep(HOUR)));
    // The task is not run again.
    assert!(block_on(task).is_err());
}

fn time_a_sleep_without_end_only_ends_with_the_port() {
    let port = port();
    let threads = sleepers(&port, 1, dispatch_all);
    let sleep = port.sleep(Duration::MAX);
    let waiter = spawn(move || block_on(sleep));
    block_on(port.sleep(2 * MS)).unwrap();
    assert!(!waiter.is_finished());
    port.close().unwrap();
    assert_closed(waiter.join().unwrap());
    join(threads);
}

fn time_a_sleep_may_change_its_task() {
    let port = port();
    let pool = workers(&port, 1);
    for _ in 0..scaled(50) {
        let mut sleep = Box::pin(port.sleep(2 * MS));
        // Polled once here, then awaited there: the later waker counts.
        let here = poll_once(&mut sleep);
        if block_on(here).is_some() {
            continue;
        }
        let task = port.spawn(sleep);
        block_on(task).unwrap().unwrap();
        tick();
    }
    pool.finish();
}

fn time_a_sleep_that_is_polled_twice_is_one_timer() {
    let port = port();
    let mut sleep = Box::pin(port.sleep(HOUR));
    for _ in 0..2 {
        assert!(block_on(poll_once(&mut sleep)).is_none());
    }
    drop(sleep);
    assert_eq!(port.run().unwrap(), 0, "nothing is left to wait for");
}

fn time_a_dispatch_with_a_limit_serves_sleeps_and_keeps_its_limit() {
    let port = port();
    let done = nap(&port, 4 * MS);
    // The task's first run.
    assert!(port.dispatch_timeout(HOUR).unwrap());
    let begun = Instant::now();
    assert!(!port.dispatch_timeout(MS / 2).unwrap() || begun.elapsed() >= 3 * MS);
    if done.get() == 0 {
        // Its wake-up is an entry, and comes although the limit is far away.
        assert!(port.dispatch_timeout(HOUR).unwrap());
    }
    assert_eq!(done.get(), 1);
    let far = nap(&port, HOUR);
    assert!(port.try_dispatch().unwrap());
    let begun = Instant::now();
    assert!(!port.dispatch_timeout(3 * MS).unwrap());
    assert!(begun.elapsed() >= 3 * MS);
    assert_eq!(far.get(), 0);
}

fn time_timeout_prefers_what_is_ready() {
    let port = port();
    let ready = port.timeout(Duration::ZERO, Box::pin(async { 5 }));
    assert_eq!(port.block_on(ready).unwrap().unwrap(), 5);
    let soon = port.timeout(HOUR, Box::pin(yield_now()));
    port.block_on(soon).unwrap().unwrap();
}

fn time_timeout_gives_the_future_back() {
    let port = port();
    let begun = Instant::now();
    let slow = Box::pin(port.sleep(20 * MS));
    let elapsed = port.block_on(port.timeout(2 * MS, slow)).unwrap();
    let elapsed = elapsed.expect_err("it is not over");
    assert!(begun.elapsed() >= 2 * MS);
    assert_eq!(elapsed.to_string(), "the time was up");
    // It is still running.
    port.block_on(elapsed.future).unwrap().unwrap();
    assert!(begun.elapsed() >= 20 * MS);
    let error = port
        .block_on(port.timeout(MS, std::future::pending::<()>()))
        .unwrap()
        .unwrap_err();
    let error: std::io::Error = error.into();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

fn time_a_sleep_is_not_missed_by_a_thread_that_kept_a_dropped_one() {
    let port = port();
    let pool = workers(&port, 1);
    for _ in 0..20 {
        {
            // The worker waits until then for a sleep that is gone by that time.
            let mut dropped = pin!(port.sleep(30 * MS));
            let polled = dropped
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
            std::thread::sleep(10 * MS);
        }
        assert!(!port.try_dispatch().unwrap());
        std::thread::sleep(30 * MS);
        // Nobody but the worker serves this one.
        block_on(port.sleep(5 * MS)).unwrap();
        tick();
    }
    pool.finish();
}

struct Boom;

impl Wake for Boom {
    fn wake(self: Arc<Self>) {
        panic!("the waker's own");
    }
}

struct Tell(Counter);

impl Wake for Tell {
    fn wake(self: Arc<Self>) {
        self.0.add(1);
    }
}

fn time_a_panicking_waker_keeps_no_other_from_waking() {
    let port = port();
    let tell = Arc::new(Tell(Counter::new()));
    let wakers = [Waker::from(Arc::new(Boom)), Waker::from(tell.clone())];
    let mut sleeps = [10, 11].map(|ms| Box::pin(port.sleep(ms * MS)));
    for (sleep, waker) in sleeps.iter_mut().zip(&wakers) {
        let polled = sleep.as_mut().poll(&mut Context::from_waker(waker));
        assert!(polled.is_pending());
    }
    std::thread::sleep(20 * MS);
    let poll = catch_unwind(AssertUnwindSafe(|| port.try_dispatch()));
    assert!(poll.is_err(), "the panic reaches whoever dispatches");
    assert_eq!(tell.0.get(), 1);
    assert!(!port.try_dispatch().unwrap());

    // Closing goes on as well, and passes the panic on at its end.
    let mut sleep = pin!(port.sleep(HOUR));
    let polled = sleep.as_mut().poll(&mut Context::from_waker(&wakers[0]));
    assert!(polled.is_pending());
    let task = port.spawn(std::future::pending::<()>());
    let closed = catch_unwind(AssertUnwindSafe(|| port.clone().close()));
    assert!(closed.is_err());
    assert!(block_on(task).is_err());
}
