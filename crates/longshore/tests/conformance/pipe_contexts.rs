//! Pipes with Contexts, and with a queue.
// UNSAFETY: lends a buffer to an operation; the operation's block owns it.
#![expect(unsafe_code)]

use std::{
    io::{ErrorKind, PipeReader, PipeWriter, Write},
    sync::Arc,
};

use longshore::{ABORTED, Dispatcher, Error, Handle, Submission, pipe};

use crate::{
    harness::{Test, port},
    io::{Op, kind, refusal},
    io_things::{loopback, pattern},
    ioqueue::{block, queue},
};

pub const TESTS: &[Test] = tests![
    pipe_contexts_read_write_and_end,
    pipe_contexts_end_once_by_cancel_and_by_detach,
    pipe_contexts_move_what_fits_and_then_the_rest,
    pipe_contexts_are_refused_what_pipes_have_not,
    pipe_a_queue_waits_for_reads,
];

fn attached(port: &Dispatcher) -> (Arc<PipeReader>, Arc<PipeWriter>) {
    let (reader, writer) = pipe::ends().unwrap();
    port.attach(&reader).unwrap();
    port.attach(&writer).unwrap();
    (Arc::new(reader), Arc::new(writer))
}

fn read(op: &Op, port: &Dispatcher, reader: &Arc<PipeReader>) -> std::io::Result<()> {
    op.start(port, reader, |handle, buffer, len| Submission::Read {
        handle,
        // It means nothing, wherever it points.
        offset: u64::MAX,
        buffer,
        len,
    })
}

fn write(op: &Op, port: &Dispatcher, writer: &Arc<PipeWriter>) -> std::io::Result<()> {
    op.start(port, writer, |handle, buffer, len| Submission::Write {
        handle,
        offset: 1 << 40,
        buffer,
        len,
    })
}

fn pipe_contexts_read_write_and_end() {
    let port = port();
    let (reader, writer) = attached(&port);
    let (here, there) = (Op::new(16), Op::with(b"through".to_vec()));
    // Waiting for the bytes, and after they have come; each is one entry.
    for is_early in [true, false, true, false] {
        let waiting = is_early.then(|| read(&here, &port, &reader));
        let written = write(&there, &port, &writer);
        assert_eq!(there.finish(&port, written), (7, 0));
        let waiting = waiting.unwrap_or_else(|| read(&here, &port, &reader));
        assert_eq!(here.finish(&port, waiting), (7, 0));
        assert_eq!(here.data(7), b"through");
        assert!(!port.try_dispatch().unwrap());
    }
    assert_eq!((here.calls(), there.calls()), (4, 4));
    let waiting = read(&here, &port, &reader);
    port.detach(&*writer).unwrap();
    drop(writer);
    assert_eq!(here.finish(&port, waiting), (0, 0), "the end, found later");
    let again = read(&here, &port, &reader);
    assert_eq!(here.finish(&port, again), (0, 0), "the end, found at once");
    assert!(!port.try_dispatch().unwrap());
    let (reader, writer) = attached(&port);
    port.detach(&*reader).unwrap();
    drop(reader);
    let broken = write(&there, &port, &writer);
    let (bytes, error) = there.finish(&port, broken);
    assert_eq!((bytes, kind(error)), (0, ErrorKind::BrokenPipe));
    assert!(!port.try_dispatch().unwrap());
}

fn pipe_contexts_end_once_by_cancel_and_by_detach() {
    let port = port();
    let (reader, writer) = attached(&port);
    let (first, second) = (Op::new(8), Op::new(8));
    read(&first, &port, &reader).unwrap();
    read(&second, &port, &reader).unwrap();
    assert_eq!(port.in_flight(), 2);
    assert!(first.cancel(&port, &reader).unwrap());
    assert_eq!(first.finish(&port, Ok(())), (0, ABORTED));
    let there = Op::with(b"bytes".to_vec());
    let written = write(&there, &port, &writer);
    assert_eq!(there.finish(&port, written), (5, 0));
    assert_eq!(second.finish(&port, Ok(())), (5, 0));
    assert!(!first.cancel(&port, &reader).unwrap());
    read(&first, &port, &reader).unwrap();
    read(&second, &port, &reader).unwrap();
    assert_eq!(port.cancel_all(&*reader).unwrap(), 2);
    assert_eq!(first.finish(&port, Ok(())), (0, ABORTED));
    assert_eq!(second.finish(&port, Ok(())), (0, ABORTED));
    read(&first, &port, &reader).unwrap();
    port.detach(&*reader).unwrap();
    assert_eq!(first.finish(&port, Ok(())), (0, ABORTED));
    let refused = refusal(read(&first, &port, &reader));
    assert_eq!(refused, Some(Error::NotAttached));
    assert!(!port.try_dispatch().unwrap());
    assert_eq!((first.calls(), second.calls()), (3, 2));
}

