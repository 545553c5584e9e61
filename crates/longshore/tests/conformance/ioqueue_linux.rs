//! Q9: waiting for readiness.

use std::{
    fs::File,
    io::{Read, Write},
    time::Duration,
};

use longshore::{Error, os::linux::Interest};
use socket2::Socket;

use crate::{
    harness::Test,
    io::refusal,
    io_things::{Scratch, pair},
    ioqueue::queue,
};

pub const TESTS: &[Test] = tests![
    q09_a_pipe_becomes_readable,
    q09_a_full_pipe_becomes_writable,
    q09_urgent_data_is_a_priority,
    q09_a_broken_pipe_is_ready_for_everything,
    q09_a_regular_file_is_always_ready,
    q09_a_registered_socket_is_waited_for_as_well,
    q09_a_dropped_readiness_leaves_nothing_behind,
    q09_readiness_ends_when_the_port_is_closed,
];

fn q09_a_pipe_becomes_readable() {
    let (port, queue) = queue();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    for round in 0..10u8 {
        let ready = queue.readiness(&reader, Interest::READ);
        assert!(queue.running());
        assert!(!queue.poll(Duration::from_millis(1)).unwrap());
        writer.write_all(&[round]).unwrap();
        assert_eq!(port.block_on(ready).unwrap().unwrap(), Interest::READ);
        assert!(!queue.running());
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [round]);
    }
}

fn q09_a_full_pipe_becomes_writable() {
    let (port, queue) = queue();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let empty = queue.readiness(&writer, Interest::READ | Interest::WRITE);
    assert_eq!(port.block_on(empty).unwrap().unwrap(), Interest::WRITE);
    // 16 pages, as pipe(7) says.
    writer.write_all(&[0; 65536]).unwrap();
    let ready = queue.readiness(&writer, Interest::WRITE);
    assert!(!queue.poll(Duration::from_millis(1)).unwrap());
    reader.read_exact(&mut [0; 65536]).unwrap();
    assert_eq!(port.block_on(ready).unwrap().unwrap(), Interest::WRITE);
}

fn q09_urgent_data_is_a_priority() {
    let (port, queue) = queue();
    let (here, there) = pair();
    let ready = queue.readiness(&*here, Interest::PRIORITY);
    assert!(!queue.poll(Duration::from_millis(1)).unwrap());
    Socket::from(there.try_clone().unwrap())
        .send_out_of_band(b"!")
        .unwrap();
    assert_eq!(port.block_on(ready).unwrap().unwrap(), Interest::PRIORITY);
}

fn q09_a_broken_pipe_is_ready_for_everything() {
    let (port, queue) = queue();
    let (reader, writer) = std::io::pipe().unwrap();
    let ready = queue.readiness(&writer, Interest::PRIORITY);
    drop(reader);
    assert_eq!(port.block_on(ready).unwrap().unwrap(), Interest::PRIORITY);
}

fn q09_a_regular_file_is_always_ready() {
    let (port, queue) = queue();
    let scratch = Scratch::new();
    let file = File::open(scratch.file(b"")).unwrap();
    let ready = port.block_on(queue.readiness(&file, Interest::READ));
    assert_eq!(ready.unwrap().unwrap(), Interest::READ);
}

fn q09_a_registered_socket_is_waited_for_as_well() {
    let (port, queue) = queue();
    let (here, mut there) = crate::ioqueue::registered(&queue);
    let ready = queue.readiness(here.get_ref(), Interest::READ);
    there.write_all(b"x").unwrap();
    assert_eq!(port.block_on(ready).unwrap().unwrap(), Interest::READ);
    // Still registered, and still this port's.
    let block = crate::ioqueue::block(1);
    crate::ioqueue::recv(&queue, &here, &block, 1).unwrap();
    let count = port.block_on(queue.wait(&here, &block.0)).unwrap();
    assert_eq!(count.unwrap(), 1);
    let elsewhere = crate::harness::port();
    assert_eq!(refusal(elsewhere.attach(&here)), Some(Error::OtherPort));
}

fn q09_a_dropped_readiness_leaves_nothing_behind() {
    let (port, queue) = queue();
    let (reader, _writer) = std::io::pipe().unwrap();
    for _ in 0..1000 {
        drop(queue.readiness(&reader, Interest::READ));
    }
    assert!(!queue.running());
    while port.in_flight() > 0 {
        port.dispatch().unwrap();
    }
    assert!(!port.try_dispatch().unwrap());
}

fn q09_readiness_ends_when_the_port_is_closed() {
    let (port, queue) = queue();
    let (reader, _writer) = std::io::pipe().unwrap();
    let ready = queue.readiness(&reader, Interest::READ);
    port.close().unwrap();
    let other = crate::harness::port();
    let ended = other.block_on(ready).unwrap();
    assert_eq!(refusal(ended), Some(Error::Closed));
    let late = other.block_on(queue.readiness(&reader, Interest::READ));
    assert_eq!(refusal(late.unwrap()), Some(Error::Closed));
}
