//! The errors that longshore itself finds, before the operating system is asked.

use std::{error, fmt, io};

/// What longshore found wrong with a call. The call changed nothing.
///
/// The functions of the crate return [`io::Result`]; an error of this type travels inside the
/// [`io::Error`] and [`Error::of`] finds it there. Errors of the operating system come as they
/// are, with their [`raw_os_error`](io::Error::raw_os_error).
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, Error};
/// let port = Dispatcher::new()?;
/// let other = port.clone();
/// port.close()?;
/// let refused = other.wake_one().unwrap_err();
/// assert_eq!(Error::of(&refused), Some(Error::Closed));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// The dispatcher was closed.
    Closed,
    /// The Context has an operation in flight: its packet has not been dispatched yet.
    ContextInFlight,
    /// Somebody waits for this operation already.
    AlreadyWaiting,
    /// Nothing is in flight that could be waited for.
    NotInFlight,
    /// The handle is not registered with this queue, or the operation was not started on it: its
    /// completion might never arrive.
    #[doc(alias = "UnregisteredHandleDefect")]
    UnregisteredHandle,
    /// The handle was closed while it was registered.
    PrematureClose,
    /// The buffer is empty. (A read of zero bytes could not be told from the end of the file.
    /// A datagram may be empty.)
    ZeroLength,
    /// The buffer is longer than `isize::MAX` bytes, which no object in memory is.
    TooLong,
    /// The buffer's address is null.
    NullBuffer,
    /// The offset, or its sum with the length, is over `i64::MAX` bytes, where every file ends.
    OffsetOutOfRange,
    /// The handle was not attached to this port, so its completion would never arrive.
    NotAttached,
    /// The handle is attached to this port already.
    AlreadyAttached,
    /// The handle is attached to this port for Contexts, so an `IoQueue` cannot have it.
    AttachedForContexts,
    /// The handle is registered with an `IoQueue` of this port, so Contexts cannot have it.
    AttachedForQueue,
    /// The handle belongs to another port; the operating system binds it for its life.
    OtherPort,
    /// The handle was opened without `FILE_FLAG_OVERLAPPED` (Windows).
    NotOverlapped,
    /// The handle is set to `FILE_SKIP_COMPLETION_PORT_ON_SUCCESS` (Windows), which cannot be taken
    /// back: some of its completions would never arrive.
    SkipsPort,
    /// The handle is closed, or is no handle at all.
    BadHandle,
    /// The handle does not name a completion port (Windows).
    NotAPort,
    /// The operation does not exist for this kind of handle: a receive on a file, say.
    WrongKind,
    /// This operating system has no such operation.
    NoSuchOperation,
    /// The operating system does not know such a signal, or does not let it be heard.
    NoSuchSignal,
    /// This operating system does not offer that backend.
    NoSuchBackend,
}

impl Error {
    /// The longshore error inside `error`, if that is what it carries.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }

    fn kind(self) -> io::ErrorKind {
        match self {
            Self::Closed => io::ErrorKind::NotConnected,
            Self::ContextInFlight
            | Self::AlreadyWaiting
            | Self::AlreadyAttached
            | Self::AttachedForContexts
            | Self::AttachedForQueue
            | Self::OtherPort => io::ErrorKind::ResourceBusy,
            Self::PrematureClose => io::ErrorKind::ConnectionAborted,
            Self::NoSuchBackend | Self::NoSuchOperation => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::InvalidInput,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the dispatcher is closed",
            Self::ContextInFlight => "the Context has an operation in flight",
            Self::AlreadyWaiting => "somebody waits for this operation already",
            Self::NotInFlight => "no operation is in flight",
            Self::UnregisteredHandle => "the handle is not registered with this queue",
            Self::PrematureClose => "the handle was closed while it was registered",
            Self::ZeroLength => "the buffer is empty",
            Self::TooLong => "the buffer is longer than isize::MAX bytes",
            Self::NullBuffer => "the buffer's address is null",
            Self::OffsetOutOfRange => "the offset is past the largest offset a file can have",
            Self::NotAttached => "the handle is not attached to this port",
            Self::AlreadyAttached => "the handle is attached to this port already",
            Self::AttachedForContexts => "the handle is attached to this port for Contexts",
            Self::AttachedForQueue => "the handle is registered with a queue of this port",
            Self::OtherPort => "the handle belongs to another port",
            Self::NotOverlapped => "the handle was not opened for overlapped I/O",
            Self::SkipsPort => "the handle skips the port when an operation succeeds at once",
            Self::BadHandle => "the handle is closed or invalid",
            Self::NotAPort => "the handle does not name a completion port",
            Self::WrongKind => "the operation does not exist for this kind of handle",
            Self::NoSuchOperation => "this operating system has no such operation",
            Self::NoSuchSignal => "there is no such signal that could be heard",
            Self::NoSuchBackend => "this operating system does not offer that backend",
        })
    }
}

impl error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d05_error_of_finds_the_typed_error() {
        let wrapped = io::Error::from(Error::Closed);
        assert_eq!(Error::of(&wrapped), Some(Error::Closed));
        assert_eq!(Error::of(&io::Error::other("else")), None);
    }
}
