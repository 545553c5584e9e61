//! Pipes that are awaited: between tasks, threads and processes.
//!
//! A pipe carries bytes one way, from its [`Writer`] to its [`Reader`], and holds some of them in
//! between: 64 KiB at first. FIFOs are opened by [`os::linux`](crate::os), named pipes
//! and messages are in `os::windows::pipe`.

use std::{
    io::{self, PipeReader, PipeWriter},
    process::Stdio,
    sync::Arc,
};

#[cfg(doc)]
use crate::error::Error;
use crate::{
    buf::{BufResult, IoBuf, IoBufMut},
    dispatcher::Dispatcher,
    ioqueue::{Attached, Rest, Staged, Transfer, VectoredTransfer},
    submission::Submission,
    sys::pipe::{self, End, Ours, Owned},
};

/// An end that operations hold on to.
pub(crate) type Line = Arc<Attached<End>>;

/// A pipe whose ends can both be attached to a port, for operations with Contexts.
///
/// Linux: [`std::io::pipe`]. On Windows the ends of that are synchronous, and cannot be attached; these
/// are the ends of a named pipe with a random name. std's own reads and writes wait on either.
///
/// # Errors
/// The operating system's: no more descriptors or handles.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, pipe};
/// let port = Dispatcher::new()?;
/// let (reader, writer) = pipe::ends()?;
/// port.attach(&reader)?;
/// port.attach(&writer)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn ends() -> io::Result<(PipeReader, PipeWriter)> {
    pipe::pair(Ours::Both)
}

/// A pipe with both ends on a port.
///
/// # Errors
/// The operating system's, or [`Error::Closed`].
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, pipe};
/// let port = Dispatcher::new()?;
/// let (reader, writer) = pipe::pair(&port)?;
/// port.block_on(async {
///     writer.write_all("hello").await.0?;
///     drop(writer);
///     let (count, bytes) = reader.read_to_end(Vec::new()).await;
///     assert_eq!((count?, &bytes[..]), (5, &b"hello"[..]));
///     std::io::Result::Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn pair(port: &Dispatcher) -> io::Result<(Reader, Writer)> {
    let (reader, writer) = pipe::pair(Ours::Both)?;
    Ok((reader_of(port, reader)?, writer_of(port, writer)?))
}

/// A pipe from a child process: the reader is ours, and the other end becomes the child's standard
/// output or error.
///
/// The reader comes to the end when every copy of the other end is closed: the child's, and the one
/// that the `Command` keeps until it is dropped.
///
/// The child's end is synchronous on Windows and blocking on Linux, as programs expect it.
///
/// # Errors
/// As for [`pair`].
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, pipe, process::Child};
/// use std::process::Command;
/// let port = Dispatcher::new()?;
/// let (reader, stdout) = pipe::from_child(&port)?;
/// let mut child = Child::spawn(&port, Command::new("hostname").stdout(stdout))?;
/// // The command was dropped at the end of that line.
/// let (count, said) = port.block_on(reader.read_to_end(Vec::new()))?;
/// assert_eq!(count?, said.len());
/// port.block_on(child.wait())??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn from_child(port: &Dispatcher) -> io::Result<(Reader, Stdio)> {
    let (reader, writer) = pipe::pair(Ours::Reader)?;
    Ok((reader_of(port, reader)?, writer.into()))
}

/// A pipe to a child process: the writer is ours, and the other end becomes the child's standard
/// input, as [`from_child`] says.
///
/// The child comes to the end of its input when the writer is dropped.
///
/// # Errors
/// As for [`pair`].
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, pipe, process::Child};
/// use std::process::{Command, Stdio};
/// let port = Dispatcher::new()?;
/// let (writer, stdin) = pipe::to_child(&port)?;
/// let mut shell = Command::new(if cfg!(windows) { "cmd" } else { "sh" });
/// let mut child = Child::spawn(&port, shell.stdin(stdin).stdout(Stdio::null()))?;
/// port.block_on(writer.write_all("exit 3\n"))?.0?;
/// let status = port.block_on(child.wait())??;
/// assert_eq!(status.code(), Some(3));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn to_child(port: &Dispatcher) -> io::Result<(Writer, Stdio)> {
    let (reader, writer) = pipe::pair(Ours::Writer)?;
    Ok((writer_of(port, writer)?, reader.into()))
}

fn reader_of(port: &Dispatcher, pipe: PipeReader) -> io::Result<Reader> {
    Reader::new(port, pipe).map_err(|(error, _)| error)
}

