//! Atomics and locks, and their model-checked stand-ins under `--cfg longshore_loom`.

#[cfg(not(longshore_loom))]
#[cfg_attr(
    not(target_os = "linux"),
    expect(
        unused_imports,
        reason = "the atomics are for the Linux backend's protocol"
    )
)]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};

#[cfg(longshore_loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};
