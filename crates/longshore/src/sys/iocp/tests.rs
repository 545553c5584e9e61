//! The backend by itself, on a real completion port.
// UNSAFETY: starts operations on memory that the tests keep.
#![expect(unsafe_code)]

use std::{
    io,
    net::{TcpListener, TcpStream},
    ptr::NonNull,
    time::{Duration, Instant},
};

use super::{Iocp, Origin};
use crate::{
    completion::Completion,
    error::Error,
    handle::Handle,
    overlapped::RawOverlapped,
    packet::Packet,
    submission::{Issued, Submission},
    sys::{
        backend::{Backend as _, Submitted, Terms, Wait},
        doze::Unwatched,
    },
};

mod files;
mod posting;
mod sockets;
mod waits;

/// Long enough for anything that is going to happen.
const PATIENCE: Duration = Duration::from_secs(20);

fn port() -> Iocp {
    Iocp::open(0, Origin::New).expect("a port")
}

fn close(mut port: Iocp) {
    let mut failures = Vec::new();
    assert!(port.shut(&mut failures), "shut for the first time");
    port.clean_up(&mut failures);
    port.release(false, &mut failures);
    assert!(failures.is_empty(), "{failures:?}");
}

fn word(key: usize) -> Packet {
    Packet {
        key,
        overlapped: 0xdead_beef,
        bytes: 7,
    }
}

fn soon() -> Wait {
    Wait::Until(Instant::now() + PATIENCE)
}

/// One operation: a header on the heap, freed at the end unless the kernel still has it.
struct Op(NonNull<RawOverlapped>);

impl Op {
    fn new() -> Self {
        Self(NonNull::from(Box::leak(Box::new(RawOverlapped::new()))))
    }

    /// Submits, and returns what is to be done when the packet comes.
    fn submit(&self, port: &Iocp, submission: Submission<'_>) -> io::Result<(Submitted, Issued)> {
        // SAFETY: each test keeps its buffers, slots and handles until it has taken the packet.
        unsafe {
            RawOverlapped::prepare(self.0, submission.offset());
            Ok((port.submit(self.0, &submission)?, submission.issued()))
        }
    }

    fn start(&self, port: &Iocp, submission: Submission<'_>) -> Issued {
        let (submitted, issued) = self.submit(port, submission).expect("it starts");
        assert!(matches!(submitted, Submitted::PacketOwed), "{submitted:?}");
        issued
    }

    /// Takes the operation's packet, which must be the next one, and its outcome.
    fn finish(self, port: &Iocp, issued: &Issued) -> Completion {
        let packet = port
            .take(soon(), &Unwatched)
            .expect("a take")
            .expect("a packet");
        assert_eq!(packet.key, 0);
        assert_eq!(packet.overlapped, self.0.as_ptr().addr());
        // SAFETY: the header lives, its packet was taken, and the test kept everything else.
        unsafe {
            let outcome = port.outcome(Some(issued), self.0).expect("not pending");
            let settled = port.settle(issued, outcome);
            drop(Box::from_raw(self.0.as_ptr()));
            settled
        }
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("connect");
    (client, listener.accept().expect("accept").0)
}

fn nothing_left(port: &Iocp) {
    assert_eq!(port.take(Wait::Poll, &Unwatched).expect("a look"), None);
}

#[track_caller]
fn refused<T>(result: io::Result<T>, expected: Error) {
    let error = result.map(drop).expect_err("refused");
    assert_eq!(Error::of(&error), Some(expected), "{error}");
}
