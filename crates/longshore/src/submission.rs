//! What to ask the kernel for: one enum of plain data, the same on every backend.
// UNSAFETY: says that the address of an accept slot may travel between threads.
#![expect(unsafe_code)]

use std::{net::SocketAddr, ptr::NonNull};

use crate::{
    error::Error,
    handle::{Handle, Kind},
};

mod address;

pub use address::AddressSlot;

/// Room for the two addresses `AcceptEx` writes: each the largest socket address plus 16 bytes.
pub(crate) const ACCEPT_ADDRESS: usize = 128 + 16;

/// One operation, described. [`Dispatcher::submit`](crate::Dispatcher::submit) starts it.
///
/// Pointers are raw because the kernel uses them until the packet comes: the buffer, the slot and
/// the handle must stay valid and unmoved until then. At most `u32::MAX` bytes move in one
/// operation; a longer buffer is used up to that length, and a short count is a success.
///
/// # Examples
/// ```
/// use longshore::{Handle, Submission};
/// let file = std::fs::File::open("Cargo.toml")?;
/// let mut buffer = vec![0u8; 4096];
/// let read = Submission::Read {
///     handle: Handle::from(&file),
///     offset: 0,
///     buffer: buffer.as_mut_ptr(),
///     len: buffer.len(),
/// };
/// # let _ = read;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Submission<'h> {
    /// Read from a file at `offset` bytes from its start. The end of the file is (0 bytes, no
    /// error); a file opened without buffering reports a misaligned read instead. On Windows the
    /// system may do cached and extending file operations inside the call.
    ///
    /// From a pipe: what is there, at least one byte, or 0 when its last writer has gone. Of a
    /// message that is longer than the buffer (Windows): the bytes that fit, with the error
    /// `ERROR_MORE_DATA` (234); the next read brings the rest. A FIFO that nobody has opened for
    /// writing yet (Linux) is waited for.
    Read {
        /// The file or pipe.
        handle: Handle<'h>,
        /// Bytes from the start of the file; of no meaning for a pipe.
        offset: u64,
        /// Where the bytes go; it need not be initialised.
        buffer: *mut u8,
        /// The length of the buffer in bytes.
        len: usize,
    },
    /// Write to a file at `offset` bytes from its start. (Linux: a file opened for appending ignores
    /// the offset, and a long write to one may come out in two pieces.)
    ///
    /// To a pipe: all bytes, unless an error or a cancel comes first; as one message, where the pipe
    /// has messages (Windows). When its last reader has gone it is `EPIPE`, and no signal, or
    /// `ERROR_NO_DATA` (232) or `ERROR_BROKEN_PIPE` (109). Two writes at once may mix on Linux if they
    /// are longer than `PIPE_BUF` (4096 bytes).
    Write {
        /// The file or pipe.
        handle: Handle<'h>,
        /// Bytes from the start of the file; of no meaning for a pipe.
        offset: u64,
        /// The bytes to write.
        buffer: *const u8,
        /// The length of the buffer in bytes.
        len: usize,
    },
    /// Receive from a connected socket: at least one byte, or 0 when the peer has finished. On a
    /// datagram socket: one datagram, from whomever; 0 bytes are an empty one, and one that is longer
    /// than the buffer is cut, and told as in [`RecvFrom`](Self::RecvFrom).
    ///
    /// On a pipe with messages (Windows): one message. 0 bytes are an empty one, and the end is an
    /// error (`ERROR_BROKEN_PIPE`, 109), which [`Read`](Self::Read) cannot tell apart; one that is
    /// longer than the buffer comes in pieces, as there.
    Recv {
        /// The connected socket, or pipe.
        socket: Handle<'h>,
        /// Where the bytes go; it need not be initialised.
        buffer: *mut u8,
        /// The length of the buffer in bytes; 0 is for datagrams and messages only.
        len: usize,
    },
    /// Send on a connected socket: all bytes, unless an error or a cancel comes first. On a datagram
    /// socket: one datagram, of 0 bytes too, as a whole or not at all. On a pipe with messages
    /// (Windows): one message, of 0 bytes too.
    Send {
        /// The connected socket, or pipe.
        socket: Handle<'h>,
        /// The bytes to send.
        buffer: *const u8,
        /// The length of the buffer in bytes; 0 is for datagrams and messages only.
        len: usize,
    },
    /// Receive one datagram and its sender's address. 0 bytes are an empty datagram. One that is
    /// longer than the buffer is cut: the bytes that were kept come with the error `WSAEMSGSIZE`
    /// (10040; Linux: `EMSGSIZE`), and the rest is gone. So a receive of 0 bytes takes a datagram,
    /// too.
    RecvFrom {
        /// The datagram socket.
        socket: Handle<'h>,
        /// Where the bytes go; it need not be initialised.
        buffer: *mut u8,
        /// The length of the buffer in bytes; it may be 0.
        len: usize,
        /// Where the sender's address is put.
        from: NonNull<AddressSlot>,
    },
    /// Send one datagram, as a whole or not at all. 0 bytes are an empty datagram; one that is too
    /// long is an error (`WSAEMSGSIZE`, `EMSGSIZE`), and nothing is sent.
    SendTo {
        /// The datagram socket.
        socket: Handle<'h>,
        /// The bytes to send.
        buffer: *const u8,
        /// The length of the buffer in bytes; it may be 0.
        len: usize,
        /// Whom it goes to. In a slot, because the system may look at the address until the packet.
        to: NonNull<AddressSlot>,
    },
    /// Accept one connection on a listening TCP socket. The count of bytes is 0.
    Accept {
        /// The listening socket. On Linux it becomes (and stays) non-blocking.
        listener: Handle<'h>,
        /// Where the accepted socket is put.
        slot: NonNull<AcceptSlot>,
    },
    /// Connect a fresh TCP socket. The count of bytes is 0. On Windows the socket is bound to
    /// the any-address of the same family first, unless it was bound before.
    Connect {
        /// The unconnected socket.
        socket: Handle<'h>,
        /// Where to.
        address: SocketAddr,
    },
    /// Wait for a client of a named pipe's server end (Windows). The count of bytes is 0.
    ///
    /// A client that has connected already ends it at once, through its packet like any other; so does
    /// one that has come and left again: what it wrote can be read, and then comes the end. Before the
    /// next client the server end has to be disconnected (`DisconnectNamedPipe`); a connect to the same
    /// client succeeds again. Linux: [`Error::NoSuchOperation`].
    #[doc(alias = "ConnectNamedPipe")]
    ConnectPipe {
        /// The server end.
        pipe: Handle<'h>,
    },
    /// Wait until an object is signalled (Windows), or its descriptor is readable or broken
    /// (Linux). The count of bytes is 0.
    ///
    /// An object that is signalled already ends the wait at once, through its packet. Windows: each
    /// wait takes what a wait takes from the object, so a signal of an auto-reset event ends one
    /// wait, and a cancelled wait takes none. A mutex cannot be waited for: it would belong to a
    /// thread of the system. Linux: nothing is read, and all waits on the descriptor end.
    Wait {
        /// What to wait for.
        object: Handle<'h>,
    },
}

