//! Packets that longshore did not queue: counted, shown to the hook, and otherwise nothing (D2).
// UNSAFETY: posts words of its own to the port, and believes them in one test.
#![expect(unsafe_code)]

use std::{
    os::windows::io::AsRawHandle,
    ptr::{self, NonNull},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use longshore::{Dispatcher, Packet, dispatcher::Context};
use windows_sys::Win32::{
    Foundation::{ERROR_IO_PENDING, GetLastError},
    Storage::FileSystem::ReadFile,
    System::IO::OVERLAPPED,
};

use crate::{
    exported::{post_raw, take_raw},
    harness::{Counter, Test, builder, port, scaled, spawn, tick},
    io::Op,
    io_things::{Scratch, attached_file, attached_pair, pattern, workers},
    support::{note, seen},
};

pub const TESTS: &[Test] = tests![
    d02_a_flood_of_foreign_packets_calls_nothing_and_loses_nothing,
    d02_a_forged_copy_of_a_post_runs_no_callback_twice,
    d02_keys_of_longshore_with_payloads_of_others_are_foreign,
    d02_a_forged_completion_ends_no_operation,
    d02_a_forged_completion_of_an_ended_operation_does_not_end_it_twice,
    d02_io_that_longshore_was_not_told_of_is_foreign,
    d02_trusted_packets_are_taken_at_their_word,
];

type Words = (usize, usize, u32);

/// A port that remembers its foreign packets.
fn watched() -> (Dispatcher, Arc<Mutex<Vec<Words>>>) {
    let foreign = Arc::<Mutex<Vec<Words>>>::default();
    let seen = foreign.clone();
    let hook = move |packet: Packet| {
        let words = (packet.key, packet.overlapped, packet.bytes);
        seen.lock().unwrap().push(words);
    };
    (builder().on_foreign(hook).build().unwrap(), foreign)
}

/// Posts the words and dispatches them; they must be foreign.
fn assert_foreign(port: &Dispatcher, foreign: &Mutex<Vec<Words>>, words: Words) {
    let before = port.foreign_packets();
    post_raw(port.as_raw_handle(), words);
    port.dispatch().unwrap();
    assert_eq!(port.foreign_packets(), before + 1);
    assert_eq!(foreign.lock().unwrap().pop(), Some(words));
}

/// The keys that longshore posts closures and wake-ups with.
fn own_keys() -> [usize; 2] {
    let scratch = port();
    scratch.post_fn(|| ()).unwrap();
    scratch.wake_one().unwrap();
    let (closure, wake) = (take_raw(&scratch), take_raw(&scratch));
    for words in [closure, wake] {
        post_raw(scratch.as_raw_handle(), words);
        scratch.dispatch().unwrap();
    }
    assert_eq!(scratch.foreign_packets(), 0);
    [closure.0, wake.0]
}

/// Counts a real post at the address it is given.
extern "C-unwind" fn count(word: usize) {
    // SAFETY: the test posts only addresses of counters that live for ever. A payload of others
    // would be followed here, which is the crash that must not happen.
    let counter = unsafe { &*ptr::with_exposed_provenance::<AtomicUsize>(word) };
    counter.fetch_add(1, Ordering::Relaxed);
}

fn d02_a_flood_of_foreign_packets_calls_nothing_and_loses_nothing() {
    let (flood, real) = (scaled(100_000), scaled(20_000));
    let [closure_key, wake_key] = own_keys();
    let foreign = Arc::new(Counter::new());
    let hooked = foreign.clone();
    let port = builder()
        .on_foreign(move |_| hooked.add(1))
        .build()
        .unwrap();
    let scratch = Scratch::new();
    let file = attached_file(&port, &scratch, &pattern(0, 4096));
    let (here, there) = attached_pair(&port);
    let (server, client) = attached_pair(&port);

    let (idle, pending) = (Op::new(4), Op::new(4));
    pending.recv(&port, &here).unwrap();
    let freed = Op::new(4).context().as_ptr().addr();
    let addresses = [
        idle.context().as_ptr().addr(),
        pending.context().as_ptr().addr(),
        freed,
    ];
    // Reads that start each other, and an echo.
    let reads = Arc::new(Counter::new());
    let chains: Vec<_> = (0..4)
        .map(|_| {
            let (port, file, reads) = (port.clone(), file.clone(), reads.clone());
            Op::hooked(64, move |op, bytes, error| {
                assert_eq!((bytes, error), (64, 0));
                match op.calls() < real / 10 {
                    true => op.read(&port, &file, 0).unwrap(),
                    false => reads.add(1),
                }
            })
        })
        .collect();
    let pool = workers(&port, 4);
    chains
        .iter()
        .for_each(|op| op.read(&port, &file, 0).unwrap());

    let flooders: Vec<_> = (1..=2usize)
        .map(|thread| {
            let port = port.clone();
            spawn(move || {
                let mut random = thread.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                for i in 0..flood {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    // No address of this process, and no word that anybody posts.
                    let wild = random | 1 << 63 | 1;
                    let words = match i % 11 {
                        0 => (wild, wild.rotate_left(7)),
                        1 => (wild, 0),
                        2 => (0, 0),
                        3 => (0, wild),
                        4 => (closure_key, wild),
                        5 => (wake_key, wild),
                        6 => (count as *const () as usize, wild),
                        7 => (closure_key, addresses[0]),
                        at => (0, addresses[at - 8]),
                    };
                    post_raw(port.as_raw_handle(), (words.0, words.1, random as u32));
                    if i % 100 == 0 {
                        tick();
                    }
                }
            })
        })
        .collect();
    let counts: &[AtomicUsize; 2] = Box::leak(Box::default());
    let poster = spawn({
        let port = port.clone();
        move || {
            for _ in 0..real {
                let word = ptr::from_ref(&counts[0]).expose_provenance();
                port.post(word, count).unwrap();
                let mark = || {
                    counts[1].fetch_add(1, Ordering::Relaxed);
                };
                port.post_fn(mark).unwrap();
                port.wake_one().unwrap();
            }
        }
    });
    let echo = Op::new(64);
    for round in 0..real / 20 {
        let block = pattern(round, 64);
        std::io::Write::write_all(&mut &*client, &block).unwrap();
        let mut got = 0;
        while got < 64 {
            echo.recv(&port, &server).unwrap();
            let (bytes, error) = echo.wait();
            assert!(bytes > 0 && error == 0, "{bytes} {error}");
            assert_eq!(echo.data(bytes as usize), block[got..got + bytes as usize]);
            got += bytes as usize;
        }
        tick();
    }
    poster.join().unwrap();
    for flooder in flooders {
        flooder.join().unwrap();
    }
    reads.wait_for(4);
    foreign.wait_for(2 * flood);
    assert!(!pending.is_idle(), "forgeries did not end it");
    std::io::Write::write_all(&mut &*there, b"x").unwrap();
    assert_eq!(pending.wait(), (1, 0));
    pool.finish();
    while port.try_dispatch().unwrap() {}
    assert_eq!(counts[0].load(Ordering::Relaxed), real);
    assert_eq!(counts[1].load(Ordering::Relaxed), real);
    assert_eq!((idle.calls(), pending.calls()), (0, 1));
    assert!(chains.iter().all(|op| op.calls() == real / 10));
    assert_eq!(port.foreign_packets(), 2 * flood as u64);
    assert_eq!(foreign.get(), 2 * flood);
    assert_eq!(port.in_flight(), 0);
    port.close().unwrap();
}

fn d02_a_forged_copy_of_a_post_runs_no_callback_twice() {
    let (port, foreign) = watched();
    let copy = (note as *const () as usize, 5, 0);
    post_raw(port.as_raw_handle(), copy);
    (0..2).for_each(|_| port.post(5, note).unwrap());
    post_raw(port.as_raw_handle(), copy);
    (0..4).for_each(|_| port.dispatch().unwrap());
    // Which of the equal packets ran it cannot be told; it ran as often as it was posted.
    assert_eq!(seen(), [5, 5]);
    assert_eq!(*foreign.lock().unwrap(), [copy, copy]);
    assert!(!port.try_dispatch().unwrap());
}

fn d02_keys_of_longshore_with_payloads_of_others_are_foreign() {
    let (port, foreign) = watched();
    let [closure, wake] = own_keys();
    let posted = note as *const () as usize;
    port.post(1, note).unwrap();
    for key in [closure, wake, posted, 1, usize::MAX] {
        for payload in [0, 2, 8, usize::MAX, closure] {
            assert_ne!((key, payload), (posted, 1));
            post_raw(port.as_raw_handle(), (key, payload, 9));
        }
    }
    port.dispatch().unwrap();
    assert_eq!(seen(), [1], "the real one came first");
    for seen in 1..=25 {
        port.dispatch().unwrap();
        assert_eq!(port.foreign_packets(), seen);
    }
    assert!(!port.try_dispatch().unwrap());
    assert_eq!(seen(), []);
    assert_eq!(foreign.lock().unwrap().len(), 25);
}

fn d02_a_forged_completion_ends_no_operation() {
    let (port, foreign) = watched();
    let (here, there) = attached_pair(&port);
    let op = Op::new(4);
    let address = op.context().as_ptr().addr();
    let forged = (0, address, 3);
    assert_foreign(&port, &foreign, forged); // idle
    op.recv(&port, &here).unwrap();
    assert_foreign(&port, &foreign, forged); // pending
    assert_foreign(&port, &foreign, (0, address + 8, 3));
    assert_foreign(&port, &foreign, (0, 0, 0));
    std::io::Write::write_all(&mut &*there, b"x").unwrap();
    assert_eq!(op.finish(&port, Ok(())), (1, 0));
    assert_foreign(&port, &foreign, forged); // idle again
    assert_eq!(op.calls(), 1);
    drop(op);
    assert_foreign(&port, &foreign, forged); // freed
    assert!(!port.try_dispatch().unwrap());
}

fn d02_a_forged_completion_of_an_ended_operation_does_not_end_it_twice() {
    let (port, foreign) = watched();
    let scratch = Scratch::new();
    let file = attached_file(&port, &scratch, &pattern(0, 64));
    let op = Op::new(16);
    let forged = (0, op.context().as_ptr().addr(), 7);
    for calls in 1..=10 {
        // Both packets are on the port, and either may be believed: the result is in the header.
        op.read(&port, &file, 0).unwrap();
        post_raw(port.as_raw_handle(), forged);
        port.dispatch().unwrap();
        port.dispatch().unwrap();
        assert_eq!((op.calls(), op.last()), (calls, (16, 0)));
        assert_eq!(port.foreign_packets(), calls as u64);
        assert!(!port.try_dispatch().unwrap());
    }
    assert_eq!(foreign.lock().unwrap().len(), 10);
}

fn d02_io_that_longshore_was_not_told_of_is_foreign() {
    let (port, foreign) = watched();
    let scratch = Scratch::new();
    let file = attached_file(&port, &scratch, &pattern(0, 64));
    // Leaked: the kernel writes both.
    let overlapped = Box::leak(Box::new(OVERLAPPED::default()));
    let buffer = Box::leak(Box::new([0u8; 16]));
    let address = ptr::from_mut(overlapped).addr();
    // SAFETY: file, buffer and OVERLAPPED outlive the operation.
    let started = unsafe {
        let handle = file.as_raw_handle();
        let done = ReadFile(handle, buffer.as_mut_ptr(), 16, ptr::null_mut(), overlapped);
        done != 0 || GetLastError() == ERROR_IO_PENDING
    };
    assert!(started);
    port.dispatch().unwrap();
    assert_eq!(port.foreign_packets(), 1);
    assert_eq!(*foreign.lock().unwrap(), [(0, address, 16)]);
}

extern "C-unwind" fn event(word: usize, bytes: u32, error: u32) {
    for word in [word, bytes as usize, error as usize] {
        note(word);
    }
}

fn d02_trusted_packets_are_taken_at_their_word() {
    // SAFETY: this test posts keys that are callbacks, and live Contexts.
    let port = unsafe { builder().trust_packets() }.build().unwrap();
    let context = NonNull::from(Box::leak(Box::new(Context::new(event, 3))));
    let handle = port.as_raw_handle();
    post_raw(handle, (note as *const () as usize, 5, 0));
    post_raw(handle, (0, context.as_ptr().expose_provenance(), 6));
    port.dispatch().unwrap();
    assert_eq!(seen(), [5], "called, though nobody registered it");
    port.dispatch().unwrap();
    assert_eq!(seen(), [3, 6, 0], "the packet's bytes");
    assert_eq!(port.foreign_packets(), 0);
    // Even so nobody follows a null.
    post_raw(handle, (0, 0, 1));
    port.dispatch().unwrap();
    assert_eq!(port.foreign_packets(), 1);
    // And its own work goes on beside it.
    let (here, there) = attached_pair(&port);
    let op = Op::new(4);
    op.recv(&port, &here).unwrap();
    port.post(8, note).unwrap();
    port.dispatch().unwrap();
    std::io::Write::write_all(&mut &*there, b"x").unwrap();
    assert_eq!(op.finish(&port, Ok(())), (1, 0));
    assert_eq!(seen(), [8]);
}
