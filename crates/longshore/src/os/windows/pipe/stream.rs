//! An end of a named pipe that has somebody at its other end.
// UNSAFETY: lends owned buffers to operations.
#![expect(unsafe_code)]

use std::{
    fmt,
    os::windows::io::{AsHandle, BorrowedHandle},
    pin::Pin,
    task::{Context, Poll},
};

use windows_sys::Win32::Foundation::ERROR_MORE_DATA;

#[cfg(doc)]
use crate::Error;
use crate::{
    Submission, Transfer, VectoredTransfer,
    buf::{BufResult, IoBuf, IoBufMut},
    fs::Call,
    ioqueue::{Operation, Staged},
    pipe::{self, Line},
    sys::pipe::named,
};

/// An end of a named pipe, connected: what a client opens, and what a server's
/// [`Connection`](super::Connection) is.
///
/// Operations take `&self`, so one task may read while another writes. Any thread may make and await them;
/// somebody has to dispatch. Dropping it closes the end once the last operation in flight has ended, waiting
/// for nothing: what was written stays in the pipe until it is read. If the port is closed, operations in
/// flight end with the abort error ([`ABORTED`](crate::ABORTED)) and later ones with [`Error::Closed`].
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, os::windows::pipe::{ClientOptions, ServerOptions, Stream}};
/// let port = Dispatcher::new()?;
/// let name = format!(r"\\.\pipe\longshore-doc-stream-{}", std::process::id());
/// let server = ServerOptions::new().create(&port, &name)?;
/// port.block_on(async {
///     let client: Stream = ClientOptions::new().open(&port, &name).await?;
///     let server = server.connect().await.map_err(|(error, _)| error)?;
///     client.write_all("ping").await.0?;
///     let (count, buffer) = server.read(vec![0; 16]).await;
///     assert_eq!(&buffer[..count?], b"ping");
///     drop(client);
///     assert_eq!(server.read(vec![0; 16]).await.0?, 0, "the end");
///     std::io::Result::Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Stream {
    line: Line,
}

impl Stream {
    pub(super) fn new(line: Line) -> Self {
        Self { line }
    }

    /// Reads what is there, at least one byte; 0 when the other end was closed. Of a message that is
    /// longer than the buffer the next read gets the rest, and an empty one is 0 bytes as the end is;
    /// [`receive`](Self::receive) tells.
    ///
    /// # Errors
    /// It resolves to the abort error if it was cancelled; to `ERROR_PIPE_NOT_CONNECTED` (233) if the server
    /// has [disconnected](super::Connection::disconnect) it.
    pub fn read<B: IoBufMut>(&self, buffer: B) -> Transfer<B> {
        pipe::read(&self.line, buffer)
    }

    /// Reads what is there into the buffers, one after the other, at most 64 KiB at once.
    ///
    /// Dropped or cancelled, it is as [`pipe::Reader::read_vectored`] says, where there is an example.
    pub fn read_vectored<B: IoBufMut>(&self, buffers: Vec<B>) -> VectoredTransfer<B> {
        VectoredTransfer::new(self.read(Staged::room(buffers)))
    }

    /// Writes the buffer, waiting while the pipe is full; as one message, if the pipe has messages.
    ///
    /// # Errors
    /// It resolves to `BrokenPipe` when the other end was closed. A cancelled write may tell 0 bytes
    /// although some went into the pipe.
    pub fn write<B: IoBuf>(&self, buffer: B) -> Transfer<B> {
        pipe::write(&self.line, buffer)
    }

    /// Writes the buffers, one after the other, as one operation on a copy of them all; as one message, if
    /// the pipe has messages.
    ///
    /// Dropped or cancelled, it is as [`pipe::Writer::write_vectored`] says, where there is an example.
    pub fn write_vectored<B: IoBuf>(&self, buffers: Vec<B>) -> VectoredTransfer<B> {
        VectoredTransfer::new(self.write(Staged::gather(buffers)))
    }

    /// Writes the whole buffer, however long.
    ///
    /// Dropped, it is as [`pipe::Writer::write_all`] says: how much was written is unknown, and the buffer is
    /// lost.
    pub async fn write_all<B: IoBuf + Unpin>(&self, buffer: B) -> BufResult<(), B> {
        pipe::write_all(&self.line, buffer).await
    }

    /// Sends the buffer as one message, an empty one if it is empty.
    ///
    /// # Errors
    /// It resolves to [`Error::WrongKind`] if the pipe has no messages; otherwise as for
    /// [`write`](Self::write).
    pub fn send<B: IoBuf>(&self, buffer: B) -> Transfer<B> {
        Transfer::message(&self.line, buffer, |socket, buffer, len| Submission::Send {
            socket,
            buffer,
            len,
        })
    }

    /// Receives one message, or as much of it as fits: [`Received::more`] says that the next receive brings
    /// the rest.
    ///
    /// # Errors
    /// It resolves to `BrokenPipe` when the other end was closed and no message is left, since 0 bytes are
    /// an empty message; to [`Error::WrongKind`] if the pipe has no messages; otherwise as for
    /// [`read`](Self::read).
    pub fn receive<B: IoBufMut>(&self, buffer: B) -> Receive<B> {
        let lent = Lent {
            buffer,
            line: self.line.clone(),
        };
        // SAFETY: the payload owns the buffer, whose bytes stay in place (IoBuf), and keeps the end open.
        let operation = unsafe {
            Operation::start(self.line.inner(), lent, |lent| Submission::Recv {
                socket: lent.line.handle(),
                buffer: lent.buffer.as_mut_ptr(),
                len: lent.buffer.capacity(),
            })
        };
        Receive(operation)
    }

