//! The kernel's queue: the port handle and the three calls that use it.
// UNSAFETY: calls the completion port functions.
#![expect(unsafe_code)]

use std::{
    io,
    os::windows::io::{
        AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, IntoRawHandle, OwnedHandle,
    },
    ptr,
    time::{Duration, Instant},
};

use windows_sys::Win32::{
    Foundation::{
        CloseHandle, ERROR_ABANDONED_WAIT_0, INVALID_HANDLE_VALUE, WAIT_IO_COMPLETION, WAIT_TIMEOUT,
    },
    System::{
        IO::{
            CreateIoCompletionPort, GetQueuedCompletionStatusEx, OVERLAPPED_ENTRY,
            PostQueuedCompletionStatus,
        },
        Threading::INFINITE,
    },
};

use crate::{error::Error, packet::Packet, sys::backend::Wait};

#[derive(Debug)]
pub(super) struct Queue {
    /// `None` once closed or leaked, which only happens when nobody else has a reference.
    port: Option<OwnedHandle>,
}

impl Queue {
    pub(super) fn open(concurrency: u32) -> io::Result<Self> {
        // SAFETY: no pointers; this form makes a new port.
        let port = unsafe {
            CreateIoCompletionPort(INVALID_HANDLE_VALUE, ptr::null_mut(), 0, concurrency)
        };
        if port.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle was made just above, is open, and nobody else owns it.
        let port = unsafe { OwnedHandle::from_raw_handle(port) };
        Ok(Self { port: Some(port) })
    }

    fn port(&self) -> io::Result<&OwnedHandle> {
        self.port.as_ref().ok_or_else(|| Error::Closed.into())
    }

    pub(super) fn as_handle(&self) -> BorrowedHandle<'_> {
        let port = self.port.as_ref();
        port.expect("the port is closed by its last owner")
            .as_handle()
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

    /// Takes one packet. Never returns `None` before the deadline, although the kernel's clock
    /// ticks coarsely and may say "timed out" a little early (B16).
    #[inline]
    pub(super) fn take(&self, wait: Wait) -> io::Result<Option<Packet>> {
        loop {
            let timeout_ms = match wait {
                Wait::Poll => 0,
                Wait::Forever => INFINITE,
                Wait::Until(deadline) => {
                    timeout_ms(deadline.saturating_duration_since(Instant::now()))
                }
            };
            match (self.dequeue(timeout_ms)?, wait) {
                (Dequeued::Packet(packet), _) => return Ok(Some(packet)),
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
            return Ok(Dequeued::Packet(Packet {
                key: entry.lpCompletionKey,
                overlapped: entry.lpOverlapped.addr(),
                bytes: entry.dwNumberOfBytesTransferred,
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

    /// Closes the port. Returning the error is why this is not left to `OwnedHandle`.
    pub(super) fn close(&mut self) -> io::Result<()> {
        let Some(port) = self.port.take() else {
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
        if let Some(port) = self.port.take() {
            let _open_for_ever = port.into_raw_handle();
        }
    }
}

enum Dequeued {
    Packet(Packet),
    TimedOut,
    Interrupted,
}

/// Rounds up, so that a short wait does not spin (B14), and stops short of `INFINITE`, so that a
/// long one does not become for ever (B15); whoever waits longer waits again.
pub(super) fn timeout_ms(left: Duration) -> u32 {
    let ms = left.as_nanos().div_ceil(1_000_000);
    u32::try_from(ms).map_or(INFINITE - 1, |ms| ms.min(INFINITE - 1))
}
