//! Atomics, locks, counted references and cells, and their model-checked stand-ins under `--cfg longshore_loom`.

#[cfg(not(longshore_loom))]
#[cfg_attr(
    not(target_os = "linux"),
    expect(
        unused_imports,
        reason = "the atomics are for the Linux backend's protocol"
    )
)]
pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};

#[cfg(longshore_loom)]
pub(crate) use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// loom's fence; or none, so that the models are seen to fail (`cargo xtask loom`).
#[cfg(longshore_loom)]
pub(crate) fn fence(order: Ordering) {
    static ARE_LEFT_OUT: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    if !ARE_LEFT_OUT.get_or_init(|| std::env::var_os("LONGSHORE_NO_FENCES").is_some()) {
        loom::sync::atomic::fence(order);
    }
}

/// Memory that one party at a time may have, as a protocol elsewhere decides. loom watches who does.
#[cfg(not(longshore_loom))]
#[derive(Debug)]
pub(crate) struct Cell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(longshore_loom))]
impl<T> Cell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Lends the address for the time of the call.
    pub(crate) fn with_mut<R>(&self, act: impl FnOnce(*mut T) -> R) -> R {
        act(self.0.get())
    }
}

#[cfg(longshore_loom)]
pub(crate) use loom::cell::UnsafeCell as Cell;

/// What models have for a queue: a bare atomic count, so that it orders nothing but itself. A lock
/// would hide a missing fence.
#[cfg(all(test, longshore_loom))]
pub(crate) struct BareQueue(AtomicUsize);

#[cfg(all(test, longshore_loom))]
impl BareQueue {
    pub(crate) fn new(entries: usize) -> Self {
        Self(AtomicUsize::new(entries))
    }

    pub(crate) fn push(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    pub(crate) fn pop(&self) -> bool {
        let one_less = |count: usize| count.checked_sub(1);
        let (taken, missed) = (Ordering::AcqRel, Ordering::Acquire);
        self.0.fetch_update(taken, missed, one_less).is_ok()
    }
}

/// Checks a model in every schedule that takes the processor away from a thread so often at most.
#[cfg(all(test, longshore_loom))]
pub(crate) fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}
