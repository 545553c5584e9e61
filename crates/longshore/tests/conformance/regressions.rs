//! What reviews found, shown to stay mended: on both backends under the same names.
// UNSAFETY: reads the status word of Contexts, and closes sockets behind their owners' backs.
#![expect(unsafe_code)]

use std::{
    io::{self, ErrorKind, Write},
    mem,
    net::{TcpStream, UdpSocket},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

#[cfg(unix)]
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
#[cfg(windows)]
use std::os::windows::io::{AsRawSocket, FromRawSocket, OwnedSocket};

use longshore::{ABORTED, Dispatcher, Error, Handle, dispatcher::Context};

use crate::{
    harness::{Test, builder, port},
    io::{Op, kind, refusal},
    io_things::{attached_pair, fresh_socket, listener, loopback, pair},
    support::{Token, assert_closed, note, passed_in_a_child, seen},
};

pub const TESTS: &[Test] = tests![
    d01_a_duplicate_belongs_to_the_port_of_its_socket,
    d05_a_refused_context_is_not_pending,
    d05_an_operation_on_a_closed_socket_is_refused,
    d06_one_thread_that_serves_two_ports_gets_the_io_of_both,
    d07_a_look_sees_the_last_of_seventy_sockets,
    d10_a_cancelled_accept_empties_its_slot,
    d10_a_second_close_is_told_by_type,
    d10_closing_at_once_drops_the_closures,
    d10_closing_without_a_limit_ends_what_is_in_flight,
    d12_a_datagram_that_does_not_fit_is_cut_and_told,
    d12_a_datagram_too_long_to_send_is_refused_once,
    d12_a_refused_connect_keeps_its_error_beside_a_receive,
];

/// Messages instead of a stream.
struct Datagrams(UdpSocket);

impl<'a> From<&'a Datagrams> for Handle<'a> {
    fn from(datagrams: &'a Datagrams) -> Self {
        Handle::socket(&datagrams.0)
    }
}

/// Two connected datagram sockets, the first one attached.
fn datagrams(port: &Dispatcher) -> (Arc<Datagrams>, UdpSocket) {
    let bind = || UdpSocket::bind(loopback(false)).unwrap();
    let (here, there) = (bind(), bind());
    here.connect(there.local_addr().unwrap()).unwrap();
    there.connect(here.local_addr().unwrap()).unwrap();
    let here = Arc::new(Datagrams(here));
    port.attach(&*here).unwrap();
    (here, there)
}

/// "Message too long" in the system's own words.
const TOO_LONG: u32 = if cfg!(windows) { 10040 } else { 90 };

/// A receive whose byte is there, although no thread of ours has looked yet.
fn receive_with_data(port: &Dispatcher, here: &Arc<TcpStream>, there: &TcpStream) -> Op {
    let op = Op::new(4);
    let arrive = || {
        (&mut &*there).write_all(b"x").unwrap();
        assert_eq!(here.peek(&mut [0]).unwrap(), 1);
    };
    // A pending receive gets the byte at once on Windows, where a peek would wait for another.
    if cfg!(windows) {
        arrive();
    }
    op.recv(port, here).unwrap();
    if cfg!(not(windows)) {
        arrive();
    }
    op
}

fn d07_a_look_sees_the_last_of_seventy_sockets() {
    let port = port();
    let pairs: Vec<_> = (0..35)
        .map(|_| {
            let (here, there) = pair();
            port.attach(&*there).unwrap();
            port.attach(&*here).unwrap();
            (here, there)
        })
        .collect();
    // Each of them has news (it can be written to), and the last one has data, too.
    let (here, there) = pairs.last().unwrap();
    let op = receive_with_data(&port, here, there);
    assert!(port.try_dispatch().unwrap(), "there was an entry");
    assert_eq!((op.calls(), op.last()), (1, (1, 0)));
    assert!(!port.try_dispatch().unwrap());
}

/// A closure that posts itself again, for ever.
fn flood(port: &Dispatcher) {
    let again = port.clone();
    port.post_fn(move || flood(&again)).unwrap();
}

fn d06_one_thread_that_serves_two_ports_gets_the_io_of_both() {
    // Entries enough for a port to ask the kernel many times over.
    const TURNS: usize = 10_000;
    let ports = [port(), port()];
    ports.iter().for_each(flood);
    for port in &ports {
        let (here, there) = attached_pair(port);
        let op = receive_with_data(port, &here, &there);
        for _ in 0..TURNS {
            ports.iter().for_each(|port| port.dispatch().unwrap());
            if op.is_idle() {
                break;
            }
        }
        assert_eq!((op.calls(), op.last()), (1, (1, 0)));
    }
    // The closures own the ports.
    for port in ports {
        port.close().unwrap();
    }
}

