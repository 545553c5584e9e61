//! Closing while other threads post, dispatch and close (D10).

use std::sync::{Arc, Barrier, Mutex};

use longshore::{Dispatcher, Error};

use crate::{
    harness::{Test, port, spawn, tick},
    support::{OnDrop, assert_closed, join, note, rounds, seen, sleepers},
};

pub const TESTS: &[Test] = tests![
    d10_a_post_that_races_closing_is_refused_run_or_handed_over,
    d10_equal_posts_that_race_closing_add_up,
    d10_a_closure_that_races_closing_is_returned_run_or_dropped,
    d10_of_two_that_close_one_succeeds,
    d10_a_dispatch_that_races_closing_returns,
];

const POSTERS: usize = 4;
const EACH: usize = 40;

/// Dispatches until the port is closed; what `note` saw.
fn dispatch_to_the_end(port: &Dispatcher) -> Vec<usize> {
    loop {
        if let Err(error) = port.dispatch() {
            assert_eq!(Error::of(&error), Some(Error::Closed), "{error}");
            return seen();
        }
    }
}

/// One round: four threads post `word(i)` while the port is closed under them. What was accepted
/// and refused by the posters, and what was delivered to either a dispatcher or the hook.
fn race(dispatchers: usize, word: fn(usize) -> usize) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
    let port = port();
    let start = Arc::new(Barrier::new(POSTERS + 1));
    let takers = sleepers(&port, dispatchers, dispatch_to_the_end);
    let posters: Vec<_> = (0..POSTERS)
        .map(|poster| {
            let (port, start) = (port.clone(), start.clone());
            spawn(move || {
                start.wait();
                let words = (poster * EACH..(poster + 1) * EACH).map(word);
                words.partition::<Vec<_>, _>(|&word| match port.post(word, note) {
                    Ok(()) => true,
                    refused => {
                        assert_closed(refused);
                        false
                    }
                })
            })
        })
        .collect();
    start.wait();
    let mut delivered = Vec::new();
    port.close_with(|entry| delivered.push(entry.context))
        .unwrap();
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    for (mut yes, mut no) in join(posters) {
        accepted.append(&mut yes);
        refused.append(&mut no);
    }
    delivered.extend(join(takers).into_iter().flatten());
    for words in [&mut accepted, &mut refused, &mut delivered] {
        words.sort_unstable();
    }
    tick();
    (accepted, refused, delivered)
}

fn d10_a_post_that_races_closing_is_refused_run_or_handed_over() {
    for round in 0..rounds(1500) {
        let (accepted, refused, delivered) = race(round % 3, |i| i);
        assert_eq!(accepted, delivered, "round {round}");
        assert_eq!(accepted.len() + refused.len(), POSTERS * EACH);
    }
}

fn d10_equal_posts_that_race_closing_add_up() {
    for round in 0..rounds(500) {
        let (accepted, _, delivered) = race(round % 3, |i| i % 2);
        assert_eq!(accepted, delivered, "round {round}");
    }
}

fn d10_a_closure_that_races_closing_is_returned_run_or_dropped() {
    for round in 0..rounds(500) {
        let port = port();
        let start = Arc::new(Barrier::new(POSTERS + 1));
        // (ran, dropped, returned) for each closure.
        let fates: Arc<Mutex<Vec<[u8; 3]>>> = Arc::new(Mutex::new(vec![[0; 3]; POSTERS * EACH]));
        let takers = sleepers(&port, round % 3, dispatch_to_the_end);
        let posters: Vec<_> = (0..POSTERS)
            .map(|poster| {
                let (port, start, fates) = (port.clone(), start.clone(), fates.clone());
                spawn(move || {
                    start.wait();
                    for id in poster * EACH..(poster + 1) * EACH {
                        let (ran, dropped) = (fates.clone(), fates.clone());
                        let on_drop = OnDrop(move || dropped.lock().unwrap()[id][1] += 1);
                        let posted = port.post_fn(move || {
                            let _on_drop = on_drop;
                            ran.lock().unwrap()[id][0] += 1;
                        });
                        if let Err(refused) = posted {
                            fates.lock().unwrap()[id][2] += 1;
                            assert_eq!(fates.lock().unwrap()[id], [0, 0, 1]);
                            drop(refused);
                        }
                    }
                })
            })
            .collect();
        start.wait();
        match round % 2 {
            0 => port.close().unwrap(),
            _ => port.clone().close().unwrap(),
        }
        join(posters);
        join(takers);
        for fate in fates.lock().unwrap().iter() {
            // Delivered, dropped by closing, or returned and dropped by the poster.
            assert!(
                matches!(fate, [1, 1, 0] | [0, 1, 0] | [0, 1, 1]),
                "{fate:?}"
            );
        }
        tick();
    }
}

fn d10_of_two_that_close_one_succeeds() {
    for _ in 0..rounds(300) {
        let port = port();
        (0..50).for_each(|word| port.post(word, note).unwrap());
        let start = Arc::new(Barrier::new(3));
        let closers: Vec<_> = (0..3)
            .map(|_| {
                let (port, start) = (port.clone(), start.clone());
                spawn(move || {
                    let mut handed = Vec::new();
                    start.wait();
                    let closed = port.close_with(|entry| handed.push(entry.context));
                    (closed.is_ok(), handed)
                })
            })
            .collect();
        let (winners, losers): (Vec<_>, Vec<_>) = join(closers).into_iter().partition(|it| it.0);
        assert_eq!((winners.len(), losers.len()), (1, 2));
        assert_eq!(winners[0].1, (0..50).collect::<Vec<_>>());
        assert!(losers.iter().all(|(_, handed)| handed.is_empty()));
        assert_closed(port.try_dispatch());
        tick();
    }
}

fn d10_a_dispatch_that_races_closing_returns() {
    for _ in 0..rounds(1500) {
        let port = port();
        let start = Arc::new(Barrier::new(4));
        let _work = port.work_guard();
        let threads: Vec<_> = (0..3)
            .map(|which| {
                let (port, start) = (port.clone(), start.clone());
                spawn(move || {
                    start.wait();
                    match which {
                        0 => port.dispatch(),
                        1 => port.run().map(|_| ()),
                        // Polls: it must not eat what should wake the others.
                        _ => loop {
                            match port.try_dispatch() {
                                Ok(dispatched) => assert!(!dispatched),
                                Err(error) => break Err(error),
                            }
                        },
                    }
                })
            })
            .collect();
        start.wait();
        port.close().unwrap();
        join(threads).into_iter().for_each(assert_closed);
        tick();
    }
}
