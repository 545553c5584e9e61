//! Caller-owned storage for one overlapped completion.
// UNSAFETY: reads the fields of a Context through the pointer that came back in a packet.
#![expect(unsafe_code)]

use std::ptr::NonNull;

use super::in_flight::{Door, Recipient};
use crate::{completion::Completion, overlapped::RawOverlapped};

/// A posted callback: receives the word that was posted with it (D3).
///
/// The ABI is C's, so that C code can post one; it may unwind, so that a panic reaches whoever
/// called `dispatch` instead of ending the process.
pub type OnCallback = extern "C-unwind" fn(context: usize);

/// A completion callback: receives the Context's own word, the bytes transferred, and 0 or the
/// operating system's error code (D3, D12).
#[doc(alias = "OnEventRef")]
pub type OnEvent = extern "C-unwind" fn(context: usize, bytes: u32, error: u32);

/// Storage for one overlapped operation, owned by the caller (D4).
///
/// The header comes first, so its address is the address of the Context: that is what a packet
/// carries, and how the Context is found again. From [`submit`](crate::Dispatcher::submit) until
/// its `on_event` is called, a Context must not move, be dropped, or be borrowed mutably. Before
/// `on_event` is called longshore has let go of it, so the callback may submit it again, or free
/// it.
///
/// # Examples
/// ```
/// use longshore::dispatcher::Context;
/// extern "C-unwind" fn finished(_context: usize, _bytes: u32, _error: u32) {}
/// let context = Context::new(finished, 7);
/// assert_eq!(context.context, 7);
/// ```
#[repr(C)]
#[derive(Debug)]
pub struct Context {
    /// What the operating system sees; first, so that it shares the Context's address.
    pub overlapped: RawOverlapped,
    /// Called when the packet is dispatched.
    pub on_event: OnEvent,
    /// Passed to `on_event`, untouched.
    pub context: usize,
}

const _: () = {
    assert!(std::mem::offset_of!(Context, overlapped) == 0);
    assert!(std::mem::offset_of!(Context, on_event) == size_of::<RawOverlapped>());
    assert!(size_of::<Context>() == size_of::<RawOverlapped>() + 2 * size_of::<usize>());
};

impl Context {
    /// A Context that calls `on_event` with `context` when its operation has completed.
    pub const fn new(on_event: OnEvent, context: usize) -> Self {
        Self {
            overlapped: RawOverlapped::new(),
            on_event,
            context,
        }
    }

    /// The header's address, derived from the whole Context so that it may be turned back into
    /// it. On Windows, cast it to `*mut OVERLAPPED` for a system call of your own.
    ///
    /// # Safety
    /// `this` points to a live Context.
    pub unsafe fn overlapped_ptr(this: NonNull<Self>) -> NonNull<RawOverlapped> {
        this.cast()
    }

    /// The raw status of the last operation: the NTSTATUS on Windows, errno elsewhere, and
    /// `STATUS_PENDING` (0x103) while one is in flight.
    ///
    /// # Safety
    /// `this` points to a live Context.
    pub unsafe fn raw_status(this: NonNull<Self>) -> u32 {
        // SAFETY: live, as the caller says. The status is 32 bits wide on every system; the upper
        // half of the word is not defined on Windows.
        unsafe { RawOverlapped::status(this.cast()) as u32 }
    }

    /// Who is told of a Context's completion.
    pub(crate) const RECIPIENT: Recipient = Recipient {
        door: Door::Context,
        deliver: Self::call,
    };

    /// Calls `on_event`. The Context is the callback's from here on.
    ///
    /// # Safety
    /// `header` is that of a live Context that is no longer in flight.
    unsafe fn call(header: NonNull<RawOverlapped>, completion: Completion) {
        let this = header.cast::<Self>();
        // SAFETY: live, as the caller says. Both fields are copied out before the call, so the
        // callback may free the Context.
        let (on_event, context) = unsafe {
            let this = this.as_ptr();
            ((*this).on_event, (*this).context)
        };
        on_event(context, completion.bytes, completion.error);
    }
}

// SAFETY: a Context is two words and a header whose shared part is accessed atomically; the words
// are meant to travel to whichever thread dispatches. What `context` points to is the poster's.
unsafe impl Send for Context {}
// SAFETY: see Send: nothing in a shared Context is written but through atomics or by the kernel.
unsafe impl Sync for Context {}
