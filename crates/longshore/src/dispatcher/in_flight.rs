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
//! thread before the asking call returns.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{completion::Completion, error::Error, submission::Issued};

/// Enough that threads rarely meet; a power of two, so that the shard is a mask.
const SHARDS: usize = 16;

/// A Context's operation, from submission to packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flight {
    /// Started by longshore.
    Issued(Issued),
    /// To be started by the caller's own system call.
    Armed,
    /// Has ended already; the packet only carries the news.
    Ended(Completion),
}

// Nothing here is dereferenced by the table; the pointer inside `Issued` belongs to whoever
// submitted, who promised that it is valid on any thread until the packet.
#[derive(Debug)]
pub(crate) struct InFlight {
    posts: Shards<(usize, usize), usize>,
    contexts: Shards<usize, Flight>,
}

impl InFlight {
    pub(crate) fn new() -> Self {
        Self {
            posts: Shards::new(),
            contexts: Shards::new(),
        }
    }

    /// A post is about to be made.
    pub(crate) fn expect_post(&self, key: usize, payload: usize) {
        let post = (key, payload);
        *self.posts.lock(&post).entry(post).or_default() += 1;
    }

    /// A packet that says it is a post: whether it was expected. It no longer is.
    pub(crate) fn take_post(&self, key: usize, payload: usize) -> bool {
        let post = (key, payload);
        match self.posts.lock(&post).entry(post) {
            Entry::Vacant(_) => false,
            Entry::Occupied(mut entry) => {
                *entry.get_mut() -= 1;
                if *entry.get() == 0 {
                    entry.remove();
                }
                true
            }
        }
    }

    /// An operation on the Context at `address` is about to start. `prepare` runs while no packet
    /// can be matched with the entry, and only if the Context was idle.
    pub(crate) fn expect_event(
        &self,
        address: usize,
        flight: Flight,
        prepare: impl FnOnce(),
    ) -> Result<(), Error> {
        match self.contexts.lock(&address).entry(address) {
            Entry::Occupied(_) => Err(Error::ContextInFlight),
            Entry::Vacant(entry) => {
                prepare();
                entry.insert(flight);
                Ok(())
            }
        }
    }

    /// The operation ended inside the submitting call; its packet will be posted.
    pub(crate) fn end(&self, address: usize, completion: Completion) {
        let flight = Flight::Ended(completion);
        self.contexts.lock(&address).insert(address, flight);
    }

    /// No packet will come for the Context at `address`.
    pub(crate) fn forget_event(&self, address: usize) {
        self.contexts.lock(&address).remove(&address);
    }

    /// Forgets an armed Context. `false` if it is not armed.
    pub(crate) fn disarm(&self, address: usize) -> bool {
        let mut contexts = self.contexts.lock(&address);
        let armed = matches!(contexts.get(&address), Some(Flight::Armed));
        if armed {
            contexts.remove(&address);
        }
        armed
    }

    /// A packet that says it is a completion. `outcome` reads the header and may say "not yet";
    /// it runs only for an address in the table, and while the entry cannot go away.
    pub(crate) fn take_event(
        &self,
        address: usize,
        outcome: impl FnOnce(&Flight) -> Option<Completion>,
    ) -> Option<(Flight, Completion)> {
        match self.contexts.lock(&address).entry(address) {
            Entry::Vacant(_) => None,
            Entry::Occupied(entry) => {
                let completion = outcome(entry.get())?;
                Some((entry.remove(), completion))
            }
        }
    }

    /// Whether an operation on the Context at `address` may still be cancelled.
    pub(crate) fn is_running(&self, address: usize) -> bool {
        let contexts = self.contexts.lock(&address);
        matches!(
            contexts.get(&address),
            Some(Flight::Issued(_) | Flight::Armed)
        )
    }

    /// Every running operation whose flight passes `which`: (address, handle if known).
    pub(crate) fn running(&self, which: impl Fn(&Flight) -> bool) -> Vec<(usize, Option<usize>)> {
        self.contexts.collect(|address, flight| match flight {
            flight if !which(flight) => None,
            Flight::Issued(issued) => Some((*address, Some(issued.handle))),
            Flight::Armed => Some((*address, None)),
            Flight::Ended(_) => None,
        })
    }

    /// Contexts in flight.
    pub(crate) fn contexts(&self) -> usize {
        self.contexts.len()
    }

    /// Whether no packet is expected any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.contexts.len() == 0 && self.posts.len() == 0
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

    #[test]
    fn d02_a_post_is_expected_as_often_as_it_was_made() {
        let table = InFlight::new();
        table.expect_post(5, 6);
        table.expect_post(5, 6);
        assert!(table.take_post(5, 6));
        assert!(!table.take_post(5, 7), "another payload is another packet");
        assert!(table.take_post(5, 6));
        assert!(!table.take_post(5, 6), "the third is foreign");
        assert!(table.is_empty());
    }

    #[test]
    fn d04_a_context_is_in_flight_once_and_pending_is_not_an_outcome() {
        let table = InFlight::new();
        let expect = || table.expect_event(64, Flight::Armed, || {});
        assert_eq!(expect(), Ok(()));
        let spoiled = table.expect_event(64, Flight::Armed, || panic!("it is not ours to write"));
        assert_eq!(spoiled, Err(Error::ContextInFlight));
        assert!(table.take_event(64, |_| None).is_none(), "still pending");
        assert!(table.is_running(64));
        assert!(table.take_event(64, |_| Some(Completion::ok(3))).is_some());
        assert!(table.take_event(64, |_| unreachable!()).is_none());
        assert_eq!(expect(), Ok(()), "idle again");
    }

    #[test]
    fn d11_a_reposted_context_cannot_be_cancelled() {
        let table = InFlight::new();
        let ended = Flight::Ended(Completion::ok(1));
        table.expect_event(64, ended, || {}).unwrap();
        assert!(!table.is_running(64));
        assert!(table.running(|_| true).is_empty());
        assert_eq!(table.contexts(), 1);
    }
}
