//! Buffers of a connection: several at once, none, every kind, and back from every error.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use longshore::Error;

use crate::{
    harness::{Test, port},
    io_things::{pattern, reset},
    support::assert_closed,
    tcp::{pair, read_all},
};

pub const TESTS: &[Test] = tests![
    tcp_vectored_writes_gather_in_order,
    tcp_vectored_reads_scatter_in_order,
    tcp_empty_transfers_are_ready_at_once,
    tcp_all_kinds_of_buffers_come_back,
    tcp_buffers_come_back_from_every_error,
];

fn tcp_vectored_writes_gather_in_order() {
    let port = port();
    let (stream, mut peer) = pair(&port);
    let parts = vec![pattern(1, 10), vec![], pattern(2, 3000), pattern(3, 1)];
    let (count, back) = port.block_on(stream.write_vectored(parts.clone())).unwrap();
    assert_eq!(count.unwrap(), 3011);
    assert_eq!(back, parts);
    let mut got = vec![0; 3011];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got, parts.concat());
    let none: Vec<Vec<u8>> = vec![vec![], vec![]];
    let (count, back) = port.block_on(stream.write_vectored(none)).unwrap();
    assert_eq!((count.unwrap(), back.len()), (0, 2));
    drop(peer);
}

fn tcp_vectored_reads_scatter_in_order() {
    let port = port();
    let (stream, mut peer) = pair(&port);
    let data = pattern(5, 14);
    peer.write_all(&data).unwrap();
    let mut got = Vec::new();
    while got.len() < data.len() {
        let buffers = vec![
            Vec::with_capacity(3),
            Vec::new(),
            Vec::with_capacity(8),
            Vec::with_capacity(100),
        ];
        let (count, back) = port.block_on(stream.read_vectored(buffers)).unwrap();
        let count = count.unwrap();
        let filled = back.concat();
        assert_eq!(filled.len(), count);
        // One is full before the next one is touched. (A vector may have more room than asked.)
        let full = |i: usize| back[i].len() == back[i].capacity();
        assert!(full(0) || back[2].is_empty());
        assert!(full(2) || back[3].is_empty());
        got.extend(filled);
    }
    assert_eq!(got, data);
    // Cancelled, the buffers come back, and nothing is lost.
    let read = stream.read_vectored(vec![vec![9; 4], vec![8; 4]]);
    read.cancel();
    let (count, back) = port.block_on(read).unwrap();
    assert!(count.is_err());
    assert_eq!(back, [[9; 4], [8; 4]]);
    peer.write_all(&data).unwrap();
    drop(peer);
    assert_eq!(port.block_on(read_all(&stream)).unwrap().unwrap(), data);
}

fn tcp_empty_transfers_are_ready_at_once() {
    let port = port();
    let (stream, _peer) = pair(&port);
    // Without anybody who dispatches.
    let (count, _) = futures_lite::future::block_on(stream.read(Vec::new()));
    assert_eq!(count.unwrap(), 0);
    let (count, _) = futures_lite::future::block_on(stream.write(""));
    assert_eq!(count.unwrap(), 0);
    let read = stream.read_vectored(Vec::<Vec<u8>>::new());
    assert_eq!(futures_lite::future::block_on(read).0.unwrap(), 0);
}

fn tcp_all_kinds_of_buffers_come_back() {
    let port = port();
    let (stream, mut peer) = pair(&port);
    port.block_on(async {
        assert_eq!(stream.write(vec![1, 2]).await.1, [1, 2]);
        assert_eq!(stream.write(Box::<[u8]>::from([3])).await.1[..], [3]);
        assert_eq!(stream.write(Box::new([4u8, 5])).await.1, Box::new([4, 5]));
        assert_eq!(stream.write(&b"st"[..]).await.1, b"st");
        assert_eq!(stream.write("str").await.1, "str");
        assert_eq!(stream.write("ing".to_owned()).await.1, "ing");
        assert_eq!(stream.write([6u8, 7]).await.1, [6, 7]);
    })
    .unwrap();
    let mut got = [0; 15];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"\x01\x02\x03\x04\x05ststring\x06\x07");
    peer.write_all(b"yzabcdefgh").unwrap();
    port.block_on(async {
        let (count, buffer) = stream.read([0u8; 2]).await;
        assert_eq!((count.unwrap(), buffer), (2, *b"yz"));
        let (count, buffer) = stream.read(Box::new([0u8; 2])).await;
        assert_eq!((count.unwrap(), *buffer), (2, *b"ab"));
        let (count, buffer) = stream.read(vec![0; 2].into_boxed_slice()).await;
        assert_eq!((count.unwrap(), &*buffer), (2, &b"cd"[..]));
        let mut room = Vec::with_capacity(64);
        room.extend_from_slice(b"12345");
        let (count, buffer) = stream.read(room).await;
        assert_eq!((count.unwrap(), &*buffer), (4, &b"efgh5"[..]));
    })
    .unwrap();
}

fn tcp_buffers_come_back_from_every_error() {
    let port = port();
    // Aborted.
    let (stream, peer) = pair(&port);
    let read = stream.read(vec![5; 7]);
    read.cancel();
    let (count, buffer) = port.block_on(read).unwrap();
    assert!(count.is_err());
    assert_eq!(buffer, [5; 7]);
    // Reset.
    let read = stream.read(vec![6; 8]);
    reset(Arc::new(peer));
    let (count, buffer) = port.block_on(read).unwrap();
    assert_eq!(count.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(buffer, [6; 8]);
    let (written, buffer) = port.block_on(stream.write_all(vec![7; 9])).unwrap();
    assert!(written.is_err());
    assert_eq!(buffer, [7; 9]);
    // Closed, before and in flight.
    let (stream, _peer) = pair(&port);
    let in_flight = stream.read(vec![1; 3]);
    port.close().unwrap();
    let (count, buffer) = futures_lite::future::block_on(in_flight);
    assert!(count.is_err());
    assert_eq!(buffer, [1; 3]);
    let (count, buffer) = futures_lite::future::block_on(stream.read(vec![2; 4]));
    assert_eq!(Error::of(&count.unwrap_err()), Some(Error::Closed));
    assert_eq!(buffer, [2; 4]);
    let (count, buffer) = futures_lite::future::block_on(stream.write_vectored(vec!["a", "b"]));
    assert_closed(count);
    assert_eq!(buffer, ["a", "b"]);
}
