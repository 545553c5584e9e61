//! The table of what is in flight: it answers "did this packet come from us?".
//!
//! Anyone who holds the exported handle can put any three words on a completion port. A packet is
//! believed only if it is one that longshore knows to be on its way: a post that was made and not
//! yet dispatched, or a Context that was submitted, armed or re-posted. Everything else is
//! foreign, and none of its words is called or dereferenced.
//!
//! Posts are counted by (key, payload): a forged copy of a real post is the same packet as far as
//! anyone can tell, so the callback runs exactly as often as it was posted, and the surplus packet
//! is the foreign one. Where no stranger can reach the port (Linux), posts are not recorded.
//!
//! An entry is made *before* the kernel is asked, because the packet may be dispatched on another
//! thread before the asking call returns. If the kernel refuses, the entry is taken back by its
//! ticket: a forged copy of the packet may have been believed in the meantime, and the same words
//! may have been used again for something new. Then there is nothing to take back, and the call
//! has succeeded.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, Hash, RandomState},
    ptr::NonNull,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{completion::Completion, error::Error, overlapped::RawOverlapped, submission::Issued};

/// Enough that threads rarely meet; a power of two, so that the shard is a mask.
const SHARDS: usize = 16;

/// Tells one use of the same words from the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ticket(u64);

/// What a look at a packet that says it is a completion has found.
#[derive(Debug)]
pub(crate) enum Looked {
    /// The operation has ended; it is no longer in flight.
    Ended(Recipient, Flight, Completion),
    /// The operation is still running, so this is not its packet.
    Pending,
    /// Nothing is in flight there.
    Unknown,
}

/// Through which door a completion has to come: which key its packet must have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Door {
    /// Key 0: for a Context.
    Context,
    /// The key of operations that are awaited.
    Queue,
}

/// Who is told when an operation has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipient {
    pub(crate) door: Door,
    /// Called with the header and the outcome, once the operation is no longer in flight.
    pub(crate) deliver: unsafe fn(NonNull<RawOverlapped>, Completion),
}

/// An operation, from submission to packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flight {
    /// Started by longshore.
    Issued(Issued),
    /// To be started by the caller's own system call.
    Armed,
    /// Has ended already; the packet only carries the news.
    Ended(Completion),
}

#[derive(Debug)]
struct Expected {
    ticket: Ticket,
    to: Recipient,
    flight: Flight,
}

// Nothing here is dereferenced by the table; the pointer inside `Issued` belongs to whoever
// submitted, who promised that it is valid on any thread until the packet.
#[derive(Debug)]
pub(crate) struct InFlight {
    posts: Shards<(usize, usize), (Ticket, usize)>,
    events: Shards<usize, Expected>,
    tickets: AtomicU64,
}

impl InFlight {
    pub(crate) fn new() -> Self {
        Self {
            posts: Shards::new(),
            events: Shards::new(),
            tickets: AtomicU64::new(0),
        }
    }

    fn ticket(&self) -> Ticket {
        Ticket(self.tickets.fetch_add(1, Ordering::Relaxed))
    }

    /// A post is about to be made. Equal posts that are on their way together share a ticket.
    pub(crate) fn expect_post(&self, key: usize, payload: usize) -> Ticket {
        let post = (key, payload);
        let mut posts = self.posts.lock(&post);
        let (ticket, count) = posts.entry(post).or_insert_with(|| (self.ticket(), 0));
        *count += 1;
        *ticket
    }

    /// A packet that says it is a post: whether it was expected. It no longer is.
    pub(crate) fn take_post(&self, key: usize, payload: usize) -> bool {
        self.remove_post((key, payload), |_| true)
    }

    /// The kernel refused a post. `false` if it was delivered all the same.
    pub(crate) fn take_back_post(&self, key: usize, payload: usize, ticket: Ticket) -> bool {
        self.remove_post((key, payload), |found| found == ticket)
    }

    fn remove_post(&self, post: (usize, usize), fits: impl FnOnce(Ticket) -> bool) -> bool {
        match self.posts.lock(&post).entry(post) {
            Entry::Occupied(mut entry) if fits(entry.get().0) => {
                entry.get_mut().1 -= 1;
                if entry.get().1 == 0 {
                    entry.remove();
                }
                true
            }
            _ => false,
        }
    }

