//! What differs between the systems: how the same thing is tried.

#[cfg(target_os = "linux")]
#[path = "os/linux.rs"]
mod system;
#[cfg(windows)]
#[path = "os/windows.rs"]
mod system;

pub(crate) use system::*;