/// Caller-owned storage for one accept: it lives unmoved until the packet comes.
///
/// # Examples
/// ```
/// let mut slot = longshore::AcceptSlot::new();
/// assert!(slot.take().is_none(), "nothing was accepted yet");
/// ```
#[derive(Debug)]
pub struct AcceptSlot {
    pub(crate) socket: Option<socket2::Socket>,
    pub(crate) peer: Option<SocketAddr>,
    #[cfg_attr(
        target_os = "linux",
        expect(dead_code, reason = "only Windows needs all of it")
    )]
    pub(crate) addresses: [u8; 2 * ACCEPT_ADDRESS],
}

impl AcceptSlot {
    /// An empty slot.
    pub const fn new() -> Self {
        Self {
            socket: None,
            peer: None,
            addresses: [0; 2 * ACCEPT_ADDRESS],
        }
    }

    /// The accepted connection and the address of its peer; `None` if none was accepted or it
    /// was taken before. A connection that nobody takes is closed with the slot.
    pub fn take(&mut self) -> Option<(std::net::TcpStream, SocketAddr)> {
        // The peer is filled in last and only on success, so it tells whether the socket counts.
        let peer = self.peer.take()?;
        Some((self.socket.take()?.into(), peer))
    }
}

impl Default for AcceptSlot {
    fn default() -> Self {
        Self::new()
    }
}

/// What remains to be known of an operation once it is in flight.
#[cfg_attr(
    target_os = "linux",
    expect(dead_code, reason = "only Windows needs all of it")
)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issued {
    pub(crate) handle: usize,
    pub(crate) kind: Kind,
    pub(crate) then: Then,
}

/// What is still to be done when the packet comes, before anybody is told.
#[cfg_attr(
    target_os = "linux",
    expect(dead_code, reason = "only Windows needs all of it")
)]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    Nothing,
    /// The accepted socket is in the slot and takes over the listener's properties.
    FinishAccept {
        listener: usize,
        slot: NonNull<AcceptSlot>,
    },
    /// The socket becomes a full member of the connection.
    FinishConnect {
        socket: usize,
    },
    /// The end of a pipe is no error.
    FinishRead,
}

// SAFETY: the slot's address is only carried here. Whoever follows it, on whichever thread, relies
// on the submitter, who promised that the slot stays valid until the packet (`submit`).
unsafe impl Send for Then {}
// SAFETY: see Send.
unsafe impl Sync for Then {}

