//! Attaching, files and pipes.
// UNSAFETY: makes a pipe.
#![expect(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::windows::{
        fs::OpenOptionsExt as _,
        io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle},
    },
};

use windows_sys::Win32::{
    Foundation::{ERROR_HANDLE_EOF, ERROR_IO_PENDING, ERROR_MORE_DATA, INVALID_HANDLE_VALUE},
    Storage::FileSystem::{FILE_FLAG_OVERLAPPED, PIPE_ACCESS_INBOUND},
    System::Pipes::{CreateNamedPipeW, PIPE_READMODE_MESSAGE, PIPE_TYPE_MESSAGE},
};

use super::{
    super::start::{Bytes, Called, owed_or},
    *,
};
use crate::handle::Kind;

fn overlapped_file(dir: &tempfile::TempDir, content: &[u8]) -> File {
    let path = dir.path().join("file");
    std::fs::write(&path, content).expect("a file");
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(FILE_FLAG_OVERLAPPED)
        .open(path)
        .expect("the file")
}

#[test]
fn c01_each_reason_not_to_attach_has_its_own_error() {
    let dir = tempfile::tempdir().expect("a folder");
    let (first, second) = (port(), port());
    let file = overlapped_file(&dir, b"x");
    first
        .attach(Handle::from(&file), Terms::CONTEXTS)
        .expect("attach");
    refused(
        first.attach(Handle::from(&file), Terms::CONTEXTS),
        Error::AlreadyAttached,
    );
    refused(
        second.attach(Handle::from(&file), Terms::CONTEXTS),
        Error::OtherPort,
    );
    let synchronous = File::open(dir.path().join("file")).expect("the file");
    refused(
        first.attach(Handle::from(&synchronous), Terms::CONTEXTS),
        Error::NotOverlapped,
    );
    for raw in [0, usize::MAX, 0x7_7770] {
        refused(
            first.attach(Handle::new(raw, Kind::File), Terms::CONTEXTS),
            Error::BadHandle,
        );
    }
    let a_port = second.as_handle();
    refused(
        first.attach(Handle::file(&a_port), Terms::CONTEXTS),
        Error::WrongKind,
    );
    let out = io::stdout();
    let console = first
        .attach(Handle::file(&out), Terms::CONTEXTS)
        .expect_err("no overlapped handle");
    assert!(Error::of(&console).is_some(), "{console}");
    // The refusals changed nothing.
    assert_eq!(first.attached.all(), [file.as_raw_handle().addr()]);
    assert!(second.attached.all().is_empty());
    close(first);
    close(second);
}

#[test]
fn c07_a_detached_handle_can_be_attached_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = port();
    let file = overlapped_file(&dir, b"x");
    let handle = Handle::from(&file);
    refused(port.detach(handle), Error::NotAttached);
    let mut byte = [0];
    let read = Submission::Read {
        handle,
        offset: 0,
        buffer: byte.as_mut_ptr(),
        len: 1,
    };
    refused(Op::new().submit(&port, read), Error::NotAttached);
    for _ in 0..2 {
        port.attach(handle, Terms::CONTEXTS).expect("attach");
        port.detach(handle).expect("detach");
        refused(port.detach(handle), Error::NotAttached);
        refused(Op::new().submit(&port, read), Error::NotAttached);
    }
    port.attach(handle, Terms::CONTEXTS).expect("attach");
    let op = Op::new();
    let issued = op.start(&port, read);
    assert_eq!(op.finish(&port, &issued), Completion::ok(1));
    close(port);
}

#[test]
fn c08_a_reused_handle_value_is_attached_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = port();
    // The value freed last is given out next, unless another test's thread is faster.
    let reused = (0..1000).any(|_| {
        let file = overlapped_file(&dir, b"x");
        let value = file.as_raw_handle().addr();
        port.attach(Handle::from(&file), Terms::CONTEXTS)
            .expect("attach");
        drop(file);
        let next = overlapped_file(&dir, b"x");
        port.attach(Handle::from(&next), Terms::CONTEXTS)
            .expect("attach");
        next.as_raw_handle().addr() == value
    });
    assert!(reused, "the value never came back");
    close(port);
}

