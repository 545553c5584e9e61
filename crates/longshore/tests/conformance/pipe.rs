//! Pipes that are awaited.

use std::{
    io::{ErrorKind, Read, Write},
    pin::pin,
    sync::Arc,
};

use futures_lite::future::{block_on, poll_once, zip};
use longshore::{ABORTED, Error, pipe};

use crate::{
    harness::{Test, port, scaled, tick},
    io_things::{Scratch, pattern, workers},
    pool::Pool,
    races::numbers_against_cancels,
    support::assert_closed,
};

pub const TESTS: &[Test] = tests![
    pipe_bytes_pass_and_the_end_follows,
    pipe_a_write_of_nothing_does_not_end_a_read_to_the_end,
    pipe_a_full_pipe_makes_writes_wait_and_loses_nothing,
    pipe_a_pending_read_ends_with_the_last_writer,
    pipe_a_write_that_nobody_reads_is_broken,
    pipe_a_pending_write_ends_with_the_last_reader,
    pipe_a_cancelled_read_leaves_the_bytes_to_the_next,
    pipe_cancel_races_a_write_and_loses_none,
    pipe_dropped_reads_touch_no_memory,
    pipe_a_write_outlives_its_writer,
    pipe_closing_ends_what_is_in_flight,
    pipe_many_pairs_echo_at_once,
    pipe_ends_of_std_and_other_things_are_told_apart,
];

fn pipe_bytes_pass_and_the_end_follows() {
    let port = port();
    let (reader, writer) = pipe::pair(&port).unwrap();
    port.block_on(async {
        let (count, buffer) = writer.write("hello").await;
        assert_eq!((count.unwrap(), buffer), (5, "hello"));
        let (count, _) = writer.write_vectored(vec!["a", "", "bc"]).await;
        assert_eq!(count.unwrap(), 3);
        assert_eq!(writer.write("").await.0.unwrap(), 0);
        let (count, buffer) = reader.read([0u8; 4]).await;
        assert_eq!((count.unwrap(), &buffer), (4, b"hell"));
        let parts = vec![vec![0; 1], vec![0; 2], vec![0; 8]];
        let (count, parts) = reader.read_vectored(parts).await;
        assert_eq!(count.unwrap(), 4);
        assert_eq!((&parts[0][..], &parts[1][..]), (&b"o"[..], &b"ab"[..]));
        assert_eq!(parts[2][0], b'c');
        writer.write_all(pattern(3, 1000)).await.0.unwrap();
        drop(writer);
        let (count, all) = reader.read_to_end(b"so far: ".to_vec()).await;
        assert_eq!((count.unwrap(), &all[..8]), (1000, &b"so far: "[..]));
        assert_eq!(all[8..], pattern(3, 1000));
        for _ in 0..3 {
            assert_eq!(reader.read([0; 4]).await.0.unwrap(), 0, "again and again");
        }
    })
    .unwrap();
    assert_eq!(port.in_flight(), 0);
}

fn pipe_a_write_of_nothing_does_not_end_a_read_to_the_end() {
    let port = port();
    let (reader, mut writer) = pipe::ends().unwrap();
    let reader = pipe::Reader::new(&port, reader).map_err(|(error, _)| error);
    let reader = reader.unwrap();
    let mut reading = pin!(reader.read_to_end(Vec::new()));
    for part in ["one ", "", "two ", ""] {
        // std makes the system call for nothing, too.
        assert_eq!(writer.write(part.as_bytes()).unwrap(), part.len());
        let polled = port.block_on(poll_once(&mut reading)).unwrap();
        assert!(polled.is_none(), "the writer is still there");
        while port.try_dispatch().unwrap() {}
    }
    drop(writer);
    let (count, all) = port.block_on(reading).unwrap();
    assert_eq!((count.unwrap(), &all[..]), (8, &b"one two "[..]));
}

fn pipe_a_full_pipe_makes_writes_wait_and_loses_nothing() {
    const LEN: usize = 3_000_000;
    let port = port();
    let pool = workers(&port, 2);
    let (reader, writer) = pipe::pair(&port).unwrap();
    let reading = port.spawn(async move { reader.read_to_end(Vec::new()).await });
    let (count, sent) = block_on(writer.write(pattern(7, LEN)));
    assert_eq!(count.unwrap(), LEN);
    drop(writer);
    let (count, got) = block_on(reading).unwrap();
    assert_eq!(count.unwrap(), LEN);
    assert!(got == sent);
    pool.finish();
}

