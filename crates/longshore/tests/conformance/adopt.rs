//! A completion port that was there before the dispatcher.
// UNSAFETY: makes ports, and uses them beside longshore.
#![expect(unsafe_code)]

use std::{
    os::windows::io::{
        AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle, RawHandle,
    },
    ptr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use longshore::{Dispatcher, Error, Packet, net::UdpSocket};
use windows_sys::Win32::{
    Foundation::{
        CloseHandle, ERROR_INVALID_HANDLE, ERROR_OPERATION_ABORTED, GetHandleInformation,
        INVALID_HANDLE_VALUE,
    },
    Networking::WinSock::{SOCKET, WSABUF, WSARecv},
    System::{
        IO::{CancelIoEx, CreateIoCompletionPort, GetQueuedCompletionStatus, OVERLAPPED},
        Threading::CreateEventW,
    },
};

use crate::{
    exported::post_raw,
    harness::{Test, builder, port, scaled, spawn, tick},
    io::{Op, refusal},
    io_things::{attached_pair, loopback, pair},
    support::{Token, assert_closed, join, note, passed_in_a_child, seen, sleepers, spin_until},
};

pub const TESTS: &[Test] = tests![
    adopt_an_owned_port_is_used_and_closed_with_the_dispatcher,
    adopt_a_port_that_cannot_be_closed_is_told,
    adopt_a_borrowed_port_stays_open_and_nothing_of_ours_is_left_in_it,
    adopt_a_timer_queues_nothing_once_the_port_is_given_back,
    adopt_what_others_queued_goes_back_in_order_and_with_its_status,
    adopt_packets_of_others_are_foreign_whatever_their_key,
    adopt_an_owned_port_hands_over_what_others_queued,
    adopt_a_busy_owner_does_not_hold_closing_up_and_loses_nothing,
    adopt_one_dispatcher_after_the_other,
    adopt_a_drain_that_fails_leaves_the_owner_his_port,
    adopt_what_is_no_port_is_refused,
];

/// A port of the test's own.
pub fn raw_port() -> OwnedHandle {
    // SAFETY: no pointers; made just now, and nobody else owns it.
    unsafe {
        let port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, ptr::null_mut(), 0, 0);
        assert!(!port.is_null(), "{}", std::io::Error::last_os_error());
        OwnedHandle::from_raw_handle(port)
    }
}

/// A loan for the whole life of the process.
pub fn lent(port: &OwnedHandle) -> BorrowedHandle<'static> {
    // SAFETY: each test keeps the port open until its dispatchers are gone.
    unsafe { BorrowedHandle::borrow_raw(port.as_raw_handle()) }
}

/// A dispatcher on a port that stays the test's.
pub fn on_loan(port: &OwnedHandle) -> Dispatcher {
    // SAFETY: nobody follows a word of a packet that is not his.
    unsafe { builder().adopt_borrowed(lent(port)) }
        .build()
        .unwrap()
}

type Words = (usize, usize, u32);

/// The next packet and the error that its operation has ended with, or 0. `None`: there is none.
fn take(port: &OwnedHandle) -> Option<(Words, u32)> {
    take_within(port, 0)
}

fn take_within(port: &OwnedHandle, timeout_ms: u32) -> Option<(Words, u32)> {
    let (mut bytes, mut key, mut overlapped) = (0, 0, ptr::null_mut::<OVERLAPPED>());
    // SAFETY: the port is open and the words are ours for the call.
    let done = unsafe {
        GetQueuedCompletionStatus(
            port.as_raw_handle(),
            &raw mut bytes,
            &raw mut key,
            &raw mut overlapped,
            timeout_ms,
        )
    };
    let error = std::io::Error::last_os_error();
    let error = error.raw_os_error().unwrap_or_default().cast_unsigned();
    match (done, overlapped.is_null()) {
        (0, true) => None,
        (0, false) => Some(((key, overlapped.addr(), bytes), error)),
        _ => Some(((key, overlapped.addr(), bytes), 0)),
    }
}

fn words(port: &OwnedHandle) -> Vec<Words> {
    std::iter::from_fn(|| take(port).map(|(words, _)| words)).collect()
}

