//! Atomics, and their model-checked stand-ins under `--cfg longshore_loom`.

#[cfg(not(longshore_loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

#[cfg(longshore_loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
