//! One operation on a socket or pipe: the system call it becomes, and what the call's result means.
//!
//! An attempt is made under the source's lock, by whichever thread finds the descriptor ready.
// UNSAFETY: system calls on buffers that the submitter lent until the packet.
#![expect(unsafe_code)]

use std::{io, os::fd::RawFd, ptr::NonNull};

use super::{
    calls,
    inbox::Header,
    pipe::{self, Sight},
    source::Source,
};
use crate::{
    completion::Completion,
    handle::Kind,
    submission::{AcceptSlot, AddressSlot, clamp},
};

/// An operation on a socket or pipe.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) header: Header,
    pub(super) call: Call,
    /// Bytes moved so far: a send goes on until all are.
    pub(super) done: u32,
}

#[derive(Debug)]
pub(super) enum Call {
    Recv {
        buffer: *mut u8,
        len: u32,
        from: Option<NonNull<AddressSlot>>,
    },
    Send {
        buffer: *const u8,
        len: u32,
        to: Option<NonNull<AddressSlot>>,
    },
    Accept {
        slot: NonNull<AcceptSlot>,
    },
    Connect {
        was_blocking: bool,
    },
}

impl Call {
    pub(super) fn recv(buffer: *mut u8, len: usize, from: Option<NonNull<AddressSlot>>) -> Self {
        let len = clamp(len);
        Self::Recv { buffer, len, from }
    }

    pub(super) fn send(buffer: *const u8, len: usize, to: Option<NonNull<AddressSlot>>) -> Self {
        let len = clamp(len);
        Self::Send { buffer, len, to }
    }
}

// SAFETY: the pointers are used under the source's lock by whichever thread finds the descriptor
// ready; the submitter keeps them valid, and away from other uses, until the packet.
unsafe impl Send for Op {}

/// The outcome of an operation that moves no bytes.
pub(super) const CANCELLED: Completion = Completion {
    bytes: 0,
    error: libc::ECANCELED as u32,
};

impl Op {
    pub(super) fn cancelled(&self) -> Completion {
        Completion {
            bytes: self.done,
            error: libc::ECANCELED as u32,
        }
    }

    /// One try. `None`: it would block.
    pub(super) fn attempt(&mut self, source: &Source) -> Option<Completion> {
        let fd = source.fd;
        let is_pipe = source.kind == Kind::Pipe;
        match self.call {
            Call::Recv { buffer, len, .. } if is_pipe => self.read(fd, buffer, len),
            Call::Recv { buffer, len, from } => self.recv(source, buffer, len, from),
            Call::Send { buffer, len, to } if source.is_datagram => {
                self.send_datagram(fd, buffer, len, to)
            }
            Call::Send { buffer, len, .. } => self.send(fd, is_pipe, buffer, len),
            Call::Accept { slot } => self.accept(fd, slot),
            Call::Connect { .. } => {
                let result = calls::connected(fd)?;
                self.outcome(result.map(|()| 0))
            }
        }
    }

    /// Whether its first attempt came to nothing, so that the submitting call may return the error.
    /// A datagram that was cut to nothing is gone all the same.
    pub(super) fn was_refused(&self, first: Completion) -> bool {
        let is_cut = matches!(self.call, Call::Recv { .. }) && first.error == libc::EMSGSIZE as u32;
        first.error != 0 && first.bytes == 0 && !is_cut
    }

    fn recv(
        &mut self,
        source: &Source,
        buffer: *mut u8,
        len: u32,
        from: Option<NonNull<AddressSlot>>,
    ) -> Option<Completion> {
        // SAFETY: the submitter keeps buffer and slot valid, and to us alone, until the packet.
        let received =
            unsafe { calls::recv(source.fd, buffer, len as usize, from, source.is_datagram) };
        match received {
            // The message's own length: the rest of it is gone (D12).
            Ok(message) if message > len as usize => Some(Completion {
                bytes: len,
                error: libc::EMSGSIZE as u32,
            }),
            received => self.outcome(received.map(|n| n as u32)),
        }
    }

    /// Sends one datagram: a call moves all of it or nothing.
    fn send_datagram(
        &mut self,
        fd: RawFd,
        buffer: *const u8,
        len: u32,
        to: Option<NonNull<AddressSlot>>,
    ) -> Option<Completion> {
        // SAFETY: the submitter keeps buffer and slot valid until the packet.
        let sent = unsafe { calls::send(fd, buffer, len as usize, to) };
        self.outcome(sent.map(|n| n as u32))
    }

    /// Reads what is in a pipe. 0 bytes are its end, unless nobody has come yet who could write some:
    /// a FIFO can be opened for reading without waiting for a writer.
    fn read(&mut self, fd: RawFd, buffer: *mut u8, len: u32) -> Option<Completion> {
        loop {
            // SAFETY: the submitter keeps the buffer valid, and to us alone, until the packet.
            let read = unsafe { pipe::read(fd, buffer, len as usize) };
            match read {
                Ok(0) => match pipe::look(fd) {
                    Sight::Data => {}
                    Sight::NoWriterYet => return None,
                    Sight::End => return Some(Completion::ok(0)),
                },
                read => return self.outcome(read.map(|n| n as u32)),
            }
        }
    }

    /// Sends until all is sent or the socket or pipe is full.
    fn send(
        &mut self,
        fd: RawFd,
        is_pipe: bool,
        buffer: *const u8,
        len: u32,
    ) -> Option<Completion> {
        while self.done < len {
            let (start, rest) = (self.done as usize, (len - self.done) as usize);
            // SAFETY: `start + rest` is the buffer's length, and the submitter keeps it valid.
            let sent = unsafe {
                match is_pipe {
                    true => pipe::write(fd, buffer.add(start), rest),
                    false => calls::send(fd, buffer.add(start), rest, None),
                }
            };
            match sent {
                Ok(sent) => self.done += sent as u32,
                Err(error) => return self.outcome(Err(error)),
            }
        }
        Some(Completion::ok(self.done))
    }

    fn accept(&mut self, fd: RawFd, slot: NonNull<AcceptSlot>) -> Option<Completion> {
        loop {
            match calls::accept(fd) {
                Ok((socket, Some(peer))) => {
                    // SAFETY: the submitter keeps the slot valid, and to us alone.
                    let slot = unsafe { &mut *slot.as_ptr() };
                    slot.socket = Some(socket.into());
                    slot.peer = Some(peer);
                    return Some(Completion::ok(0));
                }
                Ok((_, None)) => {
                    return self.outcome(Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)));
                }
                // That client has gone already, which is no failure of the listener: accept(2),
                // "Error handling".
                Err(gone) if is_gone(&gone) => {}
                Err(error) => return self.outcome(Err(error)),
            }
        }
    }

    fn outcome(&self, result: io::Result<u32>) -> Option<Completion> {
        match result {
            Ok(bytes) => Some(Completion::ok(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(Completion {
                bytes: self.done,
                error: error.raw_os_error().unwrap_or(libc::EIO) as u32,
            }),
        }
    }
}

/// Errors that use up the connection they are about, so that trying again makes progress.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNABORTED | libc::EPROTO)
    )
}