fn is_open(handle: RawHandle) -> bool {
    let mut flags = 0;
    // SAFETY: any value may be asked about.
    unsafe { GetHandleInformation(handle, &raw mut flags) != 0 }
}

fn adopt_an_owned_port_is_used_and_closed_with_the_dispatcher() {
    if passed_in_a_child() {
        return;
    }
    let raw = raw_port();
    let copy = raw.try_clone().unwrap();
    let value = raw.as_raw_handle();
    // SAFETY: nobody else uses it.
    let port = unsafe { builder().adopt(raw) }.build().unwrap();
    assert_eq!(port.as_raw_handle(), value);
    port.post(4, note).unwrap();
    let ((key, word, _), _) = take(&copy).expect("it is the same port");
    assert_eq!((key, word), (note as *const () as usize, 4));
    post_raw(copy.as_raw_handle(), (key, word, 0));
    port.dispatch().unwrap();
    assert_eq!(seen(), [4]);
    let blocked = sleepers(&port, 2, Dispatcher::dispatch);
    port.clone().close().unwrap();
    join(blocked).into_iter().for_each(assert_closed);
    assert!(is_open(value), "a clone lives");
    drop(port);
    assert!(!is_open(value));
}

fn adopt_a_port_that_cannot_be_closed_is_told() {
    if passed_in_a_child() {
        return;
    }
    let raw = raw_port();
    let value = raw.as_raw_handle();
    // SAFETY: nobody else uses it.
    let port = unsafe { builder().adopt(raw) }.build().unwrap();
    // SAFETY: closed under longshore on purpose, in a process where nobody gets the value again.
    assert_ne!(unsafe { CloseHandle(value) }, 0);
    let error = port.close().unwrap_err();
    let last = error.failures().last().unwrap();
    assert_eq!(last.attempt(), "close the completion port");
    let code = last.error().raw_os_error();
    assert_eq!(code, Some(ERROR_INVALID_HANDLE.cast_signed()));
}

fn adopt_a_borrowed_port_stays_open_and_nothing_of_ours_is_left_in_it() {
    let raw = raw_port();
    for round in 0..scaled(100) {
        let port = on_loan(&raw);
        let dropped = Arc::default();
        let (here, _there) = attached_pair(&port);
        let pending = Op::new(4);
        pending.recv(&port, &here).unwrap();
        let socket = UdpSocket::bind(&port, loopback(false)).unwrap();
        let receiving = port.spawn(async move { socket.recv_from(vec![0; 4]).await.0.is_err() });
        let napping = port.spawn(port.sleep(Duration::from_millis(round as u64 % 3)));
        while port.try_dispatch().unwrap() {}
        let blocked = sleepers(&port, round % 3, |port| while port.dispatch().is_ok() {});
        for word in 0..5 {
            let token = Token::new(&dropped);
            port.post_fn(move || drop(token)).unwrap();
            port.post(word, quiet).unwrap();
            port.wake_one().unwrap();
        }
        match blocked.len() {
            // Nobody else has a clone.
            0 => drop(port),
            _ => port.close().unwrap(),
        }
        join(blocked);
        assert_eq!(dropped.load(Ordering::SeqCst), 5);
        assert_eq!(pending.calls(), 1);
        assert!(receiving.is_finished() && napping.is_finished());
        assert_eq!(words(&raw), [], "round {round}");
        tick();
    }
    assert!(is_open(raw.as_raw_handle()));
}

extern "C-unwind" fn quiet(_word: usize) {}

fn adopt_a_timer_queues_nothing_once_the_port_is_given_back() {
    let raw = raw_port();
    for _ in 0..scaled(100) {
        let port = on_loan(&raw);
        let napping = port.spawn(port.sleep(Duration::from_millis(3)));
        port.dispatch().unwrap();
        // The clone keeps everything but the port's being open.
        port.clone().close().unwrap();
        assert!(napping.is_finished());
        // An alarm that goes off all the same would end this wait.
        assert_eq!(take_within(&raw, 10), None);
        tick();
    }
}

