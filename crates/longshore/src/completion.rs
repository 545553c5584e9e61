//! What came back from the operating system for one operation.

use std::io;

/// The outcome of one operation: how many bytes moved, and which error ended it.
///
/// Both may be non-zero: a message that did not fit reports the bytes that were kept *and* the
/// truncation.
///
/// # Examples
/// ```
/// use longshore::Completion;
/// assert_eq!(Completion { bytes: 5, error: 0 }.result().unwrap(), 5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Bytes transferred, also when `error` is not 0.
    pub bytes: u32,
    /// 0, or the operating system's code as [`io::Error::from_raw_os_error`] understands it:
    /// Winsock codes for sockets and Win32 codes for other handles on Windows, errno elsewhere.
    pub error: u32,
}

impl Completion {
    /// Success with `bytes` bytes.
    pub(crate) const fn ok(bytes: u32) -> Self {
        Self { bytes, error: 0 }
    }

    /// The bytes, or the error as an [`io::Error`].
    ///
    /// # Errors
    /// The operating system's error when `error` is not 0; the count of bytes is lost then, so
    /// read [`bytes`](Self::bytes) first where a truncated message matters.
    pub fn result(self) -> io::Result<u32> {
        match self.error {
            0 => Ok(self.bytes),
            // The codes of both systems fit an i32; the cast keeps the bits as they are.
            code => Err(io::Error::from_raw_os_error(code as i32)),
        }
    }
}
