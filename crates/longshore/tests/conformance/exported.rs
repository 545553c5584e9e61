//! The exported handle, seen from outside: D1 and D2 on Windows, and the caller's own operations.
// UNSAFETY: uses the port's handle behind longshore's back.
#![expect(unsafe_code)]

use std::{
    os::windows::io::{AsHandle, AsRawHandle, RawHandle},
    ptr::{self, NonNull},
    time::Duration,
};

use longshore::{Dispatcher, Error, dispatcher::Context};
use windows_sys::Win32::{
    Foundation::{CloseHandle, ERROR_INVALID_HANDLE, GetHandleInformation},
    System::IO::{GetQueuedCompletionStatus, OVERLAPPED, PostQueuedCompletionStatus},
};

use crate::{
    harness::{Test, builder, port, tick},
    support::{Token, assert_closed, join, note, passed_in_a_child, rounds, seen, sleepers},
};

pub const TESTS: &[Test] = tests![
    d01_the_handle_is_the_port_itself,
    d01_the_handle_stays_open_while_a_clone_lives,
    d02_a_raw_dequeue_sees_the_callback_and_the_payload,
    d02_a_raw_dequeue_sees_key_0_and_the_context,
    d02_a_raw_post_of_a_registered_callback_is_dispatched,
    d04_an_armed_context_is_in_flight_until_it_is_disarmed,
    d05_a_post_that_the_kernel_refuses_gives_the_closure_back,
    d08_a_wake_has_payload_0,
    d10_what_cannot_be_drained_is_leaked_with_its_port,
];

/// The words of the next packet: (key, overlapped, bytes).
pub fn take_raw(port: &Dispatcher) -> (usize, usize, u32) {
    let (mut bytes, mut key, mut overlapped) = (0, 0, ptr::null_mut::<OVERLAPPED>());
    // SAFETY: the port is open and the words are ours for the call.
    let taken = unsafe {
        GetQueuedCompletionStatus(
            port.as_raw_handle(),
            &raw mut bytes,
            &raw mut key,
            &raw mut overlapped,
            0,
        )
    };
    assert_ne!(taken, 0, "{}", std::io::Error::last_os_error());
    (key, overlapped.addr(), bytes)
}

pub fn post_raw(port: RawHandle, (key, overlapped, bytes): (usize, usize, u32)) {
    // SAFETY: the kernel carries the words and follows none.
    let posted = unsafe {
        PostQueuedCompletionStatus(port, bytes, key, ptr::without_provenance(overlapped))
    };
    assert_ne!(posted, 0, "{}", std::io::Error::last_os_error());
}

fn is_open(handle: RawHandle) -> bool {
    let mut flags = 0;
    // SAFETY: any value may be asked about.
    unsafe { GetHandleInformation(handle, &raw mut flags) != 0 }
}

fn d01_the_handle_is_the_port_itself() {
    let port = port();
    let handle = port.as_handle().as_raw_handle();
    assert_eq!(handle, port.as_raw_handle());
    assert_eq!(handle, port.clone().as_raw_handle());
    assert_ne!(handle, crate::harness::port().as_raw_handle());
    // A copy of the handle is the same port.
    let copy = port.as_handle().try_clone_to_owned().unwrap();
    port.post(3, note).unwrap();
    let words = take_raw(&port);
    post_raw(copy.as_raw_handle(), words);
    port.dispatch().unwrap();
    assert_eq!(seen(), [3]);
}

fn d01_the_handle_stays_open_while_a_clone_lives() {
    if passed_in_a_child() {
        return;
    }
    let port = port();
    let handle = port.as_raw_handle();
    port.clone().close().unwrap();
    assert!(is_open(handle));
    assert_eq!(port.as_raw_handle(), handle);
    drop(port);
    assert!(!is_open(handle));
}

fn d02_a_raw_dequeue_sees_the_callback_and_the_payload() {
    let port = port();
    for payload in [0, 7, usize::MAX] {
        port.post(payload, note).unwrap();
        let words = take_raw(&port);
        assert_eq!(words, (note as *const () as usize, payload, 0));
        // Put back, it is still the post that longshore made.
        post_raw(port.as_raw_handle(), words);
        port.dispatch().unwrap();
        assert_eq!(seen(), [payload]);
    }
    assert_eq!(port.foreign_packets(), 0);
}

extern "C-unwind" fn event(word: usize, bytes: u32, error: u32) {
    for word in [word, bytes as usize, error as usize] {
        note(word);
    }
}

fn context(word: usize) -> NonNull<Context> {
    NonNull::from(Box::leak(Box::new(Context::new(event, word))))
}

fn d02_a_raw_dequeue_sees_key_0_and_the_context() {
    let port = port();
    let context = context(5);
    // SAFETY: the Context lives for ever.
    unsafe { port.repost(context, 6, 7) }.unwrap();
    let words = take_raw(&port);
    assert_eq!(words, (0, context.as_ptr().addr(), 6));
    post_raw(port.as_raw_handle(), words);
    port.dispatch().unwrap();
    assert_eq!(seen(), [5, 6, 7]);
}

