//! TCP connections that are awaited, on longshore's own executor and on others'.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr},
};

use longshore::{
    Dispatcher,
    net::{TcpListener, TcpStream},
};

use crate::{
    harness::{Test, port, scaled, spawn, tick},
    io_things::{loopback, pattern, workers},
    support::assert_closed,
};

pub const TESTS: &[Test] = tests![
    tcp_bytes_arrive_as_they_were_sent_both_ways,
    tcp_a_connection_from_std_is_taken_over,
    tcp_connect_takes_the_first_address_that_answers,
    tcp_connect_tells_the_last_refusal,
    tcp_split_halves_work_in_two_tasks,
    tcp_a_finished_side_still_reads,
    tcp_dropping_the_writing_half_ends_the_stream,
    tcp_write_all_writes_more_than_the_socket_takes,
    tcp_many_connections_at_once,
];

/// A listener of longshore's, and where it is.
pub fn listen(port: &Dispatcher) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(port, loopback(false)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A connection: our end on the port, the peer's in the hands of std.
pub fn pair(port: &Dispatcher) -> (TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind(loopback(false)).unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_nodelay(true).unwrap();
    let (here, _) = listener.accept().unwrap();
    (TcpStream::from_std(port, here).unwrap(), peer)
}

/// Reads until the end.
pub async fn read_all(stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let (count, buffer) = stream.read(vec![0; 5000]).await;
        match count? {
            0 => return Ok(all),
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Echoes until the end.
pub async fn echo(stream: TcpStream) -> io::Result<()> {
    loop {
        let (count, mut buffer) = stream.read(Vec::with_capacity(4096)).await;
        let count = count?;
        if count == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        buffer.truncate(count);
        stream.write_all(buffer).await.0?;
    }
}

/// An echo server that serves `clients` clients.
pub async fn serve(port: Dispatcher, listener: TcpListener, clients: usize) {
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let (stream, _peer) = listener.accept().await.unwrap();
        tasks.push(port.spawn(echo(stream)));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

/// Sends, and expects to read the same.
pub async fn client(port: Dispatcher, address: SocketAddr, data: Vec<u8>) {
    let stream = TcpStream::connect(&port, address).await.unwrap();
    let expected = data.clone();
    let (reader, writer) = stream.split();
    let writes = port.spawn(async move { writer.write_all(data).await.0 });
    let mut all = Vec::new();
    loop {
        let (count, buffer) = reader.read(vec![0; 3000]).await;
        match count.unwrap() {
            0 => break,
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
    writes.await.unwrap().unwrap();
    assert!(all == expected, "{} of {} bytes", all.len(), expected.len());
}

fn tcp_bytes_arrive_as_they_were_sent_both_ways() {
    let port = port();
    let (listener, address) = listen(&port);
    let server = port.spawn(serve(port.clone(), listener, 3));
    let data = pattern(1, 100_000);
    for data in [&data[..1], &data[..5000], &data] {
        port.block_on(client(port.clone(), address, data.to_vec()))
            .unwrap();
    }
    port.block_on(server).unwrap().unwrap();
    // Over IPv6 too, where there is some.
    if let Ok(listener) = TcpListener::bind(&port, loopback(true)) {
        let address = listener.local_addr().unwrap();
        let server = port.spawn(serve(port.clone(), listener, 1));
        port.block_on(client(port.clone(), address, data)).unwrap();
        port.block_on(server).unwrap().unwrap();
    }
}

fn tcp_a_connection_from_std_is_taken_over() {
    let port = port();
    let (stream, mut peer) = pair(&port);
    assert_eq!(stream.peer_addr().unwrap(), peer.local_addr().unwrap());
    assert_eq!(stream.local_addr().unwrap(), peer.peer_addr().unwrap());
    stream.set_nodelay(true).unwrap();
    peer.write_all(b"abc").unwrap();
    let (count, buffer) = port.block_on(stream.read(vec![0; 10])).unwrap();
    assert_eq!(&buffer[..count.unwrap()], b"abc");
    assert_eq!(buffer.len(), 10, "never cut");
    let (count, _) = port.block_on(stream.write("defg")).unwrap();
    assert_eq!(count.unwrap(), 4);
    let mut got = [0; 4];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"defg");
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = std::net::TcpListener::bind(loopback(false)).unwrap();
    listener.local_addr().unwrap()
}

fn tcp_connect_takes_the_first_address_that_answers() {
    let port = port();
    let (listener, address) = listen(&port);
    let (second, other) = listen(&port);
    let addresses = [nobody(), address, other];
    let connected = port
        .block_on(TcpStream::connect(&port, &addresses[..]))
        .unwrap()
        .unwrap();
    assert_eq!(connected.peer_addr().unwrap(), address);
    let (_, peer) = port.block_on(listener.accept()).unwrap().unwrap();
    assert_eq!(peer, connected.local_addr().unwrap());
    let accept = second.accept();
    accept.cancel();
    assert!(port.block_on(accept).unwrap().is_err(), "it was not asked");
}

fn tcp_connect_tells_the_last_refusal() {
    let port = port();
    let addresses = [nobody(), nobody()];
    let refused = port
        .block_on(TcpStream::connect(&port, &addresses[..]))
        .unwrap();
    assert_eq!(
        refused.unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
    let none: &[SocketAddr] = &[];
    let refused = port.block_on(TcpStream::connect(&port, none)).unwrap();
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    port.clone().close().unwrap();
    assert_closed(futures_lite::future::block_on(TcpStream::connect(
        &port,
        nobody(),
    )));
}

fn tcp_split_halves_work_in_two_tasks() {
    let port = port();
    let pool = workers(&port, 2);
    let (stream, mut peer) = pair(&port);
    let (reader, writer) = stream.split();
    // The read waits all the time while the other half writes.
    let reads = port.spawn(async move {
        let (count, buffer) = reader.read(vec![0; 8]).await;
        (count.unwrap(), buffer[0])
    });
    let writes = port.spawn(async move {
        for i in 0..100u8 {
            writer.write_all(vec![i; 100]).await.0.unwrap();
        }
        writer
    });
    let mut got = [0; 10_000];
    peer.read_exact(&mut got).unwrap();
    assert!(got.chunks(100).zip(0u8..).all(|(part, i)| part == [i; 100]));
    let writer = futures_lite::future::block_on(writes).unwrap();
    peer.write_all(&[7]).unwrap();
    assert_eq!(futures_lite::future::block_on(reads).unwrap(), (1, 7));
    // The connection lives as long as one half.
    let sent = futures_lite::future::block_on(writer.write("x"));
    assert_eq!(sent.0.unwrap(), 1);
    drop(writer);
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"x");
    pool.finish();
}

fn tcp_a_finished_side_still_reads() {
    let port = port();
    let (stream, mut peer) = pair(&port);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    assert_eq!(peer.read_to_end(&mut rest).unwrap(), 0);
    peer.write_all(b"still here").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let all = port.block_on(read_all(&stream)).unwrap().unwrap();
    assert_eq!(all, b"still here");
    // The end stays the end.
    let (count, _) = port.block_on(stream.read(vec![0; 4])).unwrap();
    assert_eq!(count.unwrap(), 0);
    let (written, data) = port.block_on(stream.write(vec![1, 2, 3])).unwrap();
    assert!(written.is_err());
    assert_eq!(data, [1, 2, 3]);
}

fn tcp_dropping_the_writing_half_ends_the_stream() {
    let port = port();
    let (stream, mut peer) = pair(&port);
    let (reader, writer) = stream.split();
    port.block_on(writer.write_all("last words"))
        .unwrap()
        .0
        .unwrap();
    drop(writer);
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"last words");
    peer.write_all(b"answer").unwrap();
    let (count, _) = port.block_on(reader.read(vec![0; 10])).unwrap();
    assert_eq!(count.unwrap(), 6);
}

fn tcp_write_all_writes_more_than_the_socket_takes() {
    let len = scaled(20_000_000);
    let port = port();
    let (stream, mut peer) = pair(&port);
    let reads = spawn(move || {
        let mut all = vec![0; len];
        peer.read_exact(&mut all).unwrap();
        all
    });
    let data = pattern(3, len);
    let (written, data) = port.block_on(stream.write_all(data)).unwrap();
    written.unwrap();
    assert!(reads.join().unwrap() == data);
    let (written, nothing) = port.block_on(stream.write_all(Vec::new())).unwrap();
    written.unwrap();
    assert!(nothing.is_empty());
}

fn tcp_many_connections_at_once() {
    let clients = scaled(200);
    let port = port();
    let pool = workers(&port, 2);
    let (listener, address) = listen(&port);
    let server = port.spawn(serve(port.clone(), listener, clients));
    let tasks: Vec<_> = (0..clients)
        .map(|i| {
            port.spawn(client(
                port.clone(),
                address,
                pattern(i, 1 + i * 97 % 20_000),
            ))
        })
        .collect();
    for task in tasks {
        futures_lite::future::block_on(task).unwrap();
        tick();
    }
    futures_lite::future::block_on(server).unwrap();
    // What was awaited is what was in flight.
    assert_eq!(port.in_flight(), 0);
    pool.finish();
}
