//! Owned buffers with a stable address: what an operation may lend to the kernel.
// UNSAFETY: the traits promise things about memory that the compiler cannot check.
#![expect(unsafe_code)]

/// A result that brings the buffer back, on success and on error alike.
pub type BufResult<T, B> = (std::io::Result<T>, B);

/// A buffer that can be read from while the kernel has it.
///
/// Implemented for `Vec<u8>`, `Box<[u8]>`, byte arrays (boxed or not), `&'static [u8]`,
/// `&'static str` and `String`. An operation first puts the value where it stays, and asks for its
/// address then.
///
/// # Safety
/// [`as_ptr`](Self::as_ptr) and [`len`](Self::len) describe initialised memory that stays valid, in
/// place and unwritten while the value is neither used nor moved.
///
/// # Examples
/// ```
/// use longshore::IoBuf;
/// assert_eq!(vec![1, 2, 3].len(), IoBuf::len(&vec![1, 2, 3]));
/// ```
pub unsafe trait IoBuf: Send + 'static {
    /// The first byte.
    fn as_ptr(&self) -> *const u8;

    /// How many initialised bytes there are.
    fn len(&self) -> usize;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A buffer that can be written to while the kernel has it.
///
/// # Safety
/// [`as_mut_ptr`](Self::as_mut_ptr) and [`capacity`](Self::capacity) describe memory that is valid
/// for writes, in place and otherwise untouched while the value is neither used nor moved.
///
/// # Examples
/// ```
/// use longshore::IoBufMut;
/// assert_eq!(IoBufMut::capacity(&Vec::<u8>::with_capacity(64)), 64);
/// ```
pub unsafe trait IoBufMut: IoBuf {
    /// The first byte. It need not be initialised.
    fn as_mut_ptr(&mut self) -> *mut u8;

    /// How many bytes there is room for, from the first one on.
    fn capacity(&self) -> usize;

    /// Says that the first `len` bytes are initialised now. A buffer that knows its length becomes
    /// at least that long, and is never cut.
    ///
    /// # Safety
    /// They are, and `len` is at most the capacity.
    unsafe fn set_init(&mut self, len: usize);
}

// SAFETY: a vector's bytes are on the heap and stay there while the vector is not used.
unsafe impl IoBuf for Vec<u8> {
    fn as_ptr(&self) -> *const u8 {
        Vec::as_ptr(self)
    }

    fn len(&self) -> usize {
        Vec::len(self)
    }
}

// SAFETY: the same of its whole capacity.
unsafe impl IoBufMut for Vec<u8> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        Vec::as_mut_ptr(self)
    }

    fn capacity(&self) -> usize {
        Vec::capacity(self)
    }

    unsafe fn set_init(&mut self, len: usize) {
        if len > Vec::len(self) {
            // SAFETY: the caller says so.
            unsafe { self.set_len(len) };
        }
    }
}

// SAFETY: a boxed slice is on the heap.
unsafe impl IoBuf for Box<[u8]> {
    fn as_ptr(&self) -> *const u8 {
        <[u8]>::as_ptr(self)
    }

    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
}

// SAFETY: the same.
unsafe impl IoBufMut for Box<[u8]> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        <[u8]>::as_mut_ptr(self)
    }

    fn capacity(&self) -> usize {
        <[u8]>::len(self)
    }

    // SAFETY: all of it is initialised already, so nothing is asked of the caller.
    unsafe fn set_init(&mut self, _len: usize) {}
}

// SAFETY: a boxed array is on the heap.
unsafe impl<const N: usize> IoBuf for Box<[u8; N]> {
    fn as_ptr(&self) -> *const u8 {
        <[u8]>::as_ptr(self.as_slice())
    }

    fn len(&self) -> usize {
        N
    }
}

// SAFETY: the same.
unsafe impl<const N: usize> IoBufMut for Box<[u8; N]> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_slice().as_mut_ptr()
    }

    fn capacity(&self) -> usize {
        N
    }

    // SAFETY: all of it is initialised already, so nothing is asked of the caller.
    unsafe fn set_init(&mut self, _len: usize) {}
}

// SAFETY: an array is where the value is.
unsafe impl<const N: usize> IoBuf for [u8; N] {
    fn as_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    fn len(&self) -> usize {
        N
    }
}

// SAFETY: the same.
unsafe impl<const N: usize> IoBufMut for [u8; N] {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_slice().as_mut_ptr()
    }

    fn capacity(&self) -> usize {
        N
    }

    // SAFETY: all of it is initialised already, so nothing is asked of the caller.
    unsafe fn set_init(&mut self, _len: usize) {}
}

// SAFETY: static memory stays.
unsafe impl IoBuf for &'static [u8] {
    fn as_ptr(&self) -> *const u8 {
        <[u8]>::as_ptr(self)
    }

    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
}

// SAFETY: static memory stays.
unsafe impl IoBuf for &'static str {
    fn as_ptr(&self) -> *const u8 {
        str::as_ptr(self)
    }

    fn len(&self) -> usize {
        str::len(self)
    }
}

// SAFETY: a string's bytes are on the heap.
unsafe impl IoBuf for String {
    fn as_ptr(&self) -> *const u8 {
        str::as_ptr(self)
    }

    fn len(&self) -> usize {
        String::len(self)
    }
}
