//! Windows: the port's handle, and operations that the caller issues with system calls of its own.
// UNSAFETY: `arm` hands a caller's OVERLAPPED to a system call that longshore does not see.
#![expect(unsafe_code)]

mod adopt;
mod directory;
mod host;
mod job;
pub mod pipe;

use std::{
    io,
    os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, RawHandle},
    ptr::NonNull,
};

#[cfg(doc)]
use crate::error::Error;
pub use directory::{Change, ChangeFilter, ChangeKind, DirectoryWatcher, WatchOptions};
pub use host::HostWait;
pub use job::{Job, JobCallback, JobEvents, JobMessage, JobMessageKind, OnJobMessage};

use crate::{
    Dispatcher, Handle, IoQueue, Overlapped, RawOverlapped, dispatcher::Context, signal::Listener,
    sys::backend::Submitted,
};

/// The completion port itself (D1). It stays open while any clone of the dispatcher lives, also
/// after [`close`](Dispatcher::close).
///
/// Whoever holds the handle can post to it. A packet that longshore did not queue is counted,
/// given to the [`on_foreign`](crate::Builder::on_foreign) hook and otherwise ignored, unless its
/// key was made known with [`register_callback`](Dispatcher::register_callback).
impl AsHandle for Dispatcher {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.inner.port.driver().as_handle()
    }
}

impl AsRawHandle for Dispatcher {
    fn as_raw_handle(&self) -> RawHandle {
        self.as_handle().as_raw_handle()
    }
}

/// An event that is set while a signal waits to be taken. Resetting it is left to
/// [`take`](Listener::take).
impl AsHandle for Listener {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.object.as_handle()
    }
}

impl Dispatcher {
    /// Makes a Context ready for one overlapped system call of the caller's own: `ReadFile`,
    /// `WSARecv`, `DeviceIoControl` on an [attached](Self::attach) handle.
    ///
    /// After this call, write the file offset into the OVERLAPPED if there is one, and pass
    /// [`Context::overlapped_ptr`] to the system call. If the call's result says that a packet
    /// will come (success, `ERROR_IO_PENDING`, or a warning such as `ERROR_MORE_DATA`), the
    /// Context's `on_event` runs when it is dispatched. If not, call [`disarm`](Self::disarm).
    ///
    /// # Errors
    /// [`Error::ContextInFlight`] and [`Error::Closed`].
    ///
    /// # Safety
    /// The Context is live and neither moves nor is dropped until its packet was dispatched or
    /// `disarm` returned `true`. The OVERLAPPED is used for one system call only.
    pub unsafe fn arm(&self, context: NonNull<Context>) -> io::Result<()> {
        // SAFETY: the caller keeps the Context live and in place, as our contract demands.
        unsafe { self.inner.arm(context) }
    }

    /// Takes back an armed Context whose system call failed and will queue no packet.
    ///
    /// `false` when the Context was not armed (any more): its packet was dispatched already.
    ///
    /// # Safety
    /// The system call was never made, or its own result said that no packet will come. (After
    /// `true` the Context may be freed, and an operation in flight would write into it.)
    pub unsafe fn disarm(&self, context: NonNull<Context>) -> bool {
        self.inner.disarm(context)
    }
}

impl IoQueue {
    /// Starts one operation with a system call of the caller's own: `DeviceIoControl`,
    /// `ReadDirectoryChangesW`, `WSARecvFrom` (Q2).
    ///
    /// `call` gets the handle, and the header to cast to `*mut OVERLAPPED`; the
    /// [offset](Overlapped::set_offset) is in it. It makes one overlapped call and returns that
    /// call's own result: `Ok`, or its error code as [`io::Error::from_raw_os_error`] takes it,
    /// `ERROR_IO_PENDING` included. That decides whether a packet is owed, and nothing else.
    ///
    /// `WSAEMSGSIZE` counts as a message that was cut short on its way in, whose packet follows;
    /// return another error for a message that was too long to send.
    ///
    /// # Errors
    /// What `call` returned, if it says that nothing was started; and as for
    /// [`submit`](Self::submit).
    ///
    /// # Panics
    /// A panic in `call` is passed on. Nobody knows then whether a packet will come, so the
    /// block stays in flight.
    ///
    /// # Safety
    /// The call uses that header on that handle, once. What it lends to the system stays valid until
    /// the packet was dispatched; see [`submit`](Self::submit).
    pub unsafe fn submit_with<'h, F>(
        &self,
        on: impl Into<Handle<'h>>,
        overlapped: &Overlapped,
        call: F,
    ) -> io::Result<()>
    where
        F: FnOnce(RawHandle, *mut RawOverlapped) -> io::Result<()>,
    {
        let handle = on.into();
        // SAFETY: the caller's contract, and the result of the call decides.
        unsafe {
            self.start_call(handle, overlapped, |port, header| {
                let result = call(handle.raw() as RawHandle, header.as_ptr());
                port.driver().judge(handle, header, result)
            })
        }
    }

    /// Makes a block ready for one overlapped system call that is made elsewhere; see
    /// [`submit_with`](Self::submit_with), which is easier to use rightly.
    ///
    /// If the call's result says that no packet will come, call [`disarm`](Self::disarm). On
    /// a handle that skips the port on success, as those of a queue may, success says so as well:
    /// [`skips_on_success`](Self::skips_on_success).
    ///
    /// # Errors
    /// As for [`submit`](Self::submit).
    ///
    /// # Safety
    /// As for [`submit_with`](Self::submit_with).
    pub unsafe fn arm<'h>(
        &self,
        on: impl Into<Handle<'h>>,
        overlapped: &Overlapped,
    ) -> io::Result<()> {
        // SAFETY: passed on.
        unsafe { self.start_call(on.into(), overlapped, |_, _| Ok(Submitted::PacketOwed)) }
    }

    /// Takes back an armed block whose system call will queue no packet. `false` when it was not
    /// armed (any more). A wait that has begun resolves with
    /// [`Error::NotInFlight`](crate::Error::NotInFlight); a continuation is dropped.
    ///
    /// # Safety
    /// The system call was never made, or its own result said that no packet will come.
    pub unsafe fn disarm(&self, overlapped: &Overlapped) -> bool {
        // SAFETY: passed on.
        unsafe { self.disarm_block(overlapped) }
    }

    /// Whether an operation on a registered handle that succeeds at once queues no packet.
    pub fn skips_on_success<'h>(&self, on: impl Into<Handle<'h>>) -> bool {
        self.dispatcher().inner.port.driver().skips(on.into())
    }
}
