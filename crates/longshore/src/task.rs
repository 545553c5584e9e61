//! Tasks: futures that the dispatching threads run.
//!
//! A task that can go on is one word in the port's queue, so waking it is a post, and whichever
//! thread dispatches the word runs the task until it waits again.

use std::{
    any::Any,
    error, fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::{Context, Poll, Wake, Waker},
};

use async_task::FallibleTask;

use crate::{
    dispatcher::{Dispatcher, Guest, Inner, task::schedule},
    trace::event,
};

type Panic = Box<dyn Any + Send>;

impl Dispatcher {
    /// Runs a future on whichever threads dispatch, and returns a handle to its result.
    ///
    /// Nothing runs until somebody dispatches. Waking the task is one post and allocates nothing.
    /// A panic in the future reaches its handle and nothing else. When the port is closed the
    /// task is dropped, and its handle says that it was cancelled.
    ///
    /// # Examples
    /// ```
    /// let port = longshore::Dispatcher::new()?;
    /// let sum = port.spawn(async { 1 + 2 });
    /// assert_eq!(port.block_on(sum)?.unwrap(), 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // Weak: a task that waits must not keep its own port open.
        let port = Arc::downgrade(&self.inner);
        let entered = Entered::new(&self.inner);
        let number = entered.number;
        let guarded = Guarded {
            future: Some(Box::pin(future)),
            _entered: entered,
        };
        let (runnable, task) = async_task::spawn(guarded, move |runnable| {
            schedule(&port, runnable);
        });
        self.inner.tasks.enter(number, runnable.waker());
        runnable.schedule();
        JoinHandle {
            task: Some(task.fallible()),
        }
    }

    /// Runs a future on this thread, dispatching meanwhile, until it is ready.
    ///
    /// The future need not be `Send`. Other threads may dispatch, or block on futures of their own,
    /// at the same time.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed) if the port is closed before the future is ready,
    /// and the operating system's reasons for failing a wait.
    ///
    /// # Panics
    /// Panics of the future, and of callbacks that this thread dispatches meanwhile, are passed on.
    pub fn block_on<F: Future>(&self, future: F) -> io::Result<F::Output> {
        let guest = Guest::new(self.inner.clone());
        // Whoever runs the port for this thread goes on while it is busy with the future itself.
        let _work = self.work_guard();
        let waker = Waker::from(Arc::new(WakeGuest(guest.clone())));
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        let mut closed = Ok(());
        loop {
            if guest.was_woken()
                && let Poll::Ready(output) = future.as_mut().poll(&mut context)
            {
                return Ok(output);
            }
            closed?;
            // Closing may have ended what the future waits for, so it is asked once more.
            closed = guest.wait();
        }
    }
}

struct WakeGuest(Arc<Guest>);

impl Wake for WakeGuest {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake();
    }
}

/// A future whose panic is its result.
struct Guarded<F> {
    /// Gone once it has ended.
    future: Option<Pin<Box<F>>>,
    /// Dropped last.
    _entered: Entered,
}

impl<F: Future> Future for Guarded<F> {
    type Output = Outcome<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.future else {
            return Poll::Pending;
        };
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        let ended = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panic) => Err(panic),
        };
        // Its own values may panic as well while they are dropped.
        let future = self.future.take();
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
        let outcome = ended.and_then(|output| dropped.map(|()| output));
        if let Err(panic) = &outcome {
            let number = self._entered.number;
            event!(
                WARN,
                "a task panicked",
                task = number,
                panic = message(&**panic)
            );
        }
        Poll::Ready(Outcome(Some(outcome)))
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let literal = || panic.downcast_ref().copied();
    let written = panic.downcast_ref().map(String::as_str);
    written.or_else(literal).unwrap_or("not a message")
}

/// What a task has come to. If nobody takes it, it is dropped with the task, wherever that is.
struct Outcome<T>(Option<Result<T, Panic>>);

impl<T> Outcome<T> {
    fn take(mut self) -> Option<Result<T, Panic>> {
        self.0.take()
    }
}

impl<T> Drop for Outcome<T> {
    fn drop(&mut self) {
        let outcome = self.0.take();
        let _unheard = catch_unwind(AssertUnwindSafe(|| drop(outcome)));
    }
}

impl<F> Drop for Guarded<F> {
    /// A task that is cancelled may be dropped anywhere, and nobody could take its panic.
    fn drop(&mut self) {
        let future = self.future.take();
        let _unheard = catch_unwind(AssertUnwindSafe(|| drop(future)));
    }
}

/// A task's entry in its port's list, so that closing finds those that wait for other things.
struct Entered {
    port: Weak<Inner>,
    number: u64,
}

impl Entered {
    fn new(inner: &Arc<Inner>) -> Self {
        Self {
            port: Arc::downgrade(inner),
            number: inner.tasks.number(),
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(inner) = self.port.upgrade() {
            inner.tasks.leave(self.number);
            inner.work_ended();
        }
    }
}

/// A task's result, to be awaited on any executor. Dropping the handle lets the task go on.
///
/// # Examples
/// ```
/// let port = longshore::Dispatcher::new()?;
/// let task = port.spawn(std::future::pending::<()>());
/// let ended = port.block_on(task.cancel())?;
/// assert!(ended.is_none(), "it had no result yet");
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "a task whose handle is dropped goes on by itself; say so with `detach`"]
pub struct JoinHandle<T> {
    /// Gone once the handle was consumed.
    task: Option<FallibleTask<Outcome<T>>>,
}

impl<T> JoinHandle<T> {
    /// Lets the task go on by itself.
    pub fn detach(self) {}

    /// Stops the task at its next wait, and waits until its future was dropped. `None` if it had no
    /// result by then; a panic counts as none.
    pub async fn cancel(mut self) -> Option<T> {
        self.task.take()?.cancel().await?.take()?.ok()
    }

    /// Whether the task has ended, one way or another.
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(FallibleTask::is_finished)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(task) = &mut self.task else {
            return Poll::Ready(Err(JoinError::Cancelled));
        };
        let ended = Pin::new(task).poll(context);
        ended.map(|ended| match ended.and_then(Outcome::take) {
            Some(Ok(output)) => Ok(output),
            Some(Err(panic)) => Err(JoinError::Panicked(panic)),
            None => Err(JoinError::Cancelled),
        })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("is_finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

/// Why a task has no result.
///
/// # Examples
/// ```
/// use longshore::task::JoinError;
/// let port = longshore::Dispatcher::new()?;
/// let task = port.spawn(async { std::panic::resume_unwind(Box::new("oops")) });
/// match port.block_on(task)? {
///     Err(JoinError::Panicked(panic)) => assert_eq!(panic.downcast_ref(), Some(&"oops")),
///     other => unreachable!("{:?}", other.map(|never: std::convert::Infallible| never)),
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[non_exhaustive]
pub enum JoinError {
    /// It was cancelled, or its port was closed.
    Cancelled,
    /// It panicked, with this payload.
    Panicked(Panic),
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "Cancelled",
            Self::Panicked(_) => "Panicked",
        })
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "the task was cancelled",
            Self::Panicked(_) => "the task panicked",
        })
    }
}

impl error::Error for JoinError {}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> Self {
        Self::other(error.to_string())
    }
}
