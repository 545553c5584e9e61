//! What a review found on Windows: others who take from the port, flood it, or skip it.
// UNSAFETY: takes and posts packets behind longshore's back, and calls what it takes.
#![expect(unsafe_code)]

use std::{
    io,
    os::windows::io::{AsHandle, AsRawHandle, AsRawSocket, RawHandle},
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use longshore::{
    Error,
    dispatcher::{Context, OnCallback},
};
use windows_sys::Win32::{
    Foundation::GetHandleInformation,
    Storage::FileSystem::SetFileCompletionNotificationModes,
    System::{
        IO::{GetQueuedCompletionStatus, OVERLAPPED},
        WindowsProgramming::FILE_SKIP_COMPLETION_PORT_ON_SUCCESS,
    },
};

use crate::{
    exported::{post_raw, take_raw},
    harness::{Counter, Test, builder, port, spawn, tick},
    io::{Op, refusal},
    io_things::{attached_pair, pair},
    support::{assert_closed, join, note, passed_in_a_child, seen, sleepers},
};

pub const TESTS: &[Test] = tests![
    d01_a_handle_that_skips_the_port_is_refused,
    d02_a_pending_operation_is_not_ended_by_a_trusted_packet,
    d10_a_flood_of_strangers_does_not_keep_the_port_open,
    d10_a_post_that_somebody_else_took_is_told_and_leaks_nothing,
    d10_others_may_call_every_key_while_the_port_is_closed,
];

fn is_open(handle: RawHandle) -> bool {
    let mut flags = 0;
    // SAFETY: any value may be asked about.
    unsafe { GetHandleInformation(handle, &raw mut flags) != 0 }
}

fn d01_a_handle_that_skips_the_port_is_refused() {
    let port = port();
    let (here, there) = pair();
    let skip = FILE_SKIP_COMPLETION_PORT_ON_SUCCESS as u8;
    // SAFETY: the socket is open; no pointers.
    let set = unsafe { SetFileCompletionNotificationModes(here.as_raw_socket() as _, skip) };
    assert_ne!(set, 0, "{}", io::Error::last_os_error());
    assert_eq!(refusal(port.attach(&*here)), Some(Error::SkipsPort));
    let op = Op::new(4);
    assert_eq!(refusal(op.send(&port, &here, 4)), Some(Error::NotAttached));
    // Its peer skips nothing.
    port.attach(&*there).unwrap();
    assert_eq!(op.finish(&port, op.send(&port, &there, 4)), (4, 0));
}

extern "C-unwind" fn event(word: usize, bytes: u32, error: u32) {
    for word in [word, bytes as usize, error as usize] {
        note(word);
    }
}

fn d02_a_pending_operation_is_not_ended_by_a_trusted_packet() {
    // SAFETY: this test posts addresses of live Contexts only.
    let port = unsafe { builder().trust_packets() }.build().unwrap();
    let (here, there) = attached_pair(&port);
    let op = Op::new(4);
    op.recv(&port, &here).unwrap();
    let address = op.context().as_ptr().expose_provenance();
    post_raw(port.as_raw_handle(), (0, address, 3));
    port.dispatch().unwrap();
    assert_eq!((op.calls(), port.foreign_packets()), (0, 1));
    assert_eq!(port.in_flight(), 1);
    std::io::Write::write_all(&mut &*there, b"x").unwrap();
    assert_eq!(op.finish(&port, Ok(())), (1, 0));

    // The same of an operation that longshore was only told of.
    let context = NonNull::from(Box::leak(Box::new(Context::new(event, 3))));
    // SAFETY: the Context lives for ever, and no system call uses it.
    unsafe { port.arm(context) }.unwrap();
    let address = context.as_ptr().expose_provenance();
    post_raw(port.as_raw_handle(), (0, address, 3));
    port.dispatch().unwrap();
    assert_eq!((seen(), port.foreign_packets()), (vec![], 2));
    // SAFETY: no system call uses it.
    assert!(unsafe { port.disarm(context) });
}

fn d10_a_post_that_somebody_else_took_is_told_and_leaks_nothing() {
    // In a process of its own, where nobody else gets the value of a closed handle.
    if passed_in_a_child() {
        return;
    }
    let port = builder().drain_timeout(Duration::ZERO).build().unwrap();
    let handle = port.as_raw_handle();
    port.post(7, note).unwrap();
    port.post(8, note).unwrap();
    let taken = take_raw(&port);
    assert_eq!(taken.1, 7);
    let mut handed = vec![];
    let error = port.close_with(|post| handed.push(post.context));
    let error = error.unwrap_err();
    assert_eq!(handed, [8]);
    let [failure] = error.failures() else {
        panic!("{error}");
    };
    assert_eq!(failure.error().kind(), io::ErrorKind::TimedOut, "{error}");
    assert!(!is_open(handle), "nothing refers to the port any more");
    assert_eq!(seen(), []);
}

fn d10_a_flood_of_strangers_does_not_keep_the_port_open() {
    const AHEAD: usize = 1000;
    let port = builder().drain_timeout(Duration::ZERO).build().unwrap();
    let (over, posted) = (Arc::new(AtomicBool::new(false)), Arc::new(Counter::new()));
    port.post(5, note).unwrap();
    let flooders: Vec<_> = (0..2)
        .map(|_| {
            let copy = port.as_handle().try_clone_to_owned().unwrap();
            let (over, posted) = (over.clone(), posted.clone());
            spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    for _ in 0..20 {
                        post_raw(copy.as_raw_handle(), (0x10, 1, 0));
                    }
                    posted.add(20);
                }
            })
        })
        .collect();
    posted.wait_for(AHEAD);
    let keep = port.clone();
    let mut handed = vec![];
    // It returns although there is always one more packet; and what was posted first is not lost.
    port.close_with(|post| handed.push(post.context)).unwrap();
    over.store(true, Ordering::Relaxed);
    assert_eq!(handed, [5]);
    assert_closed(keep.try_dispatch());
    join(flooders);
    assert_eq!(seen(), []);
}

