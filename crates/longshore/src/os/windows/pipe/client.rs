//! The opening side of a named pipe.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use windows_sys::Win32::Foundation::ERROR_PIPE_BUSY;

#[cfg(doc)]
use crate::Error;
use crate::{
    Dispatcher,
    ioqueue::Attached,
    sys::pipe::{End, named::Client},
};

use super::Stream;

/// The pauses between tries grow from the one to the other.
const NAPS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(32)];

/// How a client opens a named pipe. At first: for reading and writing, as bytes, waiting up to five
/// seconds for a free instance, and letting the server know who it is, but not act in its name.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, os::windows::pipe::ClientOptions};
/// use std::time::Duration;
/// let port = Dispatcher::new()?;
/// let mut options = ClientOptions::new();
/// options.messages(true).busy_timeout(Duration::from_secs(1));
/// let nobody = options.open(&port, r"\\.\pipe\longshore-doc-nobody");
/// let error = port.block_on(nobody)?.unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientOptions {
    client: Client,
    busy_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientOptions {
    /// See the type.
    pub fn new() -> Self {
        Self {
            client: Client {
                read: true,
                write: true,
                messages: false,
                overlapped: true,
                impersonation: false,
            },
            busy_timeout: Duration::from_secs(5),
        }
    }

    /// Whether it reads.
    pub fn read(&mut self, read: bool) -> &mut Self {
        self.client.read = read;
        self
    }

    /// Whether it writes.
    pub fn write(&mut self, write: bool) -> &mut Self {
        self.client.write = write;
        self
    }

    /// Whether it reads messages, from a pipe that has them. Otherwise it reads their bytes in a row.
    pub fn messages(&mut self, messages: bool) -> &mut Self {
        self.client.messages = messages;
        self
    }

    /// How long it waits while all instances have clients. Zero: it tries once.
    pub fn busy_timeout(&mut self, limit: Duration) -> &mut Self {
        self.busy_timeout = limit;
        self
    }

    /// Whether the server may act in the name of this client's user. If not, which is how it is at first,
    /// it can only find out who that is. (`SECURITY_IMPERSONATION`, `SECURITY_IDENTIFICATION`)
    pub fn impersonation(&mut self, allowed: bool) -> &mut Self {
        self.client.impersonation = allowed;
        self
    }

    /// Opens the pipe of this name, waiting while it is busy.
    ///
    /// Each try is made by a thread for calls that block, because the name may be another machine's; in
    /// between the port's timer waits, with pauses up to 32 ms. So no dispatching thread is kept, and
    /// dropping the future ends it.
    ///
    /// # Errors
    /// `NotFound` if there is no such pipe, at once: a server that is to be waited for must have its name.
    /// `ERROR_PIPE_BUSY` (231) if no instance came free in time. `PermissionDenied`, also if the pipe does
    /// not go that way; `ERROR_INVALID_PARAMETER` (87) if it has no messages. [`Error::WrongKind`] if it is
    /// no pipe, [`Error::Closed`].
    pub async fn open(&self, port: &Dispatcher, name: impl AsRef<Path>) -> io::Result<Stream> {
        let deadline = Instant::now().checked_add(self.busy_timeout);
        let is_over = |now: Instant| deadline.is_some_and(|deadline| now >= deadline);
        let [mut nap, longest] = NAPS;
        let pipe = loop {
            let (client, name) = (self.client, name.as_ref().to_path_buf());
            // Asked before the try: the last one is made when the time is up, or later.
            let is_last = is_over(Instant::now());
            match port.inner.port.call(move || client.open(&name)).await {
                Err(error) if is_busy(&error) && !is_last => {}
                opened => break opened?,
            }
            let until = Instant::now() + nap;
            port.sleep_until(deadline.map_or(until, |deadline| deadline.min(until)))
                .await?;
            nap = (nap * 2).min(longest);
        };
        let line = Attached::new(&port.inner, End(pipe)).map_err(|(error, _)| error)?;
        Ok(Stream::new(line))
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ERROR_PIPE_BUSY.cast_signed())
}
