//! When a run comes to its end by itself (D6): what counts as work, and what does not.

use std::{
    io, panic,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use longshore::Dispatcher;

use crate::{
    harness::{Counter, Test, port, scaled, spawn, tick},
    support::{join, sleepers},
    tcp::pair,
};

pub const TESTS: &[Test] = tests![
    d06_a_run_ends_when_nothing_is_left,
    d06_a_run_waits_for_an_operation_in_flight,
    d06_a_run_waits_for_timers,
    d06_a_run_waits_for_tasks,
    d06_a_run_waits_for_a_callback_on_another_thread,
    d06_a_run_waits_for_a_guard_and_its_clones,
    d06_a_run_waits_for_a_block_on,
    d06_the_last_run_releases_the_others,
    d06_the_end_of_runs_releases_no_plain_dispatch,
    d06_a_plain_dispatch_that_sleeps_keeps_no_run_going,
    d06_a_run_waits_for_a_plain_dispatch_that_joined_it,
    d06_a_run_waits_for_a_plain_dispatch_that_had_slept,
    d06_a_guard_that_nobody_waits_for_posts_nothing,
    d06_runs_end_while_plain_dispatchers_come_and_go,
    d06_a_forgotten_timer_ends_the_runs,
    d06_run_one_dispatches_one_or_says_that_nothing_is_left,
    d06_run_ready_never_waits,
    d06_run_for_ends_in_time_and_not_early,
    d06_run_for_ends_beside_a_queue_that_is_never_empty,
    d06_all_runs_honour_a_stop,
    d06_a_chain_of_posts_is_never_cut_short,
    d06_a_panic_in_a_run_leaves_the_others_their_end,
];

fn d06_a_run_ends_when_nothing_is_left() {
    let port = port();
    assert_eq!(port.run().unwrap(), 0);
    let ran = Arc::new(Counter::new());
    for depth in 0..3 {
        chain(&port, depth, &ran);
    }
    assert_eq!(port.run().unwrap(), 6, "posts of posts are entries too");
    assert_eq!(ran.get(), 6);
    assert!(!port.is_stopped(), "an end is no stop");
    chain(&port, 0, &ran);
    assert_eq!(port.run().unwrap(), 1, "no restart is needed");
}

/// Posts a closure that posts the next one, `more` times.
fn chain(port: &Dispatcher, more: usize, ran: &Arc<Counter>) {
    let (remote, count) = (port.clone(), ran.clone());
    port.post_fn(move || {
        count.add(1);
        if more > 0 {
            chain(&remote, more - 1, &count);
        }
    })
    .unwrap();
}

fn d06_a_run_waits_for_an_operation_in_flight() {
    let port = port();
    let (ours, theirs) = pair(&port);
    let read = ours.read(vec![0; 8]);
    let runner = sleepers(&port, 1, |port| port.run());
    assert!(!runner[0].is_finished());
    let written = std::io::Write::write(&mut &theirs, b"x").unwrap();
    assert_eq!(written, 1);
    assert_eq!(join(runner)[0].as_ref().unwrap(), &1);
    let (result, buffer) = port.block_on(read).unwrap();
    assert_eq!((result.unwrap(), buffer[0]), (1, b'x'));
}

fn d06_a_run_waits_for_timers() {
    let port = port();
    let begun = Instant::now();
    let sleep = port.sleep(Duration::from_millis(20));
    port.spawn(sleep).detach();
    port.run().unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(20));
}

fn d06_a_run_waits_for_tasks() {
    let port = port();
    let gate = Arc::new(Gate::default());
    let task = port.spawn(Gate::passed(gate.clone()));
    let runners = sleepers(&port, 2, |port| port.run());
    assert!(!task.is_finished());
    gate.open();
    join(runners).into_iter().for_each(|result| {
        result.unwrap();
    });
    assert!(task.is_finished());
}

/// Something that a task waits for without the port knowing of it.
#[derive(Default)]
struct Gate {
    open: std::sync::Mutex<(bool, Option<std::task::Waker>)>,
}

