//! The kernel's queue: the port handle and the calls that use it.
// UNSAFETY: calls the completion port functions.
#![expect(unsafe_code)]

use std::{
    ffi::c_void,
    io,
    os::windows::io::{
        AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, IntoRawHandle, OwnedHandle,
    },
    ptr,
    time::{Duration, Instant},
};

use windows_sys::Win32::{
    Foundation::{
        CloseHandle, ERROR_ABANDONED_WAIT_0, HANDLE, INVALID_HANDLE_VALUE, NTSTATUS,
        RtlNtStatusToDosError, STATUS_INVALID_HANDLE, STATUS_OBJECT_TYPE_MISMATCH,
        WAIT_IO_COMPLETION, WAIT_TIMEOUT,
    },
    System::{
        IO::{
            CreateIoCompletionPort, GetQueuedCompletionStatusEx, OVERLAPPED_ENTRY,
            PostQueuedCompletionStatus,
        },
        Threading::INFINITE,
    },
};

use crate::{
    error::Error,
    packet::Packet,
    sys::backend::{Rest, Wait},
};

/// Where the port comes from.
#[derive(Debug, Default)]
pub(crate) enum Origin {
    /// It is made.
    #[default]
    New,
    /// It was the caller's, and is closed with the dispatcher.
    Owned(OwnedHandle),
    /// It is the caller's and stays so.
    Lent(BorrowedHandle<'static>),
}

#[derive(Debug)]
enum Held {
    Owned(OwnedHandle),
    Lent(BorrowedHandle<'static>),
}

#[derive(Debug)]
pub(super) struct Queue {
    /// `None` once closed or leaked, which only happens when nobody else has a reference.
    port: Option<Held>,
}

// Not in any header of Win32, but exported by every Windows NT: with them a packet goes back as it
// was, with its status, and a handle is asked whether it is a port.
// SAFETY: the signatures are those of the kernel's headers (`ntifs.h`, and phnt where that is silent).
#[link(name = "ntdll", kind = "raw-dylib")]
unsafe extern "system" {
    fn NtSetIoCompletion(
        port: HANDLE,
        key: *const c_void,
        overlapped: *const c_void,
        status: NTSTATUS,
        information: usize,
    ) -> NTSTATUS;

    fn NtQueryIoCompletion(
        port: HANDLE,
        class: i32,
        answer: *mut c_void,
        size: u32,
        used: *mut u32,
    ) -> NTSTATUS;
}

impl Queue {
    pub(super) fn open(concurrency: u32, origin: Origin) -> io::Result<Self> {
        let port = match origin {
            Origin::New => Held::Owned(Self::make(concurrency)?),
            Origin::Owned(port) => {
                depth(port.as_handle())?;
                Held::Owned(port)
            }
            Origin::Lent(port) => {
                depth(port)?;
                Held::Lent(port)
            }
        };
        Ok(Self { port: Some(port) })
    }

    fn make(concurrency: u32) -> io::Result<OwnedHandle> {
        // SAFETY: no pointers; this form makes a new port.
        let port = unsafe {
            CreateIoCompletionPort(INVALID_HANDLE_VALUE, ptr::null_mut(), 0, concurrency)
        };
        if port.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle was made just above, is open, and nobody else owns it.
        Ok(unsafe { OwnedHandle::from_raw_handle(port) })
    }

    #[inline]
    fn port(&self) -> io::Result<BorrowedHandle<'_>> {
        match &self.port {
            Some(Held::Owned(port)) => Ok(port.as_handle()),
            Some(Held::Lent(port)) => Ok(*port),
            None => Err(Error::Closed.into()),
        }
    }

    pub(super) fn as_handle(&self) -> BorrowedHandle<'_> {
        self.port().expect("the port is closed by its last owner")
    }

    /// How many packets wait on a port that is not ours to close.
    pub(super) fn lent_depth(&self) -> io::Result<Option<usize>> {
        match &self.port {
            Some(Held::Lent(port)) => depth(*port).map(Some),
            _ => Ok(None),
        }
    }

    /// Whether the port was closed or given up.
    pub(super) fn is_gone(&self) -> bool {
        self.port.is_none()
    }