/// The next packet, whoever queued it: (key, overlapped).
fn wait_raw(port: RawHandle) -> (usize, usize) {
    let (mut bytes, mut key, mut overlapped) = (0, 0, ptr::null_mut::<OVERLAPPED>());
    // SAFETY: the port is open, and the words are ours for the call.
    let taken = unsafe {
        GetQueuedCompletionStatus(
            port,
            &raw mut bytes,
            &raw mut key,
            &raw mut overlapped,
            u32::MAX,
        )
    };
    assert_ne!(taken, 0, "{}", io::Error::last_os_error());
    (key, overlapped.addr())
}

/// A thread that is nobody's dispatcher: calls what it takes, and counts, until a key is 0.
fn call_every_key(port: RawHandle) -> usize {
    for called in 0.. {
        let (key, payload) = wait_raw(port);
        if key == 0 {
            return called;
        }
        // SAFETY: the test lets nobody post to this port but longshore, each of whose keys that is
        // not zero is a callback (D2).
        let callback: OnCallback =
            unsafe { std::mem::transmute(ptr::with_exposed_provenance::<()>(key)) };
        callback(payload);
    }
    unreachable!()
}

fn d10_others_may_call_every_key_while_the_port_is_closed() {
    const OTHERS: usize = 2;
    // A key that cannot be called ends the process.
    if passed_in_a_child() {
        return;
    }
    // Until one of the others got what was meant to end a dispatcher's wait.
    let mut called = 0;
    while called == 0 {
        let port = port();
        let copy = Arc::new(port.as_handle().try_clone_to_owned().unwrap());
        let handle = copy.clone();
        let other = move |_: &_| call_every_key(handle.as_raw_handle());
        // Whichever end of the line is served first: others before and behind the dispatchers.
        let before = sleepers(&port, OTHERS, other.clone());
        let dispatchers = sleepers(&port, 3, |port| port.dispatch());
        let behind = sleepers(&port, OTHERS, other);
        port.clone().close().unwrap();
        join(dispatchers).into_iter().for_each(assert_closed);
        for _ in 0..2 * OTHERS {
            post_raw(copy.as_raw_handle(), (0, 0, 0));
        }
        called += join(before).iter().chain(&join(behind)).sum::<usize>();
        assert_eq!(port.foreign_packets(), 0);
        tick();
    }
}