fn pipe_a_pending_read_ends_with_the_last_writer() {
    let port = port();
    let pool = workers(&port, 1);
    for _ in 0..scaled(1000) {
        let (reader, writer) = pipe::pair(&port).unwrap();
        let reading = reader.read([0; 4]);
        drop(writer);
        assert_eq!(block_on(reading).0.unwrap(), 0);
        tick();
    }
    pool.finish();
}

fn pipe_a_write_that_nobody_reads_is_broken() {
    let port = port();
    let (reader, writer) = pipe::pair(&port).unwrap();
    drop(reader);
    for _ in 0..3 {
        let (result, buffer) = port.block_on(writer.write(vec![7; 3])).unwrap();
        assert_eq!(result.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(buffer, [7; 3]);
    }
    let (result, _) = port.block_on(writer.write_all("more")).unwrap();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

fn pipe_a_pending_write_ends_with_the_last_reader() {
    let port = port();
    let (reader, writer) = pipe::pair(&port).unwrap();
    let mut writing = pin!(writer.write_all(pattern(1, 1_000_000)));
    let polled = port.block_on(poll_once(&mut writing)).unwrap();
    assert!(polled.is_none(), "it does not fit");
    drop(reader);
    let (result, buffer) = port.block_on(writing).unwrap();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(buffer.len(), 1_000_000);
}

fn pipe_a_cancelled_read_leaves_the_bytes_to_the_next() {
    let port = port();
    let (reader, writer) = pipe::pair(&port).unwrap();
    let (first, second) = (reader.read(vec![1; 4]), reader.read(vec![2; 4]));
    first.cancel();
    let (result, buffer) = port.block_on(first).unwrap();
    assert_eq!(result.unwrap_err().raw_os_error(), Some(ABORTED as i32));
    assert_eq!(buffer, [1; 4]);
    port.block_on(writer.write("data")).unwrap().0.unwrap();
    let (count, buffer) = port.block_on(second).unwrap();
    assert_eq!((count.unwrap(), &buffer[..]), (4, &b"data"[..]));
    // After the end a cancel changes nothing.
    port.block_on(writer.write("more")).unwrap().0.unwrap();
    let third = reader.read(vec![3; 4]);
    while port.try_dispatch().unwrap() {}
    third.cancel();
    assert_eq!(port.block_on(third).unwrap().0.unwrap(), 4);
}

fn pipe_cancel_races_a_write_and_loses_none() {
    let port = port();
    let pool = workers(&port, 1);
    let (reader, mut writer) = pipe::ends().unwrap();
    let reader = pipe::Reader::new(&port, reader).map_err(|(error, _)| error);
    let reader = reader.unwrap();
    numbers_against_cancels(
        move |number| writer.write_all(&number).unwrap(),
        |race| {
            let read = reader.read([0; 8]);
            if let Some(race) = race {
                race();
                read.cancel();
            }
            block_on(read)
        },
    );
    assert_eq!(block_on(reader.read([0; 8])).0.unwrap(), 0, "the end");
    pool.finish();
    assert_eq!(port.in_flight(), 0);
}

fn pipe_dropped_reads_touch_no_memory() {
    let port = port();
    let (reader, writer) = pipe::pair(&port).unwrap();
    let buffers = Pool::default();
    for _ in 0..scaled(1000) {
        drop(reader.read(buffers.take(8)));
        port.block_on(writer.write(*b"12345")).unwrap().0.unwrap();
        let (count, buffer) = port.block_on(reader.read(buffers.take(8))).unwrap();
        assert_eq!(count.unwrap(), 5);
        assert_eq!(buffer.data(), b"12345");
        tick();
    }
    while port.try_dispatch().unwrap() {}
    assert_eq!(port.in_flight(), 0);
    assert!(buffers.verify() > 0);
}

/// The end comes after the last byte of a write in flight, not before.
fn pipe_a_write_outlives_its_writer() {
    const LEN: usize = 500_000;
    let port = port();
    let (reader, writer) = pipe::pair(&port).unwrap();
    let writing = writer.write(pattern(9, LEN));
    drop(writer);
    let both = zip(writing, reader.read_to_end(Vec::new()));
    let ((count, sent), (got, bytes)) = port.block_on(both).unwrap();
    assert_eq!((count.unwrap(), got.unwrap()), (LEN, LEN));
    assert!(sent == bytes);
}

fn pipe_closing_ends_what_is_in_flight() {
    let port = port();
    let (reader, writer) = pipe::pair(&port).unwrap();
    let (silent, full) = pipe::pair(&port).unwrap();
    let reads: Vec<_> = (0..3).map(|_| reader.read(vec![3; 4])).collect();
    let write = full.write(vec![0; 1_000_000]);
    port.clone().close().unwrap();
    for read in reads {
        let (result, buffer) = block_on(read);
        assert_eq!(result.unwrap_err().raw_os_error(), Some(ABORTED as i32));
        assert_eq!(buffer, [3; 4]);
    }
    // What went into the pipe is told, or the abort.
    let (result, buffer) = block_on(write);
    assert!(result.is_err() || matches!(result, Ok(1..1_000_000)));
    assert_eq!(buffer.len(), 1_000_000);
    let (result, buffer) = block_on(reader.read(vec![4; 4]));
    assert_closed(result);
    assert_eq!(buffer, [4; 4]);
    assert_closed(block_on(writer.write("late")).0);
    assert_closed(pipe::pair(&port).map(drop));
    drop((silent, full));
}

fn pipe_many_pairs_echo_at_once() {
    let port = port();
    let pool = workers(&port, 2);
    let rounds = scaled(500);
    let tasks: Vec<_> = (0..16)
        .map(|number| {
            let (there, back) = (pipe::pair(&port).unwrap(), pipe::pair(&port).unwrap());
            let echo = port.spawn(async move {
                loop {
                    let (count, buffer) = there.0.read(Vec::with_capacity(1024)).await;
                    match count.unwrap() {
                        0 => return,
                        _ => back.1.write_all(buffer).await.0.unwrap(),
                    }
                }
            });
            port.spawn(async move {
                for round in 0..rounds {
                    let sent = pattern(number + round, 1 + round % 700);
                    there.1.write_all(sent.clone()).await.0.unwrap();
                    let mut got = Vec::new();
                    while got.len() < sent.len() {
                        let (count, bytes) = back.0.read(Vec::with_capacity(1024)).await;
                        assert!(count.unwrap() > 0);
                        got.extend(bytes);
                    }
                    assert_eq!(got, sent);
                }
                drop(there.1);
                echo.await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        block_on(task).unwrap();
        tick();
    }
    pool.finish();
}

fn pipe_ends_of_std_and_other_things_are_told_apart() {
    let port = port();
    let (reader, mut writer) = std::io::pipe().unwrap();
    match pipe::Reader::new(&port, reader) {
        // Linux
        Ok(reader) => {
            writer.write_all(b"std").unwrap();
            let (count, buffer) = port.block_on(reader.read([0; 3])).unwrap();
            assert_eq!((count.unwrap(), &buffer), (3, b"std"));
        }
        // Windows: it comes back, unharmed.
        Err((error, reader)) => {
            assert_eq!(Error::of(&error), Some(Error::NotOverlapped));
            writer.write_all(b"std").unwrap();
            let mut buffer = [0; 3];
            let mut reader = std::io::PipeReader::from(reader);
            reader.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"std");
        }
    }
    // A file is no pipe, and comes back.
    let scratch = Scratch::new();
    let path = scratch.file(b"a file");
    let file = crate::io_things::open(&path, std::fs::OpenOptions::new().read(true));
    let file = Arc::into_inner(file).unwrap();
    let (error, file) = pipe::Reader::new(&port, file).unwrap_err();
    assert_eq!(Error::of(&error), Some(Error::WrongKind));
    assert_eq!(std::fs::File::from(file).metadata().unwrap().len(), 6);
    // The wrong end says so, and does not hang.
    let (reader, writer) = pipe::ends().unwrap();
    let wrong = pipe::Reader::new(&port, writer).map_err(|(error, _)| error);
    let (result, _) = port.block_on(wrong.unwrap().read([0; 4])).unwrap();
    assert!(result.is_err());
    let wrong = pipe::Writer::new(&port, reader).map_err(|(error, _)| error);
    let (result, _) = port.block_on(wrong.unwrap().write("x")).unwrap();
    assert!(result.is_err());
}
