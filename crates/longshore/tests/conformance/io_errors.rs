//! What is wrong with a call is said by type, before anything has changed (D1, D4, D5, D10, D12).
// UNSAFETY: borrows a handle that is not open, to see it refused.
#![expect(unsafe_code)]

use std::{io::Write, ptr};

use longshore::{ABORTED, Dispatcher, Error, Handle, Submission};

use crate::{
    harness::{Test, port},
    io::{Op, refusal},
    io_things::{Scratch, attached_file, attached_pair, fresh_socket, listener, pair, pattern},
};

pub const TESTS: &[Test] = tests![
    d05_impossible_buffers_and_offsets_are_refused_and_change_nothing,
    d05_a_wrong_kind_of_handle_is_refused_and_changes_nothing,
    d01_a_handle_that_was_not_attached_is_refused,
    d01_a_handle_is_attached_once,
    d01_a_handle_of_another_port_is_refused,
    d01_a_handle_that_is_not_open_is_refused,
    d04_a_context_in_flight_is_refused_and_undisturbed,
    d10_a_closed_dispatcher_says_so_and_the_context_works_elsewhere,
];

/// Nothing was started, and nothing is left behind.
fn assert_unchanged(port: &Dispatcher, op: &Op, calls: usize) {
    assert!(op.is_idle());
    assert_eq!(op.calls(), calls);
    assert_eq!(port.in_flight(), 0);
    assert!(!port.try_dispatch().unwrap());
}

fn d05_impossible_buffers_and_offsets_are_refused_and_change_nothing() {
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &pattern(0, 100));
    let (here, _there) = attached_pair(&port);
    let op = Op::new(10);
    let read = |offset, null: bool, len: usize| {
        op.start(&port, &file, |handle, buffer, _| Submission::Read {
            handle,
            offset,
            buffer: if null { ptr::null_mut() } else { buffer },
            len,
        })
    };
    let write = |offset, null: bool, len: usize| {
        op.start(&port, &file, |handle, buffer, _| Submission::Write {
            handle,
            offset,
            buffer: if null { ptr::null() } else { buffer },
            len,
        })
    };
    let recv = |null: bool, len: usize| {
        op.start(&port, &here, |socket, buffer, _| Submission::Recv {
            socket,
            buffer: if null { ptr::null_mut() } else { buffer },
            len,
        })
    };
    let send = |null: bool, len: usize| {
        op.start(&port, &here, |socket, buffer, _| Submission::Send {
            socket,
            buffer: if null { ptr::null() } else { buffer },
            len,
        })
    };
    let absurd = isize::MAX as usize + 1;
    let end = i64::MAX as u64;
    let refusals = [
        (read(0, false, 0), Error::ZeroLength),
        (write(0, false, 0), Error::ZeroLength),
        (recv(false, 0), Error::ZeroLength),
        (send(false, 0), Error::ZeroLength),
        (read(0, false, absurd), Error::TooLong),
        (write(0, false, absurd), Error::TooLong),
        (recv(false, usize::MAX), Error::TooLong),
        (send(false, usize::MAX), Error::TooLong),
        (read(0, true, 10), Error::NullBuffer),
        (write(0, true, 10), Error::NullBuffer),
        (recv(true, 10), Error::NullBuffer),
        (send(true, 10), Error::NullBuffer),
        (read(end, false, 1), Error::OffsetOutOfRange),
        (read(u64::MAX, false, 1), Error::OffsetOutOfRange),
        (write(end - 9, false, 10), Error::OffsetOutOfRange),
    ];
    for (i, (refused, reason)) in refusals.into_iter().enumerate() {
        assert_eq!(refusal(refused), Some(reason), "call {i}");
    }
    assert_unchanged(&port, &op, 0);
    // The last byte a file can have: a read of it is in range, and simply past the end.
    assert_eq!(op.finish(&port, read(end - 1, false, 1)), (0, 0));
    assert_eq!(op.finish(&port, read(90, false, 10)), (10, 0));
    assert_eq!(op.finish(&port, send(false, 10)), (10, 0));
}

