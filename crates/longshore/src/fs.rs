//! Files: read and written at offsets, opened and synced without keeping a dispatching thread
//! waiting.
//!
//! Reads and writes are operations of the port. What systems offer in no such form (opening,
//! syncing, asking for metadata, setting the length) is a [`Call`] on one of a few threads, which
//! exist only while there is such work.

mod open;

use std::{fs, io, path::Path, sync::Arc};

#[cfg(doc)]
use crate::error::Error;
pub use crate::sys::call::Call;
use crate::{
    buf::{BufResult, IoBuf, IoBufMut},
    dispatcher::{Dispatcher, Inner},
    ioqueue::{Attached, Rest, Transfer},
    submission::Submission,
};
pub use open::OpenOptions;

/// A file on a port.
///
/// It has no position: each read and write says where, in bytes from the start, and takes `&self`,
/// so any number may be in flight at once. They begin when they are called, not when they are
/// awaited, and operations that overlap in time are not ordered. Put it into an [`Arc`] to share
/// it.
///
/// Dropping it closes it once the last operation in flight has ended; the error that closing may
/// report is lost, so [`sync_all`](Self::sync_all) first where that matters. If the port is closed,
/// operations in flight end with the abort error, and later ones with [`Error::Closed`]. A panic
/// in a task drops what it owns, and so cancels what it waits for.
///
/// Regular files and devices only; a directory, FIFO or other thing is [`Error::WrongKind`] once it
/// is open (Linux), or the system's error (Windows).
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, fs::File};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("greeting");
/// let port = Dispatcher::new()?;
/// port.block_on(async {
///     let file = File::create(&port, &path).await?;
///     file.write_all_at("hello, port", 0).await.0?;
///     file.sync_all().await?;
///
///     let file = File::open(&port, &path).await?;
///     let (count, buffer) = file.read_at(vec![0; 64], 7).await;
///     assert_eq!(&buffer[..count?], b"port");
///     std::io::Result::Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct File {
    file: Arc<Attached<fs::File>>,
}

impl File {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// As for [`OpenOptions::open`]; `NotFound` above all.
    pub fn open(port: &Dispatcher, path: impl AsRef<Path>) -> Call<Self> {
        OpenOptions::new().read(true).open(port, path)
    }

