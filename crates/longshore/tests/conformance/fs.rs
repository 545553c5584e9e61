//! `fs::File`: what is written is read back, errors say why, and buffers always come back.

use std::{fs::OpenOptions as StdOptions, io, sync::Arc};

use longshore::{
    BufResult, Dispatcher, Error, IoBuf,
    fs::{File, OpenOptions},
};

use crate::{
    harness::{Test, port, scaled, tick},
    io_things::{Scratch, open, pattern},
    support::assert_closed,
};

pub const TESTS: &[Test] = tests![
    fs_a_file_is_made_written_and_read_back,
    fs_a_missing_file_is_not_found,
    fs_options_decide_what_becomes_of_an_existing_file,
    fs_options_that_contradict_each_other_are_refused,
    fs_a_folder_is_no_file,
    fs_a_file_of_std_is_taken_over_if_it_is_overlapped,
    fs_a_write_past_4_gib_lands_where_it_should,
    fs_a_read_across_the_end_is_short_and_at_the_end_empty,
    fs_a_read_fills_the_capacity_and_sets_the_length,
    fs_read_exact_at_fills_the_buffer_or_says_why_not,
    fs_an_empty_buffer_is_ready_at_once,
    fs_buffers_come_back_with_errors,
    fs_a_closed_port_refuses_everything_and_keeps_nothing,
    fs_lengths_are_set_and_told,
    fs_syncs_succeed_after_writes,
    fs_a_file_cut_under_its_readers_reads_short,
    fs_a_thousand_operations_in_flight_end_once_each,
];

/// A file for reading and writing.
pub fn file(port: &Dispatcher, scratch: &Scratch, contents: &[u8]) -> File {
    let path = scratch.file(contents);
    let opening = File::options().read(true).write(true).open(port, path);
    port.block_on(opening).unwrap().unwrap()
}

fn wait<F: Future>(port: &Dispatcher, future: F) -> F::Output {
    port.block_on(future).unwrap()
}

fn fs_a_file_is_made_written_and_read_back() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(b"old contents");
    wait(&port, async {
        let file = File::create(&port, &path).await.unwrap();
        let (result, buffer) = file.write_all_at(pattern(1, 1 << 20), 0).await;
        result.unwrap();
        assert!(buffer == pattern(1, 1 << 20));
        assert_eq!(file.write_at("end", 1 << 20).await.0.unwrap(), 3);
        drop(file);
        let file = File::open(&port, &path).await.unwrap();
        let (count, buffer) = file.read_at(vec![0; 2 << 20], 0).await;
        assert_eq!(count.unwrap(), (1 << 20) + 3);
        assert!(buffer[..1 << 20] == pattern(1, 1 << 20));
        assert_eq!(buffer[1 << 20..][..4], *b"end\0");
    });
    assert_eq!(port.in_flight(), 0);
}

fn fs_a_missing_file_is_not_found() {
    let (scratch, port) = (Scratch::new(), port());
    let missing = scratch.file(b"").with_file_name("missing");
    for path in [missing.clone(), missing.join("deeper")] {
        let error = wait(&port, File::open(&port, path)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
    let error = wait(&port, File::create(&port, missing.join("file"))).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(!missing.exists());
}

fn fs_options_decide_what_becomes_of_an_existing_file() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(b"kept");
    let len = || std::fs::metadata(&path).unwrap().len();
    let mut options = OpenOptions::new();
    options.write(true).create(true);
    drop(wait(&port, options.open(&port, &path)).unwrap());
    assert_eq!(len(), 4);
    let mut fresh = options.clone();
    fresh.create_new(true);
    let error = wait(&port, fresh.open(&port, &path)).unwrap_err();
    assert_eq!((error.kind(), len()), (io::ErrorKind::AlreadyExists, 4));
    options.truncate(true);
    drop(wait(&port, options.open(&port, &path)).unwrap());
    assert_eq!(len(), 0);
    std::fs::remove_file(&path).unwrap();
    drop(wait(&port, fresh.open(&port, &path)).unwrap());
    assert_eq!(len(), 0, "it was made");
}

fn fs_options_that_contradict_each_other_are_refused() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(b"kept");
    let refused = [
        OpenOptions::new(),
        OpenOptions::new().read(true).truncate(true).clone(),
        OpenOptions::new().read(true).create(true).clone(),
        OpenOptions::new().read(true).create_new(true).clone(),
    ];
    for options in refused {
        let error = wait(&port, options.open(&port, &path)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{options:?}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"kept");
}

fn fs_a_folder_is_no_file() {
    let (scratch, port) = (Scratch::new(), port());
    let folder = scratch.file(b"").parent().unwrap().to_owned();
    let error = wait(&port, File::open(&port, folder)).unwrap_err();
    match cfg!(windows) {
        true => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        false => assert_eq!(Error::of(&error), Some(Error::WrongKind)),
    }
}

fn fs_a_file_of_std_is_taken_over_if_it_is_overlapped() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(b"of std");
    let ours = open(&path, StdOptions::new().read(true));
    let file = File::from_std(&port, Arc::into_inner(ours).unwrap()).unwrap();
    let (count, buffer) = wait(&port, file.read_at(vec![0; 16], 3));
    assert_eq!(&buffer[..count.unwrap()], b"std");
    let plain = File::from_std(&port, std::fs::File::open(&path).unwrap());
    match cfg!(windows) {
        true => assert_eq!(
            Error::of(&plain.unwrap_err()),
            Some(Error::NotOverlapped),
            "opened for synchronous use"
        ),
        false => drop(plain.unwrap()),
    }
}

