//! Closing (D10): nothing is lost in silence, and nothing is freed under the kernel.

use std::{
    error, fmt, io,
    panic::resume_unwind,
    sync::{Arc, atomic::Ordering},
    thread,
};

use super::{Dispatcher, Inner, Open, context::OnCallback, timers::Panic};
use crate::{
    error::Error,
    sys::backend::CloseFailure,
    trace::{self, event, span},
};

/// A raw post that was never delivered, as [`Dispatcher::close_with`] hands it over.
///
/// # Examples
/// ```
/// extern "C-unwind" fn free(word: usize) {
///     println!("{word} is freed");
/// }
/// let port = longshore::Dispatcher::new()?;
/// port.post(7, free)?;
/// port.close_with(|post| (post.callback)(post.context))?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Undelivered {
    /// The callback that was not called.
    pub callback: OnCallback,
    /// The word it would have received.
    pub context: usize,
}

/// What went wrong while a dispatcher was closed. It is closed all the same.
///
/// # Examples
/// ```
/// let port = longshore::Dispatcher::new()?;
/// let again = port.clone();
/// port.close()?;
/// let error = again.close().unwrap_err();
/// assert_eq!(error.to_string(), "cannot close the dispatcher: the dispatcher is closed");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct CloseError {
    failures: Vec<CloseFailure>,
}

impl CloseError {
    /// Each failure, in the order in which they happened.
    pub fn failures(&self) -> &[CloseFailure] {
        &self.failures
    }
}

impl fmt::Display for CloseFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.attempt(), self.error())
    }
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, failure) in self.failures.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{failure}")?;
        }
        Ok(())
    }
}

impl error::Error for CloseError {}

impl From<CloseError> for io::Error {
    /// The one failure's own error, or the whole list.
    fn from(mut error: CloseError) -> Self {
        match error.failures.len() {
            1 => error.failures.remove(0).error,
            _ => Self::other(error),
        }
    }
}

impl Dispatcher {
    /// Closes the port for every clone of this dispatcher (D10).
    ///
    /// Threads blocked in a dispatch return [`Error::Closed`], and so does every later call.
    /// Undelivered closures are dropped, undelivered raw posts are forgotten (see
    /// [`close_with`](Self::close_with)). Operations in flight are cancelled one by one, and their
    /// `on_event` is called on this thread, with the abort code unless they finished after all.
    /// Callbacks that other threads are running go on, and a packet that one of them has taken
    /// already may still start: join those threads before freeing what posts point to. The OS handle is closed with the last
    /// clone.
    ///
    /// It waits for cancelled operations only as long as
    /// [`drain_timeout`](crate::Builder::drain_timeout) says; on Windows also up to 5 seconds for
    /// blocked threads to leave the port, which they do at once unless the kernel is out of memory
    /// or the [concurrency](crate::Builder::concurrency) limit holds them.
    ///
    /// # Errors
    /// The list of what could not be done. [`Error::Closed`] when it was closed before.
    ///
    /// # Panics
    /// A panic in an `on_event` is passed on when everything else was done.
    ///
    /// # Examples
    /// ```
    /// let port = longshore::Dispatcher::new()?;
    /// port.post_fn(|| unreachable!("dropped, not run"))?;
    /// port.close()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn close(self) -> Result<(), CloseError> {
        self.close_with(|_| {})
    }

    /// [`close`](Self::close), handing over each raw post that was never delivered, so that
    /// whatever its word owns can be released. Its callback is not called.
    ///
    /// # Errors
    /// As for [`close`](Self::close).
    ///
    /// # Panics
    /// As for [`close`](Self::close); a panic in `undelivered` counts as one in an `on_event`.
    pub fn close_with(self, mut undelivered: impl FnMut(Undelivered)) -> Result<(), CloseError> {
        let mut failures = Vec::new();
        let mut panic = None;
        match self.inner.shut_down(&mut undelivered, &mut failures) {
            Some(caught) => panic = caught,
            None => failures.push(CloseFailure {
                what: "close the dispatcher",
                error: Error::Closed.into(),
            }),
        }
        let Self { inner, open } = self;
        if let Some(mut inner) = last_reference(inner, open) {
            inner.release(&mut failures);
        }
        match (panic, failures.is_empty()) {
            (Some(panic), _) => resume_unwind(panic),
            (None, true) => Ok(()),
            (None, false) => Err(CloseError { failures }),
        }
    }
}

/// The port itself, if nobody else has it.
fn last_reference(inner: Arc<Inner>, open: Arc<Open>) -> Option<Inner> {
    // It was shut down just now, so that its drop does nothing more.
    drop(open);
    Arc::into_inner(inner)
}

impl Drop for Open {
    /// The last clone is gone: closes if nobody did, and says on standard error what failed.
    fn drop(&mut self) {
        let mut failures = Vec::new();
        let panic = self.inner.shut_down(&mut |_| {}, &mut failures).flatten();
        report(&failures);
        match panic {
            Some(panic) if !thread::panicking() => resume_unwind(panic),
            _ => {}
        }
    }
}

impl Drop for Inner {
    /// The last operation, too, is gone: the OS handle can be closed.
    fn drop(&mut self) {
        let mut failures = Vec::new();
        self.release(&mut failures);
        report(&failures);
    }
}

fn report(failures: &[CloseFailure]) {
    for failure in failures {
        eprintln!("longshore: {failure}");
    }
}

impl Dispatcher {
    pub(super) fn new_open(inner: Arc<Inner>) -> Self {
        let open = Arc::new(Open {
            inner: inner.clone(),
        });
        Self { inner, open }
    }
}

impl Inner {
    /// Everything but closing the OS handle. `None` when it was done before; else the first panic
    /// of a callback, if any.
    fn shut_down(
        &self,
        undelivered: &mut dyn FnMut(Undelivered),
        failures: &mut Vec<CloseFailure>,
    ) -> Option<Option<Panic>> {
        if !self.port.shut(failures) {
            return None;
        }
        let _span = span!(DEBUG, "close", port = self.port.id());
        // Whoever sleeps is told, and finds the port closed.
        let mut panic = self.timers.end();
        self.port.end_calls();
        // A task that is woken now finds the port closed, which drops it.
        self.tasks.end();
        self.notices.part();
        let left = match self.drain(undelivered, &mut panic, failures) {
            Ok(left) => left,
            Err(error) => {
                failures.push(CloseFailure {
                    what: "drain the port",
                    error,
                });
                self.left()
            }
        };
        self.strands.end(undelivered, &mut panic);
        // After the drain: whoever is told has everything that was there.
        panic = panic.or(self.notices.end());
        // Memory that the kernel still writes, or the caller still waits to get back.
        let leak = left.operations > 0;
        self.leak.store(leak, Ordering::Relaxed);
        failures.extend(left.failure());
        if !leak {
            // Not earlier: what the kernel still works on may be a socket's.
            self.port.clean_up(failures);
        }
        for failure in &*failures {
            event!(
                WARN,
                "closing met a failure",
                failure = trace::display(failure)
            );
        }
        event!(
            DEBUG,
            "a port was closed",
            port = self.port.id(),
            operations_left = left.operations,
            posts_left = left.posts,
        );
        Some(panic)
    }

    fn release(&mut self, failures: &mut Vec<CloseFailure>) {
        if !std::mem::replace(&mut self.released, true) {
            self.port.release(*self.leak.get_mut(), failures);
        }
    }
}
