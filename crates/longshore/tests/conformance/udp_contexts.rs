//! Datagrams with Contexts: addresses, empty and long ones, cancelling, answers of the network.

use std::{io::ErrorKind, net::UdpSocket, sync::Arc};

use longshore::{ABORTED, Dispatcher, Error};

use crate::{
    harness::{Test, port},
    io::Op,
    io_things::{attached_pair, loopback, under_wine},
};

pub const TESTS: &[Test] = tests![
    udp_contexts_echo_over_ipv4,
    udp_contexts_echo_over_ipv6,
    udp_a_long_datagram_is_cut_and_told_once,
    udp_empty_datagrams_are_datagrams,
    udp_a_receive_without_room_takes_a_datagram,
    udp_a_cancelled_receive_leaves_the_datagram_to_the_next,
    udp_a_closed_port_is_told_once_at_most
        .skip(|| under_wine("it never reports unreachable ports")),
    udp_an_unconnected_socket_hears_nothing_of_closed_ports,
    udp_streams_have_no_datagrams,
    udp_detach_ends_the_receives_in_flight,
];

/// "Message too long" in the system's own words.
const TOO_LONG: u32 = if cfg!(windows) { 10040 } else { 90 };

fn bound(v6: bool) -> Arc<UdpSocket> {
    Arc::new(UdpSocket::bind(loopback(v6)).unwrap())
}

/// One on the port, and a peer of std's.
fn attached(port: &Dispatcher, v6: bool) -> (Arc<UdpSocket>, Arc<UdpSocket>) {
    let (here, there) = (bound(v6), bound(v6));
    port.attach(&*here).unwrap();
    (here, there)
}

fn contexts_echo(v6: bool) {
    let port = port();
    let (server, client) = (bound(v6), bound(v6));
    port.attach(&*server).unwrap();
    port.attach(&*client).unwrap();
    let (to, from) = (server.local_addr().unwrap(), client.local_addr().unwrap());
    let (question, answer) = (Op::with(b"question".to_vec()), Op::new(64));
    let served = Op::new(64);
    // Waiting for the datagram, and after it has come.
    for is_early in [true, false] {
        let waiting = is_early.then(|| served.recv_from(&port, &server));
        let sent = question.send_to(&port, &client, 8, to);
        assert_eq!(question.finish(&port, sent), (8, 0));
        let waiting = waiting.unwrap_or_else(|| served.recv_from(&port, &server));
        assert_eq!(served.finish(&port, waiting), (8, 0));
        assert_eq!(served.from(), Some(from));
        assert_eq!(served.data(8), b"question");
        let sent = served.send_to(&port, &server, 8, from);
        assert_eq!(served.finish(&port, sent), (8, 0));
        let received = answer.recv_from(&port, &client);
        assert_eq!(answer.finish(&port, received), (8, 0));
        assert_eq!(
            (answer.from(), answer.data(8)),
            (Some(to), b"question".to_vec())
        );
    }
    assert_eq!(port.in_flight(), 0);
    assert!(!port.try_dispatch().unwrap());
}

fn udp_contexts_echo_over_ipv4() {
    contexts_echo(false);
}

fn udp_contexts_echo_over_ipv6() {
    contexts_echo(true);
}

fn udp_a_long_datagram_is_cut_and_told_once() {
    let port = port();
    let (here, there) = attached(&port, false);
    let to = here.local_addr().unwrap();
    let op = Op::new(3);
    for is_early in [true, false] {
        let calls = op.calls();
        let waiting = is_early.then(|| op.recv_from(&port, &here));
        there.send_to(b"12345678", to).unwrap();
        let waiting = waiting.unwrap_or_else(|| op.recv_from(&port, &here));
        assert_eq!(op.finish(&port, waiting), (3, TOO_LONG));
        assert_eq!((op.calls(), op.data(3)), (calls + 1, b"123".to_vec()));
        assert_eq!(op.from(), Some(there.local_addr().unwrap()));
        assert!(!port.try_dispatch().unwrap(), "one completion each");
    }
    // The rest of it is gone.
    there.send_to(b"xyz", to).unwrap();
    assert_eq!(op.finish(&port, op.recv_from(&port, &here)), (3, 0));
    assert_eq!(op.data(3), b"xyz");
}

fn udp_empty_datagrams_are_datagrams() {
    let port = port();
    let (here, there) = attached(&port, false);
    let (to, from) = (here.local_addr().unwrap(), there.local_addr().unwrap());
    let op = Op::new(4);
    there.send_to(b"", to).unwrap();
    assert_eq!(op.finish(&port, op.recv_from(&port, &here)), (0, 0));
    assert_eq!(op.from(), Some(from));
    assert_eq!(op.finish(&port, op.send_to(&port, &here, 0, from)), (0, 0));
    assert_eq!(there.recv_from(&mut [0; 4]).unwrap(), (0, to));
    // And without addresses.
    here.connect(from).unwrap();
    assert_eq!(op.finish(&port, op.send(&port, &here, 0)), (0, 0));
    assert_eq!(there.recv_from(&mut [0; 4]).unwrap(), (0, to));
    there.send_to(b"", to).unwrap();
    assert_eq!(op.finish(&port, op.recv(&port, &here)), (0, 0));
    assert!(!port.try_dispatch().unwrap());
}

