//! Sockets.
// UNSAFETY: drives operations whose packets come in any order.
#![expect(unsafe_code)]

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::windows::io::{AsRawHandle as _, AsRawSocket as _},
    time::Duration,
};

use super::*;
use crate::submission::AcceptSlot;

fn recv<'a>(socket: &'a TcpStream, buffer: &mut [u8]) -> Submission<'a> {
    Submission::Recv {
        socket: socket.into(),
        buffer: buffer.as_mut_ptr(),
        len: buffer.len(),
    }
}

fn connected_by_the_port(port: &Iocp, address: &str) -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind(address).expect("a listener");
    let target = listener.local_addr().expect("its address");
    port.attach(Handle::from(&listener), Terms::CONTEXTS)
        .expect("attach");
    let mut slot = Box::new(AcceptSlot::new());
    let accept = Op::new();
    let accepting = accept.start(
        port,
        Submission::Accept {
            listener: Handle::from(&listener),
            slot: NonNull::from(&mut *slot),
        },
    );
    let domain = socket2::Domain::for_address(target);
    let client = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
    port.attach(Handle::from(&client), Terms::CONTEXTS)
        .expect("attach");
    let connect = Op::new();
    let connecting = connect.start(
        port,
        Submission::Connect {
            socket: Handle::from(&client),
            address: target,
        },
    );
    // Either may come first.
    let mut ops = vec![(accept, accepting), (connect, connecting)];
    while !ops.is_empty() {
        let packet = port
            .take(soon(), &Unwatched)
            .expect("a take")
            .expect("a packet");
        let its = |(op, _): &(Op, Issued)| op.0.as_ptr().addr() == packet.overlapped;
        let (op, issued) = ops.remove(ops.iter().position(its).expect("one of ours"));
        // SAFETY: the packet was taken; slot and sockets live.
        let settled = unsafe {
            let outcome = port.outcome(Some(&issued), op.0).expect("not pending");
            drop(Box::from_raw(op.0.as_ptr()));
            port.settle(&issued, outcome)
        };
        assert_eq!(settled, Completion::ok(0));
    }
    let (server, peer) = slot.take().expect("an accepted socket");
    (client.into(), server, peer)
}

#[test]
fn d05_accept_connect_send_and_receive() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let port = port();
        let (client, server, peer) = connected_by_the_port(&port, address);
        // Both are full members of the connection.
        assert_eq!(peer, client.local_addr().expect("an address"));
        assert_eq!(peer, server.peer_addr().expect("an address"));
        assert_eq!(client.peer_addr().ok(), server.local_addr().ok());
        port.attach(Handle::from(&server), Terms::CONTEXTS)
            .expect("attach");
        let mut buffer = [0; 16];
        let receive = Op::new();
        let receiving = receive.start(&port, recv(&server, &mut buffer));
        nothing_left(&port);
        let send = Op::new();
        let sending = send.start(
            &port,
            Submission::Send {
                socket: Handle::from(&client),
                buffer: b"hello".as_ptr(),
                len: 5,
            },
        );
        let (first, second) = (port.take(soon(), &Unwatched), port.take(soon(), &Unwatched));
        let taken = [first, second].map(|p| p.expect("a take").expect("a packet").overlapped);
        assert!(taken.contains(&receive.0.as_ptr().addr()));
        assert!(taken.contains(&send.0.as_ptr().addr()));
        for (op, issued) in [(receive, receiving), (send, sending)] {
            // SAFETY: both packets were taken.
            let outcome = unsafe { port.outcome(Some(&issued), op.0) };
            assert_eq!(outcome, Some(Completion::ok(5)));
            // SAFETY: the kernel is done with it.
            drop(unsafe { Box::from_raw(op.0.as_ptr()) });
        }
        assert_eq!(&buffer[..5], b"hello");
        client
            .shutdown(std::net::Shutdown::Write)
            .expect("shutdown");
        let end = Op::new();
        let ending = end.start(&port, recv(&server, &mut buffer));
        assert_eq!(end.finish(&port, &ending), Completion::ok(0));
        nothing_left(&port);
        close(port);
    }
}

#[test]
fn d12_a_refused_connection_is_connection_refused() {
    let port = port();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    let domain = socket2::Domain::IPV4;
    let client = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
    // Bound before: tolerated.
    client
        .bind(
            &"127.0.0.1:0"
                .parse::<SocketAddr>()
                .expect("an address")
                .into(),
        )
        .expect("bind");
    port.attach(Handle::from(&client), Terms::CONTEXTS)
        .expect("attach");
    let connect = Op::new();
    let connecting = connect.start(
        &port,
        Submission::Connect {
            socket: Handle::from(&client),
            address,
        },
    );
    let error = connect
        .finish(&port, &connecting)
        .result()
        .expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
    close(port);
}

