//! The future of an operation that moves bytes between an object and a buffer.
// UNSAFETY: lends owned buffers to operations.
#![expect(unsafe_code)]

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{attached::Attached, operation::Operation};
use crate::{
    buf::{BufResult, IoBuf, IoBufMut},
    handle::Handle,
    submission::Submission,
};

/// A mistake in whoever polls: the buffer was handed out already.
const POLLED_AGAIN: &str = "a transfer is polled after it was ready";

/// What an operation co-owns: its buffer, and the object whose handle it uses.
struct Lent<B> {
    buffer: B,
    _object: Box<dyn Send>,
}

/// A read or write in flight: resolves to the count of bytes and the buffer, whatever happens.
///
/// Dropping it asks for cancellation and gives the buffer up; it is freed when the kernel lets go
/// of it. To keep the buffer, and to learn how far the operation got, [`cancel`](Self::cancel) it
/// and await it. Polling needs no particular thread or executor, but somebody has to dispatch.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, net::{TcpListener, TcpStream}};
/// let port = Dispatcher::new()?;
/// let listener = TcpListener::bind(&port, "127.0.0.1:0")?;
/// let client = port.block_on(TcpStream::connect(&port, listener.local_addr()?))??;
/// let reading = client.read(vec![0; 16]);
/// reading.cancel();
/// let (result, buffer) = port.block_on(reading)?;
/// assert_eq!(result.unwrap_err().raw_os_error(), Some(longshore::ABORTED as i32));
/// assert_eq!(buffer.len(), 16, "it comes back");
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "futures do nothing unless they are awaited"]
pub struct Transfer<B: Send + 'static> {
    operation: Option<Operation<Lent<B>>>,
    /// A transfer of nothing is ready at once.
    empty: Option<B>,
    /// What a finished operation says of its buffer.
    finish: fn(&mut B, usize),
}

impl<B: Send + 'static> Transfer<B> {
    /// Reads into a buffer: `describe` gets the handle, the address and the length.
    pub(crate) fn read<T, F>(object: &Arc<Attached<T>>, buffer: B, describe: F) -> Self
    where
        B: IoBufMut,
        T: Send + Sync + 'static,
        for<'a> &'a T: Into<Handle<'a>>,
        F: for<'a> FnOnce(Handle<'a>, *mut u8, usize) -> Submission<'a>,
    {
        let is_empty = buffer.capacity() == 0;
        let finish = |buffer: &mut B, count: usize| {
            // SAFETY: the operation wrote `count` bytes, within the capacity it was given.
            unsafe { buffer.set_init(count) };
        };
        Self::start(object, buffer, is_empty, finish, |handle, buffer| {
            describe(handle, buffer.as_mut_ptr(), buffer.capacity())
        })
    }

    /// Writes a buffer out: `describe` gets the handle, the address and the length.
    pub(crate) fn write<T, F>(object: &Arc<Attached<T>>, buffer: B, describe: F) -> Self
    where
        B: IoBuf,
        T: Send + Sync + 'static,
        for<'a> &'a T: Into<Handle<'a>>,
        F: for<'a> FnOnce(Handle<'a>, *const u8, usize) -> Submission<'a>,
    {
        let is_empty = buffer.is_empty();
        Self::write_out(object, buffer, is_empty, describe)
    }

    /// [`write`](Self::write) of a message, which may be empty.
    #[cfg_attr(
        target_os = "linux",
        expect(dead_code, reason = "only Windows has streams of messages")
    )]
    pub(crate) fn message<T, F>(object: &Arc<Attached<T>>, buffer: B, describe: F) -> Self
    where
        B: IoBuf,
        T: Send + Sync + 'static,
        for<'a> &'a T: Into<Handle<'a>>,
        F: for<'a> FnOnce(Handle<'a>, *const u8, usize) -> Submission<'a>,
    {
        Self::write_out(object, buffer, false, describe)
    }

    fn write_out<T, F>(object: &Arc<Attached<T>>, buffer: B, is_empty: bool, describe: F) -> Self
    where
        B: IoBuf,
        T: Send + Sync + 'static,
        for<'a> &'a T: Into<Handle<'a>>,
        F: for<'a> FnOnce(Handle<'a>, *const u8, usize) -> Submission<'a>,
    {
        let finish = |_: &mut B, _| {};
        Self::start(object, buffer, is_empty, finish, |handle, buffer| {
            describe(handle, buffer.as_ptr(), buffer.len())
        })
    }

    fn start<T, F>(
        object: &Arc<Attached<T>>,
        buffer: B,
        is_empty: bool,
        finish: fn(&mut B, usize),
        describe: F,
    ) -> Self
    where
        T: Send + Sync + 'static,
        for<'a> &'a T: Into<Handle<'a>>,
        F: for<'a> FnOnce(Handle<'a>, &mut B) -> Submission<'a>,
    {
        if is_empty {
            return Self {
                operation: None,
                empty: Some(buffer),
                finish,
            };
        }
        // Without the borrow's life: the payload keeps the object.
        let handle = Handle::new(object.handle().raw(), object.handle().kind());
        let lent = Lent {
            buffer,
            _object: Box::new(object.clone()),
        };
        // SAFETY: the payload owns the buffer, whose bytes stay in place (IoBuf), and a counted
        // reference to the object, which keeps its handle open.
        let operation = unsafe {
            Operation::start(object.inner(), lent, |lent| {
                describe(handle, &mut lent.buffer)
            })
        };
        Self {
            operation: Some(operation),
            empty: None,
            finish,
        }
    }

    /// Asks for cancellation. The future resolves all the same: to what was transferred if that
    /// came first, else to the abort error (see [`ABORTED`](crate::ABORTED)).
    pub fn cancel(&self) {
        if let Some(operation) = &self.operation {
            operation.cancel();
        }
    }
}

