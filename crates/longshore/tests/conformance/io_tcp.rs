//! TCP: connections are whole, bytes arrive as they were sent, and each end is told apart (D12).

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
};

use longshore::Dispatcher;
use socket2::SockRef;

use crate::{
    harness::{Test, port, spawn, tick},
    io::{Op, kind, refusal},
    io_things::{attached_pair, fresh_socket, listener, loopback, pattern, reset, under_wine},
};

pub const TESTS: &[Test] = tests![
    d12_accept_and_connect_make_a_whole_connection_over_ipv4,
    d12_accept_and_connect_make_a_whole_connection_over_ipv6,
    d12_several_megabytes_come_back_as_they_were_sent,
    d12_a_send_of_8_mib_ends_as_a_whole,
    d12_the_end_of_a_stream_is_zero_bytes_and_no_error,
    d12_a_reset_is_an_error_not_the_end,
    d12_a_receive_after_a_reset_is_an_error_not_the_end.skip(forgets_resets),
    d12_a_refused_connect_can_be_tried_again,
    d12_a_client_that_resets_before_the_accept_leaves_the_listener_working,
    d06_two_receives_on_one_socket_end_in_order,
    d06_sends_on_one_socket_end_and_arrive_in_order,
    d12_a_receive_without_a_connection_is_an_error,
    d12_a_connected_socket_blocks_as_before,
];

fn connection(v6: bool) {
    let port = port();
    let listener = listener(v6);
    let client = fresh_socket(v6);
    port.attach(&*listener).unwrap();
    port.attach(&*client).unwrap();
    let (accept, connect) = (Op::new(0), Op::new(0));
    accept.accept(&port, &listener).unwrap();
    let target = listener.local_addr().unwrap();
    let connected = connect.connect(&port, &client, target);
    assert_eq!(connect.finish(&port, connected), (0, 0));
    assert_eq!(accept.finish(&port, Ok(())), (0, 0));

    let (server, peer) = accept.accepted().unwrap();
    assert!(accept.accepted().is_none(), "it is given once");
    let client_local = client.local_addr().unwrap().as_socket().unwrap();
    assert_eq!(client_local.ip(), loopback(v6).ip());
    assert_eq!(client.peer_addr().unwrap().as_socket(), Some(target));
    assert_eq!(peer, client_local);
    assert_eq!(server.local_addr().unwrap(), target);
    assert_eq!(server.peer_addr().unwrap(), client_local);

    // Shutting down one direction of each works, and the other end is told.
    port.attach(&*server).unwrap();
    let (at_server, at_client) = (Op::new(10), Op::new(10));
    at_server.recv(&port, &server).unwrap();
    at_client.recv(&port, &client).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(at_server.finish(&port, Ok(())), (0, 0));
    assert!(!at_client.is_idle(), "the other direction is open");
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(at_client.finish(&port, Ok(())), (0, 0));
    assert!(!port.try_dispatch().unwrap());
}

fn d12_accept_and_connect_make_a_whole_connection_over_ipv4() {
    connection(false);
}

fn d12_accept_and_connect_make_a_whole_connection_over_ipv6() {
    connection(true);
}

fn small_buffers(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    socket.set_send_buffer_size(16 << 10).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
}

fn d12_several_megabytes_come_back_as_they_were_sent() {
    const LEN: usize = 4 << 20;
    let port = port();
    let (here, there) = attached_pair(&port);
    port.attach(&*there).unwrap();
    small_buffers(&here);
    small_buffers(&there);
    let sent = pattern(1, LEN);
    let send = Op::with(sent.clone());
    send.send(&port, &here, LEN).unwrap();
    let (echo, back) = (Op::new(100_003), Op::new(70_001));
    echo.recv(&port, &there).unwrap();
    back.recv(&port, &here).unwrap();
    let (mut is_sending, mut received) = (false, Vec::new());
    while received.len() < LEN {
        port.dispatch().unwrap();
        tick();
        if echo.is_idle() {
            let (bytes, error) = echo.last();
            assert!(error == 0 && bytes > 0);
            let next = match is_sending {
                true => echo.recv(&port, &there),
                false => echo.send(&port, &there, bytes as usize),
            };
            next.unwrap();
            is_sending = !is_sending;
        }
        if back.is_idle() {
            let (bytes, error) = back.last();
            assert!(error == 0 && bytes > 0);
            received.extend(back.data(bytes as usize));
            if received.len() < LEN {
                back.recv(&port, &here).unwrap();
            }
        }
    }
    assert!(received == sent);
    assert_eq!(send.finish(&port, Ok(())), (LEN as u32, 0));
    assert_eq!(send.calls(), 1);
    // Its last operation is a receive, or the packet of its last send is on its way.
    if is_sending {
        echo.finish(&port, Ok(()));
        echo.recv(&port, &there).unwrap();
    }
    here.shutdown(Shutdown::Write).unwrap();
    assert_eq!(echo.finish(&port, Ok(())), (0, 0));
}

