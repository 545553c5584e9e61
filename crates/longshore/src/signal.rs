//! Signals: Ctrl-C, the request to end, and the others, heard through a port.
//!
//! | | Linux | Windows |
//! |---|---|---|
//! | [`Signal::INTERRUPT`] | `SIGINT` | `CTRL_C_EVENT` |
//! | [`Signal::TERMINATE`] | `SIGTERM` | `CTRL_SHUTDOWN_EVENT` (services only) |
//! | [`Signal::HANG_UP`] | `SIGHUP` | `CTRL_CLOSE_EVENT`: the console window was closed |
//! | [`Signal::QUIT`] | `SIGQUIT` | `CTRL_BREAK_EVENT` |
//! | [`Signal::from_raw`] | any number, but `SIGKILL`, `SIGSTOP`, `SIGSEGV`, `SIGILL`, `SIGFPE` | `CTRL_LOGOFF_EVENT` |
//!
//! Nothing of yours runs in a signal handler: the handler counts, and signals an object that the port waits
//! for; what you have to say runs on a thread that dispatches. Four ways lead there: [`ctrl_c`] is a
//! future for one of them, [`Signals`] waits again and again, [`each`] calls a function, and a [`Listener`] is
//! the object itself, for operations with a [`Context`](crate::dispatcher::Context).
//!
//! # What listening changes
//! The first listener for a signal keeps it from ending the process. Every listener hears every
//! signal that comes while it lives, as often as the system tells of it: Linux makes one of several
//! equal signals that wait for a handler. A signal between two waits is kept. What stands behind
//! other handlers of the process (tokio's, say) still runs.
//!
//! When the last listener has gone, Windows goes back to the default: Ctrl-C ends the process. On Linux the handler
//! stays, because others may have put theirs on top, and the signal is ignored from then on. A
//! program that wants to end at the second Ctrl-C waits for it on either system:
//!
//! ```
//! use longshore::{Dispatcher, signal::{Signal, Signals}};
//! let port = Dispatcher::new()?;
//! let mut signals = Signals::new(&port, [Signal::INTERRUPT, Signal::TERMINATE])?;
//! # if cfg!(windows) { return Ok(()); } // an event would come to everybody at the console
//! # #[cfg(unix)]
//! # // SAFETY: no pointers; it is heard already, so it does not end the process.
//! # unsafe { libc::raise(libc::SIGTERM) };
//! let first = port.block_on(signals.wait())??;
//! println!("{first}: finishing");
//! port.spawn(async move {
//!     if signals.wait().await.is_ok() {
//!         std::process::exit(1);
//!     }
//! })
//! .detach();
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! On Windows the process is ended by the system when its console was closed or the system is shut down, a few
//! seconds after listeners were told: 5 for a console, 20 for a service. Finish, and return from
//! `main`. Processes that began without Ctrl-C (`CREATE_NEW_PROCESS_GROUP`) hear none.
//!
//! Sources: signal(7), signal-safety(7); `SetConsoleCtrlHandler` and `HandlerRoutine`.

use std::{fmt, io, sync::Arc};

#[cfg(doc)]
use crate::error::Error;
use crate::{
    dispatcher::{Dispatcher, Inner},
    sys::signal as sys,
    task::JoinHandle,
    waitable::Waitable,
};

/// A signal that a process gets from outside.
///
/// # Examples
/// ```
/// use longshore::signal::Signal;
/// println!("press {}", Signal::INTERRUPT);
/// assert_eq!(Signal::from_raw(Signal::QUIT.as_raw()), Signal::QUIT);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(i32);

impl Signal {
    /// Somebody pressed Ctrl-C.
    pub const INTERRUPT: Self = Self(sys::INTERRUPT);
    /// The process is asked to end.
    pub const TERMINATE: Self = Self(sys::TERMINATE);
    /// The terminal, or the console's window, is gone. Daemons read their configuration again.
    pub const HANG_UP: Self = Self(sys::HANG_UP);
    /// Somebody pressed Ctrl-\ or, on Windows, Ctrl-Break.
    pub const QUIT: Self = Self(sys::QUIT);

    /// A signal by the system's number: signal(7), or a `CTRL_…_EVENT`. Whether it can be listened to is
    /// found when somebody tries.
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// The system's number.
    pub const fn as_raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Signal {
    /// The system's name for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match sys::name(self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hears signals, for as long as it lives, and is an object that can be waited for.
///
/// It is signalled while it has heard something that was not [taken](Self::take); a wait may also
/// end for a signal that was taken in the very moment it came. It belongs to no port:
/// [`Handle::waitable`](crate::Handle::waitable) lends it to a
/// [`Submission::Wait`](crate::Submission::Wait), [`Waitable`] takes it over. For futures, [`Signals`] is less
/// work. It may be shared by threads.
///
/// # Examples
/// An operation with a Context:
/// ```
/// use longshore::{Dispatcher, Handle, Submission, dispatcher::Context, signal::{Listener, Signal}};
/// use std::ptr::NonNull;
/// extern "C-unwind" fn came(_word: usize, _bytes: u32, error: u32) {
///     println!("a signal, or the port is being closed: {error}");
/// }
/// let port = Dispatcher::new()?;
/// let listener = Listener::new([Signal::INTERRUPT])?;
/// port.attach(Handle::waitable(&listener))?;
/// let context = Context::new(came, 0);
/// let wait = Submission::Wait { object: Handle::waitable(&listener) };
/// // SAFETY: the Context and the listener stay until the port is closed, which ends the wait.
/// unsafe { port.submit(NonNull::from(&context), wait)? };
/// assert_eq!(listener.take(), None, "nobody has pressed it yet");
/// port.close()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    pub(crate) object: sys::Listener,
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`Error::NoSuchSignal`] for one that the system does not know, or does not let be heard; or the
    /// system's reason: no more descriptors or handles. Nothing is heard then, and what the signals do to
    /// the process is as before, also those of the list that could have been heard.
    pub fn new(signals: impl IntoIterator<Item = Signal>) -> io::Result<Self> {
        let numbers: Vec<_> = signals.into_iter().map(Signal::as_raw).collect();
        Ok(Self {
            object: sys::Listener::new(&numbers)?,
        })
    }

