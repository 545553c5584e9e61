//! Linux: the port as a file descriptor that another loop can wait for.

use std::{io, os::fd::BorrowedFd};

use crate::Dispatcher;

impl Dispatcher {
    /// A descriptor that is readable while an entry waits, for `poll(2)`, `epoll(7)` or another
    /// runtime (D1).
    ///
    /// It is not readable any more once [`try_dispatch`](Self::try_dispatch) has said `false`. It
    /// may be readable once too often, so call `try_dispatch` until it does. The descriptor is the
    /// port's own: wait for it, but do not read, write or close it.
    ///
    /// From the first call on, the port counts the descriptor as one more sleeping thread: a post
    /// that finds it not yet readable makes one system call.
    ///
    /// # Errors
    /// The first call makes two descriptors and fails where the process or the system has no more
    /// (`EMFILE`, `ENFILE`, `ENOMEM`); a later call may try again.
    ///
    /// # Examples
    /// ```
    /// use std::os::fd::AsRawFd;
    /// let port = longshore::Dispatcher::new()?;
    /// let fd = port.pollable()?;
    /// assert!(fd.as_raw_fd() >= 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn pollable(&self) -> io::Result<BorrowedFd<'_>> {
        self.inner.port.open_or_err()?;
        self.inner.port.driver().pollable()
    }
}
