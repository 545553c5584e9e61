//! Closing (D10): nothing is lost in silence, and nothing is freed under the kernel.
// UNSAFETY: calls Contexts and drops closures that were still on their way.
#![expect(unsafe_code)]

use std::{
    any::Any,
    error, fmt, io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr::{self, NonNull},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    Dispatcher, Inner, Open, closure,
    context::OnCallback,
    entry::{Entry, WAKE},
    strand, task,
};
use crate::{
    error::Error,
    packet::Packet,
    port::Port,
    sys::backend::{CloseFailure, Wait},
    trace::{self, event, span},
};

/// How long to wait between two looks at operations that were asked to end.
const ROUND: Duration = Duration::from_millis(5);

/// How much longer than told the drain goes on for our own posts, behind a flood of others'.
const FLOOD: Duration = Duration::from_secs(1);

/// What did not come back while the port was drained.
#[derive(Clone, Copy, Debug)]
struct Left {
    operations: usize,
    posts: usize,
}

impl Left {
    fn is_nothing(self) -> bool {
        self.operations + self.posts == 0
    }

    fn failure(self) -> Option<CloseFailure> {
        let (what, message) = match self {
            Self {
                operations: 1.., ..
            } => (
                "drain the port",
                format!("{} operations did not end in time", self.operations),
            ),
            // Whoever has the handle can take packets from the port, too.
            Self { posts: 1.., .. } => (
                "account for every post",
                format!("{} were taken from the port by somebody else", self.posts),
            ),
            _ => return None,
        };
        let error = io::Error::new(io::ErrorKind::TimedOut, message);
        Some(CloseFailure { what, error })
    }
}

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

type Panic = Box<dyn Any + Send>;

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
        let left = match self.drain(undelivered, &mut panic) {
            Ok(left) => left,
            Err(error) => {
                failures.push(CloseFailure {
                    what: "drain the port",
                    error,
                });
                self.left()
            }
        };
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

    /// Takes what is left until nothing is in flight, cancelling again and again: an operation
    /// may be in the middle of being submitted when it is first looked for.
    fn drain(
        &self,
        undelivered: &mut dyn FnMut(Undelivered),
        panic: &mut Option<Panic>,
    ) -> io::Result<Left> {
        let begun = Instant::now();
        loop {
            while let Some(packet) = self.port.take_rest(Wait::Poll)? {
                self.discard(packet, undelivered, panic);
                if Port::STRANGERS && self.is_flooded(begun) {
                    break;
                }
            }
            let left = self.left();
            if left.is_nothing() || begun.elapsed() >= self.drain {
                return Ok(left);
            }
            for (address, handle) in self.in_flight.running(|_| true) {
                // A refusal means that there is nothing left to cancel; the packet tells.
                let _ = self.port.cancel(handle, header(address));
            }
            match self.port.take_rest(Wait::Until(Instant::now() + ROUND))? {
                Some(packet) => self.discard(packet, undelivered, panic),
                None => thread::sleep(ROUND / 5),
            }
        }
    }

    /// Whether only strangers keep the queue from running dry. Our own posts stand in line before
    /// what they post now, so those are worth some more time.
    fn is_flooded(&self, begun: Instant) -> bool {
        let over = begun.elapsed().checked_sub(self.drain);
        over.is_some_and(|over| over >= FLOOD || self.in_flight.posts() == 0)
    }

    fn left(&self) -> Left {
        Left {
            operations: self.in_flight.events(),
            posts: self.in_flight.posts(),
        }
    }

    /// One packet that nobody dispatched.
    fn discard(
        &self,
        packet: Packet,
        undelivered: &mut dyn FnMut(Undelivered),
        panic: &mut Option<Panic>,
    ) {
        let outcome = catch_unwind(AssertUnwindSafe(|| match self.decode(packet) {
            Entry::Callback(callback, _) if callback as usize == WAKE as usize => {}
            Entry::Callback(callback, word) if callback as usize == closure::RUN as usize => {
                // SAFETY: the packet is ours (`decode`) and was taken once, by us.
                unsafe { closure::discard_posted(word) };
            }
            Entry::Callback(callback, word) if callback as usize == task::RUN as usize => {
                // SAFETY: as above.
                unsafe { task::discard(word) };
            }
            Entry::Callback(callback, word) if callback as usize == strand::TURN as usize => {
                let mut hand_over =
                    |callback, context| undelivered(Undelivered { callback, context });
                // SAFETY: as above.
                unsafe { strand::discard(word, &mut hand_over) };
            }
            Entry::Callback(callback, context) => undelivered(Undelivered { callback, context }),
            // SAFETY: `decode` took the operation out of flight; its owner kept it alive for us.
            Entry::Event(to, header, completion) => unsafe { (to.deliver)(header, completion) },
            Entry::Token(_) => {}
            Entry::Foreign(packet) => self.foreign.report(packet),
        }));
        if let Err(caught) = outcome {
            panic.get_or_insert(caught);
        }
    }

    fn release(&mut self, failures: &mut Vec<CloseFailure>) {
        if !std::mem::replace(&mut self.released, true) {
            self.port.release(*self.leak.get_mut(), failures);
        }
    }
}

/// The header at an address from the in-flight table, where null never enters.
pub(crate) fn header(address: usize) -> NonNull<crate::overlapped::RawOverlapped> {
    NonNull::new(ptr::with_exposed_provenance_mut(address)).unwrap_or(NonNull::dangling())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d10_what_did_not_come_back_is_a_failure() {
        let left = |operations, posts| Left { operations, posts };
        assert!(left(0, 0).is_nothing());
        assert!(left(0, 0).failure().is_none());
        for (left, message) in [
            (
                left(2, 1),
                "drain the port: 2 operations did not end in time",
            ),
            (
                left(0, 3),
                "account for every post: 3 were taken from the port by somebody else",
            ),
        ] {
            assert!(!left.is_nothing());
            let failure = left.failure().expect("something is left");
            assert_eq!(format!("{}: {}", failure.what, failure.error), message);
        }
    }

    #[test]
    fn d10_a_flood_of_strangers_does_not_hold_closing_up() {
        let port = Dispatcher::builder()
            .drain_timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        let (inner, now) = (&port.inner, Instant::now());
        let ago = |secs| {
            now.checked_sub(Duration::from_secs(secs))
                .expect("up long enough")
        };
        assert!(!inner.is_flooded(now), "it has its time");
        assert!(
            inner.is_flooded(ago(10)),
            "and no post of ours waits behind the others"
        );
        inner.in_flight.expect_post(1, 2);
        assert!(!inner.is_flooded(ago(10)), "one does");
        assert!(inner.is_flooded(ago(12)), "but not for ever");
        assert!(inner.in_flight.take_post(1, 2));
    }
}
