//! Futures that a thread blocks on, beside others that do, and beside those that only dispatch.

use std::{
    cell::Cell,
    future::pending,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::{
    harness::{Counter, Test, port, scaled, spawn, tick},
    support::{assert_closed, join, panic_of, sleepers, word_of},
    task::{Gate, panic_any, yield_now},
};

pub const TESTS: &[Test] = tests![
    task_block_on_on_several_threads_at_once,
    task_block_on_takes_what_is_not_send_and_nests,
    task_block_on_serves_others_while_its_future_wakes_itself,
    task_block_on_hears_of_its_wake_up_beside_plain_dispatchers,
    task_block_on_passes_a_panic_on_and_the_port_goes_on,
    task_block_on_ends_when_the_port_is_closed,
];

fn task_block_on_on_several_threads_at_once() {
    const THREADS: usize = 4;
    let port = port();
    let rounds = scaled(1000);
    let threads: Vec<_> = (0..THREADS)
        .map(|i| {
            let port = port.clone();
            spawn(move || {
                for round in 0..rounds {
                    let inner = port.spawn(async move {
                        yield_now().await;
                        round
                    });
                    let (there, gate) = (port.clone(), Arc::new(Gate::default()));
                    let opener = gate.clone();
                    let got = port.block_on(async move {
                        there.spawn(async move { opener.open() }).detach();
                        gate.passed().await;
                        inner.await.unwrap()
                    });
                    assert_eq!(got.unwrap(), round, "on thread {i}");
                    tick();
                }
            })
        })
        .collect();
    join(threads);
    assert!(!port.try_dispatch().unwrap());
}

fn task_block_on_takes_what_is_not_send_and_nests() {
    let port = port();
    let local = Rc::new(Cell::new(0));
    let outer = port.block_on(async {
        let mine = local.clone();
        mine.set(1);
        yield_now().await;
        // Inside another one, and inside a callback that it dispatches.
        let inside = port.block_on(async {
            yield_now().await;
            mine.get() + 1
        });
        mine.set(inside.unwrap());
        let there = port.clone();
        let (gate, opened) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
        let opener = opened.clone();
        port.post_fn(move || {
            there.block_on(async { yield_now().await }).unwrap();
            opener.open();
        })
        .map_err(|refused| refused.error)
        .unwrap();
        opened.passed().await;
        gate.open();
        gate.passed().await;
        mine.get()
    });
    assert_eq!(outer.unwrap(), 2);
    assert_eq!(local.get(), 2);
}

fn task_block_on_serves_others_while_its_future_wakes_itself() {
    let port = port();
    let done = Arc::new(AtomicBool::new(false));
    port.spawn({
        let done = done.clone();
        async move {
            yield_now().await;
            done.store(true, SeqCst);
        }
    })
    .detach();
    // One thread: if it only polled, nobody would ever run the task.
    let turns = port.block_on(async {
        let mut turns = 0;
        while !done.load(SeqCst) {
            yield_now().await;
            turns += 1;
            assert!(turns < 1_000_000, "the task was never run");
        }
        turns
    });
    assert!(turns.unwrap() <= 4);
}

fn task_block_on_hears_of_its_wake_up_beside_plain_dispatchers() {
    const DISPATCHERS: usize = 3;
    let port = port();
    // These take the nudges that are not for them, in plain `dispatch`, and stay.
    let plain = sleepers(&port, DISPATCHERS, |port| {
        let mut entries = 0;
        while port.dispatch().is_ok() {
            entries += 1;
        }
        entries
    });
    let rounds = scaled(2000);
    let (asked, answered) = (Arc::new(Counter::new()), Arc::new(Counter::new()));
    let gates: Arc<Vec<Gate>> = Arc::new((0..rounds).map(|_| Gate::default()).collect());
    let opener = spawn({
        let (gates, asked, answered) = (gates.clone(), asked.clone(), answered.clone());
        move || {
            for (round, gate) in gates.iter().enumerate() {
                asked.wait_for(round + 1);
                if round % 3 == 0 {
                    std::thread::yield_now();
                }
                gate.open();
                answered.wait_for(round + 1);
            }
        }
    });
    for gate in gates.iter() {
        asked.add(1);
        port.block_on(gate.passed()).unwrap();
        answered.add(1);
        tick();
    }
    opener.join().unwrap();
    port.close().unwrap();
    // A nudge is nobody's entry.
    assert_eq!(join(plain).iter().sum::<usize>(), 0);
}

fn task_block_on_passes_a_panic_on_and_the_port_goes_on() {
    let port = port();
    let payload = panic_of(|| port.block_on(async { panic_any(5) }));
    assert_eq!(word_of(&*payload), 5);
    // Of a callback that it dispatched, too.
    port.post(6, crate::support::fail).unwrap();
    let payload = panic_of(|| port.block_on(pending::<()>()));
    assert_eq!(word_of(&*payload), 6);
    assert_eq!(port.block_on(async { 7 }).unwrap(), 7);
}

fn task_block_on_ends_when_the_port_is_closed() {
    let port = port();
    let blocked = sleepers(&port, 2, |port| {
        // What closing ends is told to the future first.
        let slept = port.block_on(port.sleep(Duration::from_secs(3600)));
        let ended = port.block_on(pending::<()>());
        (slept, ended)
    });
    let closer = port.clone();
    closer.close().unwrap();
    for (slept, ended) in join(blocked) {
        assert_closed(slept.and_then(|slept| slept));
        assert_closed(ended);
    }
    assert_closed(port.block_on(pending::<()>()));
    assert_eq!(port.block_on(async { 3 }).unwrap(), 3, "needs no port");
}