    /// Takes one signal that has come. Different ones come in the order in which they were given to
    /// [`new`](Self::new).
    pub fn take(&self) -> Option<Signal> {
        self.object.take().map(Signal)
    }
}

/// Signals on a port, to be awaited one after the other.
///
/// Dropping it ends the listening.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, signal::{Signal, Signals}};
/// use std::time::Duration;
/// let port = Dispatcher::new()?;
/// let mut signals = Signals::new(&port, [Signal::INTERRUPT, Signal::TERMINATE])?;
/// let signal = Box::pin(signals.wait());
/// let limited = port.timeout(Duration::from_millis(1), signal);
/// assert!(port.block_on(limited)?.is_err(), "nobody wants this program to end");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Signals {
    object: Waitable<Listener>,
    inner: Arc<Inner>,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// As for [`Listener::new`]; [`Error::Closed`].
    pub fn new(port: &Dispatcher, signals: impl IntoIterator<Item = Signal>) -> io::Result<Self> {
        // Before listening, which on Linux takes the default away for good.
        port.inner.port.open_or_err()?;
        let object = Waitable::new(port, Listener::new(signals)?);
        Ok(Self {
            object: object.map_err(|(error, _)| error)?,
            inner: port.inner.clone(),
        })
    }

    /// Waits for a signal; ready at once if one has come since the last call. Somebody has to dispatch.
    /// Dropping the future loses no signal.
    ///
    /// # Errors
    /// [`Error::Closed`] when the port is closed, also meanwhile, and no signal is left to be told;
    /// or the system's reason for failing the wait.
    pub async fn wait(&mut self) -> io::Result<Signal> {
        loop {
            if let Some(signal) = self.take() {
                return Ok(signal);
            }
            self.inner.port.open_or_err()?;
            match self.object.wait().await {
                // Aborted, because the port is closed: the next turn says so.
                Err(_) if self.inner.port.open_or_err().is_err() => {}
                ended => ended?,
            }
        }
    }

    /// Takes one signal that has come, without waiting.
    pub fn take(&mut self) -> Option<Signal> {
        self.object.get_ref().take()
    }
}

/// A future that is ready when somebody has pressed Ctrl-C since this call.
///
/// Dropping it ends the listening, as its end does; see [the module](self#what-listening-changes) for what becomes of a
/// second Ctrl-C.
///
/// # Errors
/// The future's: as for [`Signals::new`] and [`Signals::wait`].
///
/// # Examples
/// ```
/// let port = longshore::Dispatcher::new()?;
/// let pressed = longshore::signal::ctrl_c(&port);
/// # if cfg!(windows) { return Ok(()); } // an event would come to everybody at the console
/// # #[cfg(unix)]
/// # // SAFETY: no pointers; it is heard already, so it does not end the process.
/// # unsafe { libc::raise(libc::SIGINT) };
/// port.block_on(pressed)??;
/// println!("the end");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn ctrl_c(port: &Dispatcher) -> impl Future<Output = io::Result<()>> + Send + use<> {
    // Now, not when it is polled first: what comes in between counts.
    let signals = Signals::new(port, [Signal::INTERRUPT]);
    async move { signals?.wait().await.map(|_| ()) }
}

/// Calls `handler` for each signal, on whichever thread dispatches, one call at a time.
///
/// It goes on as a [task](Dispatcher::spawn) until the port is closed or its handle
/// [cancels](JoinHandle::cancel) it: so it counts as work, and a [`run`](Dispatcher::run) does not end for as
/// long. Its result is why it can wait no longer; a panic in `handler` ends it, too.
///
/// # Errors
/// As for [`Signals::new`].
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, signal::{self, Signal}};
/// let port = Dispatcher::new()?;
/// let remote = port.clone();
/// let stopping = signal::each(&port, [Signal::TERMINATE], move |_| _ = remote.stop())?;
/// port.run_ready()?;
/// # port.block_on(stopping.cancel())?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn each(
    port: &Dispatcher,
    signals: impl IntoIterator<Item = Signal>,
    mut handler: impl FnMut(Signal) + Send + 'static,
) -> io::Result<JoinHandle<io::Error>> {
    let mut signals = Signals::new(port, signals)?;
    Ok(port.spawn(async move {
        loop {
            match signals.wait().await {
                Ok(signal) => handler(signal),
                Err(error) => return error,
            }
        }
    }))
}
