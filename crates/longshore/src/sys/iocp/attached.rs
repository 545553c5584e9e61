//! Which handles are bound to the port, and why another one cannot be.
//!
//! The association is of the *file object*: duplicates share it, and it ends with the object only.
//! The system reports "bound already", "bound elsewhere" and "not overlapped" with the same code,
//! so the causes are found out in the order in which they can be: the mode is asked before the
//! association, and this table tells our own bindings from those of others. A duplicate of an
//! attached handle is not in the table and counts as another port's.
//!
//! A detached value keeps its mark, because its object may still be bound to this port and may be
//! attached again. If its value goes to a new, unbound object, the association succeeds and
//! replaces the mark. What cannot be told: a value in the table that was closed and now names an
//! object of *another* port. Detached, it attaches, and its packets go to that port; not detached,
//! it counts as attached already.
//!
//! Skip-on-success is set where the terms allow it. No other mode is: `FILE_SKIP_SET_EVENT_ON_HANDLE` would save a store in
//! the kernel, but the handle stays the caller's and the mode cannot be removed from it: later
//! `GetOverlappedResult` waits without an event, and std's own reads of such a file, would never
//! end.
// UNSAFETY: calls the association and file information functions.
#![expect(unsafe_code)]

use std::{
    collections::HashMap,
    io,
    os::windows::io::AsRawHandle,
    ptr,
    sync::{PoisonError, RwLock},
};

use windows_sys::{
    Wdk::{
        Storage::FileSystem::{
            FILE_MODE_INFORMATION, FILE_SYNCHRONOUS_IO_ALERT, FILE_SYNCHRONOUS_IO_NONALERT,
            FileIoCompletionNotificationInformation, FileModeInformation, NtQueryInformationFile,
        },
        System::SystemServices::FILE_IO_COMPLETION_NOTIFICATION_INFORMATION,
    },
    Win32::{
        Foundation::{
            ERROR_INVALID_HANDLE, ERROR_INVALID_PARAMETER, HANDLE, NTSTATUS, STATUS_INVALID_HANDLE,
            STATUS_OBJECT_TYPE_MISMATCH,
        },
        Networking::WinSock::SOCKET,
        Storage::FileSystem::{
            FILE_STANDARD_INFO, FILE_TYPE_DISK, FileStandardInfo, GetFileInformationByHandleEx,
            GetFileType, SetFileCompletionNotificationModes,
        },
        System::{
            IO::{CreateIoCompletionPort, IO_STATUS_BLOCK},
            WindowsProgramming::FILE_SKIP_COMPLETION_PORT_ON_SUCCESS,
        },
    },
};

use crate::{
    error::Error,
    handle::{Handle, Kind},
    sys::backend::Terms,
};

use super::{datagram, pipe, queue::Queue, winsock};

#[derive(Debug, Default)]
pub(super) struct Attached {
    table: RwLock<HashMap<usize, Entry>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    kind: Kind,
    terms: Terms,
    modes: Modes,
    /// `false` after `detach`: the object may still be bound to this port.
    live: bool,
}

/// What there is to know of an object when an operation is started on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Modes {
    /// Set to skip the port when an operation succeeds at once. For good: the mode cannot be taken
    /// back.
    pub(super) skips: bool,
    /// A socket or pipe that keeps messages apart.
    pub(super) has_messages: bool,
}

