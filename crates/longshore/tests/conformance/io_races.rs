//! Several threads on one port: completions before the submitting call returns, blocked callbacks,
//! fairness, and threads that come and go (D1, D4, D6).
// UNSAFETY: submits Contexts by hand where the callback frees them.
#![expect(unsafe_code)]

use std::{
    io::Write,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use longshore::{Dispatcher, Handle, Submission, dispatcher::Context};

use crate::{
    harness::{Counter, Test, port, scaled, spawn, tick},
    io::Op,
    io_things::{Scratch, attached_file, attached_pair, pattern, workers},
};

pub const TESTS: &[Test] = tests![
    d06_a_packet_may_be_dispatched_before_its_submitting_call_returns,
    d06_a_context_is_submitted_again_from_its_own_on_event,
    d04_a_context_may_be_freed_by_its_own_on_event,
    d06_a_blocked_on_event_holds_back_no_other_completion,
    d06_a_flood_of_posts_does_not_keep_io_out,
    d06_a_flood_of_io_does_not_keep_posts_out,
];

fn d06_a_packet_may_be_dispatched_before_its_submitting_call_returns() {
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &pattern(0, 4096));
    let expected = pattern(0, 4096);
    let pool = workers(&port, 4);
    // The read is at hand, so its packet is queued inside the call, and four threads want it.
    let submitters: Vec<_> = (0..2)
        .map(|thread| {
            let (port, file, expected) = (port.clone(), file.clone(), expected.clone());
            spawn(move || {
                let ops: Vec<_> = (0..8).map(|_| Op::new(16)).collect();
                let rounds = scaled(20_000);
                for round in 0..rounds {
                    let at = (thread * 1000 + round) % 4000;
                    for op in &ops {
                        op.read(&port, &file, at as u64).unwrap();
                    }
                    for op in &ops {
                        assert_eq!(op.wait(), (16, 0));
                        assert_eq!(op.data(16), expected[at..at + 16]);
                        assert_eq!(op.calls(), round + 1);
                    }
                    tick();
                }
            })
        })
        .collect();
    for submitter in submitters {
        submitter.join().unwrap();
    }
    pool.finish();
    assert_eq!(port.in_flight(), 0);
    assert!(!port.try_dispatch().unwrap());
}

fn d06_a_context_is_submitted_again_from_its_own_on_event() {
    const OPS: usize = 32;
    let each = scaled(5000);
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &pattern(0, 4096));
    let (inside, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(Counter::new()));
    let ops: Vec<_> = (0..OPS)
        .map(|i| {
            let (port, file) = (port.clone(), file.clone());
            let (inside, done) = (inside.clone(), done.clone());
            Op::hooked(16, move |op, bytes, error| {
                assert_eq!((bytes, error), (16, 0));
                inside.fetch_add(1, Ordering::Relaxed);
                tick();
                // By now it may run on another thread already; nothing of it is touched below.
                match op.calls() < each {
                    true => op.read(&port, &file, i as u64).unwrap(),
                    false => done.add(1),
                }
            })
        })
        .collect();
    let pool = workers(&port, 4);
    for (i, op) in ops.iter().enumerate() {
        op.read(&port, &file, i as u64).unwrap();
    }
    done.wait_for(OPS);
    pool.finish();
    assert_eq!(inside.load(Ordering::Relaxed), OPS * each);
    assert!(ops.iter().all(|op| op.calls() == each));
    assert!(!port.try_dispatch().unwrap());
}

/// Everything an operation needs, in one allocation that its `on_event` frees.
#[repr(C)]
struct Freed {
    context: Context,
    buffer: [u8; 16],
    freed: Arc<AtomicUsize>,
}

extern "C-unwind" fn free(word: usize, bytes: u32, error: u32) {
    // SAFETY: the word is the address of a leaked box, and this is its only completion.
    let freed = unsafe { Box::from_raw(ptr::with_exposed_provenance_mut::<Freed>(word)) };
    assert_eq!((bytes, error, freed.buffer), (16, 0, [7; 16]));
    freed.freed.fetch_add(1, Ordering::Relaxed);
}

fn d04_a_context_may_be_freed_by_its_own_on_event() {
    let rounds = scaled(20_000);
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &[7; 64]);
    let freed = Arc::new(AtomicUsize::new(0));
    let pool = workers(&port, 3);
    for _ in 0..rounds {
        let op = Box::into_raw(Box::new(Freed {
            context: Context::new(free, 0),
            buffer: [0; 16],
            freed: freed.clone(),
        }));
        // SAFETY: not submitted yet, so it is ours. It stays in place until `free`; the file
        // outlives the loop. After `submit` it may be gone and is not touched.
        unsafe {
            (*op).context.context = op.expose_provenance();
            let read = Submission::Read {
                handle: Handle::from(&*file),
                offset: 8,
                buffer: (&raw mut (*op).buffer).cast(),
                len: 16,
            };
            port.submit(NonNull::new(op.cast()).unwrap(), read).unwrap();
        }
        tick();
    }
    pool.finish();
    while port.try_dispatch().unwrap() {}
    assert_eq!(freed.load(Ordering::Relaxed), rounds);
    assert_eq!(port.in_flight(), 0);
}

