//! How a file is opened.

use std::{fs, path::Path, sync::Arc};

use super::{Call, File};
use crate::{dispatcher::Dispatcher, error::Error, sys::open};

/// How a [`File`] is to be opened; the names are std's. At first nothing is allowed.
///
/// There is no `append`: each write says where it goes. On Windows `FILE_FLAG_OVERLAPPED` is added.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, fs::OpenOptions};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("settings");
/// let port = Dispatcher::new()?;
/// let mut options = OpenOptions::new();
/// options.read(true).write(true).create_new(true);
/// assert!(port.block_on(options.open(&port, &path))?.is_ok());
/// let again = port.block_on(options.open(&port, &path))?.unwrap_err();
/// assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct OpenOptions {
    options: fs::OpenOptions,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// Nothing is allowed yet.
    pub fn new() -> Self {
        Self {
            options: fs::OpenOptions::new(),
        }
    }

    /// Whether it can be read.
    pub fn read(&mut self, read: bool) -> &mut Self {
        self.options.read(read);
        self
    }

    /// Whether it can be written to; an existing file keeps its contents.
    pub fn write(&mut self, write: bool) -> &mut Self {
        self.options.write(write);
        self
    }

    /// Whether an existing file is emptied. Needs [`write`](Self::write).
    pub fn truncate(&mut self, truncate: bool) -> &mut Self {
        self.options.truncate(truncate);
        self
    }

    /// Whether a file that does not exist is made. Needs [`write`](Self::write).
    pub fn create(&mut self, create: bool) -> &mut Self {
        self.options.create(create);
        self
    }

    /// Whether the file must not exist before and is made, in one step. Needs
    /// [`write`](Self::write); `create` and `truncate` are ignored then.
    pub fn create_new(&mut self, create_new: bool) -> &mut Self {
        self.options.create_new(create_new);
        self
    }

    /// Opens a file and attaches it to `port`, on a thread made for such calls: no dispatching
    /// thread waits for it.
    ///
    /// Dropping the future cancels it; if it has begun the file is closed again, and one that was
    /// made stays. An open may wait for long (a FIFO's for its other end, a network's for an
    /// answer): closing the port ends the wait of the future, though the thread stays in the system
    /// until the system returns.
    ///
    /// # Errors
    /// The operating system's: `NotFound`, `PermissionDenied`, `AlreadyExists`, …; `InvalidInput` for
    /// options that contradict each other; [`Error::WrongKind`] if it is neither a regular file nor
    /// a device; [`Error::Closed`].
    ///
    /// # Examples
    /// See [`OpenOptions`].
    pub fn open(&self, port: &Dispatcher, path: impl AsRef<Path>) -> Call<File> {
        let (mut options, path) = (self.options.clone(), path.as_ref().to_owned());
        // Weak: a call that hangs must not keep the port's memory.
        let inner = Arc::downgrade(&port.inner);
        port.inner.port.call(move || {
            let file = open::for_a_port(&mut options).open(path)?;
            let inner = inner.upgrade().ok_or(Error::Closed)?;
            File::attach(&inner, file)
        })
    }
}
