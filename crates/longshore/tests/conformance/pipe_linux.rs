//! FIFOs, and the signal that a write without readers raises elsewhere.
// UNSAFETY: changes what the process does on a signal, in a process of the test's own.
#![expect(unsafe_code)]

use std::{
    fs::File,
    io::{ErrorKind, Write},
    os::fd::AsRawFd,
    path::PathBuf,
    process::Command,
};

use futures_lite::future::poll_once;
use longshore::{Dispatcher, Error, pipe};

use crate::{
    harness::{Test, port},
    io_things::{Scratch, workers},
    support::{Seat, passed_in_a_child},
};

pub const TESTS: &[Test] = tests![
    pipe_a_fifo_opened_for_reading_waits_for_its_first_writer,
    pipe_a_fifo_ends_with_a_writer_that_wrote_nothing,
    pipe_a_fifo_is_read_again_by_its_next_writer,
    pipe_a_fifo_cannot_be_opened_for_writing_before_somebody_reads,
    pipe_a_fifo_that_is_none_is_refused,
    pipe_a_write_that_nobody_reads_raises_no_signal,
    pipe_a_child_finds_its_end_blocking,
    pipe_a_number_that_becomes_the_other_end_is_attached_anew,
];

fn fifo(scratch: &Scratch) -> PathBuf {
    let path = scratch.file(b"").with_file_name("fifo");
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    path
}

fn std_writer(path: &PathBuf) -> File {
    File::options().write(true).open(path).unwrap()
}

fn read(port: &Dispatcher, reader: &pipe::Reader) -> Vec<u8> {
    let (count, mut buffer) = port.block_on(reader.read(vec![0; 16])).unwrap();
    buffer.truncate(count.unwrap());
    buffer
}

fn pipe_a_fifo_opened_for_reading_waits_for_its_first_writer() {
    let (scratch, port) = (Scratch::new(), port());
    let path = fifo(&scratch);
    let reader = pipe::Reader::open_fifo(&port, &path).unwrap();
    let mut reading = reader.read(vec![0; 16]);
    let polled = port.block_on(poll_once(&mut reading)).unwrap();
    assert!(polled.is_none(), "there is no writer yet, which is no end");
    let writer = pipe::Writer::open_fifo(&port, &path).unwrap();
    let polled = port.block_on(poll_once(&mut reading)).unwrap();
    assert!(polled.is_none(), "there is one, but no bytes");
    port.block_on(writer.write("first")).unwrap().0.unwrap();
    let (count, buffer) = port.block_on(reading).unwrap();
    assert_eq!(&buffer[..count.unwrap()], b"first");
    port.block_on(writer.write("last")).unwrap().0.unwrap();
    drop(writer);
    assert_eq!(read(&port, &reader), b"last");
    assert_eq!(read(&port, &reader), b"");
}

fn pipe_a_fifo_ends_with_a_writer_that_wrote_nothing() {
    let (scratch, port) = (Scratch::new(), port());
    let path = fifo(&scratch);
    let pool = workers(&port, 1);
    for _ in 0..100 {
        let reader = pipe::Reader::open_fifo(&port, &path).unwrap();
        let reading = reader.read(vec![0; 16]);
        drop(std_writer(&path));
        let (count, _) = futures_lite::future::block_on(reading);
        assert_eq!(count.unwrap(), 0);
    }
    pool.finish();
}

fn pipe_a_fifo_is_read_again_by_its_next_writer() {
    let (scratch, port) = (Scratch::new(), port());
    let path = fifo(&scratch);
    let reader = pipe::Reader::open_fifo(&port, &path).unwrap();
    for word in ["one", "two", "three"] {
        let mut writer = std_writer(&path);
        let reading = reader.read(vec![0; 16]);
        writer.write_all(word.as_bytes()).unwrap();
        drop(writer);
        let (count, buffer) = port.block_on(reading).unwrap();
        assert_eq!(&buffer[..count.unwrap()], word.as_bytes());
        assert_eq!(read(&port, &reader), b"", "the end, until the next one");
    }
}

