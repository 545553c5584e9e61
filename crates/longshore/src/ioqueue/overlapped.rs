//! The caller's name for an operation's block (Q2).

use std::{any::Any, fmt, sync::Arc};

use super::block::Block;
use crate::{completion::Completion, overlapped::RawOverlapped};

/// One overlapped operation of the caller's (Q2).
///
/// It is a counted block that never moves, with the system's header first: Windows' `OVERLAPPED`,
/// word for word. A clone is another name of the same block. From submission to packet the kernel
/// holds a reference of its own, so dropping every clone frees nothing early; the *buffers* of the
/// operation are the caller's, or [kept](Self::keeping) by the block.
///
/// It is used for one operation at a time, and again once the result was taken by a wait.
///
/// # Examples
/// ```
/// use longshore::Overlapped;
/// let overlapped = Overlapped::new();
/// let same = overlapped.clone();
/// assert_eq!(overlapped.as_ptr(), same.as_ptr());
/// assert!(!overlapped.is_in_flight());
/// ```
#[derive(Clone)]
pub struct Overlapped {
    pub(super) block: Arc<Block>,
}

impl Overlapped {
    /// A block with no operation.
    pub fn new() -> Self {
        Self::build(None)
    }

    /// A block that owns `value`, a buffer for instance, for as long as the block lives: the kernel's
    /// reference included. Take the buffer's address first. The value is dropped with the last
    /// reference, which may be on a dispatching thread.
    ///
    /// # Examples
    /// ```
    /// use longshore::Overlapped;
    /// let buffer = vec![0u8; 64];
    /// let overlapped = Overlapped::keeping(buffer);
    /// assert_eq!(overlapped.take_kept::<Vec<u8>>().unwrap().len(), 64);
    /// ```
    pub fn keeping(value: impl Any + Send) -> Self {
        Self::build(Some(Box::new(value)))
    }

    fn build(kept: Option<Box<dyn Any + Send>>) -> Self {
        Self {
            block: Block::new(kept),
        }
    }

    /// Gives back what the block [keeps](Self::keeping). `None` while an operation is in flight,
    /// and if it keeps nothing of this type.
    pub fn take_kept<T: Any + Send>(&self) -> Option<Box<T>> {
        if self.is_in_flight() {
            return None;
        }
        let mut kept = self.block.kept();
        let is_one = kept.as_deref().is_some_and(|kept| kept.is::<T>());
        is_one.then(|| kept.take())??.downcast().ok()
    }

    /// The header's address: on Windows, cast it to `*mut OVERLAPPED` for a system call of your own.
    pub fn as_ptr(&self) -> *mut RawOverlapped {
        self.block.header().as_ptr()
    }

    /// Where in a file the next system call of the caller's own begins, in bytes. Every
    /// `submit_with` and `arm` writes it into the header.
    pub fn set_offset(&self, offset: u64) {
        self.block.set_offset(offset);
    }

    /// Whether an operation was started and its packet has not been dispatched yet.
    pub fn is_in_flight(&self) -> bool {
        self.block.state.is_in_flight()
    }

    /// How the last operation ended, as the system reported it: the count of bytes also where a wait
    /// gave an error. `None` while one is in flight.
    pub fn completion(&self) -> Option<Completion> {
        self.block.last()
    }
}

impl Default for Overlapped {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Overlapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlapped")
            .field("in_flight", &self.is_in_flight())
            .finish_non_exhaustive()
    }
}