    /// An operation on the Context at `address` is about to start. `prepare` runs while no packet
    /// can be matched with the entry, and only if the Context was idle.
    pub(crate) fn expect_event(
        &self,
        address: usize,
        to: Recipient,
        flight: Flight,
        prepare: impl FnOnce(),
    ) -> Result<Ticket, Error> {
        match self.events.lock(&address).entry(address) {
            Entry::Occupied(_) => Err(Error::ContextInFlight),
            Entry::Vacant(entry) => {
                prepare();
                let ticket = self.ticket();
                entry.insert(Expected { ticket, to, flight });
                Ok(ticket)
            }
        }
    }

    /// The operation ended inside the submitting call; its packet will be posted. `false` if it
    /// was delivered already.
    #[must_use]
    pub(crate) fn end(&self, address: usize, ticket: Ticket, completion: Completion) -> bool {
        match self.events.lock(&address).get_mut(&address) {
            Some(expected) if expected.ticket == ticket => {
                expected.flight = Flight::Ended(completion);
                true
            }
            _ => false,
        }
    }

    /// No packet will come for the Context at `address`; `undo` runs while nobody can use it again.
    /// `false` if a packet came all the same.
    #[must_use]
    pub(crate) fn take_back_event(
        &self,
        address: usize,
        ticket: Ticket,
        undo: impl FnOnce(),
    ) -> bool {
        match self.events.lock(&address).entry(address) {
            Entry::Occupied(entry) if entry.get().ticket == ticket => {
                undo();
                entry.remove();
                true
            }
            _ => false,
        }
    }

    /// Forgets an armed Context. `false` if it is not armed.
    pub(crate) fn disarm(&self, address: usize) -> bool {
        let mut events = self.events.lock(&address);
        let armed = events
            .get(&address)
            .is_some_and(|expected| matches!(expected.flight, Flight::Armed));
        if armed {
            events.remove(&address);
        }
        armed
    }

    /// A packet that says it is a completion. `outcome` reads the header and may say "not yet";
    /// it runs only for an address in the table, and while the entry cannot go away.
    pub(crate) fn take_event(
        &self,
        door: Door,
        address: usize,
        outcome: impl FnOnce(&Flight) -> Option<Completion>,
    ) -> Looked {
        match self.events.lock(&address).entry(address) {
            Entry::Occupied(entry) if entry.get().to.door == door => {
                match outcome(&entry.get().flight) {
                    Some(completion) => {
                        let Expected { to, flight, .. } = entry.remove();
                        Looked::Ended(to, flight, completion)
                    }
                    None => Looked::Pending,
                }
            }
            _ => Looked::Unknown,
        }
    }

    /// Whether an operation on the Context at `address` may still be cancelled.
    pub(crate) fn is_running(&self, address: usize) -> bool {
        let events = self.events.lock(&address);
        events
            .get(&address)
            .is_some_and(|expected| !matches!(expected.flight, Flight::Ended(_)))
    }

    /// The handle of a running operation that longshore started.
    pub(crate) fn handle_of(&self, address: usize) -> Option<usize> {
        match self.events.lock(&address).get(&address)?.flight {
            Flight::Issued(issued) => Some(issued.handle),
            Flight::Armed | Flight::Ended(_) => None,
        }
    }

    /// Every running operation whose flight passes `which`: (address, handle if known).
    pub(crate) fn running(&self, which: impl Fn(&Flight) -> bool) -> Vec<(usize, Option<usize>)> {
        self.events
            .collect(|address, expected| match &expected.flight {
                flight if !which(flight) => None,
                Flight::Issued(issued) => Some((*address, Some(issued.handle))),
                Flight::Armed => Some((*address, None)),
                Flight::Ended(_) => None,
            })
    }

    /// Operations in flight.
    pub(crate) fn events(&self) -> usize {
        self.events.len()
    }

    /// Whether any operation is in flight.
    pub(crate) fn has_events(&self) -> bool {
        self.events.are_any()
    }

    /// Whether any post is on its way, as far as they are recorded.
    pub(crate) fn has_posts(&self) -> bool {
        self.posts.are_any()
    }