fn writer_of(port: &Dispatcher, pipe: PipeWriter) -> io::Result<Writer> {
    Writer::new(port, pipe).map_err(|(error, _)| error)
}

fn attach(port: &Dispatcher, pipe: Owned) -> Result<Line, (io::Error, Owned)> {
    Attached::new(&port.inner, End(pipe)).map_err(|(error, End(pipe))| (error, pipe))
}

/// The end of a pipe that is read.
///
/// Reads take `&self`; several may be in flight, and end in the order in which they were made. Any
/// thread may make and await them; somebody has to dispatch. Dropping it closes the end once the last
/// operation in flight has ended, and then writes fail. If the port is closed, reads in flight end with the
/// abort error ([`ABORTED`](crate::ABORTED)) and later ones with [`Error::Closed`].
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, pipe};
/// let port = Dispatcher::new()?;
/// let (reader, writer) = pipe::ends()?;
/// let reader: pipe::Reader = pipe::Reader::new(&port, reader).map_err(|(error, _)| error)?;
/// let reading = reader.read(vec![0; 16]);
/// drop(writer);
/// let (count, _buffer) = port.block_on(reading)?;
/// assert_eq!(count?, 0, "the end");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Reader {
    line: Line,
}

impl Reader {
    /// Takes over the reading end of a pipe: [`ends`]' or, on Linux, std's; a child's standard output; a
    /// descriptor or handle.
    ///
    /// On Linux it becomes non-blocking, which whoever shares the open pipe notices. On Windows it must be
    /// overlapped. (The pipes that std makes for `Stdio::piped()` are, so far, at our side; those of
    /// [`from_child`] always are.)
    ///
    /// # Errors
    /// The pipe comes back with [`Error::NotOverlapped`], [`Error::WrongKind`] if it is no pipe, and the
    /// other reasons of [`attach`](Dispatcher::attach).
    pub fn new(port: &Dispatcher, pipe: impl Into<Owned>) -> Result<Self, (io::Error, Owned)> {
        attach(port, pipe.into()).map(|line| Self { line })
    }

    /// Reads what is there, at least one byte; 0 when the last writer has gone. (On Windows also when
    /// somebody has written 0 bytes, which only system calls do; [`read_to_end`](Self::read_to_end) knows
    /// the difference.)
    ///
    /// A FIFO that was opened before anybody could write to it (Linux) is waited for.
    ///
    /// # Errors
    /// It resolves to the abort error if it was cancelled, or to the system's: `EBADF`,
    /// `ERROR_ACCESS_DENIED` (5) if this is no reading end.
    pub fn read<B: IoBufMut>(&self, buffer: B) -> Transfer<B> {
        read(&self.line, buffer)
    }

    /// Reads what is there into the buffers, one after the other, at most 64 KiB at once.
    ///
    /// One operation and one system call, into a buffer that is copied to these. Dropping the future cancels
    /// it and gives the buffers up, with what had come in by then; to lose nothing,
    /// [`cancel`](VectoredTransfer::cancel) it and await it.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    ///
    /// # Examples
    /// ```
    /// # use longshore::{Dispatcher, pipe};
    /// # let port = Dispatcher::new()?;
    /// let (reader, writer) = pipe::pair(&port)?;
    /// port.block_on(writer.write_all("headbody"))?.0?;
    /// let parts = vec![vec![0; 4], vec![0; 8]];
    /// let (count, parts) = port.block_on(reader.read_vectored(parts))?;
    /// assert_eq!((count?, &parts[0][..], &parts[1][..4]), (8, &b"head"[..], &b"body"[..]));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn read_vectored<B: IoBufMut>(&self, buffers: Vec<B>) -> VectoredTransfer<B> {
        VectoredTransfer::new(self.read(Staged::room(buffers)))
    }

    /// Appends everything that comes until the last writer has gone. Resolves to how many bytes came,
    /// and the buffer; it comes back with an error, too, with what came before it.
    ///
    /// Dropping the future loses what it has read.
    pub async fn read_to_end(&self, mut buffer: Vec<u8>) -> BufResult<usize, Vec<u8>> {
        let begin = buffer.len();
        loop {
            buffer.reserve(READ_SIZE);
            let start = buffer.len();
            let (result, rest) = self.read(Rest { buffer, start }).await;
            buffer = rest.buffer;
            match result {
                Ok(0) if pipe::has_ended(self.object()) => {
                    return (Ok(buffer.len() - begin), buffer);
                }
                Ok(_) => {}
                Err(error) => return (Err(error), buffer),
            }
        }
    }

    pub(crate) fn object(&self) -> &Owned {
        &self.line.object().0
    }
}