fn fs_a_write_past_4_gib_lands_where_it_should() {
    const FAR: u64 = (5 << 30) + 7;
    let (scratch, port) = (Scratch::new(), port());
    let file = file(&port, &scratch, b"start");
    wait(&port, async {
        file.write_all_at("far", FAR).await.0.unwrap();
        assert_eq!(file.metadata().await.unwrap().len(), FAR + 3);
        let (count, buffer) = file.read_at(vec![1; 8], FAR - 2).await;
        assert_eq!(&buffer[..count.unwrap()], b"\0\0far");
        let (count, buffer) = file.read_at(vec![1; 8], 0).await;
        assert_eq!((count.unwrap(), &buffer[..]), (8, &b"start\0\0\0"[..]));
        file.set_len(0).await.unwrap();
    });
}

fn fs_a_read_across_the_end_is_short_and_at_the_end_empty() {
    let (scratch, port) = (Scratch::new(), port());
    let file = file(&port, &scratch, b"0123456789");
    for (offset, expected) in [(0, 10), (7, 3), (10, 0), (1 << 40, 0)] {
        let (count, buffer) = wait(&port, file.read_at(vec![b'-'; 16], offset));
        assert_eq!(count.unwrap(), expected, "at {offset}");
        assert_eq!(buffer[..expected], b"0123456789"[10 - expected..]);
        assert!(buffer[expected..].iter().all(|&byte| byte == b'-'));
    }
}

fn fs_a_read_fills_the_capacity_and_sets_the_length() {
    let (scratch, port) = (Scratch::new(), port());
    let file = file(&port, &scratch, b"0123456789");
    let (count, buffer) = wait(&port, file.read_at(Vec::with_capacity(4096), 2));
    assert_eq!((count.unwrap(), &buffer[..]), (8, &b"23456789"[..]));
    let (count, buffer) = wait(&port, file.read_at(Box::new([0; 4]), 2));
    assert_eq!((count.unwrap(), *buffer), (4, *b"2345"));
    let (count, buffer) = wait(&port, file.read_at(vec![b'-'; 12], 4));
    assert_eq!(count.unwrap(), 6);
    assert_eq!(buffer.len(), 12, "a length is never cut");
}

fn fs_read_exact_at_fills_the_buffer_or_says_why_not() {
    let (scratch, port) = (Scratch::new(), port());
    let file = file(&port, &scratch, b"0123456789");
    let (result, buffer) = wait(&port, file.read_exact_at(Box::new([0; 6]), 4));
    assert_eq!((result.unwrap(), *buffer), ((), *b"456789"));
    let (result, buffer) = wait(&port, file.read_exact_at(Box::new([b'-'; 6]), 7));
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(*buffer, *b"789---");
}

fn fs_an_empty_buffer_is_ready_at_once() {
    let (scratch, port) = (Scratch::new(), port());
    let file = file(&port, &scratch, b"0123456789");
    wait(&port, async {
        assert_eq!(file.read_at(Vec::new(), 0).await.0.unwrap(), 0);
        assert_eq!(file.write_at("", 0).await.0.unwrap(), 0);
        file.read_exact_at(Vec::new(), 1 << 40).await.0.unwrap();
        file.write_all_at(Vec::new(), 1 << 40).await.0.unwrap();
        assert_eq!(file.metadata().await.unwrap().len(), 10);
    });
}

/// The error; the buffer is the one that was given.
fn failed<T, B: IoBuf>((result, buffer): BufResult<T, B>, given: *const u8) -> io::Error {
    assert_eq!(buffer.as_ptr(), given);
    result.err().expect("it failed")
}