fn udp_a_receive_without_room_takes_a_datagram() {
    let port = port();
    let (here, there) = attached(&port, false);
    let to = here.local_addr().unwrap();
    let (op, whole) = (Op::new(0), Op::new(8));
    there.send_to(b"gone", to).unwrap();
    there.send_to(b"", to).unwrap();
    there.send_to(b"here", to).unwrap();
    assert_eq!(op.finish(&port, op.recv_from(&port, &here)), (0, TOO_LONG));
    assert_eq!(op.calls(), 1, "told by a packet");
    assert_eq!(op.finish(&port, op.recv_from(&port, &here)), (0, 0));
    assert_eq!(whole.finish(&port, whole.recv_from(&port, &here)), (4, 0));
    assert_eq!(whole.data(4), b"here");
}

fn udp_a_cancelled_receive_leaves_the_datagram_to_the_next() {
    let port = port();
    let (here, there) = attached(&port, false);
    let op = Op::new(8);
    op.recv_from(&port, &here).unwrap();
    assert!(op.cancel(&port, &here).unwrap());
    assert_eq!(op.finish(&port, Ok(())), (0, ABORTED));
    assert_eq!(op.from(), None);
    there.send_to(b"kept", here.local_addr().unwrap()).unwrap();
    assert_eq!(op.finish(&port, op.recv_from(&port, &here)), (4, 0));
    assert_eq!(op.data(4), b"kept");
}

fn udp_a_closed_port_is_told_once_at_most() {
    let port = port();
    let (here, there) = attached(&port, false);
    let gone = bound(false);
    let nobody = gone.local_addr().unwrap();
    drop(gone);
    here.connect(nobody).unwrap();
    let (send, recv) = (Op::new(4), Op::new(8));
    recv.recv_from(&port, &here).unwrap();
    assert_eq!(send.finish(&port, send.send(&port, &here, 4)), (4, 0));
    if cfg!(not(windows)) {
        let (bytes, error) = recv.finish(&port, Ok(()));
        let kind = std::io::Error::from_raw_os_error(error as i32).kind();
        assert_eq!((bytes, kind), (0, ErrorKind::ConnectionRefused));
        recv.recv_from(&port, &here).unwrap();
    }
    // The next one waits for a datagram, and gets it.
    here.connect(there.local_addr().unwrap()).unwrap();
    there.send_to(b"next", here.local_addr().unwrap()).unwrap();
    assert_eq!(recv.finish(&port, Ok(())), (4, 0));
}

fn udp_an_unconnected_socket_hears_nothing_of_closed_ports() {
    let port = port();
    let (here, there) = attached(&port, false);
    let gone = bound(false);
    let nobody = gone.local_addr().unwrap();
    drop(gone);
    let (send, recv) = (Op::new(4), Op::new(8));
    recv.recv_from(&port, &here).unwrap();
    let sent = send.send_to(&port, &here, 4, nobody);
    assert_eq!(send.finish(&port, sent), (4, 0));
    there.send_to(b"next", here.local_addr().unwrap()).unwrap();
    assert_eq!(recv.finish(&port, Ok(())), (4, 0));
    assert_eq!(recv.from(), Some(there.local_addr().unwrap()));
}

fn udp_streams_have_no_datagrams() {
    let port = port();
    let (here, _there) = attached_pair(&port);
    let op = Op::new(4);
    let mut slot = longshore::AddressSlot::new();
    let from = std::ptr::NonNull::from(&mut slot);
    let refused = op.start(&port, &here, |socket, buffer, len| {
        longshore::Submission::RecvFrom {
            socket,
            buffer,
            len,
            from,
        }
    });
    assert_eq!(Error::of(&refused.unwrap_err()), Some(Error::WrongKind));
    assert_eq!((op.calls(), port.in_flight()), (0, 0));
}

fn udp_detach_ends_the_receives_in_flight() {
    let port = port();
    let (here, _there) = attached(&port, false);
    let ops: Vec<_> = (0..3).map(|_| Op::new(4)).collect();
    for op in &ops {
        op.recv_from(&port, &here).unwrap();
    }
    port.detach(&*here).unwrap();
    for op in &ops {
        assert_eq!(op.finish(&port, Ok(())), (0, ABORTED));
    }
    assert_eq!(port.in_flight(), 0);
}
