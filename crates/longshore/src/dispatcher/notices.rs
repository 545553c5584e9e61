//! News of objects that are associated with the port under a key of their own: jobs, on Windows.
//!
//! The system queues such packets by itself and says nothing beforehand, so there is no operation
//! to enter in the in-flight table, and none of a packet's words may be followed: the overlapped
//! word of a job's packet is a process id. What is believed is the *key*, and only while it is in
//! the table here.
//!
//! A packet may come late, when its object was given up and a new one has been associated since. So
//! a key is used once in the life of the process: it is the address of a byte that is never freed
//! and never handed out again. Being an address of ours, it is no function's that somebody
//! posts, and nobody else's key by chance.

#![cfg_attr(
    target_os = "linux",
    allow(dead_code, reason = "no such objects there, but for the tests")
)]

use std::{
    collections::HashMap,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Inner, timers::Panic};
use crate::{packet::Packet, port::Port};

/// Who hears of the packets with a key.
pub(crate) trait Notice: Send + Sync {
    /// A packet with the key was taken. Nothing in it may be followed.
    fn tell(&self, packet: Packet);

    /// The port is about to be drained: has the system send nothing more to it, where that can be
    /// undone. A port that was lent goes on, and its owner knows nothing of our keys.
    fn part(&self);

    /// The port is closed: nothing will follow.
    fn end(&self);
}

#[derive(Default)]
pub(crate) struct Notices {
    /// How many there are: the one thing a dispatch without them looks at.
    count: AtomicUsize,
    by_key: RwLock<Table>,
}

type Table = HashMap<usize, Arc<dyn Notice>>;

impl Notices {
    pub(super) fn of(&self, key: usize) -> Option<Arc<dyn Notice>> {
        // A key is entered before the system hears of it, so its packet finds the count raised.
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let by_key = self.by_key.read().unwrap_or_else(PoisonError::into_inner);
        by_key.get(&key).cloned()
    }

    /// The port is shut: nothing more shall be sent to it. Before it is drained.
    pub(super) fn part(&self) {
        let by_key = self.by_key.read().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = by_key.values().cloned().collect();
        drop(by_key);
        all.iter().for_each(|notice| notice.part());
    }

    /// The port is closed: everybody is told, also when one of them panics; returns the first panic.
    pub(super) fn end(&self) -> Option<Panic> {
        let mut first = None;
        for notice in self.change(mem::take).into_values() {
            // With its drop, which is foreign code as well.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(move || notice.end())) {
                first.get_or_insert(panic);
            }
        }
        first
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut by_key = self.by_key.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut by_key);
        self.count.store(by_key.len(), Ordering::Release);
        changed
    }
}

/// An object's place in the table, for as long as this lives.
pub(crate) struct Entered {
    inner: Arc<Inner>,
    key: usize,
}

impl Entered {
    /// Has `notice` told of the packets with a fresh key, until the port is closed.
    pub(crate) fn new(inner: &Arc<Inner>, notice: Arc<dyn Notice>) -> io::Result<Self> {
        let entered = Self {
            inner: inner.clone(),
            key: fresh_key(),
        };
        inner
            .notices
            .change(|table| table.insert(entered.key, notice));
        // Closing tells everybody whom it finds in the table; whoever came after that sees here
        // that it is closed.
        inner.port.open_or_err().map(|()| entered)
    }

    pub(crate) fn key(&self) -> usize {
        self.key
    }

    /// The port that the packets come to.
    pub(crate) fn port(&self) -> &Port {
        &self.inner.port
    }

    /// Ends it. `false`: closing has done so before, and what was sent to the port is sent elsewhere, or
    /// nowhere.
    pub(crate) fn leave(self) -> bool {
        self.remove()
    }

    fn remove(&self) -> bool {
        // Foreign code may be dropped with it: not under the lock.
        let notice = self.inner.notices.change(|table| table.remove(&self.key));
        notice.is_some()
    }