fn d05_a_wrong_kind_of_handle_is_refused_and_changes_nothing() {
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &pattern(0, 100));
    let (here, there) = attached_pair(&port);
    let op = Op::new(10);
    let wrong = Some(Error::WrongKind);
    assert_eq!(refusal(op.recv(&port, &file)), wrong);
    assert_eq!(refusal(op.send(&port, &file, 10)), wrong);
    let read = op.start(&port, &here, |handle, buffer, len| Submission::Read {
        handle,
        offset: 0,
        buffer,
        len,
    });
    assert_eq!(refusal(read), wrong);
    let address = there.local_addr().unwrap();
    let connect = op.start(&port, &file, |socket, _, _| Submission::Connect {
        socket,
        address,
    });
    assert_eq!(refusal(connect), wrong);
    assert_unchanged(&port, &op, 0);
    assert_eq!(op.finish(&port, op.read(&port, &file, 0)), (10, 0));
    (&*there).write_all(b"x").unwrap();
    assert_eq!(op.finish(&port, op.recv(&port, &here)), (1, 0));
}

fn d01_a_handle_that_was_not_attached_is_refused() {
    let (scratch, port, other) = (Scratch::new(), port(), port());
    let file = attached_file(&other, &scratch, &pattern(0, 100));
    let (here, there) = pair();
    let (listener, socket) = (listener(false), fresh_socket(false));
    let op = Op::new(10);
    let refused = Some(Error::NotAttached);
    assert_eq!(refusal(op.recv(&port, &here)), refused);
    assert_eq!(refusal(op.send(&port, &here, 10)), refused);
    assert_eq!(refusal(op.read(&port, &file, 0)), refused);
    assert_eq!(refusal(op.accept(&port, &listener)), refused);
    let target = listener.local_addr().unwrap();
    assert_eq!(refusal(op.connect(&port, &socket, target)), refused);
    assert_eq!(refusal(port.detach(&*here)), refused);
    assert_unchanged(&port, &op, 0);
    port.attach(&*here).unwrap();
    (&*there).write_all(b"x").unwrap();
    assert_eq!(op.finish(&port, op.recv(&port, &here)), (1, 0));
    // And after detaching it is not attached any more, until it is again.
    port.detach(&*here).unwrap();
    assert_eq!(refusal(op.recv(&port, &here)), refused);
    assert_eq!(refusal(port.detach(&*here)), refused);
    port.attach(&*here).unwrap();
    (&*there).write_all(b"x").unwrap();
    assert_eq!(op.finish(&port, op.recv(&port, &here)), (1, 0));
}

fn d01_a_handle_is_attached_once() {
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &pattern(0, 100));
    let (here, there) = attached_pair(&port);
    let op = Op::new(10);
    op.recv(&port, &here).unwrap();
    assert_eq!(refusal(port.attach(&*here)), Some(Error::AlreadyAttached));
    assert_eq!(refusal(port.attach(&*file)), Some(Error::AlreadyAttached));
    // The operation that was in flight meanwhile is not disturbed.
    (&*there).write_all(b"x").unwrap();
    assert_eq!(op.finish(&port, Ok(())), (1, 0));
    assert_eq!(op.finish(&port, op.read(&port, &file, 0)), (10, 0));
}

fn d01_a_handle_of_another_port_is_refused() {
    let (port, other) = (port(), port());
    let (here, there) = attached_pair(&port);
    let op = Op::new(10);
    op.recv(&port, &here).unwrap();
    assert_eq!(refusal(other.attach(&*here)), Some(Error::OtherPort));
    assert_eq!(refusal(other.detach(&*here)), Some(Error::NotAttached));
    assert!(!other.try_dispatch().unwrap());
    (&*there).write_all(b"x").unwrap();
    assert_eq!(op.finish(&port, Ok(())), (1, 0));
}

