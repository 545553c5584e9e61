//! What travels through a port as bare words, without any I/O: also for Miri.
// UNSAFETY: re-posts a Context.
#![expect(unsafe_code)]

use std::{
    cell::Cell,
    future::{pending, ready},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use super::{Context, Dispatcher, work::Visitor};
use crate::sys::backend::Wait;

mod strangers;

thread_local! {
    static LAST: Cell<(usize, u32, u32)> = const { Cell::new((0, 0, 0)) };
}

extern "C-unwind" fn note(word: usize) {
    LAST.set((word, 0, 0));
}

extern "C-unwind" fn ended(word: usize, bytes: u32, error: u32) {
    LAST.set((word, bytes, error));
}

fn port() -> Dispatcher {
    Dispatcher::new().expect("a port can be opened")
}

#[test]
fn d02_posts_and_contexts_come_back_as_what_they_were() {
    let port = port();
    port.post(7, note).unwrap();
    assert!(port.try_dispatch().unwrap());
    assert_eq!(LAST.get(), (7, 0, 0));
    let context = Context::new(ended, 9);
    // SAFETY: the Context lives until the dispatch below.
    unsafe { port.repost(NonNull::from(&context), 3, 4).unwrap() };
    assert!(port.try_dispatch().unwrap());
    assert_eq!(LAST.get(), (9, 3, 4));
    let boxed = Box::new(Context::new(freed, 0));
    let boxed = NonNull::from(Box::leak(boxed));
    // SAFETY: the Context lives until its callback, which frees it.
    unsafe {
        (*boxed.as_ptr()).context = boxed.as_ptr().expose_provenance();
        port.repost(boxed, 0, 0).unwrap();
    }
    assert!(port.try_dispatch().unwrap());
}

extern "C-unwind" fn freed(word: usize, _bytes: u32, _error: u32) {
    // SAFETY: the test above made it of a Box, and the port has let go of it.
    drop(unsafe { Box::from_raw(std::ptr::with_exposed_provenance_mut::<Context>(word)) });
}

#[test]
fn d05_closures_run_once_and_own_what_they_own() {
    let (port, token) = (port(), Arc::new(()));
    for _ in 0..3 {
        let token = token.clone();
        port.post_fn(move || assert!(Arc::strong_count(&token) > 1))
            .unwrap();
    }
    assert_eq!(port.run_ready().unwrap(), 3);
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn d10_what_was_never_delivered_is_dropped_or_handed_over() {
    let (port, token) = (port(), Arc::new(()));
    let held = token.clone();
    port.post_fn(move || drop(held)).unwrap();
    port.post(5, note).unwrap();
    let (held, strand) = (token.clone(), port.strand());
    strand.post_fn(move || drop(held)).unwrap();
    strand.post(6, note).unwrap();
    let held = token.clone();
    let task = port.spawn(async move { drop(held) });
    let mut words = Vec::new();
    port.close_with(|post| words.push(post.context)).unwrap();
    drop((strand, task));
    assert_eq!(words, [5, 6]);
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn trace_ports_are_told_from_each_other() {
    let (one, other) = (port(), port());
    assert_ne!(one.inner.port.id(), other.inner.port.id());
    assert_eq!(one.inner.port.id(), one.clone().inner.port.id());
}

#[test]
fn d06_a_run_that_begins_while_an_entry_is_taken_hears_of_its_end() {
    let port = Dispatcher::new().unwrap();
    let inner = &port.inner;
    let context = Context::new(ended, 0);
    // SAFETY: the Context lives until its entry is dispatched below.
    unsafe { port.repost(NonNull::from(&context), 0, 0).unwrap() };
    let visitor = Visitor::new(inner);
    let packet = inner.take(Wait::Poll, &visitor).unwrap().unwrap();
    let runner = thread::spawn({
        let port = port.clone();
        move || port.run().unwrap()
    });
    while port.stats().sleeping == 0 {
        thread::yield_now();
    }
    assert!(inner.deliver(packet).unwrap());
    drop(visitor);
    let begun = Instant::now();
    while !runner.is_finished() && begun.elapsed() < Duration::from_secs(20) {
        thread::yield_now();
    }
    let slept_on = !runner.is_finished();
    port.stop().unwrap();
    assert_eq!(runner.join().unwrap(), 0);
    assert!(!slept_on);
}

#[test]
fn d10_tokens_are_nobodys_posts() {
    let port = port();
    port.inner.tick().unwrap();
    port.inner.post(super::tokens::STOP as usize, 0).unwrap();
    port.post(5, note).unwrap();
    let mut words = Vec::new();
    port.close_with(|post| words.push(post.context)).unwrap();
    assert_eq!(words, [5]);
}

#[test]
fn task_futures_end_are_cancelled_and_panic() {
    let (port, token) = (port(), Arc::new(()));
    let held = token.clone();
    let sum = port.spawn(async move { Arc::strong_count(&held) });
    let held = token.clone();
    let endless = port.spawn(async move {
        let _held = held;
        pending::<()>().await;
    });
    let panics = port.spawn(async { std::panic::resume_unwind(Box::new(1u8)) });
    assert!(port.block_on(sum).unwrap().unwrap() > 1);
    assert!(port.block_on(endless.cancel()).unwrap().is_none());
    let ended: Result<(), _> = port.block_on(panics).unwrap();
    assert!(ended.is_err());
    assert_eq!(port.block_on(ready(3)).unwrap(), 3);
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn strand_turns_pass_from_thread_to_thread() {
    const POSTS: usize = 20;
    let (port, ran) = (port(), Arc::new(AtomicUsize::new(0)));
    let strand = port.strand();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (port, strand, ran) = (port.clone(), strand.clone(), ran.clone());
            thread::spawn(move || {
                for _ in 0..POSTS {
                    let ran = ran.clone();
                    // In two steps: handlers of one strand do not meet.
                    let handler = move || ran.store(ran.load(SeqCst) + 1, SeqCst);
                    strand.post_fn(handler).unwrap();
                    port.try_dispatch().unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    while port.try_dispatch().unwrap() {}
    assert_eq!(ran.load(SeqCst), 2 * POSTS);
}
