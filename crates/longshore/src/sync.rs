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
    atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};

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
