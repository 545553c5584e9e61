//! Waiting for an object of the operating system's: an event, a process, a descriptor.
// UNSAFETY: starts operations whose handle their payload keeps open.
#![expect(unsafe_code)]

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

#[cfg(doc)]
use crate::error::Error;
use crate::{
    dispatcher::Dispatcher,
    handle::{AsObject, Handle},
    ioqueue::{Attached, Operation},
    submission::Submission,
};

/// An object on a port that can be waited for, any number of times.
///
/// Windows: an event, a process, a thread, a semaphore, a waitable timer: whatever lends a handle
/// with the right `SYNCHRONIZE`, but no mutex. Linux: a descriptor that epoll(7) knows, which is
/// signalled while it is readable or broken: a pidfd, an eventfd, a timerfd, a pipe's reading end.
///
/// # Examples
/// ```
/// # #[cfg(windows)]
/// # fn object() -> std::io::Result<std::process::Child> {
/// #     std::process::Command::new("hostname").stdout(std::process::Stdio::null()).spawn()
/// # }
/// # #[cfg(unix)]
/// # fn object() -> std::io::Result<std::io::PipeReader> { Ok(std::io::pipe()?.0) }
/// use longshore::{Dispatcher, Waitable};
/// let port = Dispatcher::new()?;
/// let object = object()?; // a process, on Windows; a pipe whose other end is closed, on Linux
/// let object = Waitable::new(&port, object).map_err(|(error, _)| error)?;
/// port.block_on(object.wait())??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Waitable<T: AsObject + Send + Sync + 'static> {
    object: Arc<Attached<Object<T>>>,
}

/// Says of what kind its handle is.
struct Object<T>(T);

impl<'a, T: AsObject> From<&'a Object<T>> for Handle<'a> {
    fn from(object: &'a Object<T>) -> Self {
        Self::waitable(&object.0)
    }
}

impl<T: AsObject + Send + Sync + 'static> Waitable<T> {
    /// Takes an object over.
    ///
    /// # Errors
    /// The object comes back with [`Error::Closed`], [`Error::AlreadyAttached`], or the operating
    /// system's reason: on Linux `PermissionDenied` for a regular file, which is always ready.
    pub fn new(port: &Dispatcher, object: T) -> Result<Self, (io::Error, T)> {
        match Attached::new(&port.inner, Object(object)) {
            Ok(object) => Ok(Self { object }),
            Err((error, Object(object))) => Err((error, object)),
        }
    }

    /// Waits until the object is signalled; at once if it is.
    ///
    /// Windows: the wait takes what a wait takes, so an auto-reset event that is set ends one of
    /// several waits. One that is dropped or cancelled while the event is being set may have taken
    /// the signal with it. Linux: nothing is read, and every wait ends.
    pub fn wait(&self) -> Signalled {
        // SAFETY: the payload keeps the object open; there is no other memory.
        let operation = unsafe {
            Operation::start(self.object.inner(), self.payload(), |object| {
                Submission::Wait {
                    object: object.handle(),
                }
            })
        };
        Signalled { operation }
    }

    fn payload(&self) -> Payload {
        Box::new(self.object.clone())
    }

    /// The object.
    pub fn get_ref(&self) -> &T {
        &self.object.object().0
    }
}

impl<T: AsObject + Send + Sync + fmt::Debug + 'static> fmt::Debug for Waitable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Waitable").field(self.get_ref()).finish()
    }
}

/// What a wait needs of its object, whatever that is.
trait Lend: Send {
    fn handle(&self) -> Handle<'_>;
}

impl<T: AsObject + Send + Sync> Lend for Arc<Attached<Object<T>>> {
    fn handle(&self) -> Handle<'_> {
        Attached::handle(self)
    }
}

type Payload = Box<dyn Lend>;

/// A wait in flight: ready when the object is signalled.
///
/// [`Error::Closed`] where the port was closed before it began; the abort error (see
/// [`ABORTED`](crate::ABORTED)) if it was cancelled, or the port was closed meanwhile. Dropping it
/// cancels it. Polling needs no particular thread or executor, but somebody has to dispatch.
///
/// # Examples
/// ```
/// # #[cfg(windows)]
/// # fn object() -> std::io::Result<std::process::Child> {
/// #     std::process::Command::new("hostname").stdout(std::process::Stdio::null()).spawn()
/// # }
/// # #[cfg(unix)]
/// # fn object() -> std::io::Result<std::io::PipeReader> { Ok(std::io::pipe()?.0) }
/// use longshore::{Dispatcher, Signalled, Waitable};
/// let port = Dispatcher::new()?;
/// let object = object()?; // as for `Waitable`
/// let object = Waitable::new(&port, object).map_err(|(error, _)| error)?;
/// let signalled: Signalled = object.wait();
/// port.block_on(signalled)??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "futures do nothing unless they are awaited"]
pub struct Signalled {
    operation: Operation<Payload>,
}

impl Signalled {
    /// Asks for cancellation. The future resolves all the same: to success, if the object was
    /// signalled first.
    pub fn cancel(&self) {
        self.operation.cancel();
    }
}

impl Future for Signalled {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.operation)
            .poll(context)
            .map(|(result, _)| result?.result().map(|_| ()))
    }
}

impl fmt::Debug for Signalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signalled").finish_non_exhaustive()
    }
}