impl Submission<'_> {
    /// The handle the operation is for.
    pub(crate) fn handle(&self) -> Handle<'_> {
        match *self {
            Self::Read { handle, .. } | Self::Write { handle, .. } => handle,
            Self::Recv { socket, .. }
            | Self::Send { socket, .. }
            | Self::RecvFrom { socket, .. }
            | Self::SendTo { socket, .. } => socket,
            Self::Accept { listener, .. } => listener,
            Self::Connect { socket, .. } => socket,
            Self::ConnectPipe { pipe } => pipe,
            Self::Wait { object } => object,
        }
    }

    pub(crate) fn issued(&self) -> Issued {
        let handle = self.handle();
        Issued {
            handle: handle.raw(),
            kind: handle.kind(),
            then: match *self {
                Self::Accept { listener, slot } => Then::FinishAccept {
                    listener: listener.raw(),
                    slot,
                },
                Self::Connect { socket, .. } => Then::FinishConnect {
                    socket: socket.raw(),
                },
                Self::Read { handle, .. } if handle.kind() == Kind::Pipe => Then::FinishRead,
                _ => Then::Nothing,
            },
        }
    }

    /// The file offset; 0 for what has none.
    pub(crate) fn offset(&self) -> u64 {
        match *self {
            _ if self.handle().kind() != Kind::File => 0,
            Self::Read { offset, .. } | Self::Write { offset, .. } => offset,
            _ => 0,
        }
    }

    /// Refuses what no system should be asked: wrong kinds, empty and impossible buffers.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if !self.is_for(self.handle().kind()) {
            return Err(Error::WrongKind);
        }
        let (buffer, len) = match *self {
            Self::Read { buffer, len, .. }
            | Self::Recv { buffer, len, .. }
            | Self::RecvFrom { buffer, len, .. } => (buffer.cast_const(), len),
            Self::Write { buffer, len, .. }
            | Self::Send { buffer, len, .. }
            | Self::SendTo { buffer, len, .. } => (buffer, len),
            _ => return Ok(()),
        };
        match len {
            0 if matches!(self, Self::Read { .. } | Self::Write { .. }) => {
                return Err(Error::ZeroLength);
            }
            // A message may be empty. Whether the object has any, its port knows (`fits`).
            0 => return Ok(()),
            _ if len > isize::MAX as usize => return Err(Error::TooLong),
            _ if buffer.is_null() => return Err(Error::NullBuffer),
            _ => {}
        }
        let end = self.offset().checked_add(u64::from(clamp(len)));
        match end {
            Some(end) if end <= i64::MAX as u64 => Ok(()),
            _ => Err(Error::OffsetOutOfRange),
        }
    }

    fn is_for(&self, kind: Kind) -> bool {
        match self {
            Self::Read { .. } | Self::Write { .. } => matches!(kind, Kind::File | Kind::Pipe),
            Self::Recv { .. } | Self::Send { .. } => matches!(kind, Kind::Socket | Kind::Pipe),
            Self::RecvFrom { .. } | Self::SendTo { .. } => kind == Kind::Socket,
            Self::Accept { .. } | Self::Connect { .. } => kind == Kind::Socket,
            Self::ConnectPipe { .. } => kind == Kind::Pipe,
            Self::Wait { .. } => kind == Kind::Waitable,
        }
    }

    /// Refuses what this sort of object has not, which is known once it is attached: empty transfers
    /// on a stream, single messages on what keeps none apart.
    pub(crate) fn fits(&self, has_messages: bool) -> Result<(), Error> {
        match *self {
            _ if has_messages => Ok(()),
            Self::Recv { socket, .. } | Self::Send { socket, .. }
                if socket.kind() == Kind::Pipe =>
            {
                Err(Error::WrongKind)
            }
            Self::Recv { len: 0, .. } | Self::Send { len: 0, .. } => Err(Error::ZeroLength),
            Self::RecvFrom { .. } | Self::SendTo { .. } => Err(Error::WrongKind),
            _ => Ok(()),
        }
    }
}

/// The length of one operation: both systems count its bytes in 32 bits.
pub(crate) fn clamp(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, offset: u64, buffer: *mut u8, len: usize) -> Submission<'static> {
        let handle = Handle::new(3, kind);
        Submission::Read {
            handle,
            offset,
            buffer,
            len,
        }
    }

    #[test]
    fn d05_impossible_submissions_are_refused_by_type() {
        let mut byte = 0u8;
        let p = &raw mut byte;
        let check = |s: Submission<'_>| s.validate();
        assert_eq!(check(read(Kind::File, 0, p, 1)), Ok(()));
        assert_eq!(check(read(Kind::Socket, 0, p, 1)), Err(Error::WrongKind));
        assert_eq!(check(read(Kind::File, 0, p, 0)), Err(Error::ZeroLength));
        let absurd = isize::MAX as usize + 1;
        assert_eq!(check(read(Kind::File, 0, p, absurd)), Err(Error::TooLong));
        let null = std::ptr::null_mut();
        assert_eq!(check(read(Kind::File, 0, null, 1)), Err(Error::NullBuffer));
        let last = i64::MAX as u64 - 1;
        assert_eq!(check(read(Kind::File, last, p, 1)), Ok(()));
        let past = Err(Error::OffsetOutOfRange);
        assert_eq!(check(read(Kind::File, last, p, 2)), past);
        assert_eq!(check(read(Kind::File, u64::MAX, p, 1)), past);
    }

    #[test]
    fn d05_lengths_are_clamped_not_wrapped() {
        assert_eq!(clamp(5), 5);
        assert_eq!(clamp(u32::MAX as usize), u32::MAX);
        #[cfg(target_pointer_width = "64")]
        assert_eq!(clamp(u32::MAX as usize + 1), u32::MAX);
    }
}
