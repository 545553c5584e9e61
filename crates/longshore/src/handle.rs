//! A borrowed OS handle together with its kind.
//!
//! The kind decides which system call an operation becomes and whose error codes its completion
//! carries, so it is settled once, by the type the handle comes from.

use std::{fs::File, io, marker::PhantomData, net};

/// What an object that can be waited for lends: a descriptor here, a handle on Windows.
#[cfg(unix)]
pub(crate) use std::os::fd::AsFd as AsObject;
#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
/// What an object that can be waited for lends: a handle here, a descriptor on Linux.
#[cfg(windows)]
pub(crate) use std::os::windows::io::AsHandle as AsObject;
#[cfg(windows)]
use std::os::windows::io::{
    AsHandle, AsRawHandle, AsRawSocket, AsSocket, OwnedHandle, OwnedSocket,
};

/// What kind of object a handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Socket,
    Pipe,
    /// What is only waited for, until it is signalled or ready.
    Waitable,
}

/// A borrowed file, socket, pipe or object to wait for, as [`attach`](crate::Dispatcher::attach) and
/// [`Submission`](crate::Submission) take it.
///
/// It is `Copy` and as long-lived as the borrow it was made from.
///
/// # Examples
/// ```
/// use longshore::Handle;
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let handle = Handle::from(&listener);
/// # let _ = handle;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Handle<'a> {
    raw: usize,
    kind: Kind,
    owner: PhantomData<&'a ()>,
}

impl<'a> Handle<'a> {
    /// A handle to a file: anything with a `BorrowedFd` that is read and written at an offset.
    #[cfg(unix)]
    pub fn file(file: &'a impl AsFd) -> Self {
        Self::new(file.as_fd().as_raw_fd() as usize, Kind::File)
    }

    /// A handle to a file: anything with a `BorrowedHandle` that is read and written at an
    /// offset. It must have been opened with `FILE_FLAG_OVERLAPPED`.
    #[cfg(windows)]
    pub fn file(file: &'a impl AsHandle) -> Self {
        Self::new(file.as_handle().as_raw_handle() as usize, Kind::File)
    }

    /// A handle to a socket.
    #[cfg(unix)]
    pub fn socket(socket: &'a impl AsFd) -> Self {
        Self::new(socket.as_fd().as_raw_fd() as usize, Kind::Socket)
    }

    /// A handle to a socket.
    #[cfg(windows)]
    pub fn socket(socket: &'a impl AsSocket) -> Self {
        Self::new(socket.as_socket().as_raw_socket() as usize, Kind::Socket)
    }

    /// A handle to an end of a pipe or FIFO. Attaching it makes it non-blocking, and it stays so.
    #[cfg(unix)]
    pub fn pipe(pipe: &'a impl AsFd) -> Self {
        Self::new(pipe.as_fd().as_raw_fd() as usize, Kind::Pipe)
    }

    /// A handle to an end of a named pipe. It must have been made with `FILE_FLAG_OVERLAPPED`; the
    /// ends of `CreatePipe` and of [`std::io::pipe`] are not.
    #[cfg(windows)]
    pub fn pipe(pipe: &'a impl AsHandle) -> Self {
        Self::new(pipe.as_handle().as_raw_handle() as usize, Kind::Pipe)
    }

    /// A handle that is only waited for, see [`Submission::Wait`](crate::Submission::Wait): any
    /// descriptor that becomes readable, such as a pidfd, an eventfd or a timerfd.
    #[cfg(unix)]
    pub fn waitable(object: &'a impl AsFd) -> Self {
        Self::new(object.as_fd().as_raw_fd() as usize, Kind::Waitable)
    }

    /// A handle that is only waited for, see [`Submission::Wait`](crate::Submission::Wait): an event,
    /// a process, a thread, a semaphore or a waitable timer. It needs the right `SYNCHRONIZE`.
    #[cfg(windows)]
    pub fn waitable(object: &'a impl AsHandle) -> Self {
        Self::new(object.as_handle().as_raw_handle() as usize, Kind::Waitable)
    }

    pub(crate) fn new(raw: usize, kind: Kind) -> Self {
        Self {
            raw,
            kind,
            owner: PhantomData,
        }
    }

    /// The OS's value: a file descriptor, a `HANDLE` or a `SOCKET`.
    pub(crate) fn raw(self) -> usize {
        self.raw
    }

    pub(crate) fn kind(self) -> Kind {
        self.kind
    }
}

impl<'a> From<&'a File> for Handle<'a> {
    fn from(file: &'a File) -> Self {
        Self::file(file)
    }
}

impl<'a> From<&'a net::TcpStream> for Handle<'a> {
    fn from(stream: &'a net::TcpStream) -> Self {
        Self::socket(stream)
    }
}

impl<'a> From<&'a net::TcpListener> for Handle<'a> {
    fn from(listener: &'a net::TcpListener) -> Self {
        Self::socket(listener)
    }
}

impl<'a> From<&'a net::UdpSocket> for Handle<'a> {
    fn from(socket: &'a net::UdpSocket) -> Self {
        Self::socket(socket)
    }
}

impl<'a> From<&'a io::PipeReader> for Handle<'a> {
    fn from(pipe: &'a io::PipeReader) -> Self {
        Self::pipe(pipe)
    }
}

impl<'a> From<&'a io::PipeWriter> for Handle<'a> {
    fn from(pipe: &'a io::PipeWriter) -> Self {
        Self::pipe(pipe)
    }
}

impl<'a> From<&'a socket2::Socket> for Handle<'a> {
    fn from(socket: &'a socket2::Socket) -> Self {
        Self::socket(socket)
    }
}

#[cfg(unix)]
impl<'a> From<&'a OwnedFd> for Handle<'a> {
    /// A socket's handle if it is a socket, else a file's; see [`pipe`](Handle::pipe) for pipes.
    fn from(fd: &'a OwnedFd) -> Self {
        match socket2::SockRef::from(fd).r#type() {
            Ok(_) => Self::socket(fd),
            Err(_) => Self::file(fd),
        }
    }
}

#[cfg(windows)]
impl<'a> From<&'a OwnedHandle> for Handle<'a> {
    /// A file's handle; see [`pipe`](Handle::pipe) for pipes.
    fn from(handle: &'a OwnedHandle) -> Self {
        Self::file(handle)
    }
}

#[cfg(windows)]
impl<'a> From<&'a OwnedSocket> for Handle<'a> {
    fn from(socket: &'a OwnedSocket) -> Self {
        Self::socket(socket)
    }
}