fn d12_a_send_of_8_mib_ends_as_a_whole() {
    const LEN: usize = 8 << 20;
    let port = port();
    let (here, there) = attached_pair(&port);
    let sent = pattern(2, LEN);
    let send = Op::with(sent.clone());
    send.send(&port, &here, LEN).unwrap();
    let reader = spawn(move || {
        let mut received = vec![0; LEN];
        (&*there).read_exact(&mut received).map(|()| received)
    });
    assert_eq!(send.finish(&port, Ok(())), (LEN as u32, 0));
    assert!(reader.join().unwrap().unwrap() == sent);
    assert_eq!(send.calls(), 1);
    assert!(!port.try_dispatch().unwrap());
}

fn d12_the_end_of_a_stream_is_zero_bytes_and_no_error() {
    let port = port();
    let (here, there) = attached_pair(&port);
    let op = Op::new(10);
    op.recv(&port, &here).unwrap();
    (&*there).write_all(b"last").unwrap();
    drop(there);
    assert_eq!(op.finish(&port, Ok(())), (4, 0));
    for calls in 2..4 {
        assert_eq!(op.finish(&port, op.recv(&port, &here)), (0, 0));
        assert_eq!(op.calls(), calls, "it came through dispatch");
    }
}

/// The reset's own code, as `io::Error` understands it.
fn assert_reset((bytes, error): (u32, u32)) {
    assert_eq!(bytes, 0);
    assert_eq!(kind(error), io::ErrorKind::ConnectionReset, "{error}");
    assert!(!cfg!(windows) || error == 10054, "Winsock's code: {error}");
}

fn d12_a_reset_is_an_error_not_the_end() {
    let port = port();
    let (here, there) = attached_pair(&port);
    let op = Op::new(10);
    op.recv(&port, &here).unwrap();
    reset(there);
    assert_reset(op.finish(&port, Ok(())));
}

fn forgets_resets() -> Option<String> {
    under_wine("its server takes a reset that nobody waits for, and later receives see the end")
}

fn d12_a_receive_after_a_reset_is_an_error_not_the_end() {
    let port = port();
    let (here, there) = attached_pair(&port);
    reset(there);
    // Whether the reset has arrived by now or not, it is what ends the receive.
    let op = Op::new(10);
    assert_reset(op.finish(&port, op.recv(&port, &here)));
    assert_eq!(port.in_flight(), 0);
    assert!(!port.try_dispatch().unwrap());
}

fn d12_a_refused_connect_can_be_tried_again() {
    let port = port();
    let closed = listener(false).local_addr().unwrap();
    let op = Op::new(0);
    let first = fresh_socket(false);
    port.attach(&*first).unwrap();
    let (bytes, error) = op.finish(&port, op.connect(&port, &first, closed));
    assert_eq!((bytes, kind(error)), (0, io::ErrorKind::ConnectionRefused));
    assert_eq!(port.in_flight(), 0);

    // The same Context, another socket, somebody there.
    let listener = listener(false);
    let second = fresh_socket(false);
    port.attach(&*second).unwrap();
    let target = listener.local_addr().unwrap();
    assert_eq!(op.finish(&port, op.connect(&port, &second, target)), (0, 0));
    let (mut server, peer) = listener.accept().unwrap();
    assert_eq!(second.local_addr().unwrap().as_socket(), Some(peer));
    server.write_all(b"hello").unwrap();
    let read = Op::new(10);
    assert_eq!(read.finish(&port, read.recv(&port, &second)), (5, 0));
}

