//! Posted callbacks: D2, D5 to D8.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use longshore::{Dispatcher, Error};

use crate::{
    allocations,
    harness::{Test, port, scaled, spawn, tick},
    support::{Token, join, note, rounds, seen, sleepers},
};

pub const TESTS: &[Test] = tests![
    d05_a_post_runs_its_callback_once_with_its_word,
    d05_posts_of_one_thread_are_dispatched_in_order,
    d05_eight_producers_to_eight_dispatchers_each_payload_exactly_once,
    d05_every_word_travels_unchanged,
    d05_a_closure_runs_once_and_is_freed,
    d05_a_closure_that_is_refused_comes_back_unharmed,
    d05_a_post_on_a_warm_queue_allocates_nothing,
    d05_a_callback_may_post,
    d06_dispatch_takes_exactly_one,
    d06_a_callback_that_posts_itself_ends_its_dispatch,
    d06_as_many_threads_run_as_there_are_entries,
    d06_two_threads_wake_each_other_through_two_ports,
    d07_try_dispatch_says_whether_it_did,
    d08_a_wake_before_the_wait_is_not_lost,
];

fn d05_a_post_runs_its_callback_once_with_its_word() {
    let port = port();
    port.post(7, note).unwrap();
    port.dispatch().unwrap();
    assert!(!port.try_dispatch().unwrap());
    assert_eq!(seen(), [7]);
}

fn d05_posts_of_one_thread_are_dispatched_in_order() {
    let port = port();
    (0..1000).for_each(|word| port.post(word, note).unwrap());
    (0..1000).for_each(|_| port.dispatch().unwrap());
    assert_eq!(seen(), (0..1000).collect::<Vec<_>>());
}

fn d05_eight_producers_to_eight_dispatchers_each_payload_exactly_once() {
    const THREADS: usize = 8;
    let each = scaled(1_000_000) / THREADS;
    let port = port();
    let counts: Arc<[AtomicUsize]> = (0..THREADS * each).map(|_| AtomicUsize::new(0)).collect();
    let left = Arc::new(AtomicUsize::new(THREADS * each));

    let dispatchers: Vec<_> = (0..THREADS)
        .map(|_| {
            let (port, counts, left) = (port.clone(), counts.clone(), left.clone());
            spawn(move || {
                while left.load(Ordering::Relaxed) > 0 {
                    port.dispatch().unwrap();
                    for word in seen() {
                        counts[word].fetch_add(1, Ordering::Relaxed);
                        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                            (1..THREADS).for_each(|_| port.wake_one().unwrap());
                        }
                    }
                    crate::harness::tick();
                }
            })
        })
        .collect();
    let producers: Vec<_> = (0..THREADS)
        .map(|producer| {
            let port = port.clone();
            spawn(move || {
                let words = producer * each..(producer + 1) * each;
                words.for_each(|word| port.post(word, note).unwrap());
            })
        })
        .collect();
    for thread in producers.into_iter().chain(dispatchers) {
        thread.join().unwrap();
    }
    assert!(
        counts
            .iter()
            .all(|count| count.load(Ordering::Relaxed) == 1)
    );
}

fn d06_dispatch_takes_exactly_one() {
    let port = port();
    (1..=3).for_each(|word| port.post(word, note).unwrap());
    port.dispatch().unwrap();
    assert_eq!(seen(), [1]);
    port.dispatch().unwrap();
    assert_eq!(seen(), [2]);
    assert!(port.try_dispatch().unwrap());
    assert_eq!(seen(), [3]);
    assert!(!port.try_dispatch().unwrap());
}

fn d07_try_dispatch_says_whether_it_did() {
    let port = port();
    assert!(!port.try_dispatch().unwrap());
    port.post(1, note).unwrap();
    assert!(port.try_dispatch().unwrap());
    assert!(!port.try_dispatch().unwrap());
    assert_eq!(seen(), [1]);
}

fn d08_a_wake_before_the_wait_is_not_lost() {
    let port = port();
    port.wake_one().unwrap();
    port.dispatch().unwrap();
    assert!(!port.try_dispatch().unwrap());
}

fn d05_every_word_travels_unchanged() {
    let port = port();
    let words = [
        0,
        1,
        usize::MAX,
        usize::MAX - 1,
        1 << (usize::BITS - 1),
        0x103,
    ];
    for word in words {
        port.post(word, note).unwrap();
    }
    while port.try_dispatch().unwrap() {}
    assert_eq!(seen(), words);
}

