//! Several buffers in one operation, by way of one that is contiguous.
// UNSAFETY: lends the contiguous buffer to operations.
#![expect(unsafe_code)]

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use super::transfer::Transfer;
use crate::buf::{BufResult, IoBuf, IoBufMut};

/// The most that one vectored read brings: it goes through a buffer of this size.
const MOST: usize = 64 * 1024;

/// The callers' buffers, and the one that the operation uses.
pub(crate) struct Staged<B> {
    bytes: Vec<u8>,
    buffers: Vec<B>,
    /// For how many bytes there is room.
    room: usize,
    /// What to do with the bytes that have arrived.
    scatter: fn(&[u8], &mut [B]),
}

// SAFETY: a vector's bytes are on the heap and stay there while it is not used.
unsafe impl<B: Send + 'static> IoBuf for Staged<B> {
    fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }
}

// SAFETY: the same of its whole capacity.
unsafe impl<B: Send + 'static> IoBufMut for Staged<B> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    fn capacity(&self) -> usize {
        // Not the vector's own, which may be more than there is room for in the buffers.
        self.room
    }

    unsafe fn set_init(&mut self, len: usize) {
        // SAFETY: the caller says so.
        unsafe { self.bytes.set_len(len) };
        (self.scatter)(&self.bytes, &mut self.buffers);
    }
}

impl<B: IoBuf> Staged<B> {
    /// All bytes of the buffers, in order.
    pub(crate) fn gather(buffers: Vec<B>) -> Self {
        let mut bytes = Vec::with_capacity(buffers.iter().map(IoBuf::len).sum());
        for buffer in &buffers {
            if !buffer.is_empty() {
                // SAFETY: initialised memory that nobody writes while the buffer is ours (IoBuf).
                let part = unsafe { std::slice::from_raw_parts(buffer.as_ptr(), buffer.len()) };
                bytes.extend_from_slice(part);
            }
        }
        Self {
            room: bytes.len(),
            bytes,
            buffers,
            scatter: |_, _| {},
        }
    }
}

impl<B: IoBufMut> Staged<B> {
    /// Room for what the buffers can take, up to [`MOST`].
    pub(crate) fn room(buffers: Vec<B>) -> Self {
        let room = buffers.iter().fold(0, |sum: usize, buffer| {
            sum.saturating_add(buffer.capacity())
        });
        let room = room.min(MOST);
        Self {
            bytes: Vec::with_capacity(room),
            room,
            buffers,
            scatter,
        }
    }
}

/// Fills one buffer after the other.
fn scatter<B: IoBufMut>(mut bytes: &[u8], buffers: &mut [B]) {
    for buffer in buffers {
        let (part, rest) = bytes.split_at(bytes.len().min(buffer.capacity()));
        if !part.is_empty() {
            // SAFETY: the part fits into the capacity, which is valid for writes (IoBufMut), and
            // it is initialised then. Nobody else has the buffer.
            unsafe {
                let to = buffer.as_mut_ptr();
                to.copy_from_nonoverlapping(part.as_ptr(), part.len());
                buffer.set_init(part.len());
            }
        }
        bytes = rest;
    }
}

/// A read into, or a write of, several buffers: resolves to the count of bytes and the buffers,
/// whatever happens.
///
/// It is one operation, and behaves like a [`Transfer`], on one buffer that is copied to or from
/// the others. (What a system call for each part would save, a copy in the cache costs rarely.)
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, net::{TcpListener, TcpStream}};
/// let port = Dispatcher::new()?;
/// let listener = TcpListener::bind(&port, "127.0.0.1:0")?;
/// let client = port.block_on(TcpStream::connect(&port, listener.local_addr()?))??;
/// let (server, _) = port.block_on(listener.accept())??;
/// port.block_on(server.write_all("headbody"))?.0?;
/// let parts = vec![vec![0; 4], vec![0; 8]];
/// let (count, parts) = port.block_on(client.read_vectored(parts))?;
/// assert_eq!((count?, &parts[0][..], &parts[1][..4]), (8, &b"head"[..], &b"body"[..]));
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "futures do nothing unless they are awaited"]
pub struct VectoredTransfer<B: Send + 'static> {
    transfer: Transfer<Staged<B>>,
}

impl<B: Send + 'static> VectoredTransfer<B> {
    pub(crate) fn new(transfer: Transfer<Staged<B>>) -> Self {
        Self { transfer }
    }

    /// See [`Transfer::cancel`].
    pub fn cancel(&self) {
        self.transfer.cancel();
    }
}

impl<B: Send + Unpin + 'static> Future for VectoredTransfer<B> {
    type Output = BufResult<usize, Vec<B>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.transfer)
            .poll(context)
            .map(|(result, staged)| (result, staged.buffers))
    }
}

impl<B: Send + 'static> fmt::Debug for VectoredTransfer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VectoredTransfer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_several_buffers_are_gathered_and_filled_in_order() {
        let staged = Staged::gather(vec![vec![1, 2], Vec::new(), vec![3]]);
        assert_eq!(staged.bytes, [1, 2, 3]);
        let buffers = vec![Vec::with_capacity(2), Vec::new(), Vec::with_capacity(8)];
        let mut staged = Staged::room(buffers);
        assert!(staged.capacity() >= 10);
        // SAFETY: three bytes are written at the address, and said to be.
        unsafe {
            staged.as_mut_ptr().copy_from([7, 8, 9].as_ptr(), 3);
            staged.set_init(3);
        }
        let two = staged.buffers[0].capacity().min(3);
        assert_eq!(staged.buffers[0], [7, 8, 9][..two]);
        assert_eq!(staged.buffers[2], [7, 8, 9][two..]);
    }
}