impl Gate {
    fn open(&self) {
        let mut gate = self.open.lock().unwrap();
        gate.0 = true;
        let waker = gate.1.take();
        drop(gate);
        waker.into_iter().for_each(std::task::Waker::wake);
    }

    async fn passed(self: Arc<Self>) {
        std::future::poll_fn(|context| {
            let mut gate = self.open.lock().unwrap();
            gate.1 = Some(context.waker().clone());
            match gate.0 {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
    }
}

fn d06_a_run_waits_for_a_callback_on_another_thread() {
    for _ in 0..scaled(300) {
        let (port, begun) = (port(), Arc::new(Barrier::new(2)));
        let (go, ran) = (Arc::new(Barrier::new(2)), Arc::new(Counter::new()));
        let (remote, count) = (port.clone(), ran.clone());
        let (inside, goes) = (begun.clone(), go.clone());
        port.post_fn(move || {
            inside.wait();
            goes.wait();
            chain(&remote, 2, &count);
        })
        .unwrap();
        let first = spawn({
            let port = port.clone();
            move || port.run()
        });
        begun.wait();
        // There is no entry and no operation; only the callback may bring some.
        let second = sleepers(&port, 1, |port| port.run());
        assert!(!second[0].is_finished());
        go.wait();
        let counts = first.join().unwrap().unwrap() + join(second)[0].as_ref().unwrap();
        assert_eq!((counts, ran.get()), (4, 3));
        tick();
    }
}

fn d06_a_run_waits_for_a_guard_and_its_clones() {
    let port = port();
    let guard = port.work_guard();
    let other = guard.clone();
    let runners = sleepers(&port, 3, |port| port.run());
    drop(guard);
    port.wake_one().unwrap();
    assert!(runners.iter().any(|runner| !runner.is_finished()));
    drop(other);
    let counts = join(runners).into_iter().map(|result| result.unwrap());
    assert_eq!(counts.sum::<u64>(), 1);
}

fn d06_a_run_waits_for_a_block_on() {
    let port = port();
    let (gate, inside) = (Arc::new(Gate::default()), Arc::new(Counter::new()));
    let blocked = spawn({
        let (port, gate, inside) = (port.clone(), gate.clone(), inside.clone());
        move || {
            port.block_on(async {
                inside.add(1);
                gate.passed().await;
            })
        }
    });
    inside.wait_for(1);
    let runner = sleepers(&port, 1, |port| port.run());
    assert!(!runner[0].is_finished());
    gate.open();
    blocked.join().unwrap().unwrap();
    join(runner)[0].as_ref().unwrap();
}

fn d06_the_last_run_releases_the_others() {
    for _ in 0..scaled(2_000) {
        let (port, ran) = (port(), Arc::new(Counter::new()));
        let guard = port.work_guard();
        let runners = sleepers(&port, 4, |port| port.run());
        chain(&port, 3, &ran);
        drop(guard);
        let counts = join(runners).into_iter().map(|result| result.unwrap());
        assert_eq!(counts.sum::<u64>(), 4);
        assert!(!port.try_dispatch().unwrap(), "a token is no entry");
        tick();
    }
}

fn d06_the_end_of_runs_releases_no_plain_dispatch() {
    for _ in 0..scaled(300) {
        let port = port();
        let guard = port.work_guard();
        let plain = sleepers(&port, 2, |port| port.dispatch());
        let runners = sleepers(&port, 2, |port| port.run());
        drop(guard);
        join(runners).into_iter().for_each(|result| {
            result.unwrap();
        });
        assert!(plain.iter().all(|thread| !thread.is_finished()));
        port.wake_one().unwrap();
        port.wake_one().unwrap();
        join(plain).into_iter().for_each(|result| result.unwrap());
        tick();
    }
}

fn d06_a_plain_dispatch_that_sleeps_keeps_no_run_going() {
    for _ in 0..scaled(300) {
        let port = port();
        let guard = port.work_guard();
        let runners = sleepers(&port, 1, Dispatcher::run);
        let plain = sleepers(&port, 1, Dispatcher::dispatch);
        drop(guard);
        for ended in join(runners) {
            ended.unwrap();
        }
        port.wake_one().unwrap();
        join(plain).remove(0).unwrap();
        tick();
    }
}

fn d06_a_run_waits_for_a_plain_dispatch_that_joined_it() {
    while_a_plain_dispatch_runs(|port, run| {
        let runner = run(port);
        (runner, None)
    });
}

fn d06_a_run_waits_for_a_plain_dispatch_that_had_slept() {
    while_a_plain_dispatch_runs(|port, run| {
        let plain = sleepers(port, 1, Dispatcher::dispatch).remove(0);
        (run(port), Some(plain))
    });
}

type Runner = JoinHandle<io::Result<u64>>;
type Plain = JoinHandle<io::Result<()>>;

/// Two callbacks at a time, of which one is the plain dispatcher's, both with something to post.
fn while_a_plain_dispatch_runs(
    begin: impl Fn(&Dispatcher, fn(&Dispatcher) -> Runner) -> (Runner, Option<Plain>),
) {
    for _ in 0..scaled(300) {
        let (port, ran) = (port(), Arc::new(Counter::new()));
        let guard = port.work_guard();
        let (runner, plain) = begin(&port, |port| sleepers(port, 1, Dispatcher::run).remove(0));
        let (begun, go) = (Arc::new(Barrier::new(3)), Arc::new(Barrier::new(3)));
        for _ in 0..2 {
            let (remote, count) = (port.clone(), ran.clone());
            let (inside, goes) = (begun.clone(), go.clone());
            port.post_fn(move || {
                inside.wait();
                goes.wait();
                chain(&remote, 1, &count);
            })
            .unwrap();
        }
        let plain = plain.unwrap_or_else(|| {
            let port = port.clone();
            spawn(move || port.dispatch())
        });
        begun.wait();
        drop(guard);
        go.wait();
        plain.join().unwrap().unwrap();
        assert_eq!(runner.join().unwrap().unwrap(), 5);
        assert_eq!(ran.get(), 4);
        tick();
    }
}

fn d06_a_guard_that_nobody_waits_for_posts_nothing() {
    let port = port();
    drop(port.work_guard());
    assert_eq!(port.stats().posted, 0);
}

fn d06_runs_end_while_plain_dispatchers_come_and_go() {
    let port = port();
    let over = Arc::new(AtomicUsize::new(0));
    let plain: Vec<_> = (0..2)
        .map(|_| {
            let (port, over) = (port.clone(), over.clone());
            spawn(move || {
                let mut count = 0;
                while over.load(Ordering::SeqCst) == 0 {
                    count += u64::from(port.dispatch_timeout(Duration::from_micros(50)).unwrap());
                }
                count
            })
        })
        .collect();
    let (mut dispatched, rounds, ran) = (0, scaled(2_000), Arc::new(Counter::new()));
    for _ in 0..rounds {
        chain(&port, 3, &ran);
        dispatched += port.run().unwrap();
        tick();
    }
    ran.wait_for(4 * rounds);
    over.store(1, Ordering::SeqCst);
    dispatched += join(plain).into_iter().sum::<u64>();
    assert_eq!((dispatched, ran.get()), (4 * rounds as u64, 4 * rounds));
}

fn d06_a_forgotten_timer_ends_the_runs() {
    let port = port();
    let mut sleep = Box::pin(port.sleep(Duration::from_secs(3600)));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(sleep.as_mut().poll(&mut context).is_pending());
    let runners = sleepers(&port, 2, |port| port.run());
    drop(sleep);
    for result in join(runners) {
        assert_eq!(result.unwrap(), 0);
    }
}

fn d06_run_one_dispatches_one_or_says_that_nothing_is_left() {
    let (port, ran) = (port(), Arc::new(Counter::new()));
    chain(&port, 1, &ran);
    assert!(port.run_one().unwrap());
    assert_eq!(ran.get(), 1);
    assert!(port.run_one().unwrap());
    assert!(!port.run_one().unwrap());
    let guard = port.work_guard();
    let waiting = sleepers(&port, 1, |port| port.run_one());
    drop(guard);
    assert!(!join(waiting)[0].as_ref().unwrap());
}

fn d06_run_ready_never_waits() {
    let (port, ran) = (port(), Arc::new(Counter::new()));
    let _guard = port.work_guard();
    assert_eq!(port.run_ready().unwrap(), 0);
    chain(&port, 2, &ran);
    assert_eq!(port.run_ready().unwrap(), 3);
}

fn d06_run_for_ends_beside_a_queue_that_is_never_empty() {
    let (port, goes_on) = (port(), Arc::new(AtomicBool::new(true)));
    fn link(port: &Dispatcher, goes_on: &Arc<AtomicBool>) {
        let (next, more) = (port.clone(), goes_on.clone());
        let link = move || {
            if more.load(Ordering::SeqCst) {
                link(&next, &more);
            }
        };
        port.post_fn(link).unwrap();
    }
    link(&port, &goes_on);
    let limit = Duration::from_millis(10);
    let begun = Instant::now();
    // A run that does not end is found by the watchdog.
    assert!(port.run_for(limit).unwrap() > 0);
    assert!(begun.elapsed() >= limit);
    goes_on.store(false, Ordering::SeqCst);
    assert_eq!(port.run().unwrap(), 1);
}

fn d06_run_for_ends_in_time_and_not_early() {
    let port = port();
    assert_eq!(port.run_for(Duration::MAX).unwrap(), 0, "nothing is left");
    let _guard = port.work_guard();
    let limit = Duration::from_millis(10);
    let begun = Instant::now();
    assert_eq!(port.run_for(limit).unwrap(), 0);
    assert!(begun.elapsed() >= limit);
    let deadline = Instant::now() + limit;
    let ran = Arc::new(Counter::new());
    chain(&port, 1, &ran);
    let in_time = port.run_until(deadline).unwrap();
    assert!(Instant::now() >= deadline);
    assert_eq!(in_time + port.run_ready().unwrap(), 2);
}

fn d06_all_runs_honour_a_stop() {
    let (port, ran) = (port(), Arc::new(Counter::new()));
    chain(&port, 0, &ran);
    port.stop().unwrap();
    assert_eq!(port.run().unwrap(), 0);
    assert!(!port.run_one().unwrap());
    assert_eq!(port.run_ready().unwrap(), 0);
    assert_eq!(port.run_for(Duration::MAX).unwrap(), 0);
    port.restart();
    assert_eq!(port.run().unwrap(), 1);
}

/// Runs of several threads, each round of which ends by itself: none may end while a callback
/// of another is about to post more, and none may sleep on.
fn d06_a_chain_of_posts_is_never_cut_short() {
    const THREADS: usize = 3;
    let rounds = scaled(20_000);
    let (port, ran) = (port(), Arc::new(AtomicUsize::new(0)));
    let barrier = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|which| {
            let (port, ran, barrier) = (port.clone(), ran.clone(), barrier.clone());
            spawn(move || {
                for round in 1..=rounds {
                    if which == 0 {
                        links(&port, 6, &ran);
                    }
                    barrier.wait();
                    port.run().unwrap();
                    let seen = ran.load(Ordering::SeqCst);
                    assert_eq!(seen, 6 * round, "a run ended before the chain did");
                    barrier.wait();
                    tick();
                }
            })
        })
        .collect();
    join(threads);
}

fn links(port: &Dispatcher, left: usize, ran: &Arc<AtomicUsize>) {
    let (remote, count) = (port.clone(), ran.clone());
    port.post_fn(move || {
        count.fetch_add(1, Ordering::SeqCst);
        if left > 1 {
            links(&remote, left - 1, &count);
        }
    })
    .unwrap();
}

fn d06_a_panic_in_a_run_leaves_the_others_their_end() {
    let port = port();
    let guard = port.work_guard();
    let runners = sleepers(&port, 2, |port| {
        panic::catch_unwind(|| port.run()).map_err(|_| ())
    });
    port.post_fn(|| panic::resume_unwind(Box::new(1u8)))
        .unwrap();
    drop(guard);
    let results = join(runners);
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
}
