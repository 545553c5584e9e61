//! A runnable task is one word, so that waking it is a post (and allocates nothing).
// UNSAFETY: a task travels through the port as a bare word.
#![expect(unsafe_code)]

use std::{
    collections::HashMap,
    mem,
    ptr::{self, NonNull},
    sync::{
        Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

use async_task::Runnable;

use super::{Inner, context::OnCallback};

/// The key of a runnable task.
pub(crate) const RUN: OnCallback = run_task;

#[inline(never)]
extern "C-unwind" fn run_task(word: usize) {
    // SAFETY: this key is private and the dispatcher calls it only for a packet that longshore
    // posted, once; so the word came from `schedule`, and the packet owned it.
    if let Some(runnable) = unsafe { unpack(word) } {
        runnable.run();
    }
}

/// The tasks that have not ended, so that closing reaches those that wait for other things than the
/// port's.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    wakers: Mutex<HashMap<u64, Waker>>,
    count: AtomicU64,
}

impl Tasks {
    fn wakers(&self) -> MutexGuard<'_, HashMap<u64, Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn number(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn enter(&self, number: u64, waker: Waker) {
        self.wakers().insert(number, waker);
    }

    /// Whether a task has not ended yet.
    pub(super) fn are_any(&self) -> bool {
        !self.wakers().is_empty()
    }

    pub(crate) fn leave(&self, number: u64) {
        let waker = self.wakers().remove(&number);
        // Perhaps the last reference to the task: not under the lock.
        drop(waker);
    }

    /// Wakes everybody: the port is closed.
    pub(crate) fn end(&self) {
        let all = mem::take(&mut *self.wakers());
        all.into_values().for_each(Waker::wake);
    }
}

/// Posts a task that can go on. If the port is gone or closed the task is dropped instead, and
/// whoever waits for it finds it cancelled.
pub(crate) fn schedule(port: &Weak<Inner>, runnable: Runnable) {
    let Some(inner) = port.upgrade() else { return };
    let word = runnable.into_raw().as_ptr().expose_provenance();
    if inner.post(RUN as usize, word).is_err() {
        // SAFETY: it was not posted, so it is ours again.
        drop(unsafe { unpack(word) });
    }
}

/// Drops a task that was never run again.
///
/// # Safety
/// `word` was taken from the port in a packet with the key [`RUN`].
pub(crate) unsafe fn discard(word: usize) {
    // SAFETY: passed on.
    drop(unsafe { unpack(word) });
}

/// # Safety
/// `word` came from `schedule`, and nobody else has it.
unsafe fn unpack(word: usize) -> Option<Runnable> {
    let raw = NonNull::new(ptr::with_exposed_provenance_mut::<()>(word))?;
    // SAFETY: `schedule` made it of a Runnable, and the caller is its only owner.
    Some(unsafe { Runnable::from_raw(raw) })
}