/// A handle whose value no process ever has.
fn not_open(attach: impl Fn(Handle<'_>)) {
    #[cfg(unix)]
    {
        // SAFETY: it is not open, which is the point; it is only looked up, never used.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(i32::MAX - 1) };
        attach(Handle::file(&fd));
        attach(Handle::socket(&fd));
    }
    #[cfg(windows)]
    {
        use std::os::windows::io::{BorrowedHandle, BorrowedSocket};
        // SAFETY: as above.
        let handle = unsafe { BorrowedHandle::borrow_raw(0x7fff_fff0 as *mut _) };
        // SAFETY: as above.
        let socket = unsafe { BorrowedSocket::borrow_raw(0x7fff_fff0) };
        attach(Handle::file(&handle));
        attach(Handle::socket(&socket));
    }
}

fn d01_a_handle_that_is_not_open_is_refused() {
    let port = port();
    not_open(|handle| assert_eq!(refusal(port.attach(handle)), Some(Error::BadHandle)));
    not_open(|handle| assert_eq!(refusal(port.detach(handle)), Some(Error::NotAttached)));
    let (here, there) = attached_pair(&port);
    (&*there).write_all(b"x").unwrap();
    let op = Op::new(10);
    assert_eq!(op.finish(&port, op.recv(&port, &here)), (1, 0));
}

fn d04_a_context_in_flight_is_refused_and_undisturbed() {
    let (scratch, port) = (Scratch::new(), port());
    let (here, there) = attached_pair(&port);
    let file = attached_file(&port, &scratch, &pattern(0, 100));
    let op = Op::new(10);
    op.recv(&port, &here).unwrap();
    let refused = Some(Error::ContextInFlight);
    assert_eq!(refusal(op.recv(&port, &here)), refused);
    assert_eq!(refusal(op.read(&port, &file, 5)), refused);
    // SAFETY: it is refused, so nothing is asked of the Context.
    let reposted = op.lend(Box::new(()), |context| unsafe {
        port.repost(context, 1, 2)
    });
    assert_eq!(refusal(reposted), refused);
    assert_eq!(port.in_flight(), 1);
    assert!(!port.try_dispatch().unwrap());
    (&*there).write_all(b"data").unwrap();
    assert_eq!(op.finish(&port, Ok(())), (4, 0));
    assert_eq!((op.calls(), op.data(4)), (1, b"data".to_vec()));

    // Ended, but not dispatched yet: still in flight.
    op.read(&port, &file, 0).unwrap();
    assert_eq!(refusal(op.read(&port, &file, 0)), refused);
    assert_eq!(op.finish(&port, Ok(())), (10, 0));
    assert_eq!(op.finish(&port, op.read(&port, &file, 95)), (5, 0));
    assert_unchanged(&port, &op, 3);
}

fn d10_a_closed_dispatcher_says_so_and_the_context_works_elsewhere() {
    let (scratch, port) = (Scratch::new(), port());
    let (here, there) = attached_pair(&port);
    let (unbound, peer) = pair();
    let op = Op::new(10);
    let clone = port.clone();
    op.recv(&port, &here).unwrap();
    clone.close().unwrap();
    assert_eq!((op.calls(), op.last()), (1, (0, ABORTED)));
    let closed = Some(Error::Closed);
    assert_eq!(refusal(op.recv(&port, &here)), closed);
    assert_eq!(refusal(op.cancel(&port, &here)), closed);
    assert_eq!(refusal(port.cancel_all(&*here)), closed);
    assert_eq!(refusal(port.attach(&*unbound)), closed);
    assert_eq!(refusal(port.wake_one()), closed);
    assert_eq!(refusal(port.try_dispatch()), closed);
    assert_eq!(refusal(port.dispatch()), closed);
    // SAFETY: it is refused, so nothing is asked of the Context.
    let reposted = op.lend(Box::new(()), |context| unsafe {
        port.repost(context, 1, 2)
    });
    assert_eq!(refusal(reposted), closed);
    assert!(op.is_idle());
    assert_eq!(op.calls(), 1);

    let other = crate::harness::port();
    other.attach(&*unbound).unwrap();
    (&*peer).write_all(b"x").unwrap();
    assert_eq!(op.finish(&other, op.recv(&other, &unbound)), (1, 0));
    let file = attached_file(&other, &scratch, &pattern(0, 100));
    assert_eq!(op.finish(&other, op.read(&other, &file, 0)), (10, 0));
    drop(there);
}