    /// Opens a file for writing; makes it, or empties it if it is there.
    ///
    /// # Errors
    /// As for [`OpenOptions::open`].
    pub fn create(port: &Dispatcher, path: impl AsRef<Path>) -> Call<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        options.open(port, path)
    }

    /// [`OpenOptions::new`].
    pub fn options() -> OpenOptions {
        OpenOptions::new()
    }

    /// Takes over a file of std's; its position is ignored.
    ///
    /// On Linux it should not be open for appending: such a file ignores the offsets of writes.
    ///
    /// # Errors
    /// [`Error::NotOverlapped`] if it was opened without `FILE_FLAG_OVERLAPPED` (Windows),
    /// [`Error::OtherPort`], and the other reasons of [`attach`](Dispatcher::attach). The file is
    /// closed then.
    ///
    /// # Examples
    /// ```
    /// use longshore::{Dispatcher, Error, fs::File};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("file");
    /// # std::fs::write(&path, "")?;
    /// let port = Dispatcher::new()?;
    /// match File::from_std(&port, std::fs::File::open(&path)?) {
    ///     Ok(_) => {}
    ///     // Windows: std opens files for synchronous use, unless told otherwise.
    ///     Err(error) => assert_eq!(Error::of(&error), Some(Error::NotOverlapped)),
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_std(port: &Dispatcher, file: fs::File) -> io::Result<Self> {
        Self::attach(&port.inner, file)
    }

    fn attach(inner: &Arc<Inner>, file: fs::File) -> io::Result<Self> {
        let file = Attached::new(inner, file).map_err(|(error, _)| error)?;
        Ok(Self { file })
    }

    /// Reads into the buffer from `offset` on, up to its capacity (at most `u32::MAX` bytes).
    ///
    /// Resolves to the count of bytes and the buffer: fewer than fit where the file ends, 0 at its
    /// end and past it. (An empty buffer reads 0 bytes as well.)
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`], [`Error::Closed`], or the operating system's:
    /// `PermissionDenied` (Windows) or `EBADF` (Linux) if it is not open for reading, the abort error if it was
    /// cancelled. The buffer comes back with each.
    ///
    /// # Examples
    /// See [`File`].
    pub fn read_at<B: IoBufMut>(&self, buffer: B, offset: u64) -> Transfer<B> {
        Transfer::read(&self.file, buffer, |handle, buffer, len| Submission::Read {
            handle,
            offset,
            buffer,
            len,
        })
    }

    /// Fills the whole capacity of the buffer from `offset` on.
    ///
    /// # Errors
    /// As for [`read_at`](Self::read_at), and `UnexpectedEof` if the file ends before; what was read
    /// is in the buffer.
    ///
    /// # Examples
    /// ```
    /// # use longshore::{Dispatcher, fs::File};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("file");
    /// # std::fs::write(&path, "longshore")?;
    /// # let port = Dispatcher::new()?;
    /// # port.block_on(async {
    /// let file = File::open(&port, &path).await?;
    /// let (result, buffer) = file.read_exact_at(Box::new([0; 5]), 4).await;
    /// assert_eq!((result?, *buffer), ((), *b"shore"));
    /// # std::io::Result::Ok(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn read_exact_at<B: IoBufMut + Unpin>(
        &self,
        buffer: B,
        offset: u64,
    ) -> BufResult<(), B> {
        let stuck = io::ErrorKind::UnexpectedEof;
        Rest::move_all(buffer, IoBufMut::capacity, stuck, |rest| {
            let at = offset.saturating_add(rest.start as u64);
            self.read_at(rest, at)
        })
        .await
    }

    /// Writes the buffer to `offset` (at most `u32::MAX` bytes of it). Past the end of the file the
    /// gap reads as zeros.
    ///
    /// Resolves to the count of bytes and the buffer. Dropped or cancelled, it may have written
    /// some of them.
    ///
    /// # Errors
    /// As for [`read_at`](Self::read_at) with writing for reading; `StorageFull`, `FileTooLarge`, …
    ///
    /// # Examples
    /// ```
    /// # use longshore::{Dispatcher, fs::File};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("file");
    /// # let port = Dispatcher::new()?;
    /// # port.block_on(async {
    /// let file = File::create(&port, &path).await?;
    /// let (there, here) = (file.write_at("there", 6), file.write_at("here, ", 0));
    /// assert_eq!((here.await.0?, there.await.0?), (6, 5));
    /// assert_eq!(std::fs::read(&path)?, b"here, there");
    /// # std::io::Result::Ok(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn write_at<B: IoBuf>(&self, buffer: B, offset: u64) -> Transfer<B> {
        Transfer::write(&self.file, buffer, |handle, buffer, len| {
            Submission::Write {
                handle,
                offset,
                buffer,
                len,
            }
        })
    }

    /// Writes the whole buffer to `offset`, however long it is.
    ///
    /// # Errors
    /// As for [`write_at`](Self::write_at), after which some of it may have been written.
    ///
    /// # Examples
    /// See [`File`].
    pub async fn write_all_at<B: IoBuf + Unpin>(&self, buffer: B, offset: u64) -> BufResult<(), B> {
        let stuck = io::ErrorKind::WriteZero;
        Rest::move_all(buffer, IoBuf::len, stuck, |rest| {
            let at = offset.saturating_add(rest.start as u64);
            self.write_at(rest, at)
        })
        .await
    }

    /// Has the system write everything to the disk: data and metadata of what was written before.
    ///
    /// # Errors
    /// The operating system's; [`Error::Closed`]. After a failure the data may be lost: a second
    /// sync that succeeds says nothing about it (fsync(2)).
    ///
    /// # Examples
    /// See [`File`].
    pub fn sync_all(&self) -> Call<()> {
        self.call(fs::File::sync_all)
    }

    /// [`sync_all`](Self::sync_all) without metadata that reading the data back does not need, where
    /// the system makes that difference.
    ///
    /// # Errors
    /// As for [`sync_all`](Self::sync_all).
    pub fn sync_data(&self) -> Call<()> {
        self.call(fs::File::sync_data)
    }

    /// What the system knows about the file; its length is in bytes.
    ///
    /// # Errors
    /// The operating system's; [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # use longshore::{Dispatcher, fs::File};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("file");
    /// # let port = Dispatcher::new()?;
    /// # port.block_on(async {
    /// let file = File::create(&port, &path).await?;
    /// file.set_len(1 << 20).await?;
    /// assert_eq!(file.metadata().await?.len(), 1 << 20);
    /// # std::io::Result::Ok(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn metadata(&self) -> Call<fs::Metadata> {
        self.call(fs::File::metadata)
    }

    /// Cuts the file to `len` bytes, or extends it to them with zeros.
    ///
    /// # Errors
    /// The operating system's: `InvalidInput` or `PermissionDenied` if it is not open for writing,
    /// `InvalidInput` or `FileTooLarge` if it cannot be that long; [`Error::Closed`].
    ///
    /// # Examples
    /// See [`metadata`](Self::metadata).
    pub fn set_len(&self, len: u64) -> Call<()> {
        self.call(move |file| file.set_len(len))
    }

    fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&fs::File) -> io::Result<T> + Send + 'static,
    ) -> Call<T> {
        let file = self.file.clone();
        self.file.inner().port.call(move || call(file.object()))
    }
}

// Any executor may have them, on any thread.
const _: () = {
    const fn send<T: Send + 'static>() {}
    const fn shared<T: Send + Sync + 'static>() {}
    send::<Call<File>>();
    send::<Transfer<Vec<u8>>>();
    shared::<File>();
};
