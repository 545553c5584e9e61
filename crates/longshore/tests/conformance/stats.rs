//! What a port says of itself.

use std::sync::Arc;

use crate::{
    harness::{Counter, Test, backend, port, scaled, spawn, tick},
    support::{join, sleepers},
    tcp::pair,
};
use longshore::Backend;

pub const TESTS: &[Test] = tests![
    stats_count_posts_and_dispatches_of_all_threads,
    stats_count_operations,
    stats_tell_who_sleeps_and_who_was_woken,
    stats_of_threads_that_ended_are_kept,
    stats_are_right_with_more_threads_than_slots,
];

fn stats_count_posts_and_dispatches_of_all_threads() {
    let posts = scaled(20_000);
    let port = port();
    let done = Arc::new(Counter::new());
    let work = port.work_guard();
    let runners = sleepers(&port, 2, |port| port.run());
    let posters: Vec<_> = (0..2)
        .map(|_| {
            let (port, done) = (port.clone(), done.clone());
            spawn(move || {
                for _ in 0..posts {
                    let done = done.clone();
                    port.post_fn(move || done.add(1)).unwrap();
                    tick();
                }
            })
        })
        .collect();
    let mut before = port.stats();
    while done.get() < 2 * posts {
        let now = port.stats();
        assert!(now.posted >= before.posted && now.dispatched >= before.dispatched);
        assert!(now.dispatched <= now.posted);
        before = now;
    }
    join(posters);
    // Before the runs end, which takes tokens.
    let stats = port.stats();
    let posts = 2 * posts as u64;
    assert_eq!((stats.posted, stats.dispatched), (posts, posts));
    assert_eq!((stats.completed, stats.foreign, stats.in_flight), (0, 0, 0));
    drop(work);
    join(runners);
}

fn stats_count_operations() {
    let port = port();
    let (ours, theirs) = pair(&port);
    let read = ours.read(vec![0; 8]);
    assert_eq!(port.stats().in_flight, 1);
    std::io::Write::write_all(&mut &theirs, b"x").unwrap();
    port.dispatch().unwrap();
    let stats = port.stats();
    assert_eq!(
        (stats.in_flight, stats.completed, stats.dispatched),
        (0, 1, 1)
    );
    drop(read);
}

fn stats_tell_who_sleeps_and_who_was_woken() {
    let port = port();
    assert_eq!(port.stats().sleeping, 0);
    let threads = sleepers(&port, 3, |port| port.dispatch());
    assert_eq!(port.stats().sleeping, 3);
    for _ in 0..3 {
        port.wake_one().unwrap();
    }
    join(threads).into_iter().for_each(|result| result.unwrap());
    let stats = port.stats();
    assert_eq!(stats.sleeping, 0);
    match backend() {
        // The kernel wakes, and does not say.
        Backend::Iocp => assert_eq!((stats.wakes_made, stats.wakes_saved), (0, 0)),
        _ => {
            // Each of the three was woken, by the post or by the thread before it.
            assert!((1..=3).contains(&stats.wakes_made), "{stats:?}");
        }
    }
}

fn stats_of_threads_that_ended_are_kept() {
    let port = port();
    for _ in 0..200 {
        let mine = port.clone();
        let thread = spawn(move || mine.wake_one().and_then(|()| mine.dispatch()));
        thread.join().unwrap().unwrap();
    }
    let stats = port.stats();
    assert_eq!((stats.posted, stats.dispatched), (200, 200));
}

fn stats_are_right_with_more_threads_than_slots() {
    const THREADS: usize = 100;
    let port = port();
    let start = Arc::new(std::sync::Barrier::new(THREADS));
    let threads = (0..THREADS)
        .map(|_| {
            let (port, start) = (port.clone(), start.clone());
            spawn(move || {
                start.wait();
                for _ in 0..50 {
                    port.wake_one().unwrap();
                    port.dispatch().unwrap();
                }
                start.wait();
            })
        })
        .collect();
    join(threads);
    let (stats, count) = (port.stats(), 50 * THREADS as u64);
    assert_eq!((stats.posted, stats.dispatched), (count, count));
}