impl Attached {
    pub(super) fn attach(&self, queue: &Queue, handle: Handle<'_>, terms: Terms) -> io::Result<()> {
        // All ones is the pseudo handle of this process, and asks for a *new* port below.
        if handle.raw() == 0 || handle.raw() == usize::MAX {
            return Err(Error::BadHandle.into());
        }
        let skipped_before = look_for_silence(handle.raw())?;
        if handle.kind() == Kind::Pipe && !pipe::is_pipe(handle.raw()) {
            return Err(Error::WrongKind.into());
        }
        // Held across the system calls, so that attach and detach of one value cannot interleave.
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if skipped_before && !terms.may_skip {
            return Err(match table.get(&handle.raw()) {
                // It skips because of us.
                Some(entry) if entry.live && entry.modes.skips => {
                    entry.terms.attached_already(terms)
                }
                _ => Error::SkipsPort,
            }
            .into());
        }
        if let Err(error) = associate(queue, handle.raw(), terms.key) {
            return match error.raw_os_error().unwrap_or_default().cast_unsigned() {
                ERROR_INVALID_HANDLE => Err(Error::BadHandle.into()),
                ERROR_INVALID_PARAMETER => match table.get_mut(&handle.raw()) {
                    Some(entry) if entry.live || entry.terms != terms => {
                        Err(entry.terms.attached_already(terms).into())
                    }
                    Some(entry) => {
                        entry.modes.has_messages = prepare_messages(handle);
                        entry.live = true;
                        Ok(())
                    }
                    None => Err(Error::OtherPort.into()),
                },
                _ => Err(error),
            };
        }
        // After the association, and before the first operation (A10).
        let skips = skipped_before || (terms.may_skip && skip(handle));
        let fresh = Entry {
            kind: handle.kind(),
            terms,
            modes: Modes {
                skips,
                has_messages: prepare_messages(handle),
            },
            live: true,
        };
        table.insert(handle.raw(), fresh);
        Ok(())
    }

    pub(super) fn detach(&self, handle: Handle<'_>) -> io::Result<()> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match table.get_mut(&handle.raw()) {
            Some(entry) if entry.live => {
                entry.live = false;
                Ok(())
            }
            _ => Err(Error::NotAttached.into()),
        }
    }

    /// See [`Backend::forget_if_stale`](crate::sys::backend::Backend::forget_if_stale).
    pub(super) fn forget_if_stale(&self, raw: usize, terms: Terms) -> bool {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let is_ours = |entry: &&mut Entry| entry.live && entry.terms == terms;
        let Some(entry) = table.get_mut(&raw).filter(is_ours) else {
            return true;
        };
        let is_same = look_for_silence(raw).is_ok_and(|skips| skips || !entry.modes.skips);
        entry.live = is_same;
        !is_same
    }

    /// The terms of an attached value, whatever its kind.
    pub(super) fn terms(&self, raw: usize) -> Option<Terms> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let entry = table.get(&raw).filter(|entry| entry.live)?;
        Some(entry.terms)
    }

    /// The modes of an attached handle; `None` if it is not attached.
    pub(super) fn modes(&self, handle: Handle<'_>) -> Option<Modes> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let entry = table.get(&handle.raw())?;
        // A value that was a socket's and now is a file's names an object that was not attached.
        (entry.live && entry.kind == handle.kind()).then_some(entry.modes)
    }

    /// The attached values, copied so that no lock is held while they are used.
    pub(super) fn all(&self) -> Vec<usize> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let live = table.iter().filter(|(_, entry)| entry.live);
        live.map(|(&raw, _)| raw).collect()
    }
}

fn associate(queue: &Queue, raw: usize, key: usize) -> io::Result<()> {
    let port = queue.as_handle().as_raw_handle();
    // SAFETY: no pointers. The port is open; the other value is checked by the system.
    let bound = unsafe { CreateIoCompletionPort(raw as HANDLE, port, key, 0) };
    match bound.is_null() {
        true => Err(io::Error::last_os_error()),
        // The port's own handle came back (C9): it is not a second one to close.
        false => Ok(()),
    }
}