fn d12_a_client_that_resets_before_the_accept_leaves_the_listener_working() {
    let port = port();
    let listener = listener(false);
    port.attach(&*listener).unwrap();
    let target = listener.local_addr().unwrap();
    for _ in 0..3 {
        reset(Arc::new(TcpStream::connect(target).unwrap()));
    }
    let client = TcpStream::connect(target).unwrap();
    // What became of the three is the system's choice: an accept may bring a dead connection or
    // an error of that connection. The listener goes on in any case.
    let op = Op::new(0);
    for _ in 0..4 {
        let (_, error) = op.finish(&port, op.accept(&port, &listener));
        if error != 0 {
            continue;
        }
        let (server, peer) = op.accepted().unwrap();
        if peer == client.local_addr().unwrap() {
            (&*server).write_all(b"served").unwrap();
            drop(server);
            let mut answer = String::new();
            (&client).read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "served");
            return;
        }
    }
    panic!("the live client was not accepted");
}

fn d06_two_receives_on_one_socket_end_in_order() {
    let port = port();
    let (here, there) = attached_pair(&port);
    let ops: Vec<_> = (0..8).map(|_| Op::new(4)).collect();
    for round in 0..50u8 {
        ops.iter().for_each(|op| op.recv(&port, &here).unwrap());
        let sent: Vec<u8> = (0..32).map(|i| round ^ i).collect();
        (&*there).write_all(&sent).unwrap();
        // One at a time: the first to be started is the first to end, with the first bytes.
        let mut received = Vec::new();
        for (i, op) in ops.iter().enumerate() {
            while !op.is_idle() {
                port.dispatch().unwrap();
                assert!(ops[i + 1..].iter().all(|later| !later.is_idle()) || op.is_idle());
            }
            let (bytes, error) = op.last();
            assert!(error == 0 && bytes > 0);
            received.extend(op.data(bytes as usize));
        }
        assert_eq!(received, sent);
    }
}

fn d06_sends_on_one_socket_end_and_arrive_in_order() {
    const LEN: usize = 200_000;
    let port = port();
    let (here, there) = attached_pair(&port);
    small_buffers(&here);
    let ops: Vec<_> = (0..8).map(|i| Op::with(pattern(i, LEN))).collect();
    ops.iter()
        .for_each(|op| op.send(&port, &here, LEN).unwrap());
    let reader = spawn(move || {
        let mut received = vec![0; 8 * LEN];
        (&*there).read_exact(&mut received).map(|()| received)
    });
    for op in &ops {
        assert_eq!(op.finish(&port, Ok(())), (LEN as u32, 0));
    }
    let received = reader.join().unwrap().unwrap();
    for (i, block) in received.chunks(LEN).enumerate() {
        assert!(block == pattern(i, LEN), "block {i}");
    }
}

fn d12_a_receive_without_a_connection_is_an_error() {
    let port = port();
    let socket = fresh_socket(false);
    port.attach(&*socket).unwrap();
    let op = Op::new(10);
    let (bytes, error) = op.finish(&port, op.recv(&port, &socket));
    assert_eq!((bytes, kind(error)), (0, io::ErrorKind::NotConnected));
    assert_eq!(port.in_flight(), 0);
    // It can be connected all the same, and then it receives.
    let listener = listener(false);
    let target = listener.local_addr().unwrap();
    assert_eq!(op.finish(&port, op.connect(&port, &socket, target)), (0, 0));
    listener.accept().unwrap().0.write_all(b"now").unwrap();
    assert_eq!(op.finish(&port, op.recv(&port, &socket)), (3, 0));
    assert_eq!(
        refusal(port.attach(&*socket)),
        Some(longshore::Error::AlreadyAttached)
    );
}

/// A blocking read waits; a non-blocking one would say so at once.
fn d12_a_connected_socket_blocks_as_before() {
    fn check(port: &Dispatcher, nonblocking: bool) {
        let listener = listener(false);
        let socket = fresh_socket(false);
        socket.set_nonblocking(nonblocking).unwrap();
        port.attach(&*socket).unwrap();
        let op = Op::new(10);
        let target = listener.local_addr().unwrap();
        assert_eq!(op.finish(port, op.connect(port, &socket, target)), (0, 0));
        let (mut server, _) = listener.accept().unwrap();
        let (about_to, started) = std::sync::mpsc::channel();
        let reader = spawn(move || {
            about_to.send(()).unwrap();
            let mut byte = [0];
            (&*socket).read(&mut byte)
        });
        if nonblocking {
            let refused = reader.join().unwrap().unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
            return;
        }
        started.recv().unwrap();
        server.write_all(b"x").unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), 1);
    }
    let port = port();
    (0..20).for_each(|_| check(&port, false));
    check(&port, true);
}
