//! Opens that wait for somebody: a FIFO's, which goes on when its other end is opened.

use std::{
    fs::File,
    path::{Path, PathBuf},
    pin::pin,
    process::Command,
    task::{Context, Poll, Waker},
};

use longshore::{Error, fs};

use crate::{
    fs::file,
    fs_life::elsewhere,
    handles,
    harness::{Test, port},
    io_things::{Scratch, pattern},
    support::{assert_closed, note, passed_in_a_child, seen, spin_until},
    threads,
};

pub const TESTS: &[Test] = tests![
    fs_an_open_that_waits_keeps_no_dispatcher_waiting,
    fs_opens_that_wait_leave_a_thread_to_reads_and_writes,
    fs_closing_does_not_wait_for_an_open_that_waits,
];

fn fifo(scratch: &Scratch) -> PathBuf {
    let path = scratch.file(b"").with_file_name("fifo");
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    path
}

/// The other end, which the opens wait for. It waits for one of them in turn.
fn writer(fifo: &Path) -> File {
    File::options().write(true).open(fifo).unwrap()
}

/// Both ends: whoever waits goes on.
fn both_ends(fifo: &Path) -> File {
    File::options().read(true).write(true).open(fifo).unwrap()
}

fn fs_an_open_that_waits_keeps_no_dispatcher_waiting() {
    let (scratch, port) = (Scratch::new(), port());
    let fifo = fifo(&scratch);
    let mut open = pin!(fs::File::open(&port, &fifo));
    let mut context = Context::from_waker(Waker::noop());
    let file = file(&port, &scratch, &pattern(0, 4096));
    for word in 0..100 {
        port.post(word, note).unwrap();
        let (count, _) = port.block_on(file.read_at(vec![0; 64], 0)).unwrap();
        assert_eq!(count.unwrap(), 64);
        while port.try_dispatch().unwrap() {}
        assert_eq!(seen(), [word]);
        assert_eq!(elsewhere(file.metadata()).unwrap().len(), 4096);
        assert!(matches!(open.as_mut().poll(&mut context), Poll::Pending));
    }
    // The other end comes, and the open goes on.
    let _writer = writer(&fifo);
    let error = elsewhere(open).unwrap_err();
    assert_eq!(Error::of(&error), Some(Error::WrongKind), "no regular file");
}

fn fs_opens_that_wait_leave_a_thread_to_reads_and_writes() {
    const LEN: usize = 1 << 20;
    let (scratch, port) = (Scratch::new(), port());
    let fifo = fifo(&scratch);
    let file = file(&port, &scratch, b"");
    let opens: Vec<_> = (0..8).map(|_| fs::File::open(&port, &fifo)).collect();
    for seed in 0..20 {
        let (result, buffer) = port
            .block_on(file.write_all_at(pattern(seed, LEN), 0))
            .unwrap();
        result.unwrap();
        let (result, read) = port.block_on(file.read_exact_at(vec![0; LEN], 0)).unwrap();
        result.unwrap();
        assert!(read == buffer);
    }
    let _writer = writer(&fifo);
    // Those that come later find the writer there, and do not wait.
    for open in opens {
        let error = elsewhere(open).unwrap_err();
        assert_eq!(Error::of(&error), Some(Error::WrongKind), "no regular file");
    }
}

fn fs_closing_does_not_wait_for_an_open_that_waits() {
    if passed_in_a_child() {
        return;
    }
    let scratch = Scratch::new();
    let fifo = fifo(&scratch);
    let (threads, handles) = (threads::count(), handles::count());
    for round in 0..4 {
        let port = port();
        let opens: Vec<_> = (0..6).map(|_| fs::File::open(&port, &fifo)).collect();
        match round {
            0 => port.close().unwrap(),
            1 => drop(port),
            // The futures go first.
            _ => {
                drop(opens);
                drop(port);
                // Some may have been taken out before they began.
                let _both = both_ends(&fifo);
                threads::until(threads);
                continue;
            }
        }
        for open in opens {
            assert_closed(elsewhere(open));
        }
        // The threads are in the system until the other end comes; nothing else is left of the port.
        let _both = both_ends(&fifo);
        threads::until(threads);
    }
    spin_until(|| handles::count() == handles);
}
