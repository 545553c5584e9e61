//! Windows: the port's handle, and operations that the caller issues with system calls of its own.
// UNSAFETY: `arm` hands a caller's OVERLAPPED to a system call that longshore does not see.
#![expect(unsafe_code)]

use std::{
    io,
    os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, RawHandle},
    ptr::NonNull,
};

#[cfg(doc)]
use crate::error::Error;
use crate::{Dispatcher, dispatcher::Context};

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