    /// Whether the port is still open, for whoever has just had packets sent to it: closing sets its
    /// flag, *then* [parts](Notice::part) with what it finds; so what it came too early for is seen
    /// here.
    pub(crate) fn open_or_err(&self) -> io::Result<()> {
        self.inner.port.open_or_err()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.remove();
    }
}

fn fresh_key() -> usize {
    const BLOCK: usize = 1024;
    /// Blocks whose bytes are keys, kept for ever where they are, and how many of the last one's are in
    /// use.
    static KEYS: Mutex<(Vec<Box<[u8]>>, usize)> = Mutex::new((Vec::new(), BLOCK));
    let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    let (blocks, used) = &mut *keys;
    if *used == BLOCK {
        blocks.push(Box::new([0; BLOCK]));
        *used = 0;
    }
    *used += 1;
    let last = &blocks[blocks.len() - 1];
    (&raw const last[*used - 1]).addr()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::{dispatcher::Dispatcher, error::Error};

    #[derive(Default)]
    struct Told {
        of: AtomicUsize,
        parted: AtomicBool,
        ended: AtomicBool,
        fails: bool,
    }

    impl Notice for Told {
        fn tell(&self, packet: Packet) {
            self.of.fetch_add(packet.overlapped, Ordering::SeqCst);
        }

        fn part(&self) {
            assert!(!self.ended.load(Ordering::SeqCst));
            self.parted.store(true, Ordering::SeqCst);
        }

        fn end(&self) {
            self.ended.store(true, Ordering::SeqCst);
            if self.fails {
                std::panic::resume_unwind(Box::new("a waker's panic"));
            }
        }
    }

    #[test]
    fn d02_a_key_is_used_once() {
        let keys: std::collections::HashSet<_> = (0..5000).map(|_| fresh_key()).collect();
        assert_eq!(keys.len(), 5000);
        assert!(!keys.contains(&0));
    }

    #[test]
    fn d02_a_key_is_known_for_as_long_as_its_object_is_there() {
        let port = Dispatcher::new().unwrap();
        let inner = &port.inner;
        let told = [Arc::<Told>::default(), Arc::default()];
        let [first, second] = told.each_ref().map(|one| {
            let entered = Entered::new(inner, one.clone());
            entered.unwrap()
        });
        let packet = |overlapped| Packet {
            key: second.key(),
            overlapped,
            bytes: 0,
        };
        inner.notices.of(second.key()).unwrap().tell(packet(5));
        assert_eq!(told[1].of.load(Ordering::SeqCst), 5);
        assert!(inner.notices.of(second.key() + 1).is_none());
        let key = first.key();
        assert!(first.leave());
        assert!(inner.notices.of(key).is_none());
        let key = second.key();
        drop(second);
        assert!(inner.notices.of(key).is_none());
        port.close().unwrap();
        assert!(told.iter().all(|one| !one.ended.load(Ordering::SeqCst)));
    }

    #[test]
    fn d10_closing_parts_and_tells_everybody_also_when_one_panics() {
        let port = Dispatcher::new().unwrap();
        let other = port.clone();
        let told = [false, true, false].map(|fails| {
            let told = Told {
                fails,
                ..Told::default()
            };
            Arc::new(told)
        });
        let entered = told.each_ref().map(|one| {
            let entered = Entered::new(&port.inner, one.clone());
            entered.unwrap()
        });
        assert!(catch_unwind(AssertUnwindSafe(|| port.close())).is_err());
        for one in &told {
            assert!(one.parted.load(Ordering::SeqCst));
            assert!(one.ended.load(Ordering::SeqCst));
        }
        for entered in entered {
            let refused = entered.open_or_err().unwrap_err();
            assert_eq!(Error::of(&refused), Some(Error::Closed));
            assert!(!entered.leave(), "closing has done it");
        }
        let late = Arc::<Told>::default();
        let refused = Entered::new(&other.inner, late.clone()).map(drop);
        assert_eq!(Error::of(&refused.unwrap_err()), Some(Error::Closed));
        assert_eq!(Arc::strong_count(&late), 1);
    }
}
