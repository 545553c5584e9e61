//! A host's own loop on the port: packets that it took, and waits that it makes.
//!
//! A host waits with a system call that longshore does not see, so it has to say that it is about to.
//! Then it counts as one of the threads that wait: it hears of a timer that is set meanwhile, and it
//! keeps the earliest deadline, like any thread in `take_and_watch` (see `timers`).

#![cfg_attr(
    target_os = "linux",
    expect(dead_code, reason = "a host takes no packets there")
)]

use std::time::Instant;

use super::{
    Inner,
    entry::Entry,
    timers::{Panic, Watch},
    work::Visitor,
};
use crate::{packet::Packet, sys::backend::Wait};

/// A host that waits, or is about to.
pub(crate) struct HostWatch<'a> {
    inner: &'a Inner,
    /// `None` once it has been left.
    watch: Option<Watch<'a>>,
    deadline: Option<Instant>,
}

impl HostWatch<'_> {
    /// When the host has to come back for the sake of a timer.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

impl Drop for HostWatch<'_> {
    fn drop(&mut self) {
        let watch = self.watch.take();
        if watch.is_some_and(Watch::leave) {
            // Refused only when the port is closed, or by a kernel out of memory.
            let _ = self.inner.tick();
        }
    }
}

impl Inner {
    /// Wakes whoever is due, and counts the calling thread as one that waits for the next.
    pub(crate) fn watch_for_host(&self) -> HostWatch<'_> {
        self.watch_with(Wait::Forever)
    }

    fn watch_with(&self, wait: Wait) -> HostWatch<'_> {
        // Whoever is woken may bring work, which a `run` has to wait for.
        let _visitor = Visitor::new(self);
        let mut watch = Watch::new(&self.timers, &self.port, wait);
        let (deadline, panic) = watch.fire(wait);
        let watching = HostWatch {
            inner: self,
            watch: Some(watch),
            deadline,
        };
        match panic {
            None => watching,
            Some(panic) => resume(watching, panic),
        }
    }

    /// Runs a packet that somebody else took from the port, and the backend has recognised. `false`
    /// if it is not ours; then nothing has happened.
    pub(crate) fn deliver_taken(&self, packet: Packet) -> bool {
        let _visitor = Visitor::new(self);
        if self.is_tick(packet) {
            // It may be some time until the host waits again.
            drop(self.watch_with(Wait::Poll));
            return true;
        }
        match self.decode(packet) {
            Entry::Foreign(_) => false,
            entry => {
                // Refused is only a token that cannot be passed on because the port is closed. Then
                // nobody waits for it any more.
                let _ = self.carry_out(entry, packet);
                true
            }
        }
    }
}

/// A waker has panicked. The others were woken, and the timers are left to another thread.
#[cold]
fn resume(watching: HostWatch<'_>, panic: Panic) -> ! {
    drop(watching);
    std::panic::resume_unwind(panic)
}