    /// Posts on their way, as far as they are recorded.
    pub(crate) fn posts(&self) -> usize {
        self.posts
            .collect(|_, &(_, count)| Some(count))
            .iter()
            .sum()
    }
}

/// A map in several parts, so that threads that touch different keys rarely wait for each other.
#[derive(Debug)]
struct Shards<K, V> {
    hasher: RandomState,
    maps: [Mutex<HashMap<K, V>>; SHARDS],
}

impl<K: Hash + Eq, V> Shards<K, V> {
    fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            maps: std::array::from_fn(|_| Mutex::default()),
        }
    }

    fn lock(&self, key: &K) -> MutexGuard<'_, HashMap<K, V>> {
        lock(&self.maps[self.hasher.hash_one(key) as usize & (SHARDS - 1)])
    }

    fn are_any(&self) -> bool {
        self.maps.iter().any(|map| !lock(map).is_empty())
    }

    fn len(&self) -> usize {
        self.maps.iter().map(|map| lock(map).len()).sum()
    }

    fn collect<T>(&self, pick: impl Fn(&K, &V) -> Option<T>) -> Vec<T> {
        let mut picked = Vec::new();
        for map in &self.maps {
            picked.extend(lock(map).iter().filter_map(|(key, value)| pick(key, value)));
        }
        picked
    }
}

/// A map is whole between any two statements, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Recipient = Recipient {
        door: Door::Context,
        deliver: |_, _| {},
    };

    #[test]
    fn d02_a_post_is_expected_as_often_as_it_was_made() {
        let table = InFlight::new();
        table.expect_post(5, 6);
        table.expect_post(5, 6);
        assert!(table.take_post(5, 6));
        assert!(!table.take_post(5, 7), "another payload is another packet");
        assert!(table.take_post(5, 6));
        assert!(!table.take_post(5, 6), "the third is foreign");
        assert_eq!(table.posts(), 0);
    }

    #[test]
    fn d05_what_was_delivered_cannot_be_taken_back() {
        let table = InFlight::new();
        let first = table.expect_post(5, 6);
        assert!(table.take_post(5, 6), "a forged copy was believed");
        let second = table.expect_post(5, 6);
        assert!(!table.take_back_post(5, 6, first), "that one is another's");
        assert!(table.take_back_post(5, 6, second));

        let expect = || table.expect_event(64, TO, Flight::Armed, || {}).unwrap();
        let first = expect();
        let ended = table.take_event(Door::Context, 64, |_| Some(Completion::ok(0)));
        assert!(matches!(ended, Looked::Ended(..)));
        let second = expect();
        assert!(!table.take_back_event(64, first, || unreachable!()));
        assert!(!table.end(64, first, Completion::ok(1)));
        assert!(table.take_back_event(64, second, || {}));
    }

    #[test]
    fn d04_a_context_is_in_flight_once_and_pending_is_not_an_outcome() {
        let table = InFlight::new();
        let expect = || table.expect_event(64, TO, Flight::Armed, || {});
        assert!(expect().is_ok());
        let spoiled =
            table.expect_event(64, TO, Flight::Armed, || panic!("it is not ours to write"));
        assert_eq!(spoiled, Err(Error::ContextInFlight));
        let other = table.take_event(Door::Queue, 64, |_| unreachable!("not its door"));
        assert!(matches!(other, Looked::Unknown));
        let look = |outcome| table.take_event(Door::Context, 64, |_| outcome);
        assert!(matches!(look(None), Looked::Pending));
        assert!(table.is_running(64));
        assert!(matches!(look(Some(Completion::ok(3))), Looked::Ended(..)));
        assert!(matches!(look(Some(Completion::ok(3))), Looked::Unknown));
        assert!(expect().is_ok(), "idle again");
    }

    #[test]
    fn d11_a_reposted_context_cannot_be_cancelled() {
        let table = InFlight::new();
        let ended = Flight::Ended(Completion::ok(1));
        table.expect_event(64, TO, ended, || {}).unwrap();
        assert!(!table.is_running(64));
        assert!(table.running(|_| true).is_empty());
        assert_eq!(table.events(), 1);
    }
}