fn d05_a_closure_runs_once_and_is_freed() {
    let port = port();
    let dropped = Arc::new(AtomicUsize::new(0));
    for word in 0..100 {
        let token = Token::new(&dropped);
        let closure = move || {
            note(word);
            drop(token);
        };
        port.post_fn(closure).unwrap();
    }
    // One that owns nothing, and one that is large.
    port.post_fn(|| note(100)).unwrap();
    let large = [101usize; 512];
    port.post_fn(move || note(large[511])).unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    while port.try_dispatch().unwrap() {}
    assert_eq!(seen(), (0..102).collect::<Vec<_>>());
    assert_eq!(dropped.load(Ordering::SeqCst), 100);
}

fn d05_a_closure_that_is_refused_comes_back_unharmed() {
    let port = port();
    port.clone().close().unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    let token = Token::new(&dropped);
    let refused = port.post_fn(move || {
        note(9);
        drop(token);
    });
    let refused = refused.unwrap_err();
    assert_eq!(Error::of(&refused.error), Some(Error::Closed));
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    (refused.closure)();
    assert_eq!(seen(), [9]);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

fn d05_a_post_on_a_warm_queue_allocates_nothing() {
    const POSTS: usize = 10_000;
    let port = port();
    let turn = || {
        for word in 0..POSTS / 10 {
            port.post(word, ignore).unwrap();
        }
        while port.try_dispatch().unwrap() {}
    };
    turn();
    let before = allocations::on_this_thread();
    (0..10).for_each(|_| turn());
    let made = allocations::on_this_thread() - before;
    // A queue may allocate a block for many entries at once.
    assert!(made < POSTS / 10, "{made} allocations for {POSTS} posts");
}

extern "C-unwind" fn ignore(_word: usize) {}

fn d05_a_callback_may_post() {
    let port = port();
    let inner = port.clone();
    port.post_fn(move || (0..3).for_each(|word| inner.post(word, note).unwrap()))
        .unwrap();
    port.dispatch().unwrap();
    assert_eq!(seen(), [], "a post is never run by the call that makes it");
    (0..3).for_each(|_| port.dispatch().unwrap());
    assert_eq!(seen(), [0, 1, 2]);
}

thread_local! {
    static TIMES: Cell<usize> = const { Cell::new(0) };
}

fn again(port: Dispatcher) {
    TIMES.set(TIMES.get() + 1);
    let next = port.clone();
    port.post_fn(move || again(next)).unwrap();
}

fn d06_a_callback_that_posts_itself_ends_its_dispatch() {
    let port = port();
    again(port.clone());
    for times in 2..100 {
        assert!(port.try_dispatch().unwrap());
        assert_eq!(TIMES.get(), times);
    }
    // The last closure owns a clone of the port: closing takes it apart.
    port.close().unwrap();
}

fn d06_as_many_threads_run_as_there_are_entries() {
    const THREADS: usize = 4;
    let port = port();
    let _work = port.work_guard();
    let threads = sleepers(&port, THREADS, |port| port.run());
    for _ in 0..rounds(2000) {
        // Each callback waits for all the others, so each needs a thread of its own.
        let together = Arc::new(std::sync::Barrier::new(THREADS + 1));
        for _ in 0..THREADS {
            let together = together.clone();
            port.post_fn(move || {
                together.wait();
            })
            .unwrap();
        }
        together.wait();
        tick();
    }
    port.stop().unwrap();
    let dispatched: u64 = join(threads).into_iter().map(|count| count.unwrap()).sum();
    assert_eq!(dispatched, (rounds(2000) * THREADS) as u64);
}

fn d06_two_threads_wake_each_other_through_two_ports() {
    let (ping, pong) = (port(), port());
    let rounds = rounds(20_000);
    let other = {
        let (ping, pong) = (ping.clone(), pong.clone());
        spawn(move || {
            for word in 0..rounds {
                ping.dispatch().unwrap();
                assert_eq!(seen(), [word]);
                pong.post(word, note).unwrap();
            }
        })
    };
    for word in 0..rounds {
        ping.post(word, note).unwrap();
        pong.dispatch().unwrap();
        assert_eq!(seen(), [word]);
        tick();
    }
    other.join().unwrap();
}