fn d02_a_raw_post_of_a_registered_callback_is_dispatched() {
    let port = port();
    // SAFETY: a safe function takes any word, and is there for ever.
    let callback = unsafe { port.register_callback(note) };
    for word in [0, 1, usize::MAX] {
        post_raw(
            port.as_raw_handle(),
            (callback as *const () as usize, word, 99),
        );
        port.dispatch().unwrap();
        assert_eq!(seen(), [word]);
    }
    assert!(port.unregister_callback(callback));
    post_raw(port.as_raw_handle(), (callback as *const () as usize, 1, 0));
    port.dispatch().unwrap();
    assert_eq!((seen(), port.foreign_packets()), (vec![], 1));
}

fn d04_an_armed_context_is_in_flight_until_it_is_disarmed() {
    let port = port();
    let context = context(1);
    // SAFETY: no system call was made.
    let disarm = || unsafe { port.disarm(context) };
    assert!(!disarm());
    for _ in 0..2 {
        // SAFETY: the Context lives for ever and no system call uses it.
        unsafe {
            port.arm(context).unwrap();
            assert_eq!(Context::raw_status(context), 0x103);
            let refused = port.arm(context).unwrap_err();
            assert_eq!(Error::of(&refused), Some(Error::ContextInFlight));
            let refused = port.repost(context, 0, 0).unwrap_err();
            assert_eq!(Error::of(&refused), Some(Error::ContextInFlight));
        }
        assert_eq!(port.in_flight(), 1);
        assert!(disarm());
        assert!(!disarm());
        assert_eq!(port.in_flight(), 0);
    }
    port.clone().close().unwrap();
    // SAFETY: as above.
    assert_closed(unsafe { port.arm(context) });
    assert_eq!(port.in_flight(), 0);
}

fn d05_a_post_that_the_kernel_refuses_gives_the_closure_back() {
    if passed_in_a_child() {
        return;
    }
    let port = port();
    // SAFETY: closed under longshore on purpose, in a process where nobody gets the value again.
    assert_ne!(unsafe { CloseHandle(port.as_raw_handle()) }, 0);
    let refused = |error: &std::io::Error| {
        assert_eq!(error.raw_os_error(), Some(ERROR_INVALID_HANDLE as i32));
    };
    let dropped = std::sync::Arc::default();
    let token = Token::new(&dropped);
    let back = port.post_fn(move || {
        note(4);
        drop(token);
    });
    let back = back.unwrap_err();
    refused(&back.error);
    (back.closure)();
    assert_eq!(seen(), [4]);
    assert_eq!(dropped.load(std::sync::atomic::Ordering::SeqCst), 1);
    refused(&port.post(1, note).unwrap_err());
    refused(&port.wake_one().unwrap_err());
    let context = context(2);
    // SAFETY: the Context lives for ever.
    refused(&unsafe { port.repost(context, 0, 0) }.unwrap_err());
    assert_eq!(
        port.in_flight(),
        0,
        "a refused Context is the caller's again"
    );
    let other = crate::harness::port();
    // SAFETY: as above.
    unsafe { other.repost(context, 3, 0) }.unwrap();
    other.dispatch().unwrap();
    assert_eq!(seen(), [2, 3, 0]);
    // The handle's value may be that of the other port now; nobody may close it.
    std::mem::forget(port);
}

fn d08_a_wake_has_payload_0() {
    let port = port();
    port.wake_one().unwrap();
    let words = take_raw(&port);
    assert_ne!(words.0, 0);
    assert_eq!((words.1, words.2), (0, 0));
    post_raw(port.as_raw_handle(), words);
    let woken = join(sleepers(&port, 1, |port| port.dispatch()));
    woken.into_iter().for_each(|result| result.unwrap());
    assert_eq!(port.foreign_packets(), 0);
}

fn d10_what_cannot_be_drained_is_leaked_with_its_port() {
    if passed_in_a_child() {
        return;
    }
    for _ in 0..rounds(30) {
        let port = builder().drain_timeout(Duration::ZERO).build().unwrap();
        let handle = port.as_raw_handle();
        let context = context(9);
        // SAFETY: the Context lives for ever.
        unsafe { port.arm(context) }.unwrap();
        port.post(1, note).unwrap();
        let mut handed = 0;
        let error = port.close_with(|_| handed += 1).unwrap_err();
        assert_eq!(handed, 1, "what is there is handed over all the same");
        let [failure] = error.failures() else {
            panic!("{error}");
        };
        assert_eq!(failure.error().kind(), std::io::ErrorKind::TimedOut);
        assert!(is_open(handle), "the kernel may still use it");
        // SAFETY: no pointers. It gives back the start-up that was leaked with the port.
        let clean_up = unsafe { windows_sys::Win32::Networking::WinSock::WSACleanup() };
        assert_eq!(clean_up, 0, "Winsock was not cleaned up under the kernel");
        tick();
    }
    assert_eq!(seen(), []);
}