/// Packets that a host might queue: sentinels, a null, words that look like longshore's.
fn strange() -> Vec<Words> {
    vec![
        (usize::MAX, 0, 0),
        (0, 0, 0),
        (7, 8, 9),
        (0, 0x1000, 1),
        (1, usize::MAX, u32::MAX),
        (note as *const () as usize, 3, 0),
        (usize::MAX, 0, 0),
    ]
}

fn adopt_what_others_queued_goes_back_in_order_and_with_its_status() {
    let raw = raw_port();
    let (stream, _peer) = pair();
    let socket = std::os::windows::io::AsRawSocket::as_raw_socket(&*stream) as SOCKET;
    // An operation of the host's, which ends with an error.
    let mut overlapped = Box::new(OVERLAPPED::default());
    let (mut buffer, mut flags) = ([0u8; 8], 0);
    let header = &raw mut *overlapped;
    // SAFETY: header and buffer live until the packet, which is taken below.
    unsafe {
        let port = CreateIoCompletionPort(socket as _, raw.as_raw_handle(), 77, 0);
        assert!(!port.is_null());
        let buffers = WSABUF {
            len: 8,
            buf: buffer.as_mut_ptr(),
        };
        let nothing = ptr::null_mut();
        WSARecv(
            socket,
            &raw const buffers,
            1,
            nothing,
            &raw mut flags,
            header,
            None,
        );
        assert_ne!(CancelIoEx(socket as _, header), 0);
    }
    let port = on_loan(&raw);
    let mut expected = vec![((77, header.addr(), 0), ERROR_OPERATION_ABORTED)];
    for (number, words) in strange().into_iter().enumerate() {
        post_raw(raw.as_raw_handle(), words);
        expected.push((words, 0));
        port.post(number, quiet).unwrap();
    }
    let mut handed = Vec::new();
    port.clone()
        .close_with(|post| handed.push(post.context))
        .unwrap();
    assert_eq!(handed, (0..7).collect::<Vec<_>>());
    assert_eq!(port.foreign_packets(), 0, "put back, so not counted");
    drop(port);
    let back: Vec<_> = std::iter::from_fn(|| take(&raw)).collect();
    assert_eq!(back, expected);
}

/// A builder that remembers foreign packets.
fn watched() -> (longshore::Builder, Arc<Mutex<Vec<Words>>>) {
    let foreign = Arc::<Mutex<Vec<Words>>>::default();
    let seen = foreign.clone();
    let hook = move |packet: Packet| {
        let words = (packet.key, packet.overlapped, packet.bytes);
        seen.lock().unwrap().push(words);
    };
    (builder().on_foreign(hook), foreign)
}

fn adopt_packets_of_others_are_foreign_whatever_their_key() {
    let raw = raw_port();
    let (builder, foreign) = watched();
    // SAFETY: nobody follows a word of a packet that is not his.
    let port = unsafe { builder.adopt_borrowed(lent(&raw)) }
        .build()
        .unwrap();
    let strange = strange();
    for words in &strange {
        post_raw(raw.as_raw_handle(), *words);
    }
    for count in 1..=strange.len() {
        port.dispatch().unwrap();
        assert_eq!(port.foreign_packets(), count as u64);
    }
    assert_eq!(*foreign.lock().unwrap(), strange);
    assert_eq!(seen(), []);
    assert!(!port.try_dispatch().unwrap());
}

fn adopt_an_owned_port_hands_over_what_others_queued() {
    let raw = raw_port();
    let copy = raw.try_clone().unwrap();
    let (builder, foreign) = watched();
    // SAFETY: nobody else takes from it.
    let port = unsafe { builder.adopt(raw) }.build().unwrap();
    for words in strange() {
        post_raw(copy.as_raw_handle(), words);
    }
    port.close().unwrap();
    assert_eq!(*foreign.lock().unwrap(), strange());
    assert_eq!(words(&copy), []);
}