fn fs_buffers_come_back_with_errors() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(b"0123456789");
    let reader = wait(&port, File::open(&port, &path)).unwrap();
    let writer = wait(&port, File::options().write(true).open(&port, &path)).unwrap();
    let buffer = || {
        let buffer = pattern(3, 512);
        let address = buffer.as_ptr();
        (buffer, address)
    };
    wait(&port, async {
        let (data, given) = buffer();
        assert!(Error::of(&failed(reader.write_at(data, 0).await, given)).is_none());
        let (data, given) = buffer();
        failed(reader.write_all_at(data, 0).await, given);
        let (data, given) = buffer();
        assert!(Error::of(&failed(writer.read_at(data, 0).await, given)).is_none());
        let (data, given) = buffer();
        failed(writer.read_exact_at(data, 0).await, given);
        for offset in [u64::MAX, i64::MAX as u64] {
            let (data, given) = buffer();
            let error = failed(reader.read_at(data, offset).await, given);
            assert_eq!(Error::of(&error), Some(Error::OffsetOutOfRange));
            let (data, given) = buffer();
            let error = failed(writer.write_all_at(data, offset).await, given);
            assert_eq!(Error::of(&error), Some(Error::OffsetOutOfRange));
        }
        reader.set_len(3).await.expect_err("not open for writing");
    });
    assert_eq!(std::fs::read(&path).unwrap(), b"0123456789");
    assert_eq!(port.in_flight(), 0);
}

fn fs_a_closed_port_refuses_everything_and_keeps_nothing() {
    let (scratch, port, other) = (Scratch::new(), port(), port());
    let file = file(&port, &scratch, b"0123456789");
    let path = scratch.file(b"0123456789");
    let closed = port.clone();
    port.close().unwrap();
    wait(&other, async {
        let buffer = pattern(1, 64);
        let given = buffer.as_ptr();
        let (result, buffer) = file.read_at(buffer, 0).await;
        assert_closed(result);
        assert_eq!(buffer.as_ptr(), given);
        assert_closed(file.write_all_at(buffer, 0).await.0);
        assert_closed(file.sync_all().await);
        assert_closed(file.metadata().await);
        assert_closed(file.set_len(0).await);
        assert_closed(File::open(&closed, &path).await);
        assert_closed(File::create(&closed, &path).await);
    });
    assert_eq!(std::fs::read(&path).unwrap(), b"0123456789");
}

fn fs_lengths_are_set_and_told() {
    let (scratch, port) = (Scratch::new(), port());
    let file = file(&port, &scratch, b"0123456789");
    wait(&port, async {
        for len in [4, 1 << 33, 0, 6] {
            file.set_len(len).await.unwrap();
            let metadata = file.metadata().await.unwrap();
            assert_eq!((metadata.len(), metadata.is_file()), (len, true));
        }
        let (count, buffer) = file.read_at(vec![1; 64], 0).await;
        assert_eq!(buffer[..count.unwrap()], [0; 6], "grown with zeros");
    });
}

fn fs_syncs_succeed_after_writes() {
    let (scratch, port) = (Scratch::new(), port());
    let file = file(&port, &scratch, b"");
    wait(&port, async {
        let write = file.write_at(pattern(0, 1 << 16), 0);
        assert_eq!(write.await.0.unwrap(), 1 << 16);
        file.sync_data().await.unwrap();
        file.sync_all().await.unwrap();
    });
}

fn fs_a_file_cut_under_its_readers_reads_short() {
    const LEN: usize = 1 << 16;
    let (scratch, port) = (Scratch::new(), port());
    let contents = pattern(5, LEN);
    let file = file(&port, &scratch, &contents);
    wait(&port, async {
        for round in 0..scaled(200) {
            let reads: Vec<_> = (0..8)
                .map(|part| file.read_at(vec![0; LEN / 8], (part * LEN / 8) as u64))
                .collect();
            let cut = file.set_len((LEN / 2) as u64);
            for (part, read) in reads.into_iter().enumerate() {
                let (count, buffer) = read.await;
                let (count, start) = (count.unwrap(), part * LEN / 8);
                assert!(count == LEN / 8 || part >= 4, "round {round}");
                assert!(buffer[..count] == contents[start..start + count]);
            }
            cut.await.unwrap();
            let (count, _) = file.read_at(vec![0; 16], (LEN / 2) as u64).await;
            assert_eq!(count.unwrap(), 0);
            let rest = contents[LEN / 2..].to_vec();
            file.write_all_at(rest, (LEN / 2) as u64).await.0.unwrap();
            tick();
        }
    });
}

fn fs_a_thousand_operations_in_flight_end_once_each() {
    const BLOCK: usize = 512;
    let (scratch, port) = (Scratch::new(), port());
    let file = file(&port, &scratch, b"");
    wait(&port, async {
        let at = |i: usize| (i * BLOCK) as u64;
        // Backwards, so that the file grows by holes that are filled later.
        let writes = (0..1000).rev();
        let writes: Vec<_> = writes
            .map(|i| file.write_at(pattern(i, BLOCK), at(i)))
            .collect();
        for write in writes {
            assert_eq!(write.await.0.unwrap(), BLOCK);
        }
        tick();
        let reads: Vec<_> = (0..1000)
            .map(|i| file.read_at(vec![0; BLOCK], at(i)))
            .collect();
        for (i, read) in reads.into_iter().enumerate() {
            let (count, buffer) = read.await;
            assert_eq!(count.unwrap(), BLOCK);
            assert!(buffer == pattern(i, BLOCK), "block {i}");
        }
    });
    assert_eq!(port.in_flight(), 0);
}