    #[inline]
    pub(super) fn post(&self, packet: Packet) -> io::Result<()> {
        let port = self.port()?.as_raw_handle();
        // SAFETY: the port is open as long as `self` is; the overlapped word is carried and not
        // dereferenced by the kernel.
        let posted = unsafe {
            PostQueuedCompletionStatus(
                port,
                packet.bytes,
                packet.key,
                ptr::without_provenance(packet.overlapped),
            )
        };
        match posted {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Queues a packet with the status it had, so that whoever takes it with
    /// `GetQueuedCompletionStatus` is not told of a success that was none.
    pub(super) fn put_back(&self, rest: Rest) -> io::Result<()> {
        let port = self.port()?.as_raw_handle();
        let Rest { packet, status } = rest;
        // SAFETY: as in `post`.
        check(unsafe {
            NtSetIoCompletion(
                port,
                ptr::without_provenance(packet.key),
                ptr::without_provenance(packet.overlapped),
                status,
                packet.bytes as usize,
            )
        })
    }

    #[inline]
    pub(super) fn take(&self, wait: Wait) -> io::Result<Option<Packet>> {
        Ok(self.take_whole(wait)?.map(|rest| rest.packet))
    }

    /// Takes one packet. Never returns `None` before the deadline, although the kernel's clock
    /// ticks coarsely and may say "timed out" a little early (B16).
    #[inline]
    pub(super) fn take_whole(&self, wait: Wait) -> io::Result<Option<Rest>> {
        loop {
            let timeout_ms = match wait {
                Wait::Poll => 0,
                Wait::Forever => INFINITE,
                Wait::Until(deadline) => {
                    timeout_ms(deadline.saturating_duration_since(Instant::now()))
                }
            };
            match (self.dequeue(timeout_ms)?, wait) {
                (Dequeued::Packet(rest), _) => return Ok(Some(rest)),
                (Dequeued::TimedOut, Wait::Poll) => return Ok(None),
                (Dequeued::TimedOut, Wait::Until(deadline)) if Instant::now() >= deadline => {
                    return Ok(None);
                }
                (Dequeued::TimedOut | Dequeued::Interrupted, _) => {}
            }
        }
    }

    fn dequeue(&self, timeout_ms: u32) -> io::Result<Dequeued> {
        let port = self.port()?.as_raw_handle();
        let mut entry = OVERLAPPED_ENTRY::default();
        let mut count = 0;
        // SAFETY: the port is open, and the entry and the count are ours for the whole call.
        let got = unsafe {
            GetQueuedCompletionStatusEx(port, &raw mut entry, 1, &raw mut count, timeout_ms, 0)
        };
        if got != 0 && count == 1 {
            return Ok(Dequeued::Packet(Rest {
                packet: Packet {
                    key: entry.lpCompletionKey,
                    overlapped: entry.lpOverlapped.addr(),
                    bytes: entry.dwNumberOfBytesTransferred,
                },
                // Documented as reserved. What is believed of an operation stands in its header.
                status: (entry.Internal as u32).cast_signed(),
            }));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error().unwrap_or_default().cast_unsigned() {
            WAIT_TIMEOUT => Ok(Dequeued::TimedOut),
            // Cannot happen in a wait that is not alertable; then waiting again is right.
            WAIT_IO_COMPLETION => Ok(Dequeued::Interrupted),
            // Somebody closed the port's last handle under us.
            ERROR_ABANDONED_WAIT_0 => Err(Error::Closed.into()),
            _ => Err(error),
        }
    }

    /// Closes the port, if it is ours. Returning the error is why this is not left to
    /// `OwnedHandle`.
    pub(super) fn close(&mut self) -> io::Result<()> {
        let Some(Held::Owned(port)) = self.port.take() else {
            return Ok(());
        };
        // SAFETY: the handle was ours and `into_raw_handle` gives it up, so it is closed once.
        match unsafe { CloseHandle(port.into_raw_handle()) } {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Leaves the port open for ever.
    pub(super) fn forget(&mut self) {
        if let Some(Held::Owned(port)) = self.port.take() {
            let _open_for_ever = port.into_raw_handle();
        }
    }
}

/// How many packets wait on a port; an error if it is none.
fn depth(port: BorrowedHandle<'_>) -> io::Result<usize> {
    const BASIC: i32 = 0;
    let mut depth = 0i32;
    // SAFETY: the class fills one LONG, which is ours for the call.
    let status = unsafe {
        NtQueryIoCompletion(
            port.as_raw_handle(),
            BASIC,
            (&raw mut depth).cast(),
            size_of::<i32>() as u32,
            ptr::null_mut(),
        )
    };
    match status {
        STATUS_INVALID_HANDLE => Err(Error::BadHandle.into()),
        STATUS_OBJECT_TYPE_MISMATCH => Err(Error::NotAPort.into()),
        _ => check(status).map(|()| usize::try_from(depth).unwrap_or_default()),
    }
}

fn check(status: NTSTATUS) -> io::Result<()> {
    match status {
        0.. => Ok(()),
        // SAFETY: a pure function of its argument.
        _ => Err(io::Error::from_raw_os_error(
            unsafe { RtlNtStatusToDosError(status) }.cast_signed(),
        )),
    }
}

enum Dequeued {
    Packet(Rest),
    TimedOut,
    Interrupted,
}

/// Rounds up, so that a short wait does not spin (B14), and stops short of `INFINITE`, so that a
/// long one does not become for ever (B15); whoever waits longer waits again.
pub(crate) fn timeout_ms(left: Duration) -> u32 {
    let ms = left.as_nanos().div_ceil(1_000_000);
    u32::try_from(ms).map_or(INFINITE - 1, |ms| ms.min(INFINITE - 1))
}
