//! Named pipes: the call that waits for a client, and what a handle says of its pipe.
// UNSAFETY: hands the caller's memory to the kernel.
#![expect(unsafe_code)]

use std::{io, ptr};

use windows_sys::Win32::{
    Foundation::{ERROR_NO_DATA, ERROR_PIPE_CONNECTED, HANDLE},
    Storage::FileSystem::{FILE_TYPE_PIPE, GetFileType},
    System::{
        IO::OVERLAPPED,
        Pipes::{ConnectNamedPipe, GetNamedPipeInfo, PIPE_TYPE_MESSAGE},
    },
};

use super::start::{Bytes, Called, file_error, owed_or};

/// Waits for a client. One that is there already, or has come and left, is told by an error status, so
/// no packet follows (D15).
///
/// # Safety
/// As for [`start`](super::start::start): the header is the kernel's until the packet.
pub(super) unsafe fn connect(raw: usize, overlapped: *mut OVERLAPPED) -> io::Result<Called> {
    // SAFETY: the caller keeps header and handle valid until the packet.
    let done = unsafe { ConnectNamedPipe(raw as HANDLE, overlapped) };
    match file_error(done) {
        Some(ERROR_PIPE_CONNECTED | ERROR_NO_DATA) => Ok(Called::Before),
        code => owed_or(code, Bytes::GoOut),
    }
}

/// Whether a handle is a pipe's. (A socket looks the same, but is no handle of std's.)
pub(super) fn is_pipe(raw: usize) -> bool {
    // SAFETY: no pointers.
    unsafe { GetFileType(raw as HANDLE) == FILE_TYPE_PIPE }
}

/// Whether a pipe keeps messages apart. A handle that may only write need not be allowed to ask: then
/// the system has the last word.
pub(super) fn has_messages(raw: usize) -> bool {
    let (mut flags, unasked) = (0, ptr::null_mut());
    // SAFETY: the flags are ours for the call.
    let told =
        unsafe { GetNamedPipeInfo(raw as HANDLE, &raw mut flags, unasked, unasked, unasked) };
    told == 0 || flags & PIPE_TYPE_MESSAGE != 0
}
