//! Files: offsets, ends, lengths, and errors that leave everything as it was (D6, D12).

use std::{
    fs::OpenOptions,
    mem::ManuallyDrop,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use longshore::Submission;

use crate::{
    harness::{Test, port, scaled, spawn, tick},
    io::Op,
    io_things::{Scratch, attached_file, open, pattern, under_wine},
};

pub const TESTS: &[Test] = tests![
    d12_blocks_in_flight_together_land_at_their_offsets,
    d06_thousands_of_file_operations_in_flight_end_once_each,
    d12_a_read_at_the_end_and_past_it_is_zero_bytes_and_no_error,
    d12_a_read_across_the_end_is_short,
    d12_offsets_past_four_gib_are_kept,
    d12_a_write_longer_than_u32_max_is_cut_to_u32_max.skip(no_null_device),
    d12_a_read_longer_than_u32_max_is_not_wrapped.skip(touches_all_4_gib),
    d12_a_write_through_a_read_only_handle_is_an_error_and_changes_nothing,
    d12_a_read_through_a_write_only_handle_is_an_error_and_changes_nothing,
    d06_a_cached_read_is_exactly_one_completion,
    d12_a_file_that_shrinks_under_its_readers_gives_short_reads,
];

const BLOCK: usize = 4096;

fn d12_blocks_in_flight_together_land_at_their_offsets() {
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, b"");
    let writes: Vec<_> = (0..256).map(|i| Op::with(pattern(i, BLOCK))).collect();
    // Backwards, so that the file grows by holes that are filled later.
    for (i, write) in writes.iter().enumerate().rev() {
        write.write(&port, &file, (i * BLOCK) as u64).unwrap();
    }
    for write in &writes {
        assert_eq!(write.finish(&port, Ok(())), (BLOCK as u32, 0));
    }
    let reads: Vec<_> = (0..256).map(|_| Op::new(BLOCK)).collect();
    for (i, read) in reads.iter().enumerate() {
        read.read(&port, &file, (i * BLOCK) as u64).unwrap();
    }
    for (i, read) in reads.iter().enumerate() {
        assert_eq!(read.finish(&port, Ok(())), (BLOCK as u32, 0));
        assert!(read.data(BLOCK) == pattern(i, BLOCK), "block {i}");
    }
    assert_eq!(port.in_flight(), 0);
    assert!(!port.try_dispatch().unwrap());
}

fn d06_thousands_of_file_operations_in_flight_end_once_each() {
    let (scratch, port) = (Scratch::new(), port());
    let contents = pattern(0, 1 << 16);
    let file = attached_file(&port, &scratch, &contents);
    let ops: Vec<_> = (0..5000).map(|_| Op::new(16)).collect();
    for (i, op) in ops.iter().enumerate() {
        op.read(&port, &file, i as u64).unwrap();
        if i % 100 == 0 {
            tick();
        }
    }
    assert_eq!(port.in_flight(), 5000, "nothing was dispatched yet");
    for _ in 0..5000 {
        port.dispatch().unwrap();
        tick();
    }
    assert!(!port.try_dispatch().unwrap());
    for (i, op) in ops.iter().enumerate() {
        assert_eq!((op.calls(), op.last()), (1, (16, 0)));
        assert_eq!(op.data(16), contents[i..i + 16]);
    }
}

fn d12_a_read_at_the_end_and_past_it_is_zero_bytes_and_no_error() {
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &pattern(1, 1000));
    let op = Op::new(64);
    for (calls, offset) in [1000, 1001, 1 << 40].into_iter().enumerate() {
        assert_eq!(op.finish(&port, op.read(&port, &file, offset)), (0, 0));
        assert_eq!(op.calls(), calls + 1, "it came through dispatch");
    }
    assert!(!port.try_dispatch().unwrap());
}

fn d12_a_read_across_the_end_is_short() {
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &pattern(2, 1000));
    let op = Op::new(64);
    assert_eq!(op.finish(&port, op.read(&port, &file, 990)), (10, 0));
    assert_eq!(op.data(10), pattern(2, 1000)[990..]);
    assert_eq!(op.data(64)[10..], [0; 54], "the rest is untouched");
}

fn d12_offsets_past_four_gib_are_kept() {
    const FAR: u64 = 5 << 30;
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, b"");
    let write = Op::with(pattern(3, 100));
    assert_eq!(
        write.finish(&port, write.write(&port, &file, FAR)),
        (100, 0)
    );
    assert_eq!(file.metadata().unwrap().len(), FAR + 100);
    let read = Op::new(200);
    assert_eq!(read.finish(&port, read.read(&port, &file, FAR)), (100, 0));
    assert_eq!(read.data(100), pattern(3, 100));
    // Where the write would be if the upper half of the offset were lost.
    let low = FAR & u64::from(u32::MAX);
    assert_eq!(read.finish(&port, read.read(&port, &file, low)), (200, 0));
    assert_eq!(read.data(200), [0; 200]);
}

const OVER_U32: usize = (1 << 32) + 1;

fn no_null_device() -> Option<String> {
    under_wine("an overlapped write to the null device never ends")
}

