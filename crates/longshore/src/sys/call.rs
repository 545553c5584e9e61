//! A call that blocks, made by a thread of the [`pool`](super::pool), and the future of its result.

use std::{
    fmt, io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use crate::error::Error;

/// A call, as the pool sees it.
pub(crate) trait Errand: Send + Sync {
    /// Makes the call, unless nobody wants its result, and tells whoever waits.
    fn run(&self);

    /// Whoever waits is told that the port was closed.
    fn give_up(&self);
}

type Work<T> = Box<dyn FnOnce() -> io::Result<T> + Send>;

enum Phase<T> {
    Queued(Work<T>, Option<Waker>),
    Running(Option<Waker>),
    Ended(io::Result<T>),
    /// Nobody asks any more, or the result was taken.
    Gone,
}

struct Slot<T> {
    phase: Mutex<Phase<T>>,
}

impl<T> Slot<T> {
    fn phase(&self) -> MutexGuard<'_, Phase<T>> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first result counts. What is dropped or woken here is foreign: not under the lock.
    fn end(&self, result: io::Result<T>) {
        let mut phase = self.phase();
        let unused = match &*phase {
            Phase::Queued(..) | Phase::Running(_) => {
                mem::replace(&mut *phase, Phase::Ended(result))
            }
            Phase::Ended(_) | Phase::Gone => Phase::Ended(result),
        };
        drop(phase);
        if let Phase::Queued(_, Some(waker)) | Phase::Running(Some(waker)) = unused {
            waker.wake();
        }
    }
}

impl<T: Send> Errand for Slot<T> {
    fn run(&self) {
        let mut phase = self.phase();
        let work = match mem::replace(&mut *phase, Phase::Gone) {
            Phase::Queued(work, waker) => {
                *phase = Phase::Running(waker);
                work
            }
            other => {
                *phase = other;
                return;
            }
        };
        drop(phase);
        let panicked = |_| Err(io::Error::other("the call panicked"));
        self.end(catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked));
    }

    fn give_up(&self) {
        self.end(Err(Error::Closed.into()));
    }
}

/// A call that blocks, on its way on a thread made for such calls: resolves to its result, or to
/// [`Error::Closed`] if the port is closed first.
///
/// It begins when it is made, not when it is polled; it needs no particular executor, and no thread
/// that dispatches. Dropping it cancels the call if it has not begun; one that has goes on, and
/// its result is dropped. At most three run at once for each port: the next one waits.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, fs::{Call, File}};
/// let port = Dispatcher::new()?;
/// let opening: Call<File> = File::open(&port, "no such file");
/// let error = port.block_on(opening)?.unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "a call whose future is dropped is cancelled"]
pub struct Call<T: Send + 'static> {
    slot: Arc<Slot<T>>,
}

impl<T: Send + 'static> Call<T> {
    /// Has `work` done by whom `queue` gives it to.
    pub(crate) fn start(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
        queue: impl FnOnce(Arc<dyn Errand>) -> io::Result<()>,
    ) -> Self {
        let phase = Mutex::new(Phase::Queued(Box::new(work), None));
        let slot = Arc::new(Slot { phase });
        if let Err(refused) = queue(slot.clone()) {
            slot.end(Err(refused));
        }
        Self { slot }
    }
}

impl<T: Send + 'static> Future for Call<T> {
    type Output = io::Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Cloned and dropped outside the lock: a waker is foreign code.
        let mine = context.waker().clone();
        let mut phase = self.slot.phase();
        if let Phase::Queued(_, waker) | Phase::Running(waker) = &mut *phase {
            let old = waker.replace(mine);
            drop(phase);
            drop(old);
            return Poll::Pending;
        }
        let ended = mem::replace(&mut *phase, Phase::Gone);
        drop(phase);
        Poll::Ready(match ended {
            Phase::Ended(result) => result,
            _ => Err(io::Error::other("polled after it was ready")),
        })
    }
}

impl<T: Send + 'static> Drop for Call<T> {
    fn drop(&mut self) {
        let unused = mem::replace(&mut *self.slot.phase(), Phase::Gone);
        drop(unused);
    }
}

impl<T: Send + 'static> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_ended = matches!(*self.slot.phase(), Phase::Ended(_));
        f.debug_struct("Call").field("is_ended", &is_ended).finish()
    }
}
