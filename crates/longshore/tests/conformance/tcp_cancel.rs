//! Cancelling and dropping what is in flight: one outcome each, no byte lost, no memory touched
//! after it was given up.

use std::{
    io::{Read, Write},
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_lite::future::block_on;
use longshore::{ABORTED, Transfer, net::TcpStream};

use crate::{
    harness::{Counter, Test, port, scaled, spawn, tick},
    io_things::{loopback, workers},
    pool::{Pool, Stream},
    races::bounded,
    support::{pause, spin_until},
    tcp::{listen, pair},
};

pub const TESTS: &[Test] = tests![
    tcp_cancel_resolves_to_what_happened,
    tcp_cancel_of_a_write_tells_how_much_was_sent,
    tcp_cancel_races_completion_and_loses_no_byte,
    tcp_dropped_reads_touch_no_memory_and_the_next_gets_the_data,
    tcp_dropped_reads_race_the_data,
    tcp_timeout_gives_the_read_back_and_loses_no_byte,
    tcp_a_dropped_connect_is_cancelled,
    tcp_an_accepted_connection_that_nobody_claims_is_closed,
    tcp_a_dropped_accept_leaves_the_next_one_its_connection,
];

fn tcp_cancel_resolves_to_what_happened() {
    let port = port();
    let (stream, mut peer) = pair(&port);
    let read = stream.read(vec![0; 16]);
    read.cancel();
    read.cancel();
    let (count, _) = port.block_on(read).unwrap();
    assert_eq!(count.unwrap_err().raw_os_error(), Some(ABORTED as i32));
    // Too late: the bytes are there. The result was waiting, on Windows perhaps in the port.
    peer.write_all(b"there").unwrap();
    let mut got = Vec::new();
    while got.len() < 5 {
        let read = stream.read(vec![0; 16]);
        while port.try_dispatch().unwrap() {}
        let (count, buffer) = port.block_on(poll_then_cancel(read)).unwrap();
        got.extend_from_slice(&buffer[..count.unwrap_or(0)]);
    }
    assert_eq!(got, b"there");
    // Only the one that is meant.
    let (first, second) = (stream.read(vec![0; 4]), stream.read(vec![0; 4]));
    first.cancel();
    assert!(port.block_on(first).unwrap().0.is_err());
    peer.write_all(b"2nd").unwrap();
    let (count, buffer) = port.block_on(second).unwrap();
    assert_eq!(&buffer[..count.unwrap()], b"2nd");
}

/// Ready already, or cancelled and awaited.
async fn poll_then_cancel(mut read: Transfer<Vec<u8>>) -> (std::io::Result<usize>, Vec<u8>) {
    match futures_lite::future::poll_once(&mut read).await {
        Some(ended) => ended,
        None => {
            read.cancel();
            read.await
        }
    }
}

fn tcp_cancel_of_a_write_tells_how_much_was_sent() {
    let port = port();
    let (stream, mut peer) = pair(&port);
    let data = crate::io_things::pattern(1, 30_000_000);
    let write = stream.write(data);
    // The peer reads nothing, so it is stuck.
    write.cancel();
    let (result, data) = port.block_on(write).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    // Each byte that arrived is one of the first ones, in order.
    assert!(data.starts_with(&got));
    match result {
        Ok(count) => assert_eq!(count, got.len()),
        // Windows does not say how much of a cancelled send has left.
        Err(_) => assert!(got.is_empty() || cfg!(windows)),
    }
}

fn tcp_cancel_races_completion_and_loses_no_byte() {
    let port = port();
    let pool = workers(&port, 1);
    let (stream, mut peer) = pair(&port);
    let buffers = Pool::default();
    let (sent, received) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let go = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let sender = spawn({
        let (sent, go, stop) = (sent.clone(), go.clone(), stop.clone());
        move || {
            let (mut data, mut rounds) = (Stream::default(), 0);
            while !stop.load(SeqCst) {
                if go.load(SeqCst) > rounds {
                    rounds += 1;
                    pause(rounds % 97 * 10);
                    peer.write_all(&data.next(3)).unwrap();
                    sent.store(data.passed(), SeqCst);
                }
                std::hint::spin_loop();
            }
            peer
        }
    });
    let mut expected = Stream::default();
    let (mut won, mut lost) = (0, 0);
    let rounds = bounded(scaled(100_000), |round| {
        let read = stream.read(buffers.take(16));
        go.store(round + 1, SeqCst);
        pause(round % 89 * 10);
        read.cancel();
        let (result, buffer) = block_on(read);
        match result {
            Ok(count) => {
                won += 1;
                assert_eq!(buffer.data(), expected.next(count));
            }
            Err(error) => {
                lost += 1;
                assert_eq!(error.raw_os_error(), Some(ABORTED as i32));
                assert_eq!(buffer.data(), expected.next(buffer.data().len()));
            }
        }
        received.store(expected.passed(), SeqCst);
    });
    spin_until(|| sent.load(SeqCst) == 3 * rounds);
    stop.store(true, SeqCst);
    while expected.passed() < 3 * rounds {
        let (count, buffer) = block_on(stream.read(buffers.take(16)));
        assert_eq!(buffer.data(), expected.next(count.unwrap()));
    }
    let _peer = sender.join().unwrap();
    println!("{rounds} rounds: {won} reads won, {lost} cancels");
    assert_eq!(won + lost, rounds);
    buffers.verify();
    pool.finish();
    assert_eq!(port.in_flight(), 0);
}

fn tcp_dropped_reads_touch_no_memory_and_the_next_gets_the_data() {
    let port = port();
    let (stream, mut peer) = pair(&port);
    let (buffers, mut data) = (Pool::default(), Stream::default());
    for _ in 0..scaled(1000) {
        drop(stream.read(buffers.take(8)));
        let sent = data.next(5);
        peer.write_all(&sent).unwrap();
        let mut got = Vec::new();
        while got.len() < 5 {
            let (count, buffer) = port.block_on(stream.read(buffers.take(8))).unwrap();
            count.unwrap();
            got.extend(buffer.data());
        }
        assert_eq!(got, sent);
        tick();
    }
    while port.try_dispatch().unwrap() {}
    assert_eq!(port.in_flight(), 0);
    assert!(buffers.verify() > 0);
}

/// Each dropped read may have taken what had arrived, so the sender sends one numbered message for
/// each and only the memory is watched.
fn tcp_dropped_reads_race_the_data() {
    let port = port();
    let pool = workers(&port, 2);
    let (stream, mut peer) = pair(&port);
    let (buffers, stop) = (Pool::default(), Arc::new(AtomicBool::new(false)));
    let sender = spawn({
        let stop = stop.clone();
        move || {
            let mut turns = 0;
            while !stop.load(SeqCst) {
                peer.write_all(&[0x55; 64]).unwrap();
                turns += 1;
                pause(turns % 61 * 20);
            }
            peer
        }
    });
    let mut awaited = 0;
    let rounds = bounded(scaled(10_000), |round| {
        let mut read = stream.read(buffers.take(64));
        pause(round % 71 * 20);
        if round % 4 == 0 && block_on(futures_lite::future::poll_once(&mut read)).is_some() {
            awaited += 1;
        }
        drop(read);
        // So that the socket never runs full.
        if round % 8 == 0 {
            let (count, buffer) = block_on(stream.read(buffers.take(64)));
            assert!(
                buffer.data()[..count.unwrap()]
                    .iter()
                    .all(|&byte| byte == 0x55)
            );
        }
    });
    stop.store(true, SeqCst);
    // The sender may be stuck in a full socket.
    let drain = spawn(move || {
        block_on(async { while let (Ok(1..), _) = stream.read(vec![0; 65536]).await {} });
    });
    drop(sender.join().unwrap());
    drain.join().unwrap();
    println!("{rounds} reads dropped, {awaited} of them were ready");
    pool.finish();
    while port.try_dispatch().unwrap() {}
    assert_eq!(port.in_flight(), 0, "each dropped read got its packet");
    // Every buffer is back, and nobody has written to one since.
    assert!(buffers.verify() > 0);
}

fn tcp_timeout_gives_the_read_back_and_loses_no_byte() {
    let port = port();
    let pool = workers(&port, 1);
    let (stream, mut peer) = pair(&port);
    let rounds = scaled(300);
    let timed_out = Arc::new(Counter::new());
    let seen = timed_out.clone();
    let sender = spawn(move || {
        let mut data = Stream::default();
        for round in 0..rounds {
            if round % 10 == 0 {
                // Nothing is sent until one more read has run out of time.
                seen.wait_for(seen.get() + 1);
            }
            peer.write_all(&data.next(4)).unwrap();
            // Around the limit of the reads.
            std::thread::sleep(Duration::from_micros(round as u64 * 13 % 1500));
        }
    });
    let (mut expected, mut elapsed) = (Stream::default(), 0);
    block_on(async {
        let mut read = stream.read(vec![0; 4]);
        loop {
            match port.timeout(Duration::from_micros(700), read).await {
                Ok((count, buffer)) => {
                    let count = count.unwrap();
                    if count == 0 {
                        break;
                    }
                    assert_eq!(buffer[..count], expected.next(count));
                    read = stream.read(buffer);
                }
                Err(not_yet) => {
                    elapsed += 1;
                    timed_out.add(1);
                    read = not_yet.future;
                    tick();
                }
            }
        }
    });
    sender.join().unwrap();
    assert_eq!(expected.passed(), 4 * rounds);
    println!("{elapsed} time-outs");
    assert!(elapsed >= rounds / 10);
    pool.finish();
}

fn tcp_a_dropped_connect_is_cancelled() {
    let port = port();
    let (_listener, address) = listen(&port);
    for _ in 0..scaled(200) {
        let mut connect = Box::pin(TcpStream::connect(&port, address));
        let _ = block_on(futures_lite::future::poll_once(&mut connect));
        drop(connect);
    }
    while port.in_flight() > 0 {
        port.dispatch().unwrap();
    }
    assert!(!port.try_dispatch().unwrap());
}

/// The peer sees the end, or a reset.
fn assert_ended(mut peer: std::net::TcpStream) {
    match peer.read(&mut [0; 8]) {
        Ok(0) => {}
        Ok(count) => panic!("{count} bytes from nobody"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

fn tcp_an_accepted_connection_that_nobody_claims_is_closed() {
    let port = port();
    for round in 0..scaled(100) {
        let (listener, address) = listen(&port);
        let accept = listener.accept();
        let peer = std::net::TcpStream::connect(address).unwrap();
        if round % 2 == 0 {
            // It has ended by now, and the connection is inside.
            while port.in_flight() > 0 {
                port.dispatch().unwrap();
            }
        }
        drop(accept);
        while port.in_flight() > 0 {
            port.dispatch().unwrap();
        }
        // Otherwise it may be in the backlog still, and goes with the listener.
        drop(listener);
        assert_ended(peer);
        tick();
    }
    let (listener, address) = listen(&port);
    // One that ended, but is never polled again: its own task is gone.
    let accept = port.spawn(listener.accept());
    let peer = std::net::TcpStream::connect(address).unwrap();
    port.block_on(async {
        while !accept.is_finished() {
            crate::task::yield_now().await;
        }
    })
    .unwrap();
    drop(accept);
    assert_ended(peer);
}

fn tcp_a_dropped_accept_leaves_the_next_one_its_connection() {
    let port = port();
    let listener = longshore::net::TcpListener::bind(&port, loopback(false)).unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..scaled(100) {
        drop(listener.accept());
        let (first, second) = (listener.accept(), listener.accept());
        drop(first);
        while port.try_dispatch().unwrap() {}
        let peer = std::net::TcpStream::connect(address).unwrap();
        let (stream, from) = port.block_on(second).unwrap().unwrap();
        assert_eq!(from, peer.local_addr().unwrap());
        drop((stream, peer));
        tick();
    }
}
