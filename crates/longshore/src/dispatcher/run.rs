//! `run` and `stop`.
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
};

use super::{Dispatcher, Inner, tokens::STOP};
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
    pub(super) fn wants_token(&self) -> bool {
        self.stopped.load(SeqCst) && self.blocked.load(SeqCst) > 0
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
    /// Dispatches until [`stop`](Self::stop) is called, and returns how many entries this thread
    /// dispatched. Any number of threads may run at once; each is released by one `stop`.
    ///
    /// A panic in a callback ends this thread's `run` and goes on to its caller; the port and the
    /// other threads are not affected.
    ///
    /// # Errors
    /// [`Error::Closed`] once the dispatcher is closed, and what the operating system says of the
    /// wait.
    ///
    /// # Examples
    /// ```
    /// let port = longshore::Dispatcher::new()?;
    /// let remote = port.clone();
    /// port.post_fn(move || remote.stop().unwrap())?;
    /// assert_eq!(port.run()?, 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn run(&self) -> io::Result<u64> {
        let mut dispatched = 0;
        while self.inner.run_one()? {
            dispatched += 1;
        }
        Ok(dispatched)
    }

    /// Makes every [`run`](Self::run), now and later, return after the entry it is dispatching.
    /// Threads in [`dispatch`](Self::dispatch) are not released. What is queued stays queued.
    ///
    /// # Errors
    /// [`Error::Closed`]; or the kernel refused a packet, and a blocked `run` may return only with
    /// its next entry.
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
    pub fn restart(&self) {
        self.inner.running.stopped.store(false, SeqCst);
    }

    /// Whether [`stop`](Self::stop) was called and not taken back.
    pub fn is_stopped(&self) -> bool {
        self.inner.running.stopped.load(SeqCst)
    }
}

impl Inner {
    /// One entry of a `run`. `false` when stopped.
    fn run_one(&self) -> io::Result<bool> {
        loop {
            let taken = {
                let _blocked = Blocked::new(&self.running.blocked);
                if self.running.stopped.load(SeqCst) {
                    return Ok(false);
                }
                self.take(Wait::Forever)?
            };
            // This thread is no longer blocked, so a stop token is not passed on for its sake.
            match taken {
                Some(packet) if self.deliver(packet)? => return Ok(true),
                _ => {}
            }
        }
    }
}

// A panic may unwind through a dispatch; nothing in here is left half done by it.
impl panic::RefUnwindSafe for Inner {}
impl panic::UnwindSafe for Inner {}
