//! Packets, waits, and the end of a port.
// UNSAFETY: posts to the exported handle as a stranger would.
#![expect(unsafe_code)]

use std::{
    io::{Read as _, Write as _},
    os::windows::io::AsRawHandle as _,
    sync::{atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};

use windows_sys::Win32::System::IO::PostQueuedCompletionStatus;

use super::{super::queue::timeout_ms, *};

#[test]
fn d02_packets_keep_their_words_and_their_order() {
    let port = port();
    for key in 1..=100 {
        port.post(word(key)).expect("a post");
    }
    for key in 1..=100 {
        assert_eq!(
            port.take(Wait::Forever, &Unwatched).expect("a take"),
            Some(word(key))
        );
    }
    nothing_left(&port);
    close(port);
}

#[test]
fn d06_timeouts_round_up_and_never_become_infinite() {
    let longest = u32::MAX - 1;
    for (left, expected) in [
        (Duration::ZERO, 0),
        (Duration::from_nanos(1), 1),
        (Duration::from_micros(900), 1),
        (Duration::from_millis(1), 1),
        (Duration::from_nanos(1_000_001), 2),
        (Duration::from_millis(u64::from(longest)), longest),
        (Duration::from_millis(u64::from(u32::MAX)), longest),
        (Duration::from_millis((1 << 32) + 50), longest),
        (Duration::MAX, longest),
    ] {
        assert_eq!(timeout_ms(left), expected, "{left:?}");
    }
}

#[test]
fn d06_a_finite_wait_is_never_early() {
    let port = port();
    for wait in [1, 900_000, 1_100_000, 20_000_000].map(Duration::from_nanos) {
        let deadline = Instant::now() + wait;
        assert_eq!(
            port.take(Wait::Until(deadline), &Unwatched)
                .expect("a wait"),
            None
        );
        assert!(Instant::now() >= deadline, "{wait:?} was too short");
    }
    close(port);
}

#[test]
fn d06_each_packet_is_taken_exactly_once_by_many_threads() {
    const EACH: usize = 2_000;
    let port = port();
    let mut seen = thread::scope(|scope| {
        for poster in 0..4 {
            let port = &port;
            scope.spawn(move || {
                (0..EACH).for_each(|i| port.post(word(poster * EACH + i + 1)).expect("a post"));
            });
        }
        let takers = [(); 4].map(|()| {
            scope.spawn(|| {
                let take = |_| {
                    port.take(soon(), &Unwatched)
                        .expect("a take")
                        .expect("a packet")
                        .key
                };
                (0..EACH).map(take).collect::<Vec<_>>()
            })
        });
        takers.map(|taker| taker.join().expect("a taker")).concat()
    });
    seen.sort_unstable();
    assert!(seen.into_iter().eq(1..=4 * EACH));
    nothing_left(&port);
    close(port);
}

#[test]
fn d10_shut_releases_blocked_takers_and_refuses_the_rest() {
    let port = port();
    let (done, finished) = mpsc::channel();
    thread::scope(|scope| {
        for wait in [Wait::Forever, Wait::Forever, soon(), soon()] {
            let (port, done) = (&port, done.clone());
            scope.spawn(move || done.send(port.take(wait, &Unwatched)));
        }
        while port.waiting.load(Ordering::SeqCst) < 4 {
            thread::yield_now();
        }
        let mut failures = Vec::new();
        assert!(port.shut(&mut failures));
        assert!(!port.shut(&mut failures), "the second time");
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(port.waiting.load(Ordering::SeqCst), 0);
        for _ in 0..4 {
            refused(
                finished.recv_timeout(PATIENCE).expect("a taker"),
                Error::Closed,
            );
        }
    });
    refused(port.post(word(1)), Error::Closed);
    refused(port.take(Wait::Poll, &Unwatched), Error::Closed);
    refused(port.take(Wait::Forever, &Unwatched), Error::Closed);
    assert_eq!(port.take_rest(Wait::Poll).expect("a look"), None);
}

#[test]
fn d10_what_was_posted_before_shut_is_left_for_the_clean_up() {
    let port = port();
    port.post(word(5)).expect("a post");
    assert!(port.shut(&mut Vec::new()));
    // Swallowed, however many are left.
    port.queue.post(Iocp::close_packet()).expect("a post");
    port.queue.post(word(6)).expect("a post");
    let rest = |wait| {
        port.take_rest(wait)
            .expect("a take")
            .map(|rest| rest.packet)
    };
    assert_eq!(rest(Wait::Poll), Some(word(5)));
    assert_eq!(rest(soon()), Some(word(6)));
    assert_eq!(port.take_rest(Wait::Poll).expect("a look"), None);
}

#[test]
fn d10_release_closes_once_and_cleans_up_if_nobody_did() {
    let mut port = port();
    let mut failures = Vec::new();
    port.release(false, &mut failures);
    port.clean_up(&mut failures);
    port.release(false, &mut failures);
    assert!(failures.is_empty(), "{failures:?}");
    refused(port.queue.post(word(1)), Error::Closed);
    // Sockets of others go on working.
    let (mut client, mut server) = pair();
    client.write_all(b"x").expect("a send");
    server.read_exact(&mut [0]).expect("a receive");
}

#[test]
fn d01_strangers_post_to_the_exported_handle() {
    let port = port();
    let raw = port.as_handle().as_raw_handle();
    let key = Iocp::close_packet().key;
    // SAFETY: the port is open; the words are carried only.
    let posted = unsafe { PostQueuedCompletionStatus(raw, 0, key, std::ptr::null()) };
    assert_ne!(posted, 0);
    // While the port is open the CLOSE key is a stranger's packet like any other.
    assert_eq!(
        port.take(soon(), &Unwatched)
            .expect("a take")
            .expect("a packet")
            .key,
        key
    );
    close(port);
}