/// Room for each read of [`Reader::read_to_end`], in bytes.
const READ_SIZE: usize = 16 * 1024;

/// The end of a pipe that is written to.
///
/// Writes take `&self`. Any thread may make and await them; somebody has to dispatch. Dropping it closes
/// the end once the last operation in flight has ended, and then the reader comes to the end. Nothing
/// waits for the reader: what was written stays in the pipe. If the port is closed, writes in flight end with
/// the abort error ([`ABORTED`](crate::ABORTED)) and later ones with [`Error::Closed`].
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, pipe};
/// let port = Dispatcher::new()?;
/// let (reader, writer): (_, pipe::Writer) = pipe::pair(&port)?;
/// drop(reader);
/// let (result, buffer) = port.block_on(writer.write("nobody reads it"))?;
/// assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
/// assert_eq!(buffer, "nobody reads it", "it comes back");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Writer {
    line: Line,
}

impl Writer {
    /// Takes over the writing end of a pipe; see [`Reader::new`].
    ///
    /// # Errors
    /// As there.
    pub fn new(port: &Dispatcher, pipe: impl Into<Owned>) -> Result<Self, (io::Error, Owned)> {
        attach(port, pipe.into()).map(|line| Self { line })
    }

    /// Writes the buffer, waiting while the pipe is full; fewer bytes only if it was cancelled, the last
    /// reader went, or it is longer than `u32::MAX`.
    ///
    /// # Errors
    /// It resolves to `BrokenPipe` when the last reader has gone. No signal is raised. A cancelled write
    /// tells how many bytes went into the pipe; on Windows that may be 0 although some did.
    pub fn write<B: IoBuf>(&self, buffer: B) -> Transfer<B> {
        write(&self.line, buffer)
    }

    /// Writes the buffers, one after the other, as one operation on a copy of them all.
    ///
    /// The count is as for [`write`](Self::write). Dropping the future cancels it: any part of the bytes
    /// may be in the pipe then, and the buffers are lost. To learn how many, and to have the buffers back,
    /// [`cancel`](VectoredTransfer::cancel) it and await it.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    ///
    /// # Examples
    /// ```
    /// # use longshore::{Dispatcher, pipe};
    /// # let port = Dispatcher::new()?;
    /// let (reader, writer) = pipe::pair(&port)?;
    /// let (written, parts) = port.block_on(writer.write_vectored(vec!["head", "body"]))?;
    /// assert_eq!((written?, parts), (8, vec!["head", "body"]));
    /// let (count, bytes) = port.block_on(reader.read(vec![0; 16]))?;
    /// assert_eq!(&bytes[..count?], b"headbody");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn write_vectored<B: IoBuf>(&self, buffers: Vec<B>) -> VectoredTransfer<B> {
        VectoredTransfer::new(self.write(Staged::gather(buffers)))
    }

    /// Writes the whole buffer, however long, in as many writes as it takes. It begins when it is first
    /// polled.
    ///
    /// It cannot be cancelled but by dropping it. Then how much of the buffer is in the pipe is unknown, and
    /// the buffer is lost; [`write`](Self::write) tells and gives it back.
    ///
    /// # Errors
    /// As for [`write`](Self::write), `WriteZero` if one of the writes moved nothing. The buffer comes back,
    /// but how much of it was written is not told.
    pub async fn write_all<B: IoBuf + Unpin>(&self, buffer: B) -> BufResult<(), B> {
        write_all(&self.line, buffer).await
    }

    pub(crate) fn object(&self) -> &Owned {
        &self.line.object().0
    }
}

pub(crate) fn read<B: IoBufMut>(line: &Line, buffer: B) -> Transfer<B> {
    Transfer::read(line, buffer, |handle, buffer, len| Submission::Read {
        handle,
        offset: 0,
        buffer,
        len,
    })
}

pub(crate) fn write<B: IoBuf>(line: &Line, buffer: B) -> Transfer<B> {
    Transfer::write(line, buffer, |handle, buffer, len| Submission::Write {
        handle,
        offset: 0,
        buffer,
        len,
    })
}

pub(crate) async fn write_all<B: IoBuf + Unpin>(line: &Line, buffer: B) -> BufResult<(), B> {
    let stuck = io::ErrorKind::WriteZero;
    Rest::move_all(buffer, IoBuf::len, stuck, |rest| write(line, rest)).await
}
