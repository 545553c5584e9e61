//! A runnable task is one word, so that waking it is a post (and allocates nothing).
// UNSAFETY: a task travels through the port as a bare word.
#![expect(unsafe_code)]

use std::{
    ptr::{self, NonNull},
    sync::Weak,
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
