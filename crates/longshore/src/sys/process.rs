//! The object that is signalled when a child process has exited.
// UNSAFETY: calls pidfd_open.
#![cfg_attr(target_os = "linux", expect(unsafe_code))]

use std::{io, process::Child};

#[cfg(target_os = "linux")]
pub(crate) type Exit = std::os::fd::OwnedFd;
#[cfg(windows)]
pub(crate) type Exit = std::os::windows::io::OwnedHandle;

/// A pidfd (Linux 5.3). The child has not been waited for, so its number is its own.
#[cfg(target_os = "linux")]
pub(crate) fn exit_of(child: &Child) -> io::Result<Exit> {
    use std::os::fd::FromRawFd;

    let no_flags = 0;
    // SAFETY: no pointers; pidfd_open(2) takes a number and flags.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), no_flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: made just now, and nobody else owns it. It is closed on exec by itself.
    Ok(unsafe { Exit::from_raw_fd(fd as i32) })
}

/// A duplicate of the process handle.
#[cfg(windows)]
pub(crate) fn exit_of(child: &Child) -> io::Result<Exit> {
    use std::os::windows::io::AsHandle;

    child.as_handle().try_clone_to_owned()
}
