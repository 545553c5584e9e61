//! The kernel-visible header of an operation.
// UNSAFETY: the header is written by the kernel (or by the backend that stands in for it) while
// the owner holds only a pointer, so every access goes through raw pointers.
#![expect(unsafe_code)]

use std::{
    cell::UnsafeCell,
    ffi::c_void,
    fmt,
    marker::PhantomPinned,
    ptr::{self, NonNull},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The status of an operation the kernel still owns: Windows' `STATUS_PENDING`, used on every
/// backend.
pub(crate) const PENDING: usize = 0x103;

/// The header that the operating system sees: Windows' `OVERLAPPED`, word for word.
///
/// It is the first field of a [`Context`](crate::dispatcher::Context). From submission to packet
/// it belongs to the kernel, so it hides behind an [`UnsafeCell`] and may not move. Backends that
/// have no `OVERLAPPED` keep the result in the same words.
///
/// # Examples
/// ```
/// use longshore::{Overlapped, RawOverlapped};
/// let overlapped = Overlapped::new();
/// let header: *mut RawOverlapped = overlapped.as_ptr();
/// assert!(!header.is_null());
/// // On Windows: `header.cast::<OVERLAPPED>()`, for a system call of your own.
/// ```
#[repr(C)]
pub struct RawOverlapped {
    words: UnsafeCell<Words>,
    _pinned: PhantomPinned,
}

#[repr(C)]
pub(crate) struct Words {
    /// NTSTATUS in the low 32 bits on Windows, errno elsewhere; [`PENDING`] while in flight.
    pub(crate) internal: usize,
    /// Bytes transferred.
    pub(crate) internal_high: usize,
    pub(crate) offset: u32,
    pub(crate) offset_high: u32,
    pub(crate) event: *mut c_void,
}

impl RawOverlapped {
    pub(crate) const fn new() -> Self {
        Self {
            words: UnsafeCell::new(Words {
                internal: 0,
                internal_high: 0,
                offset: 0,
                offset_high: 0,
                event: ptr::null_mut(),
            }),
            _pinned: PhantomPinned,
        }
    }

    fn words(this: NonNull<Self>) -> *mut Words {
        UnsafeCell::raw_get(this.as_ptr().cast::<UnsafeCell<Words>>())
    }

    /// Makes the header ready for a new operation: all words fresh, the status pending.
    ///
    /// # Safety
    /// `this` is live and no operation on it is in flight.
    pub(crate) unsafe fn prepare(this: NonNull<Self>, offset: u64) {
        let words = Self::words(this);
        // SAFETY: the caller owns the live header: nobody else writes it now. The status is
        // written as an atomic, because formatting a shared Context may read it at any time.
        unsafe {
            (*words).internal_high = 0;
            // The two halves of the offset; truncation is the point.
            (*words).offset = offset as u32;
            (*words).offset_high = (offset >> 32) as u32;
            (*words).event = ptr::null_mut();
            AtomicUsize::from_ptr(&raw mut (*words).internal).store(PENDING, Ordering::Release);
        }
    }

    /// Nothing was started after all.
    ///
    /// # Safety
    /// As for [`prepare`](Self::prepare).
    pub(crate) unsafe fn reset(this: NonNull<Self>) {
        // SAFETY: the caller owns the live header; see `prepare`.
        unsafe {
            AtomicUsize::from_ptr(&raw mut (*Self::words(this)).internal)
                .store(0, Ordering::Release);
        }
    }

    /// The status word: [`PENDING`] until whoever runs the operation has published its result.
    ///
    /// # Safety
    /// `this` is live.
    pub(crate) unsafe fn status(this: NonNull<Self>) -> usize {
        // SAFETY: the header is live, and the word is only ever accessed as an atomic or by the
        // kernel while an operation is in flight. Acquire pairs with the Release in `complete`.
        unsafe {
            AtomicUsize::from_ptr(&raw mut (*Self::words(this)).internal).load(Ordering::Acquire)
        }
    }

    /// The count of bytes. Meaningful once the status is no longer pending.
    ///
    /// # Safety
    /// `this` is live.
    pub(crate) unsafe fn bytes(this: NonNull<Self>) -> u32 {
        // SAFETY: the header is live; see `status`. No operation moves more than u32::MAX bytes.
        unsafe {
            AtomicUsize::from_ptr(&raw mut (*Self::words(this)).internal_high)
                .load(Ordering::Acquire) as u32
        }
    }

    /// Publishes a result on behalf of a kernel that does not write headers itself.
    ///
    /// # Safety
    /// `this` is live, its operation is in flight and the caller is the one who ends it.
    pub(crate) unsafe fn complete(this: NonNull<Self>, status: usize, bytes: u32) {
        let words = Self::words(this);
        // SAFETY: the header is live and the caller alone completes it; readers use atomics.
        unsafe {
            AtomicUsize::from_ptr(&raw mut (*words).internal_high)
                .store(bytes as usize, Ordering::Relaxed);
            AtomicUsize::from_ptr(&raw mut (*words).internal).store(status, Ordering::Release);
        }
    }
}

impl fmt::Debug for RawOverlapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: a reference is live. The kernel may be writing, so only the atomic is read.
        let status = unsafe { Self::status(NonNull::from(self)) };
        f.debug_struct("RawOverlapped")
            .field("pending", &(status == PENDING))
            .finish_non_exhaustive()
    }
}

// Field by field, so that a slip in one field cannot hide behind the right total.
const _: () = {
    assert!(std::mem::offset_of!(Words, internal) == 0);
    assert!(std::mem::offset_of!(Words, internal_high) == size_of::<usize>());
    assert!(std::mem::offset_of!(Words, offset) == 2 * size_of::<usize>());
    assert!(std::mem::offset_of!(Words, offset_high) == 2 * size_of::<usize>() + 4);
    assert!(std::mem::offset_of!(Words, event) == 2 * size_of::<usize>() + 8);
    assert!(size_of::<RawOverlapped>() == size_of::<Words>());
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d04_offset_is_split_into_its_halves_and_the_status_reads_back() {
        let header = Box::new(RawOverlapped::new());
        let header = NonNull::from(Box::leak(header));
        // SAFETY: the header is ours alone, leaked just above and taken back at the end.
        unsafe {
            RawOverlapped::prepare(header, 0x1234_5678_9abc_def0);
            let words = RawOverlapped::words(header);
            assert_eq!((*words).offset, 0x9abc_def0);
            assert_eq!((*words).offset_high, 0x1234_5678);
            assert_eq!(RawOverlapped::status(header), PENDING);
            #[cfg(not(windows))]
            {
                RawOverlapped::complete(header, 7, 42);
                assert_eq!(RawOverlapped::status(header), 7);
                assert_eq!(RawOverlapped::bytes(header), 42);
            }
            drop(Box::from_raw(header.as_ptr()));
        }
    }
}
