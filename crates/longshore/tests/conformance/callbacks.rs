//! What a callback may do: panic (D3), block, and dispatch (D6).

use std::{
    panic,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use longshore::{Builder, Dispatcher};

use crate::{
    harness::{Counter, Test, builder, port, tick},
    support::{Token, fail, join, note, panic_of, rounds, seen, sleepers, word_of},
};

pub const TESTS: &[Test] = tests![
    d03_a_panic_reaches_the_caller_and_loses_nothing,
    d03_panics_on_several_threads_lose_nothing,
    d03_a_panicking_closure_frees_what_it_owns,
    d03_a_panic_ends_one_run_and_no_other,
    d06_one_blocked_callback_holds_nothing_back,
    d06_a_callback_may_dispatch,
    d06_dispatches_nest_a_hundred_deep,
    d06_a_panic_passes_through_nested_dispatches,
];

fn d03_a_panic_reaches_the_caller_and_loses_nothing() {
    let port = port();
    port.post(1, fail).unwrap();
    port.post(2, note).unwrap();
    port.post(3, note).unwrap();
    port.post(4, fail).unwrap();
    port.post(5, note).unwrap();
    let mut panics = Vec::new();
    loop {
        match panic::catch_unwind(|| port.try_dispatch()) {
            Ok(Ok(true)) => {}
            Ok(over) => break assert!(!over.unwrap()),
            Err(payload) => panics.push(word_of(&*payload)),
        }
    }
    assert_eq!(panics, [1, 4]);
    assert_eq!(seen(), [2, 3, 5]);
    // In a blocking dispatch and in a timed one just so.
    port.post(6, fail).unwrap();
    assert_eq!(word_of(&*panic_of(|| port.dispatch())), 6);
    port.post(7, fail).unwrap();
    let timed = panic_of(|| port.dispatch_timeout(std::time::Duration::MAX));
    assert_eq!(word_of(&*timed), 7);
    port.close().unwrap();
}

fn d03_panics_on_several_threads_lose_nothing() {
    const THREADS: usize = 4;
    let posts = rounds(20_000);
    let (port, done) = (port(), Arc::new(Counter::new()));
    let signal = done.clone();
    let threads = sleepers(&port, THREADS, move |port| {
        let (mut ran, mut panicked) = (Vec::new(), Vec::new());
        loop {
            match panic::catch_unwind(|| port.dispatch()) {
                Ok(Ok(())) => ran.append(&mut seen()),
                Ok(Err(_closed)) => return (ran, panicked),
                Err(payload) => panicked.push(word_of(&*payload)),
            }
            signal.add(1);
        }
    });
    for word in 0..posts {
        let callback = if word % 3 == 0 { fail } else { note };
        port.post(word, callback).unwrap();
    }
    done.wait_for(posts);
    port.close().unwrap();
    let (mut ran, mut panicked) = (Vec::new(), Vec::new());
    for (mut some, mut others) in join(threads) {
        ran.append(&mut some);
        panicked.append(&mut others);
    }
    ran.sort_unstable();
    panicked.sort_unstable();
    let (fails, notes): (Vec<_>, Vec<_>) = (0..posts).partition(|word| word % 3 == 0);
    assert_eq!(panicked, fails);
    assert_eq!(ran, notes);
}

fn d03_a_panicking_closure_frees_what_it_owns() {
    let port = port();
    let dropped = Arc::new(AtomicUsize::new(0));
    let token = Token::new(&dropped);
    port.post_fn(move || {
        let _token = token;
        fail(1);
    })
    .unwrap();
    assert_eq!(word_of(&*panic_of(|| port.dispatch())), 1);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert!(!port.try_dispatch().unwrap());
}

fn d03_a_panic_ends_one_run_and_no_other() {
    let port = port();
    let _work = port.work_guard();
    let panicked = Arc::new(Counter::new());
    let signal = panicked.clone();
    let runners = sleepers(&port, 2, move |port| {
        let result = panic::catch_unwind(|| port.run());
        if result.is_err() {
            signal.add(1);
        }
        result.map_err(|payload| word_of(&*payload))
    });
    port.post(8, fail).unwrap();
    panicked.wait_for(1);
    // The other one still works; only then it is stopped.
    let done = Arc::new(Counter::new());
    let signal = done.clone();
    port.post_fn(move || signal.add(1)).unwrap();
    done.wait_for(1);
    port.stop().unwrap();
    let mut results = join(runners);
    results.sort_by_key(|result| result.is_ok());
    assert_eq!(results[0].as_ref().err(), Some(&8));
    assert_eq!(results[1].as_ref().unwrap().as_ref().unwrap(), &1);
}

fn d06_one_blocked_callback_holds_nothing_back() {
    const OTHERS: usize = 200;
    let settings: [fn(Builder) -> Builder; 2] = [|normal| normal, |one| one.concurrency(1)];
    for (setting, queued_first) in settings.iter().flat_map(|s| [(s, true), (s, false)]) {
        let port = setting(builder()).build().unwrap();
        let done = Arc::new(Counter::new());
        let post = |port: &Dispatcher| {
            let all = done.clone();
            port.post_fn(move || all.wait_for(OTHERS)).unwrap();
            for _ in 0..OTHERS {
                let done = done.clone();
                port.post_fn(move || done.add(1)).unwrap();
            }
        };
        if queued_first {
            post(&port);
        }
        let _work = port.work_guard();
        let threads = sleepers(&port, 2, |port| port.run());
        if !queued_first {
            post(&port);
        }
        done.wait_for(OTHERS);
        port.stop().unwrap();
        join(threads).into_iter().for_each(|result| {
            result.unwrap();
        });
        tick();
    }
}

fn d06_a_callback_may_dispatch() {
    let port = port();
    let order = Arc::new(Mutex::new(Vec::new()));
    let log = |what| {
        let order = order.clone();
        move || order.lock().unwrap().push(what)
    };
    let (begin, end, inner) = (log("outer begins"), log("outer ends"), port.clone());
    port.post_fn(move || {
        begin();
        inner.dispatch().unwrap();
        assert!(inner.try_dispatch().unwrap());
        end();
    })
    .unwrap();
    port.post_fn(log("second")).unwrap();
    port.post_fn(log("third")).unwrap();
    port.post_fn(log("fourth")).unwrap();
    port.dispatch().unwrap();
    let nested = ["outer begins", "second", "third", "outer ends"];
    assert_eq!(*order.lock().unwrap(), nested);
    port.dispatch().unwrap();
    assert_eq!(order.lock().unwrap().last(), Some(&"fourth"));
    assert!(!port.try_dispatch().unwrap());
}

/// Posts itself one level deeper, and dispatches that.
fn descend(port: Dispatcher, levels: usize) {
    note(levels);
    if levels > 0 {
        let deeper = port.clone();
        port.post_fn(move || descend(deeper, levels - 1)).unwrap();
        port.dispatch().unwrap();
    }
}

fn d06_dispatches_nest_a_hundred_deep() {
    let port = port();
    descend(port.clone(), 100);
    assert_eq!(seen(), (0..=100).rev().collect::<Vec<_>>());
    assert!(!port.try_dispatch().unwrap());
}

fn d06_a_panic_passes_through_nested_dispatches() {
    let port = port();
    let inner = port.clone();
    port.post_fn(move || inner.dispatch().unwrap()).unwrap();
    port.post(4, fail).unwrap();
    port.post(5, note).unwrap();
    assert_eq!(word_of(&*panic_of(|| port.dispatch())), 4);
    port.dispatch().unwrap();
    assert_eq!(seen(), [5]);
    port.close().unwrap();
}