impl<B: Send + Unpin + 'static> Future for Transfer<B> {
    type Output = BufResult<usize, B>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(buffer) = self.empty.take() {
            return Poll::Ready((Ok(0), buffer));
        }
        let finish = self.finish;
        let operation = self.operation.as_mut().expect(POLLED_AGAIN);
        Pin::new(operation).poll(context).map(|(result, lent)| {
            let mut buffer = lent.expect(POLLED_AGAIN).buffer;
            let result = result.and_then(|completion| {
                let count = completion.bytes as usize;
                finish(&mut buffer, count);
                match count {
                    0 => completion.result().map(|_| 0),
                    // What was transferred is told, whatever ended it; the next operation on the
                    // object meets the error.
                    count => Ok(count),
                }
            });
            (result, buffer)
        })
    }
}

impl<B: Send + 'static> fmt::Debug for Transfer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").finish_non_exhaustive()
    }
}

/// The rest of a buffer, from `start` on: for writing in pieces.
pub(crate) struct Rest<B> {
    pub(crate) buffer: B,
    pub(crate) start: usize,
}

impl<B: Send + Unpin + 'static> Rest<B> {
    /// Moves all of a buffer, in as many transfers as it takes. `left` tells how much there is to
    /// move, `stuck` is the error when a transfer moves nothing.
    pub(crate) async fn move_all(
        buffer: B,
        left: fn(&Self) -> usize,
        stuck: io::ErrorKind,
        mut transfer: impl FnMut(Self) -> Transfer<Self>,
    ) -> BufResult<(), B> {
        let mut rest = Self { buffer, start: 0 };
        while left(&rest) > 0 {
            let (result, back) = transfer(rest).await;
            rest = back;
            match result {
                Ok(0) => return (Err(stuck.into()), rest.buffer),
                Ok(count) => rest.start += count,
                Err(error) => return (Err(error), rest.buffer),
            }
        }
        (Ok(()), rest.buffer)
    }
}

// SAFETY: a part of what `B` promises.
unsafe impl<B: IoBuf> IoBuf for Rest<B> {
    fn as_ptr(&self) -> *const u8 {
        // SAFETY: `start` is at most the length.
        unsafe { self.buffer.as_ptr().add(self.start.min(self.buffer.len())) }
    }

    fn len(&self) -> usize {
        self.buffer.len().saturating_sub(self.start)
    }
}

// SAFETY: a part of what `B` promises.
unsafe impl<B: IoBufMut> IoBufMut for Rest<B> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        // SAFETY: `start` is at most the capacity.
        unsafe {
            let start = self.start.min(self.buffer.capacity());
            self.buffer.as_mut_ptr().add(start)
        }
    }

    fn capacity(&self) -> usize {
        self.buffer.capacity().saturating_sub(self.start)
    }

    unsafe fn set_init(&mut self, len: usize) {
        // SAFETY: what is before `start` was filled before; the rest is as the caller says.
        unsafe { self.buffer.set_init(self.start + len) };
    }
}
