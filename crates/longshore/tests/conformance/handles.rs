//! How many handles this process has open.
// UNSAFETY: asks the system.
#![cfg_attr(windows, expect(unsafe_code))]

/// Descriptors of this process.
#[cfg(target_os = "linux")]
pub fn count() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Handles of this process.
#[cfg(windows)]
pub fn count() -> usize {
    use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessHandleCount};
    let mut count = 0;
    // SAFETY: the pseudo handle is always valid, and the number is ours for the call.
    let told = unsafe { GetProcessHandleCount(GetCurrentProcess(), &raw mut count) };
    assert_ne!(told, 0);
    count as usize
}