fn pipe_contexts_move_what_fits_and_then_the_rest() {
    const LEN: usize = 400_000;
    let port = port();
    let (reader, writer) = attached(&port);
    let sent = pattern(5, LEN);
    let (all, part) = (Op::with(sent.clone()), Op::new(30_000));
    write(&all, &port, &writer).unwrap();
    let mut got = Vec::new();
    while got.len() < LEN {
        let started = read(&part, &port, &reader);
        let (bytes, error) = part.finish(&port, started);
        assert_eq!((error, bytes > 0), (0, true));
        got.extend(part.data(bytes as usize));
    }
    assert!(got == sent);
    assert_eq!(all.finish(&port, Ok(())), (LEN as u32, 0));
}

fn pipe_contexts_are_refused_what_pipes_have_not() {
    let port = port();
    let (reader, writer) = attached(&port);
    let op = Op::new(8);
    let receive = op.recv(&port, &reader);
    assert_eq!(refusal(receive), Some(Error::WrongKind), "no messages");
    let send = op.send(&port, &writer, 4);
    assert_eq!(refusal(send), Some(Error::WrongKind), "no messages");
    let none = Op::new(0);
    assert_eq!(
        refusal(read(&none, &port, &reader)),
        Some(Error::ZeroLength)
    );
    assert_eq!(
        refusal(write(&none, &port, &writer)),
        Some(Error::ZeroLength)
    );
    let socket = Arc::new(std::net::UdpSocket::bind(loopback(false)).unwrap());
    port.attach(&*socket).unwrap();
    let connect = op.start(&port, &socket, |pipe, _, _| Submission::ConnectPipe {
        pipe,
    });
    assert_eq!(refusal(connect), Some(Error::WrongKind));
    // Only a server's end has clients to wait for.
    let connect = op.start(&port, &writer, |pipe, _, _| Submission::ConnectPipe {
        pipe,
    });
    let error = connect.unwrap_err();
    match cfg!(windows) {
        true => assert!(error.raw_os_error().is_some(), "{error}"),
        false => assert_eq!(Error::of(&error), Some(Error::NoSuchOperation)),
    }
    assert_eq!(refusal(port.attach(&*reader)), Some(Error::AlreadyAttached));
    assert!(!port.try_dispatch().unwrap());
    assert_eq!((op.calls(), none.calls()), (0, 0));
}

fn pipe_a_queue_waits_for_reads() {
    let (port, queue) = queue();
    let (reader, mut writer) = pipe::ends().unwrap();
    let reader = queue.register(reader).map_err(|(error, _)| error).unwrap();
    let (overlapped, buffer) = block(16);
    for bytes in ["some", "more"] {
        let (handle, len) = (Handle::from(&reader), 16);
        let read = Submission::Read {
            handle,
            offset: 0,
            buffer,
            len,
        };
        // SAFETY: the block keeps the buffer.
        unsafe { queue.submit(&reader, &overlapped, read).unwrap() };
        let wait = queue.wait(&reader, &overlapped);
        writer.write_all(bytes.as_bytes()).unwrap();
        assert_eq!(port.block_on(wait).unwrap().unwrap(), 4);
        // SAFETY: nothing is in flight, so the buffer is ours.
        let got = unsafe { std::slice::from_raw_parts(buffer, 4) };
        assert_eq!(got, bytes.as_bytes());
    }
    drop(queue.unregister(reader));
    assert!(writer.write_all(b"nobody").is_err());
}
