//! Waiting for a time, by the port's own timers: no thread is made for them. A time is an [`Instant`], so
//! setting the wall clock moves none.

use std::{
    error, fmt, io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::dispatcher::{Dispatcher, Inner, TimerKey};
#[cfg(doc)]
use crate::error::Error;

impl Dispatcher {
    /// A future that is ready after `duration`; never early. A duration past the end of the clock
    /// is for ever.
    ///
    /// Its accuracy is that of the port's waits: about 0.1 ms on Linux. On Windows a high-resolution
    /// waitable timer ends the wait (about 0.5 ms, Windows 10 1803 and later); where there is none, the
    /// accuracy is one tick of the system timer (up to 15.6 ms). Somebody has to dispatch.
    ///
    /// # Examples
    /// ```
    /// use std::time::{Duration, Instant};
    /// let port = longshore::Dispatcher::new()?;
    /// let begun = Instant::now();
    /// port.block_on(port.sleep(Duration::from_millis(5)))??;
    /// assert!(begun.elapsed() >= Duration::from_millis(5));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_at(Instant::now().checked_add(duration))
    }

    /// A future that is ready at `deadline`; never early.
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.sleep_at(Some(deadline))
    }

    fn sleep_at(&self, deadline: Option<Instant>) -> Sleep {
        Sleep {
            inner: self.inner.clone(),
            deadline,
            timer: None,
        }
    }

    /// Gives a future at most `duration`, and no longer than the port is open.
    ///
    /// When the time is up the future comes back inside the error, still running: what it has
    /// received is not lost. Await it again, or drop it to cancel it.
    ///
    /// # Examples
    /// ```
    /// use std::{future::pending, time::Duration};
    /// let port = longshore::Dispatcher::new()?;
    /// let limited = port.timeout(Duration::from_millis(1), pending::<()>());
    /// assert!(port.block_on(limited)?.is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn timeout<F: Future + Unpin>(
        &self,
        duration: Duration,
        mut future: F,
    ) -> Result<F::Output, Elapsed<F>> {
        let mut sleep = pin!(self.sleep(duration));
        let mut future_ref = Some(&mut future);
        let output = std::future::poll_fn(|context| {
            // The future first: what is ready is never given up for the time.
            if let Some(future) = &mut future_ref
                && let Poll::Ready(output) = Pin::new(&mut **future).poll(context)
            {
                return Poll::Ready(Some(output));
            }
            sleep.as_mut().poll(context).map(|_| None)
        })
        .await;
        output.ok_or(Elapsed { future })
    }
}

/// A future that is ready at a time. [`Error::Closed`] if the port is closed first.
///
/// Dropping it forgets the timer.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// let port = longshore::Dispatcher::new()?;
/// let sleep: longshore::time::Sleep = port.sleep(Duration::from_millis(1));
/// port.block_on(sleep)??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "futures do nothing unless they are awaited"]
pub struct Sleep {
    inner: Arc<Inner>,
    /// `None` is for ever.
    deadline: Option<Instant>,
    timer: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            return Poll::Ready(Ok(()));
        }
        if let Err(closed) = self.inner.port.open_or_err() {
            return Poll::Ready(Err(closed));
        }
        // A sleep without end still wants to hear that the port was closed.
        let far = Instant::now() + Duration::from_secs(86_400 * 365);
        let deadline = self.deadline.unwrap_or(far);
        let waker = context.waker();
        let is_set = (self.timer).is_some_and(|key| self.inner.renew_timer(&key, waker));
        if !is_set {
            self.timer = Some(self.inner.set_timer(deadline, waker.clone()));
            // Closing ends the timers it finds; one that was set after that must not wait.
            if let Err(closed) = self.inner.port.open_or_err() {
                return Poll::Ready(Err(closed));
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.timer.take() {
            self.inner.remove_timer(&key);
        }
    }
}

/// The time was up. The future is inside, still running.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// let port = longshore::Dispatcher::new()?;
/// let slow = Box::pin(port.sleep(Duration::from_millis(5)));
/// let limited = port.timeout(Duration::from_millis(1), slow);
/// if let Err(elapsed) = port.block_on(limited)? {
///     // It goes on where it was.
///     port.block_on(elapsed.future)??;
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Elapsed<F> {
    /// What was waited for.
    pub future: F,
}

impl<F> fmt::Debug for Elapsed<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Elapsed")
    }
}

impl<F> fmt::Display for Elapsed<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time was up")
    }
}

impl<F> error::Error for Elapsed<F> {}

impl<F> From<Elapsed<F>> for io::Error {
    fn from(_: Elapsed<F>) -> Self {
        io::ErrorKind::TimedOut.into()
    }
}
