//! UDP sockets that are awaited.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use futures_lite::future::block_on;
use longshore::{Dispatcher, net::UdpSocket};

use crate::{
    harness::{Test, port, scaled, tick},
    io_things::{loopback, workers},
    pool::Pool,
    races::numbers_against_cancels,
    support::assert_closed,
};

pub const TESTS: &[Test] = tests![
    udp_datagrams_arrive_with_their_senders_address_over_ipv4,
    udp_datagrams_arrive_with_their_senders_address_over_ipv6,
    udp_a_connected_socket_hears_its_peer_alone,
    udp_truncation_and_empty_datagrams_are_told,
    udp_refused_sends_give_the_buffer_back,
    udp_cancel_races_a_datagram_and_loses_none,
    udp_eight_tasks_get_each_datagram_once,
    udp_dropped_receives_touch_no_memory,
    udp_closing_ends_what_is_in_flight,
    udp_options_are_set,
    udp_multicast_on_loopback,
];

fn bind(port: &Dispatcher, v6: bool) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(port, loopback(v6)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn std_peer(v6: bool) -> (std::net::UdpSocket, SocketAddr) {
    let socket = std::net::UdpSocket::bind(loopback(v6)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn echo(v6: bool) {
    let port = port();
    let ((a, to), (b, from)) = (bind(&port, v6), bind(&port, v6));
    port.block_on(async {
        assert_eq!(b.send_to("ping", to).await.0.unwrap(), 4);
        let (received, buffer) = a.recv_from(Vec::with_capacity(64)).await;
        let received = received.unwrap();
        assert_eq!((received.len, received.from), (4, from));
        assert_eq!((received.truncated, &*buffer), (false, &b"ping"[..]));
        let waiting = b.recv_from([0u8; 8]);
        assert_eq!(a.send_to(buffer, from).await.0.unwrap(), 4);
        let (received, buffer) = waiting.await;
        assert_eq!(received.unwrap().from, to);
        assert_eq!(&buffer, b"ping\0\0\0\0");
    })
    .unwrap();
}

fn udp_datagrams_arrive_with_their_senders_address_over_ipv4() {
    echo(false);
}

fn udp_datagrams_arrive_with_their_senders_address_over_ipv6() {
    echo(true);
}

fn udp_a_connected_socket_hears_its_peer_alone() {
    let port = port();
    let (socket, address) = bind(&port, false);
    let ((friend, to), (stranger, _)) = (std_peer(false), std_peer(false));
    assert!(socket.peer_addr().is_err());
    socket.connect(to).unwrap();
    assert_eq!(socket.peer_addr().unwrap(), to);
    stranger.send_to(b"noise", address).unwrap();
    friend.send_to(b"voice", address).unwrap();
    let (received, buffer) = port.block_on(socket.recv(vec![0; 8])).unwrap();
    assert_eq!(received.unwrap().from, to);
    assert_eq!(&buffer[..5], b"voice");
    assert_eq!(port.block_on(socket.send("hello")).unwrap().0.unwrap(), 5);
    assert_eq!(friend.recv_from(&mut [0; 8]).unwrap(), (5, address));
}

fn udp_truncation_and_empty_datagrams_are_told() {
    let port = port();
    let (socket, address) = bind(&port, false);
    let (peer, from) = std_peer(false);
    for datagram in [&b"123456"[..], b"", b"1234", b"1"] {
        peer.send_to(datagram, address).unwrap();
        let (received, buffer) = port.block_on(socket.recv_from([0u8; 4])).unwrap();
        let received = received.unwrap();
        assert_eq!((received.len, received.from), (datagram.len().min(4), from));
        assert_eq!(received.truncated, datagram.len() > 4);
        assert_eq!(buffer[..received.len], datagram[..received.len]);
    }
    peer.send_to(b"x", address).unwrap();
    let (received, _) = port.block_on(socket.recv_from(Vec::new())).unwrap();
    let received = received.unwrap();
    assert_eq!((received.len, received.truncated), (0, true));
    assert_eq!(
        port.block_on(socket.send_to("", from)).unwrap().0.unwrap(),
        0
    );
    assert_eq!(peer.recv_from(&mut [0; 8]).unwrap(), (0, address));
}

fn udp_refused_sends_give_the_buffer_back() {
    let port = port();
    let (socket, address) = bind(&port, false);
    let other_family = (loopback(true).ip(), 9).into();
    let (sent, buffer) = port
        .block_on(socket.send_to(vec![7; 3], other_family))
        .unwrap();
    assert!(sent.is_err());
    assert_eq!(buffer, [7; 3]);
    let port_zero = (Ipv4Addr::LOCALHOST, 0).into();
    let (sent, buffer) = port
        .block_on(socket.send_to(vec![8; 3], port_zero))
        .unwrap();
    assert!(sent.is_err());
    assert_eq!(buffer, [8; 3]);
    let (sent, buffer) = port
        .block_on(socket.send_to(vec![9; 70_000], address))
        .unwrap();
    assert!(sent.is_err());
    assert_eq!(buffer.len(), 70_000);
    let (sent, buffer) = port.block_on(socket.send(vec![1; 3])).unwrap();
    assert!(sent.is_err(), "it is not connected");
    assert_eq!(buffer, [1; 3]);
    // None of them left a datagram behind.
    assert_eq!(
        port.block_on(socket.send_to("me", address))
            .unwrap()
            .0
            .unwrap(),
        2
    );
    let (received, _) = port.block_on(socket.recv_from([0u8; 8])).unwrap();
    assert_eq!(received.unwrap().len, 2);
}

fn udp_cancel_races_a_datagram_and_loses_none() {
    let port = port();
    let pool = workers(&port, 1);
    let (socket, address) = bind(&port, false);
    let (peer, _) = std_peer(false);
    numbers_against_cancels(
        move |number| assert_eq!(peer.send_to(&number, address).unwrap(), 8),
        |race| {
            let receive = socket.recv_from([0; 8]);
            if let Some(race) = race {
                race();
                receive.cancel();
            }
            let (received, number) = block_on(receive);
            (received.map(|received| received.len), number)
        },
    );
    pool.finish();
    assert_eq!(port.in_flight(), 0);
}

fn udp_eight_tasks_get_each_datagram_once() {
    let port = port();
    let pool = workers(&port, 2);
    let (socket, address) = bind(&port, false);
    let socket = Arc::new(socket);
    let (peer, from) = std_peer(false);
    let count = scaled(4000);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let socket = socket.clone();
            port.spawn(async move {
                let mut seen = Vec::new();
                loop {
                    let (received, buffer) = socket.recv_from([0u8; 8]).await;
                    let number = usize::from_ne_bytes(buffer);
                    // The answer lets the next one go.
                    socket.send_to([1u8], received?.from).await.0?;
                    if number == usize::MAX {
                        return Ok::<_, io::Error>(seen);
                    }
                    seen.push(number);
                }
            })
        })
        .collect();
    for number in (0..count).chain([usize::MAX; 8]) {
        peer.send_to(&number.to_ne_bytes(), address).unwrap();
        peer.recv(&mut [0]).unwrap();
        tick();
    }
    let mut seen: Vec<_> = tasks
        .into_iter()
        .flat_map(|task| block_on(task).unwrap().unwrap())
        .collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..count), "each of them once");
    assert_ne!(from, address);
    pool.finish();
}