fn d12_a_write_longer_than_u32_max_is_cut_to_u32_max() {
    // The null device swallows any length at once.
    let path = if cfg!(windows) { "NUL" } else { "/dev/null" };
    let port = port();
    let sink = open(&path.into(), OpenOptions::new().write(true));
    port.attach(&*sink).unwrap();
    let op = Op::new(0);
    // Address space more than memory; not given back if the test fails early.
    let buffer = ManuallyDrop::new(vec![0u8; OVER_U32]);
    let started = op.start(&port, &sink, |handle, _, _| Submission::Write {
        handle,
        offset: 0,
        buffer: buffer.as_ptr(),
        len: buffer.len(),
    });
    tick();
    let (bytes, error) = op.finish(&port, started);
    // Not 1, which is the length in 32 bits.
    assert_eq!((bytes, error), (u32::MAX, 0));
    drop(ManuallyDrop::into_inner(buffer));
}

fn touches_all_4_gib() -> Option<String> {
    under_wine("it touches every page of a buffer before it reads, and this one has 4 GiB")
}

fn d12_a_read_longer_than_u32_max_is_not_wrapped() {
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &pattern(4, 1000));
    let op = Op::new(0);
    let mut buffer = ManuallyDrop::new(Vec::<u8>::with_capacity(OVER_U32));
    let started = op.start(&port, &file, |handle, _, _| Submission::Read {
        handle,
        offset: 0,
        buffer: buffer.as_mut_ptr(),
        len: buffer.capacity(),
    });
    let ended = op.finish(&port, started);
    drop(ManuallyDrop::into_inner(buffer));
    // A wrapped length would have read one byte.
    assert_eq!(ended, (1000, 0));
}

fn d12_a_write_through_a_read_only_handle_is_an_error_and_changes_nothing() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(&pattern(5, 100));
    let file = open(&path, OpenOptions::new().read(true));
    port.attach(&*file).unwrap();
    let op = Op::with(vec![9; 10]);
    let (bytes, error) = op.finish(&port, op.write(&port, &file, 0));
    assert!(bytes == 0 && error != 0, "{bytes} bytes, error {error}");
    assert_eq!(port.in_flight(), 0);
    assert!(!port.try_dispatch().unwrap(), "no packet of it");
    // The same Context and handle, used rightly.
    assert_eq!(op.finish(&port, op.read(&port, &file, 50)), (10, 0));
    assert_eq!(op.data(10), pattern(5, 100)[50..60]);
}

fn d12_a_read_through_a_write_only_handle_is_an_error_and_changes_nothing() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(&pattern(6, 100));
    let file = open(&path, OpenOptions::new().write(true));
    port.attach(&*file).unwrap();
    let op = Op::with(vec![9; 10]);
    let (bytes, error) = op.finish(&port, op.read(&port, &file, 0));
    assert!(bytes == 0 && error != 0, "{bytes} bytes, error {error}");
    assert_eq!(op.data(10), [9; 10]);
    assert_eq!(port.in_flight(), 0);
    assert!(!port.try_dispatch().unwrap(), "no packet of it");
    assert_eq!(op.finish(&port, op.write(&port, &file, 0)), (10, 0));
    assert_eq!(std::fs::read(&path).unwrap()[..10], [9; 10]);
}

fn d06_a_cached_read_is_exactly_one_completion() {
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &pattern(7, BLOCK));
    let op = Op::new(BLOCK);
    for round in 1..=scaled(1000) {
        // What was written a moment ago is at hand: the system call itself succeeds.
        op.read(&port, &file, 0).unwrap();
        assert_eq!(op.calls(), round - 1, "not inside the submitting call");
        port.dispatch().unwrap();
        assert_eq!((op.calls(), op.last()), (round, (BLOCK as u32, 0)));
        assert!(!port.try_dispatch().unwrap(), "and no second one");
    }
}

fn d12_a_file_that_shrinks_under_its_readers_gives_short_reads() {
    const LEN: usize = 16 * BLOCK;
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &[7; LEN]);
    let done = Arc::new(AtomicBool::new(false));
    let shrinker = spawn({
        let (file, done) = (file.clone(), done.clone());
        move || {
            while !done.load(Ordering::Relaxed) {
                file.set_len(100).unwrap();
                file.set_len(LEN as u64).unwrap();
            }
            file.set_len(100).unwrap();
        }
    });
    let ops: Vec<_> = (0..16).map(|_| Op::new(BLOCK)).collect();
    for _ in 0..scaled(500) {
        for (i, op) in ops.iter().enumerate() {
            op.read(&port, &file, (i * BLOCK) as u64).unwrap();
        }
        for op in &ops {
            let (bytes, error) = op.finish(&port, Ok(()));
            assert_eq!(error, 0);
            let data = op.data(bytes as usize);
            assert!(data.iter().all(|byte| matches!(byte, 0 | 7)));
        }
        tick();
    }
    done.store(true, Ordering::Relaxed);
    shrinker.join().unwrap();
    let last = |op: &Op, offset| op.finish(&port, op.read(&port, &file, offset));
    assert_eq!(last(&ops[0], 0), (100, 0));
    assert_eq!(last(&ops[1], BLOCK as u64), (0, 0));
    assert!(ops.iter().all(|op| op.calls() >= scaled(500)));
}
