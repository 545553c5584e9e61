//! Dispatching until nothing waits (Q8).

use std::{io, sync::Arc, time::Duration};

use super::{queue::IoQueue, registered::Core};
#[cfg(doc)]
use crate::dispatcher::Dispatcher;
use crate::{dispatcher::Guest, sys::backend::Wait};

/// How many entries one `poll` dispatches at most, so that callbacks that post anew cannot keep it.
const MOST: usize = 1024;

impl IoQueue {
    /// Dispatches what is ready, up to some 1,000 entries, and tells whether there was anything (Q8).
    ///
    /// If nothing is ready it waits for up to `timeout` for the first entry, but only while
    /// something [waits](Self::running). `Duration::MAX` is for ever.
    ///
    /// # Errors
    /// As for [`Dispatcher::dispatch`].
    ///
    /// # Panics
    /// As for [`Dispatcher::dispatch`].
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// let queue = longshore::IoQueue::new(&longshore::Dispatcher::new()?);
    /// assert!(!queue.poll(Duration::MAX)?, "nothing waits, so there is nothing to wait for");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn poll(&self, timeout: Duration) -> io::Result<bool> {
        let wait = Wait::at_most(timeout);
        let inner = &self.shared.core.inner;
        let mut found = inner.dispatch(Wait::Poll)?;
        if !found && !timeout.is_zero() {
            let seat = Seat::new(&self.shared.core);
            while !found && seat.may_wait() {
                found = seat.guest.wait_for(wait)?;
                if wait.is_over() {
                    break;
                }
            }
        }
        if found {
            for _ in 1..MOST {
                if !inner.dispatch(Wait::Poll)? {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Dispatches until nothing [waits](Self::running) and nothing is ready (Q8).
    ///
    /// Any number of threads may run; all are released when the last operation ends. Entries of
    /// others on the same port are dispatched too.
    ///
    /// # Errors
    /// As for [`Dispatcher::dispatch`].
    ///
    /// # Panics
    /// As for [`Dispatcher::dispatch`].
    pub fn run(&self) -> io::Result<()> {
        let seat = Seat::new(&self.shared.core);
        loop {
            if seat.may_wait() {
                seat.guest.wait_for(Wait::Forever)?;
            } else if !self.shared.core.inner.dispatch(Wait::Poll)? && !self.running() {
                return Ok(());
            }
        }
    }
}

/// A thread's place among those that are told when nothing waits any more.
struct Seat<'a> {
    core: &'a Core,
    guest: Arc<Guest>,
}

impl<'a> Seat<'a> {
    fn new(core: &'a Core) -> Self {
        let guest = Guest::new(core.inner.clone());
        core.runners().push(guest.clone());
        Self { core, guest }
    }

    /// Whether there is something to wait for. What changes from here on wakes the guest.
    fn may_wait(&self) -> bool {
        self.guest.was_woken();
        self.core.is_waiting()
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.core
            .runners()
            .retain(|guest| !Arc::ptr_eq(guest, &self.guest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatcher::Dispatcher;

    #[test]
    fn q08_who_has_run_is_told_no_more() {
        let queue = IoQueue::new(&Dispatcher::new().unwrap());
        queue.run().unwrap();
        assert!(!queue.poll(Duration::MAX).unwrap());
        assert_eq!(queue.shared.core.runners().len(), 0);
    }
}
