//! `run` and `stop`. When a run ends by itself, because nothing is left to do, is told in `work`.
//!
//! `stop` must release exactly the threads inside `run`, not those in a plain `dispatch`, and both
//! kinds wait on the same queue. So `stop` sets a flag and posts one token for each runner that
//! may be blocked. A runner that gets a token looks at the flag. A plain dispatcher that gets one
//! passes it on while a runner is still blocked, and otherwise swallows it; tokens are
//! housekeeping.
//!
//! Why no runner sleeps through a stop: a runner counts itself as blocked, *then* reads the flag;
//! `stop` sets the flag, *then* reads the count. Both are SeqCst, so one of them sees the other: a
//! runner that missed the flag was counted and has a token on its way. A runner that leaves
//! because of another packet leaves its token behind, which is a token too many, never too few.

use std::{
    io, panic,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

#[cfg(doc)]
use super::WorkGuard;
use super::{Dispatcher, Inner, tokens::STOP, work::Runner};
#[cfg(doc)]
use crate::error::Error;
use crate::sys::backend::Wait;

#[derive(Debug, Default)]
pub(crate) struct RunState {
    stopped: AtomicBool,
    /// Threads inside `run` that are blocked or about to be.
    blocked: AtomicUsize,
}

impl RunState {
    /// Whether a stop token still has somebody to release.
    pub(super) fn wants_token(&self, has_work: impl FnOnce() -> bool) -> bool {
        self.blocked.load(SeqCst) > 0 && (self.stopped.load(SeqCst) || !has_work())
    }
}

/// Counts one runner as blocked for as long as it lives.
struct Blocked<'a>(&'a AtomicUsize);

impl<'a> Blocked<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Dispatcher {
    /// Dispatches until nothing is left to do, or [`stop`](Self::stop) is called; returns how many
    /// entries this thread dispatched. Any number of threads may run at once.
    ///
    /// Nothing is left when no operation is in flight, no timer is set, no [task](Self::spawn) goes
    /// on, no [`WorkGuard`] lives, nobody is inside [`block_on`](Self::block_on), no callback is
    /// running (on a thread inside `run`, or in a dispatch that began its entry while somebody was),
    /// *and* the queue is empty. Then every run ends, as Boost.Asio's `io_context::run` does; threads
    /// in a plain [`dispatch`](Self::dispatch) are not released. Queued entries are not lost: a run
    /// never ends while there is one. Call it again whenever there is something to do.
    ///
    /// A thread that is to wait for work needs a [`work_guard`](Self::work_guard).
    ///
    /// # Errors
    /// [`Error::Closed`] once the dispatcher is closed, and what the operating system says of the
    /// wait. No entry is lost.
    ///
    /// # Panics
    /// A panic in a callback ends this thread's `run` and goes on to its caller; the port and the
    /// other threads are not affected.
    ///
    /// # Examples
    /// ```
    /// let port = longshore::Dispatcher::new()?;
    /// port.post_fn(|| println!("one"))?;
    /// port.post_fn(|| println!("two"))?;
    /// assert_eq!(port.run()?, 2);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn run(&self) -> io::Result<u64> {
        self.inner.run(Wait::Forever, u64::MAX)
    }

    /// [`run`](Self::run) for one entry at most: waits for it, and returns `false` if nothing is left
    /// to do, or after [`stop`](Self::stop).
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    ///
    /// # Examples
    /// ```
    /// let port = longshore::Dispatcher::new()?;
    /// port.post_fn(|| {})?;
    /// assert!(port.run_one()?);
    /// assert!(!port.run_one()?, "nothing is left to wait for");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn run_one(&self) -> io::Result<bool> {
        self.inner.run(Wait::Forever, 1).map(|count| count > 0)
    }

    /// Dispatches what is ready, without waiting, and returns how many entries that were; none after
    /// [`stop`](Self::stop). Callbacks that post anew keep it going.
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    ///
    /// # Examples
    /// ```
    /// let port = longshore::Dispatcher::new()?;
    /// let _guard = port.work_guard();
    /// port.post_fn(|| {})?;
    /// assert_eq!(port.run_ready()?, 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "poll")]
    pub fn run_ready(&self) -> io::Result<u64> {
        self.inner.run(Wait::Poll, u64::MAX)
    }

    /// [`run`](Self::run), but for `duration` at most; the entry that runs at its end is finished. A
    /// duration past the end of the clock is for ever.
    ///
    /// # Errors
    /// As for [`run`](Self::run). Running out of time is not an error.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// let port = longshore::Dispatcher::new()?;
    /// let _guard = port.work_guard();
    /// assert_eq!(port.run_for(Duration::from_millis(1))?, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn run_for(&self, duration: Duration) -> io::Result<u64> {
        self.inner.run(Wait::at_most(duration), u64::MAX)
    }

    /// [`run_for`](Self::run_for), until `deadline` at most.
    ///
    /// # Errors
    /// As for [`run_for`](Self::run_for).
    ///
    /// # Examples
    /// ```
    /// use std::time::{Duration, Instant};
    /// let port = longshore::Dispatcher::new()?;
    /// let _guard = port.work_guard();
    /// port.post_fn(|| {})?;
    /// let deadline = Instant::now() + Duration::from_millis(1);
    /// assert_eq!(port.run_until(deadline)?, 1);
    /// assert!(Instant::now() >= deadline, "the guard kept it going");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn run_until(&self, deadline: Instant) -> io::Result<u64> {
        self.inner.run(Wait::Until(deadline), u64::MAX)
    }

    /// Makes every [`run`](Self::run), now and later, return after the entry it is dispatching.
    /// Threads in [`dispatch`](Self::dispatch) are not released. What is queued stays queued.
    ///
    /// # Errors
    /// [`Error::Closed`]; or the kernel refused a packet, and a blocked `run` may return only with
    /// its next entry.
    ///
    /// # Examples
    /// ```
    /// let port = longshore::Dispatcher::new()?;
    /// let remote = port.clone();
    /// port.post_fn(move || remote.stop().unwrap())?;
    /// port.post_fn(|| unreachable!("stays queued"))?;
    /// assert_eq!(port.run()?, 1);
    /// assert_eq!(port.run()?, 0, "until `restart`");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stop(&self) -> io::Result<()> {
        let inner = &self.inner;
        inner.port.open_or_err()?;
        inner.running.stopped.store(true, SeqCst);
        for _ in 0..inner.running.blocked.load(SeqCst) {
            inner.post(STOP as usize, 0)?;
        }
        Ok(())
    }

    /// Takes a [`stop`](Self::stop) back, so that [`run`](Self::run) can be called again. Do so
    /// after the runs have returned: one that has not noticed the stop yet goes on.
    ///
    /// # Examples
    /// ```
    /// let port = longshore::Dispatcher::new()?;
    /// port.post_fn(|| {})?;
    /// port.stop()?;
    /// assert_eq!(port.run()?, 0);
    /// port.restart();
    /// assert_eq!(port.run()?, 1, "it was still queued");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn restart(&self) {
        self.inner.running.stopped.store(false, SeqCst);
    }

    /// Whether [`stop`](Self::stop) was called and not taken back. A run that has ended because nothing is
    /// left to do has not stopped.
    ///
    /// # Examples
    /// ```
    /// let port = longshore::Dispatcher::new()?;
    /// port.run()?;
    /// assert!(!port.is_stopped());
    /// port.stop()?;
    /// assert!(port.is_stopped());
    /// port.restart();
    /// assert!(!port.is_stopped());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_stopped(&self) -> bool {
        self.inner.running.stopped.load(SeqCst)
    }
}