    /// Waits until the other end has read everything that was written, on a thread for calls that block.
    ///
    /// The call ends when everything was read, or with an error when the other end is closed. Once begun it
    /// cannot be cancelled: dropping the future, or closing the port, ends the wait for it and nothing else,
    /// and this end stays open for as long. Nothing that was written is lost by that.
    ///
    /// **Until then it holds one of the three threads** that a port has for its calls ([`Call`]). While the
    /// other ends of three flushes do not read, no file of this port is opened or synced, and no
    /// client opens a pipe on it. So flush for a peer that is known to read, or limit how many are waited
    /// for; a pipe need not be flushed before it is dropped, but only before
    /// [`disconnect`](super::Connection::disconnect).
    ///
    /// # Errors
    /// It resolves to the system's reason, `BrokenPipe` above all; to [`Error::Closed`] if the port is closed
    /// first.
    ///
    /// # Examples
    /// ```
    /// use longshore::{Dispatcher, os::windows::pipe::{ClientOptions, ServerOptions}};
    /// let port = Dispatcher::new()?;
    /// let name = format!(r"\\.\pipe\longshore-doc-flush-{}", std::process::id());
    /// let server = ServerOptions::new().create(&port, &name)?;
    /// port.block_on(async {
    ///     let client = ClientOptions::new().open(&port, &name).await?;
    ///     let server = server.connect().await.map_err(|(error, _)| error)?;
    ///     server.write_all("bye").await.0?;
    ///     let flushing = server.flush();
    ///     client.read(vec![0; 16]).await.0?;
    ///     flushing.await?;
    ///     server.disconnect()?; // the client has it all
    ///     std::io::Result::Ok(())
    /// })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn flush(&self) -> Call<()> {
        let line = self.line.clone();
        let port = &self.line.inner().port;
        port.call(move || named::flush(&line.object().0))
    }
}

impl AsHandle for Stream {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.line.object().0.as_handle()
    }
}

/// What an operation co-owns.
struct Lent<B> {
    buffer: B,
    line: Line,
}

/// What a receive has brought.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, os::windows::pipe::{ClientOptions, Received, ServerOptions}};
/// let port = Dispatcher::new()?;
/// let name = format!(r"\\.\pipe\longshore-doc-received-{}", std::process::id());
/// let server = ServerOptions::new().messages(true).create(&port, &name)?;
/// port.block_on(async {
///     let client = ClientOptions::new().messages(true).open(&port, &name).await?;
///     let server = server.connect().await.map_err(|(error, _)| error)?;
///     client.send("hello").await.0?;
///     assert_eq!(server.receive([0; 3]).await.0?, Received { len: 3, more: true });
///     assert_eq!(server.receive([0; 3]).await.0?, Received { len: 2, more: false });
///     std::io::Result::Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// How many bytes of the message are in the buffer; 0 is an empty message.
    pub len: usize,
    /// Whether the message is longer than the buffer. The next receive brings what follows.
    pub more: bool,
}

/// A mistake in whoever polls: the buffer was handed out already.
const POLLED_AGAIN: &str = "a receive is polled after it was ready";

/// A receive in flight: resolves to [`Received`] and the buffer, whatever happens.
///
/// Dropping it asks for cancellation and gives the buffer up; a message that had come in by then is lost. To
/// lose none, [`cancel`](Self::cancel) it and await it. Polling needs no particular thread or executor, but
/// somebody has to dispatch.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, os::windows::pipe::{ClientOptions, Receive, ServerOptions}};
/// let port = Dispatcher::new()?;
/// let name = format!(r"\\.\pipe\longshore-doc-receive-{}", std::process::id());
/// let server = ServerOptions::new().messages(true).create(&port, &name)?;
/// let client = port.block_on(ClientOptions::new().messages(true).open(&port, &name))??;
/// let receiving: Receive<_> = client.receive(vec![0; 16]);
/// receiving.cancel();
/// let (result, buffer) = port.block_on(receiving)?;
/// assert_eq!(result.unwrap_err().raw_os_error(), Some(longshore::ABORTED as i32));
/// assert_eq!(buffer.len(), 16, "it comes back");
/// # drop(server);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "futures do nothing unless they are awaited"]
pub struct Receive<B: Send + 'static>(Operation<Lent<B>>);

impl<B: Send + 'static> Receive<B> {
    /// Asks for cancellation. The future resolves all the same: to the message if one had come in, else to
    /// the abort error (see [`ABORTED`](crate::ABORTED)); then the next receive gets what comes.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl<B: IoBufMut + Unpin> Future for Receive<B> {
    type Output = BufResult<Received, B>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|(result, lent)| {
            let mut buffer = lent.expect(POLLED_AGAIN).buffer;
            let result = result.and_then(|completion| {
                let len = completion.bytes as usize;
                // SAFETY: the operation wrote `len` bytes, within the capacity it was given.
                unsafe { buffer.set_init(len) };
                match completion.error {
                    ERROR_MORE_DATA => Ok(Received { len, more: true }),
                    _ => completion.result().map(|_| Received { len, more: false }),
                }
            });
            (result, buffer)
        })
    }
}

impl<B: Send + 'static> fmt::Debug for Receive<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receive").finish_non_exhaustive()
    }
}
