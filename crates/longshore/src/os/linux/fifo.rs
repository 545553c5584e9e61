//! FIFOs: pipes with a name.

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

#[cfg(doc)]
use crate::Error;
use crate::{
    Dispatcher,
    pipe::{Reader, Writer},
};

impl Reader {
    /// Opens a FIFO for reading, whether anybody has it open for writing or not.
    ///
    /// It does not wait for a writer; the first [`read`](Self::read) does. When the last writer has gone
    /// reads come to the end, 0 bytes, until somebody opens it for writing again. The path is looked up on
    /// the calling thread.
    ///
    /// # Errors
    /// `NotFound` and other reasons of open(2); [`Error::WrongKind`] if it is no FIFO.
    ///
    /// # Examples
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("fifo");
    /// # assert!(std::process::Command::new("mkfifo").arg(&path).status()?.success());
    /// use longshore::{Dispatcher, pipe};
    /// let port = Dispatcher::new()?;
    /// let reader = pipe::Reader::open_fifo(&port, &path)?;
    /// let reading = reader.read(vec![0; 16]);
    /// let writer = pipe::Writer::open_fifo(&port, &path)?;
    /// port.block_on(writer.write("hello"))?.0?;
    /// let (count, buffer) = port.block_on(reading)?;
    /// assert_eq!(&buffer[..count?], b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn open_fifo(port: &Dispatcher, path: impl AsRef<Path>) -> io::Result<Self> {
        let fifo = open(OpenOptions::new().read(true), path.as_ref())?;
        Self::new(port, fifo).map_err(|(error, _)| error)
    }
}

impl Writer {
    /// Opens a FIFO for writing, which somebody must have open for reading. It does not wait. The path is
    /// looked up on the calling thread.
    ///
    /// # Errors
    /// `ENXIO` (6) if nobody has it open for reading, and the other reasons of open(2);
    /// [`Error::WrongKind`] if it is no FIFO.
    ///
    /// # Examples
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("fifo");
    /// # assert!(std::process::Command::new("mkfifo").arg(&path).status()?.success());
    /// use longshore::{Dispatcher, pipe};
    /// let port = Dispatcher::new()?;
    /// let error = pipe::Writer::open_fifo(&port, &path).unwrap_err();
    /// assert_eq!(error.raw_os_error(), Some(6), "nobody reads");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn open_fifo(port: &Dispatcher, path: impl AsRef<Path>) -> io::Result<Self> {
        let fifo = open(OpenOptions::new().write(true), path.as_ref())?;
        Self::new(port, fifo).map_err(|(error, _)| error)
    }
}

/// A file that is no FIFO is opened, and then refused.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<OwnedFd> {
    let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    Ok(file.into())
}

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.object().as_fd()
    }
}

impl AsFd for Writer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.object().as_fd()
    }
}
