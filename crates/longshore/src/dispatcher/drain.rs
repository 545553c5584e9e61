//! Draining a port that is being closed: whose each packet is, and what is done with it.
// UNSAFETY: calls Contexts and drops closures that were still on their way.
#![expect(unsafe_code)]

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::{self, NonNull},
    thread,
    time::{Duration, Instant},
};

use super::{
    Inner,
    close::Undelivered,
    closure,
    entry::{Entry, WAKE},
    strand, task,
    timers::Panic,
};
use crate::{
    overlapped::RawOverlapped,
    packet::Packet,
    port::Port,
    sys::backend::{CloseFailure, Rest, Wait},
};

/// How long to wait between two looks at operations that were asked to end.
const ROUND: Duration = Duration::from_millis(5);

/// How much longer than told the drain goes on for our own posts, behind a flood of others'.
const FLOOD: Duration = Duration::from_secs(1);

/// What did not come back while the port was drained.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) operations: usize,
    pub(super) posts: usize,
}

impl Left {
    fn is_nothing(self) -> bool {
        self.operations + self.posts == 0
    }

    pub(super) fn failure(self) -> Option<CloseFailure> {
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

impl Inner {
    /// Takes what is left until nothing is in flight, cancelling again and again: an operation
    /// may be in the middle of being submitted when it is first looked for.
    pub(super) fn drain(
        &self,
        undelivered: &mut dyn FnMut(Undelivered),
        panic: &mut Option<Panic>,
        failures: &mut Vec<CloseFailure>,
    ) -> io::Result<Left> {
        let begun = Instant::now();
        loop {
            let is_lent = match self.port.lent()? {
                Some(depth) => {
                    self.look_through(depth, undelivered, panic, failures)?;
                    true
                }
                None => {
                    self.empty(begun, undelivered, panic)?;
                    false
                }
            };
            let left = self.left();
            if left.is_nothing() || begun.elapsed() >= self.drain {
                return Ok(left);
            }
            for (address, handle) in self.in_flight.running(|_| true) {
                // A refusal means that there is nothing left to cancel; the packet tells.
                let _ = self.port.cancel(handle, header(address));
            }
            if is_lent {
                // Not in the port, where the owner's packets would end the wait at once.
                thread::sleep(ROUND / 5);
                continue;
            }
            match self.port.take_rest(Wait::Until(Instant::now() + ROUND))? {
                Some(rest) => self.discard_or_report(rest, undelivered, panic),
                None => thread::sleep(ROUND / 5),
            }
        }
    }

    /// Takes what is in a port that ends with us.
    fn empty(
        &self,
        begun: Instant,
        undelivered: &mut dyn FnMut(Undelivered),
        panic: &mut Option<Panic>,
    ) -> io::Result<()> {
        while let Some(rest) = self.port.take_rest(Wait::Poll)? {
            self.discard_or_report(rest, undelivered, panic);
            if Port::STRANGERS && self.is_flooded(begun) {
                break;
            }
        }
        Ok(())
    }

    /// Takes what is ours out of a port that goes on. What is queued now is looked at and no more,
    /// so that a busy owner cannot hold us up; everything that is left behind by threads of ours
    /// that were released is queued by now. The rest goes back in its order, behind what its
    /// owner has queued meanwhile.
    fn look_through(
        &self,
        depth: usize,
        undelivered: &mut dyn FnMut(Undelivered),
        panic: &mut Option<Panic>,
        failures: &mut Vec<CloseFailure>,
    ) -> io::Result<()> {
        let mut others = Vec::new();
        let mut looked = Ok(());
        for _ in 0..depth {
            match self.port.take_rest(Wait::Poll) {
                Ok(Some(rest)) => others.extend(self.discard(rest, undelivered, panic)),
                Ok(None) => break,
                Err(error) => {
                    looked = Err(error);
                    break;
                }
            }
        }
        for rest in others {
            if let Err(error) = self.port.put_back(rest) {
                failures.push(CloseFailure {
                    what: "put back a packet of somebody else's",
                    error,
                });
                self.report(rest.packet, panic);
            }
        }
        looked
    }

    /// Whether only strangers keep the queue from running dry. Our own posts stand in line before
    /// what they post now, so those are worth some more time.
    fn is_flooded(&self, begun: Instant) -> bool {
        let over = begun.elapsed().checked_sub(self.drain);
        over.is_some_and(|over| over >= FLOOD || self.in_flight.posts() == 0)
    }

    pub(super) fn left(&self) -> Left {
        Left {
            operations: self.in_flight.events(),
            posts: self.in_flight.posts(),
        }
    }

    fn discard_or_report(
        &self,
        rest: Rest,
        undelivered: &mut dyn FnMut(Undelivered),
        panic: &mut Option<Panic>,
    ) {
        if let Some(foreign) = self.discard(rest, undelivered, panic) {
            self.report(foreign.packet, panic);
        }
    }

    fn report(&self, packet: Packet, panic: &mut Option<Panic>) {
        let reported = catch_unwind(AssertUnwindSafe(|| self.foreign.report(packet)));
        if let Err(caught) = reported {
            panic.get_or_insert(caught);
        }
    }

    /// One packet that nobody dispatched; comes back if it is not ours.
    fn discard(
        &self,
        rest: Rest,
        undelivered: &mut dyn FnMut(Undelivered),
        panic: &mut Option<Panic>,
    ) -> Option<Rest> {
        let entry = self.decode(rest.packet);
        if let Entry::Foreign(_) = entry {
            return Some(rest);
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| match entry {
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
                // SAFETY: as above.
                unsafe { strand::discard(word) };
            }
            Entry::Callback(callback, context) => undelivered(Undelivered { callback, context }),
            // SAFETY: `decode` took the operation out of flight; its owner kept it alive for us.
            Entry::Event(to, header, completion) => unsafe { (to.deliver)(header, completion) },
            Entry::Notice(notice, packet) => notice.tell(packet),
            Entry::Token(_) | Entry::Foreign(_) => {}
        }));
        if let Err(caught) = outcome {
            panic.get_or_insert(caught);
        }
        None
    }
}

/// The header at an address from the in-flight table, where null never enters.
pub(crate) fn header(address: usize) -> NonNull<RawOverlapped> {
    NonNull::new(ptr::with_exposed_provenance_mut(address)).unwrap_or(NonNull::dangling())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatcher::Dispatcher;

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