/// Refuses a handle that would never queue a packet, and tells whether it may queue none on success.
///
/// Opened without overlapped I/O, its reads would block the submitting thread and queue no packet
/// (C2). Set to skip the port on success, by whoever had it before, an operation that succeeds at
/// once queues none (A2), and the mode cannot be taken back (A9).
fn look_for_silence(raw: usize) -> io::Result<bool> {
    let mut mode = FILE_MODE_INFORMATION { Mode: 0 };
    // SAFETY: the class fills this structure.
    let status = unsafe { query(raw, FileModeInformation, &mut mode) };
    let synchronous = FILE_SYNCHRONOUS_IO_ALERT | FILE_SYNCHRONOUS_IO_NONALERT;
    match status {
        STATUS_INVALID_HANDLE => return Err(Error::BadHandle.into()),
        // An event, a process, another port: nothing that reads or writes.
        STATUS_OBJECT_TYPE_MISMATCH => return Err(Error::WrongKind.into()),
        0.. if mode.Mode & synchronous != 0 => return Err(Error::NotOverlapped.into()),
        // An object that hides its mode gets its chance; the association has the last word.
        _ => {}
    }
    let mut modes = FILE_IO_COMPLETION_NOTIFICATION_INFORMATION { Flags: 0 };
    // SAFETY: the class fills this structure.
    let status = unsafe { query(raw, FileIoCompletionNotificationInformation, &mut modes) };
    Ok(status >= 0 && modes.Flags & FILE_SKIP_COMPLETION_PORT_ON_SUCCESS != 0)
}

/// Sets skip-on-success where that is safe: for files, and for stream sockets whose provider hands
/// out real file handles (A7, A8). `false` leaves the handle as it was.
fn skip(handle: Handle<'_>) -> bool {
    let is_safe = match handle.kind() {
        // A pipe, which may come as a file, may carry messages, whose warnings may queue nothing
        // then (A6).
        Kind::File => is_disk_file(handle.raw() as HANDLE),
        Kind::Socket => winsock::is_plain_stream(handle.raw() as SOCKET),
        Kind::Pipe => false,
        // Kept elsewhere, see `wait`.
        Kind::Waitable => false,
    };
    let mode = FILE_SKIP_COMPLETION_PORT_ON_SUCCESS as u8;
    // SAFETY: no pointers.
    is_safe && unsafe { SetFileCompletionNotificationModes(handle.raw() as HANDLE, mode) } != 0
}

/// A file, and not a directory: `ReadDirectoryChangesW` says "success" also of what is pending, so its
/// result could not tell whether a packet is owed.
fn is_disk_file(handle: HANDLE) -> bool {
    let mut info = FILE_STANDARD_INFO::default();
    let size = size_of_val(&info) as u32;
    // SAFETY: the class fills this structure, which is ours for the call.
    unsafe {
        GetFileType(handle) == FILE_TYPE_DISK
            && GetFileInformationByHandleEx(handle, FileStandardInfo, (&raw mut info).cast(), size)
                != 0
            && !info.Directory
    }
}

/// Tells whether an object keeps messages apart. The receives of a datagram socket are then kept free
/// of answers to its sends. The caller's own sockets as well: each operation of longshore's on them is the better for
/// it, and whoever wants those answers can switch them on again once the socket is attached.
fn prepare_messages(handle: Handle<'_>) -> bool {
    let socket = handle.raw() as SOCKET;
    match handle.kind() {
        Kind::Socket if winsock::is_datagram(socket) => {
            datagram::ignore_unreachable(socket);
            true
        }
        Kind::Pipe => pipe::has_messages(handle.raw()),
        _ => false,
    }
}

/// # Safety
/// `T` is the structure that `class` fills.
unsafe fn query<T>(raw: usize, class: i32, answer: &mut T) -> NTSTATUS {
    let mut block = IO_STATUS_BLOCK::default();
    // SAFETY: both structures are ours for the call, which does not outlive itself: the I/O
    // manager answers these classes without a driver.
    unsafe {
        NtQueryInformationFile(
            raw as HANDLE,
            &raw mut block,
            ptr::from_mut(answer).cast(),
            size_of::<T>() as u32,
            class,
        )
    }
}