#[test]
fn a05_warnings_owe_a_packet_and_errors_do_not() {
    let too_long = 10040;
    for code in [
        None,
        Some(ERROR_IO_PENDING),
        Some(ERROR_MORE_DATA),
        Some(too_long),
    ] {
        let decided = owed_or(code, Bytes::ComeIn).expect("no error");
        assert_ne!(decided, Called::AtTheEnd, "{code:?}");
    }
    for code in [ERROR_MORE_DATA, 10040] {
        assert!(
            owed_or(Some(code), Bytes::GoOut).is_err(),
            "a send that is too long"
        );
    }
    let end = owed_or(Some(ERROR_HANDLE_EOF), Bytes::ComeIn).expect("no error");
    assert_eq!(end, Called::AtTheEnd);
    assert!(owed_or(Some(ERROR_HANDLE_EOF), Bytes::GoOut).is_err());
    refused(owed_or(Some(6), Bytes::ComeIn), Error::BadHandle);
    refused(owed_or(Some(10038), Bytes::ComeIn), Error::BadHandle);
    let reset = owed_or(Some(10054), Bytes::ComeIn).expect_err("an error");
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn d12_a_file_is_written_and_read_and_its_end_is_zero_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = port();
    let file = overlapped_file(&dir, b"");
    let handle = Handle::from(&file);
    port.attach(handle, Terms::CONTEXTS).expect("attach");
    let offset = (5 << 30) + 3;
    let op = Op::new();
    let issued = op.start(
        &port,
        Submission::Write {
            handle,
            offset,
            buffer: b"hello".as_ptr(),
            len: 5,
        },
    );
    assert_eq!(op.finish(&port, &issued), Completion::ok(5));
    assert_eq!(file.metadata().expect("metadata").len(), offset + 5);
    let mut buffer = [0; 8];
    for (at, expected) in [(0, 5), (2, 3), (5, 0), (1000, 0)] {
        let op = Op::new();
        let read = Submission::Read {
            handle,
            offset: offset + at,
            buffer: buffer.as_mut_ptr(),
            len: buffer.len(),
        };
        let done = match op.submit(&port, read).expect("it starts") {
            (Submitted::PacketOwed, issued) => op.finish(&port, &issued),
            (Submitted::Done(done), _) => done,
        };
        assert_eq!(done, Completion::ok(expected), "at {at}");
    }
    assert_eq!(&buffer[..3], b"llo");
    nothing_left(&port);
    close(port);
}

#[test]
fn a04_a_read_that_fails_at_once_owes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = port();
    drop(overlapped_file(&dir, b"x"));
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(FILE_FLAG_OVERLAPPED);
    let file = options.open(dir.path().join("file")).expect("the file");
    port.attach(Handle::from(&file), Terms::CONTEXTS)
        .expect("attach");
    let mut byte = [0];
    let read = Submission::Read {
        handle: Handle::from(&file),
        offset: 0,
        buffer: byte.as_mut_ptr(),
        len: 1,
    };
    let error = Op::new().submit(&port, read).expect_err("write-only");
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
    nothing_left(&port);
    close(port);
}

/// The reading end of a message pipe, and a plain file that writes to it.
fn message_pipe() -> (OwnedHandle, File) {
    let name = format!(r"\\.\pipe\longshore-{}", std::process::id());
    let wide: Vec<u16> = name.encode_utf16().chain([0]).collect();
    // SAFETY: the name ends with a zero and lives for the call.
    let reader = unsafe {
        CreateNamedPipeW(
            wide.as_ptr(),
            PIPE_ACCESS_INBOUND | FILE_FLAG_OVERLAPPED,
            PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE,
            1,
            4096,
            4096,
            0,
            std::ptr::null(),
        )
    };
    assert_ne!(
        reader,
        INVALID_HANDLE_VALUE,
        "{}",
        io::Error::last_os_error()
    );
    // SAFETY: made just above, and nobody else owns it.
    let reader = unsafe { OwnedHandle::from_raw_handle(reader) };
    let writer = OpenOptions::new().write(true).open(name);
    (reader, writer.expect("the writing end"))
}

#[test]
fn a19_a_message_too_long_for_the_buffer_is_one_completion_and_the_rest_follows() {
    let port = port();
    let (reader, mut writer) = message_pipe();
    let handle = Handle::file(&reader);
    port.attach(handle, Terms::CONTEXTS).expect("attach");
    let mut buffer = [0; 5];
    let (buffer_start, len) = (buffer.as_mut_ptr(), buffer.len());
    let read = Submission::Read {
        handle,
        offset: 0,
        buffer: buffer_start,
        len,
    };
    for pending in [true, false] {
        let first = Op::new();
        if !pending {
            writer.write_all(b"messages").expect("a write");
        }
        let reading = first.start(&port, read);
        if pending {
            nothing_left(&port);
            writer.write_all(b"messages").expect("a write");
        }
        let done = first.finish(&port, &reading);
        assert_eq!((done.bytes, done.error), (5, 234), "pending: {pending}");
        let rest = Op::new();
        let reading = rest.start(&port, read);
        assert_eq!(rest.finish(&port, &reading), Completion::ok(3));
        nothing_left(&port);
    }
    // The end of a pipe: found by a pending read in its packet, by the next one at once.
    let last = Op::new();
    let reading = last.start(&port, read);
    drop(writer);
    assert_eq!(last.finish(&port, &reading).error, 109);
    let refused = Op::new().submit(&port, read).expect_err("broken");
    assert_eq!(refused.raw_os_error(), Some(109));
    nothing_left(&port);
    close(port);
}