fn adopt_a_busy_owner_does_not_hold_closing_up_and_loses_nothing() {
    const KEY: usize = 5;
    for _ in 0..scaled(50) {
        // A port for each round, so that what nobody takes does not pile up.
        let (raw, end) = (Arc::new(raw_port()), Arc::new(AtomicBool::new(false)));
        let posted = Arc::new(AtomicUsize::new(0));
        let flood = spawn({
            let (raw, end, posted) = (raw.clone(), end.clone(), posted.clone());
            move || {
                for word in 1.. {
                    post_raw(raw.as_raw_handle(), (KEY, word, 0));
                    posted.store(word, Ordering::SeqCst);
                    if end.load(Ordering::SeqCst) {
                        return;
                    }
                }
            }
        });
        let port = on_loan(&raw);
        let blocked = sleepers(&port, 1, |port| while port.dispatch().is_ok() {});
        spin_until(|| posted.load(Ordering::SeqCst) > 50);
        // It goes on until closing is over.
        port.clone().close().unwrap();
        join(blocked);
        end.store(true, Ordering::SeqCst);
        flood.join().unwrap();
        let mut left = words(&raw);
        assert!(left.iter().all(|words| words.0 == KEY && words.2 == 0));
        left.sort_unstable();
        assert!(left.windows(2).all(|two| two[0] != two[1]), "none twice");
        // The sleeper took some while the port was open.
        let seen = left.len() + port.foreign_packets() as usize;
        assert_eq!(seen, posted.load(Ordering::SeqCst), "none lost");
        tick();
    }
}

fn adopt_one_dispatcher_after_the_other() {
    let raw = raw_port();
    for word in 0..scaled(100) {
        let port = on_loan(&raw);
        let (stream, peer) = attached_pair(&port);
        let op = Op::new(3);
        op.recv(&port, &stream).unwrap();
        std::io::Write::write_all(&mut &*peer, b"abc").unwrap();
        port.post(word, note).unwrap();
        port.dispatch().unwrap();
        port.dispatch().unwrap();
        assert_eq!((seen(), op.calls()), (vec![word], 1));
        assert_eq!(port.foreign_packets(), 0);
        port.close().unwrap();
        tick();
    }
    assert_eq!(words(&raw), []);
}

fn adopt_a_drain_that_fails_leaves_the_owner_his_port() {
    if passed_in_a_child() {
        return;
    }
    let raw = raw_port();
    post_raw(raw.as_raw_handle(), (3, 4, 5));
    // SAFETY: nobody follows a word of a packet that is not his.
    let port = unsafe { builder().adopt_borrowed(lent(&raw)) };
    let port = port.drain_timeout(Duration::ZERO).build().unwrap();
    let op = Box::leak(Box::new(longshore::dispatcher::Context::new(event, 0)));
    // SAFETY: the Context lives for ever, and no call is made.
    unsafe { port.arm(ptr::NonNull::from(op)) }.unwrap();
    let error = port.close().unwrap_err();
    assert_eq!(error.failures().len(), 1, "{error}");
    assert!(is_open(raw.as_raw_handle()));
    assert_eq!(words(&raw), [(3, 4, 5)]);
}

extern "C-unwind" fn event(_word: usize, _bytes: u32, _error: u32) {}

fn adopt_what_is_no_port_is_refused() {
    // SAFETY: no attributes and no name; made just now, and nobody else owns it.
    let event = unsafe {
        let event = CreateEventW(ptr::null(), 0, 0, ptr::null());
        OwnedHandle::from_raw_handle(event)
    };
    let file = tempfile::tempfile().unwrap();
    for handle in [event.as_handle(), file.as_handle()] {
        // SAFETY: it is refused.
        unsafe {
            let handle = BorrowedHandle::borrow_raw(handle.as_raw_handle());
            let refused = builder().adopt_borrowed(handle).build().map(drop);
            assert_eq!(refusal(refused), Some(Error::NotAPort));
            let owned = handle.try_clone_to_owned().unwrap();
            let refused = builder().adopt(owned).build().map(drop);
            assert_eq!(refusal(refused), Some(Error::NotAPort));
        }
    }
    assert!(is_open(event.as_raw_handle()));
    // SAFETY: the value of a handle that can never be; it is refused.
    let nothing = unsafe { BorrowedHandle::borrow_raw(ptr::without_provenance_mut(0x7fff_fff4)) };
    // SAFETY: as above.
    let refused = unsafe { builder().adopt_borrowed(nothing) }
        .build()
        .map(drop);
    assert_eq!(refusal(refused), Some(Error::BadHandle));
    // The next dispatcher is none the worse.
    port().close().unwrap();
}