fn d06_a_blocked_on_event_holds_back_no_other_completion() {
    const OPS: usize = 32;
    let port = port();
    let pairs: Vec<_> = (0..OPS).map(|_| attached_pair(&port)).collect();
    let (first, others) = (Arc::new(AtomicBool::new(true)), Arc::new(Counter::new()));
    let ops: Vec<_> = (0..OPS)
        .map(|_| {
            let (first, others) = (first.clone(), others.clone());
            Op::hooked(4, move |op, bytes, error| {
                assert_eq!((bytes, error), (1, 0));
                match first.swap(false, Ordering::SeqCst) {
                    // Until all the others have run, on the other thread.
                    true => others.wait_for(op.calls() * (OPS - 1)),
                    false => others.add(1),
                }
            })
        })
        .collect();
    for round in 1..=scaled(200) {
        first.store(true, Ordering::SeqCst);
        for (op, (here, _)) in ops.iter().zip(&pairs) {
            op.recv(&port, here).unwrap();
        }
        // All are ready before anybody looks, so that one thread could harvest all of them.
        for (_, there) in &pairs {
            (&**there).write_all(b"x").unwrap();
        }
        let pool = workers(&port, 2);
        ops.iter().for_each(|op| assert_eq!(op.wait(), (1, 0)));
        pool.finish();
        assert!(ops.iter().all(|op| op.calls() == round));
        tick();
    }
}

/// A callback that posts itself until it is told not to.
struct Flood {
    port: Dispatcher,
    goes_on: AtomicBool,
    posts: AtomicUsize,
}

extern "C-unwind" fn post_again(word: usize) {
    // SAFETY: the word is the address of a Flood that outlives its posts.
    let flood = unsafe { &*ptr::with_exposed_provenance::<Flood>(word) };
    flood.posts.fetch_add(1, Ordering::Relaxed);
    if flood.goes_on.load(Ordering::Relaxed) {
        flood.port.post(word, post_again).unwrap();
    }
}

fn d06_a_flood_of_posts_does_not_keep_io_out() {
    let port = port();
    let (here, there) = attached_pair(&port);
    let flood = Box::leak(Box::new(Flood {
        port: port.clone(),
        goes_on: AtomicBool::new(true),
        posts: AtomicUsize::new(0),
    }));
    let word = ptr::from_ref(flood).expose_provenance();
    (0..3).for_each(|_| port.post(word, post_again).unwrap());
    let op = Op::new(4);
    for _ in 0..20 {
        op.recv(&port, &here).unwrap();
        let before = flood.posts.load(Ordering::Relaxed);
        while flood.posts.load(Ordering::Relaxed) < before + 100 {
            port.dispatch().unwrap();
        }
        (&*there).write_all(b"x").unwrap();
        // The queue is never empty, and one thread takes from it.
        assert_eq!(op.finish(&port, Ok(())), (1, 0));
    }
    flood.goes_on.store(false, Ordering::Relaxed);
    while port.try_dispatch().unwrap() {}
    // The Flood holds the port, so it has to be closed by hand.
    port.close().unwrap();
}

fn d06_a_flood_of_io_does_not_keep_posts_out() {
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &pattern(0, 64));
    let goes_on = Arc::new(AtomicBool::new(true));
    let ops: Vec<_> = (0..3)
        .map(|_| {
            let (port, file, goes_on) = (port.clone(), file.clone(), goes_on.clone());
            Op::hooked(16, move |op, _, _| {
                if goes_on.load(Ordering::Relaxed) {
                    op.read(&port, &file, 0).unwrap();
                }
            })
        })
        .collect();
    ops.iter().for_each(|op| op.read(&port, &file, 0).unwrap());
    for _ in 0..20 {
        let before = ops[0].calls();
        while ops[0].calls() < before + 100 {
            port.dispatch().unwrap();
        }
        let ran = Arc::new(AtomicBool::new(false));
        let mark = ran.clone();
        port.post_fn(move || mark.store(true, Ordering::Relaxed))
            .unwrap();
        while !ran.load(Ordering::Relaxed) {
            port.dispatch().unwrap();
        }
    }
    goes_on.store(false, Ordering::Relaxed);
    while port.try_dispatch().unwrap() {}
    assert!(ops.iter().all(Op::is_idle));
}
