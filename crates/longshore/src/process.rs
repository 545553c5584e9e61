//! Child processes whose exit is awaited through a port.

use std::{
    io, mem,
    process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus},
};

#[cfg(doc)]
use crate::error::Error;
use crate::{
    dispatcher::Dispatcher,
    sys::process::{self, Exit},
    waitable::Waitable,
};

/// A child process on a port.
///
/// Like std's, it goes on when this is dropped, and on Linux stays a zombie until its parent has
/// waited for it or ended.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, process::Child};
/// use std::process::{Command, Stdio};
/// let port = Dispatcher::new()?;
/// # let program = "hostname";
/// let mut command = Command::new(program);
/// let mut child = Child::spawn(&port, command.stdout(Stdio::null()))?;
/// let _status = port.block_on(child.wait())??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Child {
    /// Its standard input, if it was piped. [`wait`](Self::wait) closes it. Writing to it may block, as
    /// std's does; [`pipe::to_child`](crate::pipe::to_child) makes one that is awaited.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, if it was piped. Reading it blocks, as std's does;
    /// [`pipe::from_child`](crate::pipe::from_child) makes one that is awaited.
    pub stdout: Option<ChildStdout>,
    /// Its standard error, if it was piped. Reading it blocks, as std's does.
    pub stderr: Option<ChildStderr>,
    child: std::process::Child,
    /// `None` if its status was known when it came here.
    exit: Option<Waitable<Exit>>,
}

impl Child {
    /// Starts a process. Starting it blocks for a while: a few milliseconds are usual.
    ///
    /// # Errors
    /// The operating system's, and those of [`new`](Self::new): then the child is killed again.
    pub fn spawn(port: &Dispatcher, command: &mut Command) -> io::Result<Self> {
        Self::new(port, command.spawn()?).map_err(|(error, mut child)| {
            // Whoever asked for it cannot have it. It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
            error
        })
    }

    /// Takes over a child of std's.
    ///
    /// # Errors
    /// The child comes back with [`Error::Closed`], or the operating system's reason: no more
    /// descriptors or handles; on Linux before 5.3 `Unsupported`, for want of pidfd_open(2).
    pub fn new(
        port: &Dispatcher,
        mut child: std::process::Child,
    ) -> Result<Self, (io::Error, std::process::Child)> {
        let exit = match Self::exit(port, &mut child) {
            Ok(exit) => exit,
            Err(error) => return Err((error, child)),
        };
        Ok(Self {
            stdin: mem::take(&mut child.stdin),
            stdout: mem::take(&mut child.stdout),
            stderr: mem::take(&mut child.stderr),
            child,
            exit,
        })
    }

    fn exit(
        port: &Dispatcher,
        child: &mut std::process::Child,
    ) -> io::Result<Option<Waitable<Exit>>> {
        port.inner.port.open_or_err()?;
        // Its number may be another process' once it was waited for.
        if child.try_wait()?.is_some() {
            return Ok(None);
        }
        let exit = Waitable::new(port, process::exit_of(child)?);
        exit.map(Some).map_err(|(error, _)| error)
    }

    /// Waits until the process has exited; at once if it has. It may be called again.
    ///
    /// Its standard input is closed first, if it is still here, so that the child does not wait for
    /// more. Dropping the future leaves the child alone.
    ///
    /// # Errors
    /// [`Error::Closed`], or the abort error ([`ABORTED`](crate::ABORTED)) when the port is closed
    /// meanwhile; the operating system's reason.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.stdin = None;
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        if let Some(exit) = &self.exit {
            exit.wait().await?;
        }
        // It has exited, so this does not block.
        self.child.wait()
    }

    /// Its status, if it has exited.
    ///
    /// # Errors
    /// The operating system's.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks the system to end it: `SIGKILL`, `TerminateProcess`. No error if it has exited and was
    /// waited for. It may take a moment to be gone, and [`wait`](Self::wait) is still to be called.
    ///
    /// # Errors
    /// The operating system's.
    ///
    /// # Examples
    /// ```
    /// use longshore::{Dispatcher, process::Child};
    /// use std::process::{Command, Stdio};
    /// let port = Dispatcher::new()?;
    /// let mut command = Command::new(if cfg!(windows) { "cmd" } else { "sh" });
    /// command.stdin(Stdio::piped()).stdout(Stdio::null()); // it waits for commands
    /// let mut child = Child::spawn(&port, &mut command)?;
    /// child.kill()?;
    /// assert!(!port.block_on(child.wait())??.success());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// The operating system's number for it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}
