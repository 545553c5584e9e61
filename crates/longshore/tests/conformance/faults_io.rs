//! What goes wrong around awaited I/O: nothing hangs, nothing else is disturbed, nothing leaks.

use std::{
    io::{Read, Write},
    sync::Arc,
    time::Duration,
};

use futures_lite::future::block_on;
use longshore::task::JoinError;
#[cfg(target_os = "linux")]
use longshore::{Dispatcher, net::TcpStream};

use crate::{
    harness::{Test, port, scaled, tick},
    io_things::{pattern, reset, workers},
    pool::Pool,
    support::word_of,
    task::yield_now,
    tcp::{client, echo, listen, pair},
};
#[cfg(target_os = "linux")]
use crate::{support::passed_in_a_child, tcp::serve};

pub const TESTS: &[Test] = tests![
    fault_a_panic_in_one_connection_disturbs_no_other,
    fault_a_killed_client_disturbs_no_other,
    fault_a_reset_ends_reads_and_writes_in_flight,
    fault_closing_with_a_thousand_operations_in_flight_ends_them_all,
    fault_a_hundred_thousand_operations_wait_at_once,
];

#[cfg(target_os = "linux")]
pub const LINUX: &[Test] = tests![
    fault_accept_without_descriptors_fails_and_then_works,
    fault_as_many_connections_as_may_be_open_echo,
];

fn fault_a_panic_in_one_connection_disturbs_no_other() {
    const CLIENTS: usize = 8;
    let port = port();
    let pool = workers(&port, 2);
    let (listener, address) = listen(&port);
    let there = port.clone();
    let server = port.spawn(async move {
        let mut tasks = Vec::new();
        for i in 0..CLIENTS {
            let (stream, _) = listener.accept().await.unwrap();
            tasks.push(there.spawn(async move {
                if i == 3 {
                    stream.read(vec![0; 1]).await.0.unwrap();
                    std::panic::resume_unwind(Box::new(i));
                }
                echo(stream).await.unwrap();
            }));
        }
        let mut ended = Vec::new();
        for task in tasks {
            ended.push(task.await);
        }
        ended
    });
    // One after the other, so that it is known whose is the fourth.
    for i in 0..CLIENTS {
        if i == 3 {
            let mut unlucky = std::net::TcpStream::connect(address).unwrap();
            unlucky.write_all(b"!").unwrap();
            // Its connection is closed with its task.
            assert!(matches!(unlucky.read(&mut [0; 1]), Ok(0) | Err(_)));
        } else {
            block_on(client(port.clone(), address, pattern(i, 10_000)));
        }
    }
    for (i, ended) in block_on(server).unwrap().into_iter().enumerate() {
        match (i, ended) {
            (3, Err(JoinError::Panicked(payload))) => assert_eq!(word_of(&*payload), 3),
            (_, ended) => ended.unwrap(),
        }
    }
    pool.finish();
}

fn fault_a_killed_client_disturbs_no_other() {
    let port = port();
    let pool = workers(&port, 2);
    let (listener, address) = listen(&port);
    let there = port.clone();
    let server = port.spawn(async move {
        let mut tasks = Vec::new();
        for _ in 0..20 {
            let (stream, _) = listener.accept().await.unwrap();
            tasks.push(there.spawn(echo(stream)));
        }
        let mut failed = 0;
        for task in tasks {
            failed += usize::from(task.await.unwrap().is_err());
        }
        failed
    });
    for i in 0..10 {
        // It fills both directions and is gone, with a reset, in the middle of it.
        let mut killed = std::net::TcpStream::connect(address).unwrap();
        killed.set_nonblocking(true).unwrap();
        while killed.write(&pattern(i, 60_000)).is_ok() {}
        let other = port.spawn(client(port.clone(), address, pattern(i, 50_000)));
        reset(Arc::new(killed));
        block_on(other).unwrap();
        tick();
    }
    assert_eq!(
        block_on(server).unwrap(),
        10,
        "each of the killed ones was told"
    );
    pool.finish();
}

fn fault_a_reset_ends_reads_and_writes_in_flight() {
    let port = port();
    let pool = workers(&port, 1);
    let (stream, peer) = pair(&port);
    let buffers = Pool::default();
    let read = stream.read(buffers.take(16));
    // More than both sockets hold.
    let write = stream.write(pattern(1, 30_000_000));
    reset(Arc::new(peer));
    let (count, buffer) = block_on(read);
    // Linux tells a reset once; whoever comes second sees the end.
    assert!(matches!(count, Ok(0) | Err(_)));
    drop(buffer);
    let (count, data) = block_on(write);
    assert_eq!(data.len(), 30_000_000);
    if let Ok(sent) = count {
        // What was sent before is told; the next write meets the error.
        assert!(sent < data.len());
        assert!(block_on(stream.write("x")).0.is_err());
    }
    assert_eq!(buffers.verify(), 1);
    pool.finish();
}

fn fault_closing_with_a_thousand_operations_in_flight_ends_them_all() {
    const SOCKETS: usize = 10;
    let count = scaled(1000);
    let (port, buffers) = (port(), Pool::default());
    let pairs: Vec<_> = (0..SOCKETS).map(|_| pair(&port)).collect();
    let (listener, _) = listen(&port);
    let reads: Vec<_> = (0..count)
        .map(|i| pairs[i % SOCKETS].0.read(buffers.take(32)))
        .collect();
    let sleeps: Vec<_> = (0..count)
        .map(|_| port.spawn(port.sleep(Duration::from_secs(3600))))
        .collect();
    let accept = listener.accept();
    while port.try_dispatch().unwrap() {}
    assert_eq!(port.in_flight(), count + 1);
    port.clone().close().unwrap();
    assert_eq!(port.in_flight(), 0);
    for read in reads {
        let (result, buffer) = block_on(read);
        assert!(result.is_err());
        drop(buffer);
    }
    assert!(block_on(accept).is_err());
    for sleep in sleeps {
        assert!(block_on(sleep).is_err());
    }
    assert_eq!(buffers.verify(), count);
}