impl Inner {
    /// Dispatches up to `most` entries; returns how many.
    fn run(&self, wait: Wait, most: u64) -> io::Result<u64> {
        let runner = Runner::new(self);
        let mut dispatched = 0;
        while dispatched < most && self.run_next(wait, &runner)? {
            dispatched += 1;
            // A queue that is never empty would not let it come to a wait.
            if wait.is_over() {
                break;
            }
        }
        Ok(dispatched)
    }

    /// One entry of a `run`. `false`: stopped, out of work, or out of time.
    fn run_next(&self, wait: Wait, runner: &Runner<'_>) -> io::Result<bool> {
        loop {
            let taken = {
                let _blocked = Blocked::new(&self.running.blocked);
                if self.running.stopped.load(SeqCst) {
                    return Ok(false);
                }
                self.take(wait, runner)?
            };
            // This thread is no longer blocked, so a stop token is not passed on for its sake.
            match taken {
                Some(packet) if self.deliver(packet)? => return Ok(true),
                // A token: perhaps it was stopped, perhaps nothing is left to do.
                Some(_) => {}
                None => return Ok(false),
            }
        }
    }
}

// A panic may unwind through a dispatch; nothing in here is left half done by it.
impl panic::RefUnwindSafe for Inner {}
impl panic::UnwindSafe for Inner {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d06_a_stop_token_goes_on_while_somebody_is_blocked_for_no_reason() {
        let state = RunState::default();
        assert!(!state.wants_token(|| false));
        let _blocked = Blocked::new(&state.blocked);
        assert!(state.wants_token(|| false));
        assert!(!state.wants_token(|| true));
        state.stopped.store(true, SeqCst);
        assert!(state.wants_token(|| true));
    }
}