#[test]
fn d12_a_reset_is_connection_reset_and_not_the_end() {
    let port = port();
    let (client, server) = pair();
    port.attach(Handle::from(&server), Terms::CONTEXTS)
        .expect("attach");
    let mut buffer = [0; 16];
    let receive = Op::new();
    let receiving = receive.start(&port, recv(&server, &mut buffer));
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .expect("linger");
    drop(client);
    let error = receive
        .finish(&port, &receiving)
        .result()
        .expect_err("reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    close(port);
}

#[test]
fn d10_a_pending_receive_is_cancelled_with_the_abort_code() {
    let port = port();
    let (mut client, server) = pair();
    let handle = Handle::from(&server);
    port.attach(handle, Terms::CONTEXTS).expect("attach");
    let mut buffers = [[0; 16]; 3];
    for (buffer, named) in buffers.iter_mut().zip([true, false, true]) {
        let receive = Op::new();
        let receiving = receive.start(&port, recv(&server, buffer));
        let header = receive.0;
        // SAFETY: the header lives.
        assert_eq!(unsafe { port.outcome(Some(&receiving), header) }, None);
        let target = named.then_some(handle.raw());
        assert!(port.cancel(target, header).expect("asked"));
        assert!(!port.cancel(target, header).expect("asked twice"));
        let done = receive.finish(&port, &receiving);
        assert_eq!((done.bytes, done.error), (0, Iocp::ABORTED));
        assert!(!port.cancel(target, header).expect("asked late"));
    }
    // The connection is as good as before.
    let receive = Op::new();
    let receiving = receive.start(&port, recv(&server, &mut buffers[0]));
    client.write_all(b"still there").expect("a send");
    assert_eq!(receive.finish(&port, &receiving), Completion::ok(11));
    nothing_left(&port);
    close(port);
}

#[test]
fn c15_closing_under_a_pending_receive_is_an_abort_and_no_reset() {
    let port = port();
    let (_client, server) = pair();
    port.attach(Handle::from(&server), Terms::CONTEXTS)
        .expect("attach");
    let mut buffer = [0; 16];
    let receive = Op::new();
    let receiving = receive.start(&port, recv(&server, &mut buffer));
    drop(server);
    let done = receive.finish(&port, &receiving);
    assert!([995, 10053].contains(&done.error), "{done:?}");
    nothing_left(&port);
    close(port);
}

#[test]
fn c17_a_cancelled_accept_closes_its_fresh_socket() {
    let port = port();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    port.attach(Handle::from(&listener), Terms::CONTEXTS)
        .expect("attach");
    let mut slot = Box::new(AcceptSlot::new());
    let accept = Op::new();
    let accepting = accept.start(
        &port,
        Submission::Accept {
            listener: Handle::from(&listener),
            slot: NonNull::from(&mut *slot),
        },
    );
    assert!(port.cancel(None, accept.0).expect("asked"));
    assert_eq!(accept.finish(&port, &accepting).error, Iocp::ABORTED);
    assert!(slot.socket.is_none() && slot.take().is_none());
    close(port);
}

#[test]
fn d12_a_client_that_has_gone_does_not_fail_the_listener() {
    let port = port();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    port.attach(Handle::from(&listener), Terms::CONTEXTS)
        .expect("attach");
    for gone in [true, false] {
        let client = TcpStream::connect(listener.local_addr().expect("its address"));
        let client = client.expect("connect");
        let from = client.local_addr().expect("an address");
        if gone {
            socket2::SockRef::from(&client)
                .set_linger(Some(Duration::ZERO))
                .expect("linger");
            drop(client);
        }
        let mut slot = Box::new(AcceptSlot::new());
        let accept = Op::new();
        let accepting = accept.start(
            &port,
            Submission::Accept {
                listener: Handle::from(&listener),
                slot: NonNull::from(&mut *slot),
            },
        );
        let done = accept.finish(&port, &accepting);
        // One connection may fail; then the slot is empty. The next one is accepted.
        match slot.take() {
            Some((_, peer)) => assert_eq!((peer, done.error), (from, 0)),
            None => assert!(gone && done.error != 0, "{done:?}"),
        }
    }
    close(port);
}

#[test]
fn a20_a_truncated_datagram_is_one_completion_with_the_bytes_kept() {
    let port = port();
    let receiver = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = |s: &std::net::UdpSocket| s.local_addr().expect("its address");
    receiver.connect(address(&sender)).expect("connect");
    let handle = Handle::socket(&receiver);
    port.attach(handle, Terms::CONTEXTS).expect("attach");
    for pending in [true, false] {
        let mut buffer = [0; 3];
        let receive = Op::new();
        let submission = Submission::Recv {
            socket: handle,
            buffer: buffer.as_mut_ptr(),
            len: buffer.len(),
        };
        let send = || {
            assert_eq!(
                sender.send_to(b"datagram", address(&receiver)).ok(),
                Some(8)
            )
        };
        if !pending {
            send();
        }
        let receiving = receive.start(&port, submission);
        if pending {
            send();
        }
        let done = receive.finish(&port, &receiving);
        assert_eq!((done.bytes, done.error), (3, 10040), "pending: {pending}");
        assert_eq!(&buffer, b"dat");
        nothing_left(&port);
    }
    close(port);
}

#[test]
fn c23_the_accepted_socket_and_the_port_are_not_inherited() {
    use windows_sys::Win32::Foundation::{GetHandleInformation, HANDLE, HANDLE_FLAG_INHERIT};
    let port = port();
    let (_client, server, _) = connected_by_the_port(&port, "127.0.0.1:0");
    let socket = server.as_raw_socket() as usize;
    for raw in [port.as_handle().as_raw_handle().addr(), socket] {
        let mut flags = 0;
        // SAFETY: the handle is open and the flags are ours.
        let known = unsafe { GetHandleInformation(raw as HANDLE, &raw mut flags) };
        assert_ne!(known, 0);
        assert_eq!(flags & HANDLE_FLAG_INHERIT, 0);
    }
    close(port);
}