fn udp_dropped_receives_touch_no_memory() {
    let port = port();
    let (socket, address) = bind(&port, false);
    let (peer, _) = std_peer(false);
    let buffers = Pool::default();
    for _ in 0..scaled(1000) {
        drop(socket.recv_from(buffers.take(8)));
        peer.send_to(b"12345", address).unwrap();
        let (received, buffer) = port.block_on(socket.recv_from(buffers.take(8))).unwrap();
        assert_eq!(received.unwrap().len, 5);
        assert_eq!(buffer.data(), b"12345");
        tick();
    }
    while port.try_dispatch().unwrap() {}
    assert_eq!(port.in_flight(), 0);
    assert!(buffers.verify() > 0);
}

fn udp_closing_ends_what_is_in_flight() {
    let port = port();
    let (socket, address) = bind(&port, false);
    let receives: Vec<_> = (0..3).map(|_| socket.recv_from(vec![3; 4])).collect();
    port.close().unwrap();
    for receive in receives {
        let (received, buffer) = block_on(receive);
        assert!(received.is_err());
        assert_eq!(buffer, [3; 4]);
    }
    let (received, buffer) = block_on(socket.recv_from(vec![4; 4]));
    assert_closed(received);
    assert_eq!(buffer, [4; 4]);
    assert_closed(block_on(socket.send_to("late", address)).0);
}

fn udp_options_are_set() {
    let port = port();
    for v6 in [false, true] {
        let (socket, _) = bind(&port, v6);
        socket.set_ttl(7).unwrap();
        assert_eq!(socket.ttl().unwrap(), 7);
        assert!(!socket.broadcast().unwrap());
        socket.set_broadcast(true).unwrap();
        assert!(socket.broadcast().unwrap());
    }
}

fn udp_multicast_on_loopback() {
    let port = port();
    let socket = UdpSocket::bind(&port, (Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let to = socket.local_addr().unwrap().port();
    let group = Ipv4Addr::new(239, 255, 77, 1);
    let sender = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    sender.bind(&loopback(false).into()).unwrap();
    sender.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    sender.set_multicast_loop_v4(true).unwrap();
    let target: SocketAddr = (group, to).into();
    socket
        .join_multicast_v4(group, Ipv4Addr::LOCALHOST)
        .unwrap();
    sender.send_to(b"all", &target.into()).unwrap();
    let (received, _) = port.block_on(socket.recv_from([0u8; 8])).unwrap();
    assert_eq!(received.unwrap().len, 3);
    socket
        .leave_multicast_v4(group, Ipv4Addr::LOCALHOST)
        .unwrap();
    assert!(
        socket
            .leave_multicast_v4(group, Ipv4Addr::LOCALHOST)
            .is_err()
    );
}