fn d12_a_refused_connect_keeps_its_error_beside_a_receive() {
    let port = port();
    let nobody = listener(false).local_addr().unwrap();
    let socket = fresh_socket(false);
    port.attach(&*socket).unwrap();
    let (connect, receive) = (Op::new(0), Op::new(4));
    let started = connect.connect(&port, &socket, nobody);
    let received = receive.recv(&port, &socket);
    let (bytes, error) = connect.finish(&port, started);
    assert_eq!((bytes, kind(error)), (0, ErrorKind::ConnectionRefused));
    match received {
        Err(refused) => assert_eq!(refused.kind(), ErrorKind::NotConnected, "{refused}"),
        // Wine lets it wait for the connection, and ends it somehow.
        Ok(()) if cfg!(windows) => {
            receive.cancel(&port, &socket).unwrap();
            receive.finish(&port, Ok(()));
        }
        Ok(()) => panic!("it was let in beside the connect"),
    }
    assert!(!port.try_dispatch().unwrap());
}

fn d12_a_datagram_that_does_not_fit_is_cut_and_told() {
    let port = port();
    let (here, there) = datagrams(&port);
    let op = Op::new(3);
    // Waiting for the message first, and then with the message there first.
    op.recv(&port, &here).unwrap();
    there.send(b"12345678").unwrap();
    assert_eq!(op.finish(&port, Ok(())), (3, TOO_LONG));
    assert_eq!(op.data(3), b"123");
    there.send(b"abcdefgh").unwrap();
    assert_eq!(op.finish(&port, op.recv(&port, &here)), (3, TOO_LONG));
    assert_eq!(op.data(3), b"abc");
    // The rest of it is gone, and one that fits is whole.
    there.send(b"xyz").unwrap();
    assert_eq!(op.finish(&port, op.recv(&port, &here)), (3, 0));
    assert_eq!(op.data(3), b"xyz");
    assert_eq!(port.in_flight(), 0);
}

fn d12_a_datagram_too_long_to_send_is_refused_once() {
    let port = port();
    let (here, there) = datagrams(&port);
    let op = Op::new(70_000);
    let started = op.send(&port, &here, 70_000);
    assert_eq!(op.finish(&port, started), (0, TOO_LONG));
    assert_eq!((op.calls(), port.in_flight()), (0, 0));
    // Wine queues a packet all the same. It is nobody's.
    let strays = u64::from(port.try_dispatch().unwrap());
    assert!(cfg!(windows) || strays == 0);
    assert_eq!((op.calls(), port.foreign_packets()), (0, strays));
    assert!(!port.try_dispatch().unwrap());
    assert_eq!(op.finish(&port, op.send(&port, &here, 5)), (5, 0));
    assert_eq!(there.recv(&mut [0; 9]).unwrap(), 5);
}

fn d10_a_cancelled_accept_empties_its_slot() {
    let port = port();
    let listener = listener(false);
    port.attach(&*listener).unwrap();
    let op = Op::new(0);
    op.accept(&port, &listener).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(op.finish(&port, Ok(())), (0, 0));
    // Nobody takes that connection out of the slot, which is used again.
    op.accept(&port, &listener).unwrap();
    assert!(op.cancel(&port, &listener).unwrap());
    assert_eq!(op.finish(&port, Ok(())), (0, ABORTED));
    assert!(op.accepted().is_none(), "that was the client before");
    drop(client);
}

fn d01_a_duplicate_belongs_to_the_port_of_its_socket() {
    let (port, other) = (port(), port());
    let (here, there) = attached_pair(&port);
    let duplicate = Arc::new(here.try_clone().unwrap());
    let op = Op::new(4);
    op.recv(&port, &here).unwrap();
    let at_home = refusal(port.attach(&*duplicate));
    let elsewhere = refusal(other.attach(&*duplicate));
    assert_eq!(elsewhere, Some(Error::OtherPort));
    // Windows says that it has a port, but not which.
    assert_eq!(
        at_home,
        Some(match cfg!(windows) {
            true => Error::OtherPort,
            false => Error::AlreadyAttached,
        })
    );
    assert_eq!(refusal(other.detach(&*duplicate)), Some(Error::NotAttached));
    assert!(!other.try_dispatch().unwrap());
    // The socket itself is as good as before.
    (&*there).write_all(b"x").unwrap();
    assert_eq!(op.finish(&port, Ok(())), (1, 0));
}

