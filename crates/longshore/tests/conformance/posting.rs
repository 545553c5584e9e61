//! Posted callbacks: D2, D5 to D8.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::harness::{Test, port, scaled, spawn};

pub const TESTS: &[Test] = tests![
    d05_a_post_runs_its_callback_once_with_its_word,
    d05_posts_of_one_thread_are_dispatched_in_order,
    d05_eight_producers_to_eight_dispatchers_each_payload_exactly_once,
    d06_dispatch_takes_exactly_one,
    d07_try_dispatch_says_whether_it_did,
    d08_a_wake_before_the_wait_is_not_lost,
];

thread_local! {
    static SEEN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Notes the word on the thread that dispatches, so that tests do not see each other's.
extern "C-unwind" fn note(word: usize) {
    SEEN.with_borrow_mut(|seen| seen.push(word));
}

fn seen() -> Vec<usize> {
    SEEN.take()
}

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