fn fault_a_hundred_thousand_operations_wait_at_once() {
    const SOCKETS: usize = 10;
    let count = scaled(50_000);
    let port = port();
    let pairs: Vec<_> = (0..SOCKETS).map(|_| pair(&port)).collect();
    // Receives, each in flight, and sleeps, each polled.
    let mut reads: Vec<_> = (0..SOCKETS)
        .map(|_| std::collections::VecDeque::new())
        .collect();
    for i in 0..count {
        reads[i % SOCKETS].push_back(pairs[i % SOCKETS].0.read(Box::new([0u8; 1])));
        if i % 1000 == 0 {
            tick();
        }
    }
    assert_eq!(port.in_flight(), count);
    let mut sleeps: Vec<_> = (0..count)
        .map(|i| port.sleep(Duration::from_secs(3600 + i as u64 % 7)))
        .collect();
    for sleep in &mut sleeps {
        assert!(block_on(futures_lite::future::poll_once(sleep)).is_none());
    }
    tick();
    assert!(!port.try_dispatch().unwrap());
    // First come, first served, from in front of a long queue.
    for (i, (_, peer)) in pairs.iter().enumerate() {
        (&*peer).write_all(&[i as u8]).unwrap();
        let first = reads[i].pop_front().unwrap();
        let (got, byte) = port.block_on(first).unwrap();
        assert_eq!((got.unwrap(), byte[0]), (1, i as u8));
    }
    assert_eq!(port.in_flight(), count - SOCKETS);
    drop(sleeps);
    // Cancelling the last ones first is no worse than any other order.
    drop(reads);
    while port.in_flight() > 0 {
        port.dispatch().unwrap();
        if port.in_flight().is_multiple_of(1000) {
            tick();
        }
    }
    // A stray tick is nobody's entry.
    assert!(!port.try_dispatch().unwrap());
    port.block_on(async { yield_now().await }).unwrap();
}

#[cfg(target_os = "linux")]
fn fault_accept_without_descriptors_fails_and_then_works() {
    if passed_in_a_child() {
        return;
    }
    let port = port();
    let (listener, address) = listen(&port);
    // Made before they run out.
    let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let clients = [socket().unwrap(), socket().unwrap()];
    let waiting = listener.accept();
    let plugged = os::use_up_descriptors();
    for client in &clients {
        client.connect(&address.into()).unwrap();
    }
    let error = port.block_on(waiting).unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    // Again, and again: no hang, no spin, and the port goes on.
    for _ in 0..3 {
        let error = port.block_on(listener.accept()).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    }
    assert_eq!(port.block_on(port.spawn(async { 1 })).unwrap().unwrap(), 1);
    drop(plugged);
    for client in &clients {
        let (_, peer) = port.block_on(listener.accept()).unwrap().unwrap();
        assert_eq!(Some(peer), client.local_addr().unwrap().as_socket());
    }
}

/// Opens one connection and says that it works.
#[cfg(target_os = "linux")]
async fn greet(port: &Dispatcher, address: std::net::SocketAddr, number: usize) -> TcpStream {
    let stream = TcpStream::connect(port, address).await.unwrap();
    ask(&stream, number).await;
    stream
}

#[cfg(target_os = "linux")]
async fn ask(stream: &TcpStream, number: usize) {
    let message = (number as u32).to_le_bytes();
    stream.write_all(message.to_vec()).await.0.unwrap();
    let mut got = Vec::new();
    while got.len() < 4 {
        let (count, buffer) = stream.read(vec![0; 4 - got.len()]).await;
        let count = count.unwrap();
        assert_ne!(count, 0);
        got.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(got, message);
}

/// Half of the descriptors are the clients'.
#[cfg(target_os = "linux")]
fn fault_as_many_connections_as_may_be_open_echo() {
    if passed_in_a_child() {
        return;
    }
    let count = os::raise_descriptors();
    println!("{count} connections");
    let port = port();
    let pool = workers(&port, 2);
    let (listener, address) = listen(&port);
    let server = port.spawn(serve(port.clone(), listener, count));
    let mut streams = Vec::new();
    for i in 0..count {
        streams.push(block_on(greet(&port, address, i)));
        tick();
    }
    // All of them are open, and each still answers.
    for (i, stream) in streams.iter().enumerate() {
        block_on(ask(stream, i * 3));
        tick();
    }
    drop(streams);
    block_on(server).unwrap();
    pool.finish();
}

#[cfg(target_os = "linux")]
mod os {
    use std::fs::File;

    use crate::resources;

    const CONNECTIONS: usize = 10_000;
    const OTHERS: u64 = 100;

    pub fn use_up_descriptors() -> Vec<File> {
        let (_, most) = resources::descriptors();
        assert!(resources::set_descriptors(
            (resources::handles() as u64 + 20).min(most)
        ));
        let mut files = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            files.push(file);
        }
        files
    }

    /// Both ends of ten thousand connections, or as many as are allowed.
    pub fn raise_descriptors() -> usize {
        let (_, most) = resources::descriptors();
        let wanted = 2 * CONNECTIONS as u64 + OTHERS;
        match resources::set_descriptors(wanted) {
            true => CONNECTIONS,
            false => {
                assert!(resources::set_descriptors(most));
                most.saturating_sub(OTHERS) as usize / 2
            }
        }
    }
}