fn d05_a_refused_context_is_not_pending() {
    let port = port();
    let (socket, (here, _there)) = (fresh_socket(false), pair());
    port.attach(&*socket).unwrap();
    let op = Op::new(4);
    // SAFETY: the record is alive, and the Context is its first part.
    let status = || unsafe { Context::raw_status(op.context()) };
    let (idle, pending) = (status(), 0x103);
    assert_ne!(idle, pending);
    assert_eq!(refusal(op.recv(&port, &here)), Some(Error::NotAttached));
    assert_ne!(status(), pending, "longshore refused it");
    let refused = op.recv(&port, &socket).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotConnected, "{refused}");
    assert_ne!(status(), pending, "the system refused it");
    port.clone().close().unwrap();
    assert_closed(op.recv(&port, &socket));
    assert_ne!(status(), pending, "the port is closed");
}

/// Closes a socket whose owner is never dropped.
#[cfg(unix)]
fn close_behind_its_back<T: AsRawFd>(socket: &Arc<T>) {
    mem::forget(socket.clone());
    // SAFETY: on purpose; the owner above is forgotten, so nobody closes it again.
    drop(unsafe { OwnedFd::from_raw_fd(socket.as_raw_fd()) });
}

/// Closes a socket whose owner is never dropped.
#[cfg(windows)]
fn close_behind_its_back<T: AsRawSocket>(socket: &Arc<T>) {
    mem::forget(socket.clone());
    // SAFETY: on purpose; the owner above is forgotten, so nobody closes it again.
    drop(unsafe { OwnedSocket::from_raw_socket(socket.as_raw_socket()) });
}

/// Refused by type, or in the system's words where longshore does not know better.
#[track_caller]
fn assert_bad_handle(result: io::Result<()>, raw: Option<i32>) {
    let error = result.expect_err("the socket is closed");
    let told = raw.is_some() && error.raw_os_error() == raw;
    assert!(
        told || Error::of(&error) == Some(Error::BadHandle),
        "{error:?}"
    );
}

fn d05_an_operation_on_a_closed_socket_is_refused() {
    // In a process of its own, where nothing else gets the sockets' values.
    if passed_in_a_child() {
        return;
    }
    let port = port();
    let (listener, (here, _there)) = (listener(false), attached_pair(&port));
    port.attach(&*listener).unwrap();
    let (accept, receive) = (Op::new(0), Op::new(4));
    // EBADF; and WSAENOTSOCK, because Wine finds an extension function without a socket.
    let (raw, raw_accept) = match cfg!(windows) {
        true => (None, Some(10038)),
        false => (Some(9), Some(9)),
    };
    close_behind_its_back(&listener);
    assert_bad_handle(accept.accept(&port, &listener), raw_accept);
    close_behind_its_back(&here);
    assert_bad_handle(receive.recv(&port, &here), raw);
    assert_eq!((accept.calls(), receive.calls()), (0, 0));
    assert_eq!(port.in_flight(), 0);
    assert!(!port.try_dispatch().unwrap());
    port.close().unwrap();
}

fn d10_a_second_close_is_told_by_type() {
    let port = port();
    port.clone().close().unwrap();
    let error = io::Error::from(port.close().unwrap_err());
    assert_eq!(Error::of(&error), Some(Error::Closed), "{error}");
}

fn d10_closing_without_a_limit_ends_what_is_in_flight() {
    let port = builder().drain_timeout(Duration::MAX).build().unwrap();
    let (here, _there) = attached_pair(&port);
    let (dropped, op) = (Arc::default(), Op::new(4));
    let token = Token::new(&dropped);
    port.post_fn(move || drop(token)).unwrap();
    op.recv(&port, &here).unwrap();
    port.close().unwrap();
    assert_eq!((op.calls(), op.last()), (1, (0, ABORTED)));
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

fn d10_closing_at_once_drops_the_closures() {
    let port = builder().drain_timeout(Duration::ZERO).build().unwrap();
    let dropped = Arc::default();
    for _ in 0..1000 {
        let token = Token::new(&dropped);
        let run_it = move || {
            note(1);
            drop(token);
        };
        port.post_fn(run_it).unwrap();
    }
    port.close().unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 1000);
    assert_eq!(seen(), [], "none of them ran");
}
