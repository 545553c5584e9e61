//! Strands: one handler at a time and in order, and no thread is kept meanwhile.

use std::{
    panic,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use longshore::{Dispatcher, dispatcher::Strand};

use crate::{
    harness::{Counter, Test, port, scaled, spawn, tick},
    support::{Token, assert_closed, join, note, panic_of, seen, sleepers, word_of},
};

pub const TESTS: &[Test] = tests![
    strand_handlers_keep_their_order,
    strand_handlers_never_run_at_the_same_time,
    strand_a_busy_one_keeps_no_thread,
    strand_each_handler_is_one_entry,
    strand_handlers_may_post_to_their_own_strand,
    strand_a_panic_in_a_handler_loses_no_other,
    strand_handlers_outlive_their_strand,
    strand_closing_drops_closures_and_hands_over_raw_handlers,
    strand_a_closed_port_gives_the_handler_back,
    strand_nested_dispatch_runs_no_second_handler,
    strand_closing_hands_over_what_stands_behind_a_handler_that_runs,
    strand_closing_hands_over_each_raw_handler_once,
    strand_closing_races_posts,
];

extern "C-unwind" fn nothing(_word: usize) {}

fn strand_handlers_keep_their_order() {
    const STRANDS: usize = 3;
    let posts = scaled(20_000);
    let port = port();
    let work = port.work_guard();
    let runners = sleepers(&port, 3, |port| port.run());
    let strands: Vec<_> = (0..STRANDS)
        .map(|_| (port.strand(), Arc::new(AtomicUsize::new(0))))
        .collect();
    for number in 0..posts {
        for (strand, next) in &strands {
            let next = next.clone();
            let check = move || assert_eq!(next.swap(number + 1, Ordering::Relaxed), number);
            strand.post_fn(check).unwrap();
        }
        tick();
    }
    drop(work);
    let counts = join(runners).into_iter().map(|count| count.unwrap());
    assert_eq!(counts.sum::<u64>(), (posts * STRANDS) as u64);
    for (_, next) in strands {
        assert_eq!(next.load(Ordering::Relaxed), posts);
    }
}

fn strand_handlers_never_run_at_the_same_time() {
    const POSTERS: usize = 3;
    let posts = scaled(30_000);
    let (port, inside) = (port(), Arc::new(AtomicBool::new(false)));
    // Read and written in two steps, so that handlers that meet lose counts.
    let alone = Arc::new(AtomicUsize::new(0));
    let strand = port.strand();
    let work = port.work_guard();
    let runners = sleepers(&port, 3, |port| port.run());
    let posters: Vec<_> = (0..POSTERS)
        .map(|_| {
            let (strand, inside, alone) = (strand.clone(), inside.clone(), alone.clone());
            spawn(move || {
                for _ in 0..posts {
                    let (inside, alone) = (inside.clone(), alone.clone());
                    let handler = move || {
                        assert!(!inside.swap(true, Ordering::Relaxed));
                        alone.store(alone.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                        assert!(inside.swap(false, Ordering::Relaxed));
                    };
                    strand.post_fn(handler).unwrap();
                    tick();
                }
            })
        })
        .collect();
    join(posters);
    drop(work);
    join(runners).into_iter().for_each(|count| {
        count.unwrap();
    });
    assert_eq!(alone.load(Ordering::Relaxed), POSTERS * posts);
}

fn strand_a_busy_one_keeps_no_thread() {
    let port = port();
    let strand = port.strand();
    let (begun, go) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (inside, goes) = (begun.clone(), go.clone());
    strand
        .post_fn(move || {
            inside.wait();
            goes.wait();
        })
        .unwrap();
    let waiting = Arc::new(Counter::new());
    for _ in 0..3 {
        let waiting = waiting.clone();
        strand.post_fn(move || waiting.add(1)).unwrap();
    }
    let first = spawn({
        let port = port.clone();
        move || port.dispatch()
    });
    begun.wait();
    // One handler is busy and three are in line; this thread is free for everything else.
    let other = Arc::new(Counter::new());
    let count = other.clone();
    port.post_fn(move || count.add(1)).unwrap();
    assert!(port.try_dispatch().unwrap());
    assert!(!port.try_dispatch().unwrap());
    assert_eq!((other.get(), waiting.get()), (1, 0));
    go.wait();
    first.join().unwrap().unwrap();
    assert_eq!(port.run().unwrap(), 3);
    assert_eq!(waiting.get(), 3);
}

fn strand_each_handler_is_one_entry() {
    let port = port();
    let strand = port.strand();
    for word in 0..3 {
        strand.post(word, nothing).unwrap();
    }
    port.post(0, nothing).unwrap();
    for _ in 0..4 {
        assert!(port.try_dispatch().unwrap());
    }
    assert!(!port.try_dispatch().unwrap());
}

fn strand_handlers_may_post_to_their_own_strand() {
    let (port, ran) = (port(), Arc::new(Counter::new()));
    let strand = port.strand();
    again(&strand, 100, &ran);
    assert_eq!(port.run().unwrap(), 100);
    assert_eq!(ran.get(), 100);
}

fn again(strand: &Strand, left: usize, ran: &Arc<Counter>) {
    let (mine, count) = (strand.clone(), ran.clone());
    let handler = move || {
        assert!(mine.is_running_here());
        count.add(1);
        if left > 1 {
            again(&mine, left - 1, &count);
        }
    };
    strand.post_fn(handler).unwrap();
}

fn strand_a_panic_in_a_handler_loses_no_other() {
    let (port, ran) = (port(), Arc::new(Counter::new()));
    let strand = port.strand();
    for number in 0..6usize {
        let ran = ran.clone();
        let handler = move || match number % 2 {
            0 => panic::resume_unwind(Box::new(number)),
            _ => ran.add(1),
        };
        strand.post_fn(handler).unwrap();
    }
    for number in 0..6usize {
        match number % 2 {
            0 => assert_eq!(word_of(&*panic_of(|| port.dispatch())), number),
            _ => port.dispatch().unwrap(),
        }
    }
    assert_eq!(ran.get(), 3);
    assert!(!port.try_dispatch().unwrap());
    assert!(!strand.is_running_here());
    again(&strand, 1, &ran);
    assert_eq!(port.run().unwrap(), 1);
}

fn strand_handlers_outlive_their_strand() {
    let (port, ran) = (port(), Arc::new(Counter::new()));
    let strand = port.strand();
    for _ in 0..3 {
        let ran = ran.clone();
        strand.post_fn(move || ran.add(1)).unwrap();
    }
    drop(strand);
    assert_eq!(port.run().unwrap(), 3);
    assert_eq!(ran.get(), 3);
}

fn strand_closing_drops_closures_and_hands_over_raw_handlers() {
    let (port, dropped) = (port(), Arc::default());
    let strand = port.strand();
    for word in 0..3 {
        let token = Token::new(&dropped);
        strand
            .post_fn(move || unreachable!("{:?}", std::ptr::from_ref(&token)))
            .unwrap();
        strand.post(word, nothing).unwrap();
    }
    let mut words = Vec::new();
    port.close_with(|post| words.push(post.context)).unwrap();
    assert_eq!(words, [0, 1, 2]);
    assert_eq!(dropped.load(Ordering::SeqCst), 3);
    assert_closed(strand.post(0, nothing));
}

fn strand_closing_hands_over_what_stands_behind_a_handler_that_runs() {
    for hold in [false, true] {
        let port = port();
        let strand = port.strand();
        let (begun, go) = (Arc::new(Counter::new()), Arc::new(Counter::new()));
        let (here, released) = (begun.clone(), go.clone());
        strand
            .post_fn(move || {
                here.add(1);
                released.wait_for(1);
            })
            .unwrap();
        for word in 1..=3 {
            strand.post(word, nothing).unwrap();
        }
        let dispatching = spawn({
            let port = port.clone();
            move || port.dispatch().unwrap()
        });
        begun.wait_for(1);
        // The strand may have no other owner than the handler that runs.
        let strand = hold.then_some(strand);
        let mut words = Vec::new();
        port.close_with(|post| words.push(post.context)).unwrap();
        go.add(1);
        dispatching.join().unwrap();
        assert_eq!(words, [1, 2, 3]);
        if let Some(strand) = strand {
            assert_closed(strand.post(4, nothing));
        }
    }
}

fn strand_closing_hands_over_each_raw_handler_once() {
    for _ in 0..scaled(300) {
        let port = port();
        let start = Arc::new(Barrier::new(3));
        let poster = |_| {
            let (port, start) = (port.clone(), start.clone());
            spawn(move || {
                // No strand of this thread's own outlives its posts.
                let strand = port.strand();
                start.wait();
                (0..).take_while(|_| strand.post(1, note).is_ok()).count()
            })
        };
        let posters: Vec<_> = (0..2).map(poster).collect();
        let dispatching = spawn({
            let port = port.clone();
            move || {
                while port.dispatch().is_ok() {}
                seen().len()
            }
        });
        start.wait();
        let mut handed_over = 0;
        port.close_with(|_| handed_over += 1).unwrap();
        let made: usize = join(posters).into_iter().sum();
        assert_eq!(dispatching.join().unwrap() + handed_over, made);
        tick();
    }
}

fn strand_a_closed_port_gives_the_handler_back() {
    let (port, dropped) = (port(), Arc::default());
    let strand = port.strand();
    port.close().unwrap();
    let token = Token::new(&dropped);
    let refused = strand.post_fn(move || drop(token)).unwrap_err();
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    (refused.closure)();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

fn strand_nested_dispatch_runs_no_second_handler() {
    let (port, ran) = (port(), Arc::new(Counter::new()));
    let strand = port.strand();
    let (nested, count) = (port.clone(), ran.clone());
    strand
        .post_fn(move || {
            assert!(!nested.try_dispatch().unwrap());
            assert_eq!(count.get(), 0);
        })
        .unwrap();
    let count = ran.clone();
    strand.post_fn(move || count.add(1)).unwrap();
    assert_eq!(port.run().unwrap(), 2);
    assert_eq!(ran.get(), 1);
}

fn strand_closing_races_posts() {
    for _ in 0..scaled(300) {
        let (port, dropped) = (port(), Arc::new(AtomicUsize::new(0)));
        let strand = port.strand();
        let start = Arc::new(Barrier::new(3));
        let poster = |_| {
            let (strand, start, dropped) = (strand.clone(), start.clone(), dropped.clone());
            spawn(move || {
                start.wait();
                let mut made = 0;
                loop {
                    let token = Token::new(&dropped);
                    made += 1;
                    if strand.post_fn(move || drop(token)).is_err() {
                        break made;
                    }
                }
            })
        };
        let posters: Vec<_> = (0..2).map(poster).collect();
        let dispatching = spawn({
            let port: Dispatcher = port.clone();
            move || while port.dispatch().is_ok() {}
        });
        start.wait();
        port.close().unwrap();
        let made: usize = join(posters).into_iter().sum();
        dispatching.join().unwrap();
        drop(strand);
        assert_eq!(dropped.load(Ordering::SeqCst), made);
        tick();
    }
}
