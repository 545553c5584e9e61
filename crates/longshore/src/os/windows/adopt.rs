//! A port that is there already.
// UNSAFETY: others take packets from such a port, and have to cope with longshore's.
#![expect(unsafe_code)]

use std::os::windows::io::{BorrowedHandle, OwnedHandle};

use crate::{Builder, sys::iocp::Origin};
#[cfg(doc)]
use crate::{Dispatcher, error::Error};

impl Builder {
    /// Takes over a completion port that is there already, instead of making one. It is closed with
    /// the dispatcher (D10); should building fail, it is closed at once.
    ///
    /// Packets that others have queued, or queue later, are foreign: whichever thread dispatches one
    /// counts it and gives it to the [`on_foreign`](Self::on_foreign) hook, and so does closing.
    /// [`concurrency`](Self::concurrency) is the port's own and not changed.
    ///
    /// # Errors
    /// [`build`](Self::build) fails with [`Error::NotAPort`] for another kind of object,
    /// [`Error::BadHandle`] for a value that is none, and `ERROR_ACCESS_DENIED` for a handle without
    /// the right to query the port (`IO_COMPLETION_ALL_ACCESS` has it).
    ///
    /// # Safety
    /// Whoever else takes packets from the port, through a duplicate of the handle, neither calls nor
    /// follows a word of those that are not its own. One of longshore's that it has taken has to be
    /// given to [`Dispatcher::dispatch_packet`] or queued again; one that is dropped is an operation
    /// that never ends. No second dispatcher adopts the port. With
    /// [`trust_packets`](Self::trust_packets), whose contract holds for the packets of all others as well, the
    /// port is to have none but longshore's.
    ///
    /// # Examples
    /// ```
    /// use longshore::Dispatcher;
    /// use std::os::windows::io::{AsHandle, AsRawHandle};
    /// let first = Dispatcher::new()?;
    /// let port = first.as_handle().try_clone_to_owned()?; // the same port
    /// drop(first);
    /// let value = port.as_raw_handle();
    /// // SAFETY: nobody else has it any more.
    /// let port = unsafe { Dispatcher::builder().adopt(port) }.build()?;
    /// assert_eq!(port.as_raw_handle(), value);
    /// port.post_fn(|| println!("through a port that was there before"))?;
    /// port.dispatch()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub unsafe fn adopt(mut self, port: OwnedHandle) -> Self {
        self.origin = Origin::Owned(port);
        self
    }

    /// [`adopt`](Self::adopt) for a port that stays the caller's: it is never closed, and goes on
    /// when the dispatcher is closed.
    ///
    /// Closing takes longshore's own packets out of it and leaves none behind (but one for each
    /// thread that could not be released in time, which is reported). What others have queued by then
    /// goes back as it was, status included, and in its order, though behind what its owner
    /// queues at that moment. A packet that the kernel refuses to take back is reported, and
    /// given to the [`on_foreign`](Self::on_foreign) hook.
    ///
    /// Handles that were attached stay associated with the port for their life (C7), as if the caller had
    /// done it: what is started on them after closing is the owner's. So are the messages of a
    /// [`Job`](super::Job) on Windows 7, which cannot part it from its port.
    ///
    /// # Errors
    /// As for [`adopt`](Self::adopt).
    ///
    /// # Safety
    /// As for [`adopt`](Self::adopt), until the last clone of the dispatcher, and the last operation
    /// on it, is gone. That the handle is open for so long, its type says.
    ///
    /// # Examples
    /// ```
    /// use longshore::Dispatcher;
    /// use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
    /// use windows_sys::Win32::{Foundation::INVALID_HANDLE_VALUE, System::IO::CreateIoCompletionPort};
    /// // SAFETY: no pointers; nobody else owns what is made.
    /// let mine = unsafe {
    ///     let port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, std::ptr::null_mut(), 0, 0);
    ///     OwnedHandle::from_raw_handle(port)
    /// };
    /// // SAFETY: it is closed after the dispatcher, and nobody else takes packets from it.
    /// let port = unsafe {
    ///     let lent = BorrowedHandle::borrow_raw(mine.as_raw_handle());
    ///     Dispatcher::builder().adopt_borrowed(lent).build()?
    /// };
    /// port.post_fn(|| println!("through my own port"))?;
    /// port.dispatch()?;
    /// port.close()?; // `mine` goes on
    /// # Ok::<(), std::io::Error>(())
    /// ```
    /// With a loop that takes the packets itself: [`Dispatcher::dispatch_packet`].
    pub unsafe fn adopt_borrowed(mut self, port: BorrowedHandle<'static>) -> Self {
        self.origin = Origin::Lent(port);
        self
    }
}
