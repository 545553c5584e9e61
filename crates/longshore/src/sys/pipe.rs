//! Ends of pipes: what they are on each system, and how a pair of them is made.
//!
//! Linux has pipe(2). The pipes of Windows' CreatePipe cannot be used with overlapped I/O, so a pair is
//! one instance of a named pipe there, with its only client ([`named`]).

use std::io::{self, PipeReader, PipeWriter};

use crate::handle::Handle;

#[cfg(windows)]
pub(crate) mod named;

#[cfg(target_os = "linux")]
pub(crate) type Owned = std::os::fd::OwnedFd;
#[cfg(windows)]
pub(crate) type Owned = std::os::windows::io::OwnedHandle;

/// An end of a pipe of ours.
#[derive(Debug)]
pub(crate) struct End(pub(crate) Owned);

impl<'a> From<&'a End> for Handle<'a> {
    fn from(end: &'a End) -> Self {
        Self::pipe(&end.0)
    }
}

/// Whether a read of 0 bytes was the end.
#[cfg(target_os = "linux")]
pub(crate) fn has_ended(_reader: &Owned) -> bool {
    true
}

/// Whether a read of 0 bytes was the end. A writer may write 0 bytes, and a read ends with them (D8).
#[cfg(windows)]
pub(crate) fn has_ended(reader: &Owned) -> bool {
    named::peek(reader).is_err()
}

/// Which ends of a new pipe are to be attached to a port. (Linux decides that when it is done.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ours {
    Reader,
    Writer,
    Both,
}

#[cfg(target_os = "linux")]
pub(crate) fn pair(_ours: Ours) -> io::Result<(PipeReader, PipeWriter)> {
    io::pipe()
}

/// The ends that are not ours are synchronous, as programs expect them (C21).
#[cfg(windows)]
pub(crate) fn pair(ours: Ours) -> io::Result<(PipeReader, PipeWriter)> {
    use named::Access;

    let theirs_too = ours == Ours::Both;
    let (server, client) = match ours {
        Ours::Reader | Ours::Both => named::pair(Access::Inbound, theirs_too)?,
        Ours::Writer => named::pair(Access::Outbound, theirs_too)?,
    };
    Ok(match ours {
        Ours::Reader | Ours::Both => (server.into(), client.into()),
        Ours::Writer => (client.into(), server.into()),
    })
}