fn pipe_a_fifo_cannot_be_opened_for_writing_before_somebody_reads() {
    let (scratch, port) = (Scratch::new(), port());
    let path = fifo(&scratch);
    let error = pipe::Writer::open_fifo(&port, &path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
    let reader = pipe::Reader::open_fifo(&port, &path).unwrap();
    let writer = pipe::Writer::open_fifo(&port, &path).unwrap();
    port.block_on(writer.write("now")).unwrap().0.unwrap();
    assert_eq!(read(&port, &reader), b"now");
    drop(reader);
    let (result, _) = port.block_on(writer.write("not any more")).unwrap();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

fn pipe_a_fifo_that_is_none_is_refused() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(b"a file");
    let error = pipe::Reader::open_fifo(&port, &path).unwrap_err();
    assert_eq!(Error::of(&error), Some(Error::WrongKind));
    let error = pipe::Writer::open_fifo(&port, &path).unwrap_err();
    assert_eq!(Error::of(&error), Some(Error::WrongKind));
    assert_eq!(std::fs::read(&path).unwrap(), b"a file", "nor emptied");
    let error = pipe::Reader::open_fifo(&port, path.with_file_name("nothing"));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
}

fn pipe_a_write_that_nobody_reads_raises_no_signal() {
    if passed_in_a_child() {
        return;
    }
    // SAFETY: nothing else runs in this process that would rely on the signal being ignored.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let port = port();
    // At once, and while a thread sleeps in the port and makes the attempt.
    let (reader, writer) = pipe::pair(&port).unwrap();
    drop(reader);
    let (result, _) = port.block_on(writer.write("nobody")).unwrap();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::BrokenPipe);
    let (reader, writer) = pipe::pair(&port).unwrap();
    let writing = writer.write(vec![0; 1_000_000]);
    let (seat, told) = std::sync::mpsc::channel();
    let sleeper = crate::harness::spawn({
        let port = port.clone();
        move || {
            seat.send(Seat::here()).unwrap();
            port.dispatch().unwrap();
        }
    });
    told.recv().unwrap().until_asleep();
    drop(reader);
    sleeper.join().unwrap();
    let (result, _) = port.block_on(writing).unwrap();
    assert!(result.unwrap() < 1_000_000, "what went in is told");
}

/// Non-blocking is a mode of the open pipe's end, and the child's end is another.
fn pipe_a_child_finds_its_end_blocking() {
    let port = port();
    let (writer, stdin) = pipe::to_child(&port).unwrap();
    let (reader, stdout) = pipe::from_child(&port).unwrap();
    let mut command = Command::new("cat");
    let mut child = command.stdin(stdin).stdout(stdout).spawn().unwrap();
    drop(command);
    // cat has nothing to read yet; with a non-blocking input it would give up.
    assert!(child.try_wait().unwrap().is_none());
    port.block_on(async {
        writer.write_all("meow").await.0.unwrap();
        let (count, buffer) = reader.read(vec![0; 16]).await;
        assert_eq!(&buffer[..count.unwrap()], b"meow");
        drop(writer);
        assert_eq!(reader.read(vec![0; 16]).await.0.unwrap(), 0);
    })
    .unwrap();
    assert!(child.wait().unwrap().success());
}

fn pipe_a_number_that_becomes_the_other_end_is_attached_anew() {
    // Nobody else may take the number.
    if passed_in_a_child() {
        return;
    }
    let port = port();
    let (reader, writer) = pipe::ends().unwrap();
    let number = reader.as_raw_fd();
    port.attach(&reader).unwrap();
    let again = port.attach(&reader).unwrap_err();
    assert_eq!(Error::of(&again), Some(Error::AlreadyAttached));
    // Closed without being detached.
    drop(reader);
    let writer = writer.try_clone().unwrap();
    assert_eq!(writer.as_raw_fd(), number, "the lowest free number");
    port.attach(&writer).unwrap();
}
