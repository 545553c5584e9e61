//! The queue: a cheap front end on a dispatcher's port (Q1 to Q8).
// UNSAFETY: starts operations on memory that the caller vouches for.
#![expect(unsafe_code)]

use std::{
    fmt, io,
    ptr::NonNull,
    sync::{Arc, atomic::Ordering::SeqCst},
};

#[cfg(doc)]
use super::wait::Aborted;
use super::{
    block::Block,
    overlapped::Overlapped,
    registered::{Registered, Shared},
    wait::{self, Wait},
};
#[cfg(doc)]
use crate::error::Error;
use crate::{
    dispatcher::{Dispatcher, Flight},
    error,
    handle::Handle,
    overlapped::RawOverlapped,
    port::Port,
    submission::{Issued, Submission, Then},
    sys::backend::Submitted,
};

/// Overlapped operations on memory of the caller's, to be awaited (Q1 to Q10).
///
/// A queue shares its port, and the threads that dispatch it, with everything else on its
/// [`Dispatcher`]. Cloning is cheap and names the same queue. It keeps the port open as a clone of
/// the dispatcher does; what was registered with it and its waits do not.
///
/// The safe way to do I/O are the types in [`net`](crate::net). This one is for operations
/// that they do not know, and for buffers that they could not own.
///
/// # Examples
/// Register, start an overlapped read, wait:
/// ```
/// use longshore::{Dispatcher, Handle, IoQueue, Overlapped, Submission};
/// use std::{io::Write, net::{TcpListener, TcpStream}};
/// let port = Dispatcher::new()?;
/// let queue = IoQueue::new(&port);
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let mut client = TcpStream::connect(listener.local_addr()?)?;
/// let (stream, _) = listener.accept()?;
///
/// let stream = queue.register(stream).map_err(|(error, _)| error)?;
/// let mut buffer = [0u8; 16];
/// let overlapped = Overlapped::new();
/// let read = Submission::Recv {
///     socket: Handle::from(&stream),
///     buffer: buffer.as_mut_ptr(),
///     len: buffer.len(),
/// };
/// // SAFETY: the buffer is not touched until the wait below is over.
/// unsafe { queue.submit(&stream, &overlapped, read)? };
/// client.write_all(b"hello")?;
/// let count = port.block_on(queue.wait(&stream, &overlapped))??;
/// assert_eq!(&buffer[..count], b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "ioqueue")]
#[derive(Clone)]
pub struct IoQueue {
    dispatcher: Dispatcher,
    pub(super) shared: Arc<Shared>,
}

impl IoQueue {
    /// A queue on this dispatcher's port.
    pub fn new(dispatcher: &Dispatcher) -> Self {
        Self {
            dispatcher: dispatcher.clone(),
            shared: Arc::new(Shared::new(dispatcher.inner.clone())),
        }
    }

    /// The dispatcher whose port this is.
    pub fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// Binds a file, socket or pipe to the queue, which owns it from now on (Q1).
    ///
    /// It can be unregistered and registered again. On Windows the binding to the port is for the
    /// life of the object, files must be open with `FILE_FLAG_OVERLAPPED`, and the object is set to
    /// skip the port when an operation succeeds at once, where that is safe: it stays so.
    ///
    /// # Errors
    /// The object comes back with [`Error::AlreadyAttached`], [`Error::AttachedForContexts`],
    /// [`Error::OtherPort`], [`Error::NotOverlapped`], [`Error::BadHandle`], [`Error::Closed`],
    /// or the operating system's reason.
    #[doc(alias = "persist")]
    pub fn register<T>(&self, object: T) -> Result<Registered<T>, (io::Error, T)>
    where
        for<'a> &'a T: Into<Handle<'a>>,
    {
        Registered::new(&self.shared, object)
    }

    /// Ends a registration and gives the object back (Q6).
    ///
    /// Each operation in flight on it is asked to end; none can be waited for any more. Its waits
    /// resolve, once somebody dispatches the packets, with [`Aborted`], which carries the outcome of
    /// an operation that was quicker. The blocks of operations nobody waits for are
    /// freed by their packets. (Linux: a file operation that a thread is in the middle of is waited
    /// for.)
    pub fn unregister<T>(&self, registered: Registered<T>) -> T {
        registered.into_inner()
    }

    /// [`register`](Self::register) for a handle that stays the caller's own (Q10).
    ///
    /// Should it be closed while it is registered, the next touch of it finds out: its waits resolve
    /// with [`Error::PrematureClose`], and a later handle with the same value is not disturbed. (On
    /// Linux a *file* opened again with the same number cannot be told from the first; on Windows
    /// neither can an object of the same kind that does not skip the port.)
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    ///
    /// # Safety
    /// The handle stays open, or nothing is in flight on it when it is closed, unless the memory of
    /// what is in flight is kept valid for ever: its packets may never come.
    ///
    /// # Examples
    /// ```
    /// use longshore::{Dispatcher, Error, IoQueue};
    /// let queue = IoQueue::new(&Dispatcher::new()?);
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// // SAFETY: nothing is started on it.
    /// unsafe { queue.register_raw(&listener)? };
    /// queue.unregister_raw(&listener)?;
    /// let again = queue.unregister_raw(&listener).unwrap_err();
    /// assert_eq!(Error::of(&again), Some(Error::UnregisteredHandle));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub unsafe fn register_raw<'h>(&self, handle: impl Into<Handle<'h>>) -> io::Result<()> {
        self.shared.register(handle.into(), true).map(|_| ())
    }

    /// [`unregister`](Self::unregister) for a handle that was registered bare.
    ///
    /// # Errors
    /// [`Error::UnregisteredHandle`], also for one that the queue owns; [`Error::PrematureClose`] if
    /// it was closed before.
    pub fn unregister_raw<'h>(&self, handle: impl Into<Handle<'h>>) -> io::Result<()> {
        let registration = self.shared.touch(handle.into())?;
        if !registration.is_bare() {
            return Err(error::Error::UnregisteredHandle.into());
        }
        self.shared.unregister(&registration);
        Ok(())
    }

    /// Starts one operation. `on` is a [`Registered`] object, or a handle that was registered bare;
    /// the submission names the same handle.
    ///
    /// It may end, and be dispatched by another thread, before this function returns. It is
    /// not lost: the outcome is kept until a wait takes it (Q5).
    ///
    /// # Errors
    /// [`Error::UnregisteredHandle`], [`Error::PrematureClose`]; [`Error::ContextInFlight`] if the
    /// block has an operation whose outcome was not taken; what is wrong with the submission; or
    /// the operating system's reason. Nothing was started then.
    ///
    /// # Safety
    /// The buffer or slot stays valid, and is otherwise untouched, until the packet was dispatched:
    /// until a wait for it has resolved, or [`Overlapped::is_in_flight`] says so. Unregistering the
    /// handle does not end that.
    pub unsafe fn submit<'h>(
        &self,
        on: impl Into<Handle<'h>>,
        overlapped: &Overlapped,
        submission: Submission<'_>,
    ) -> io::Result<()> {
        let registration = self.shared.touch(on.into())?;
        if submission.handle().raw() != registration.raw {
            return Err(error::Error::UnregisteredHandle.into());
        }
        // SAFETY: the block was lent; the caller keeps the rest.
        unsafe {
            overlapped.block.launch(&registration, |inner, header| {
                inner.start(header, Block::RECIPIENT, submission)
            })
        }
    }

    /// Starts whatever `start` does, for what only one system offers.
    ///
    /// # Safety
    /// The result of `start` says whether a packet is owed. The caller's memory is as for
    /// [`submit`](Self::submit).
    #[cfg_attr(windows, expect(dead_code, reason = "for readiness"))]
    pub(crate) unsafe fn start_with(
        &self,
        on: Handle<'_>,
        overlapped: &Overlapped,
        start: impl FnOnce(&Port, NonNull<RawOverlapped>) -> io::Result<Submitted>,
    ) -> io::Result<()> {
        let flight = Flight::Issued(Issued {
            handle: on.raw(),
            kind: on.kind(),
            then: Then::Nothing,
        });
        // SAFETY: passed on.
        unsafe { self.launch(on, overlapped, flight, start) }
    }

    /// [`start_with`](Self::start_with) for a system call of the caller's own.
    ///
    /// # Safety
    /// As for [`start_with`](Self::start_with).
    #[cfg_attr(
        target_os = "linux",
        expect(dead_code, reason = "only Windows has such calls")
    )]
    pub(crate) unsafe fn start_call(
        &self,
        on: Handle<'_>,
        overlapped: &Overlapped,
        start: impl FnOnce(&Port, NonNull<RawOverlapped>) -> io::Result<Submitted>,
    ) -> io::Result<()> {
        // SAFETY: passed on.
        unsafe { self.launch(on, overlapped, Flight::Armed, start) }
    }

    /// # Safety
    /// As for [`start_with`](Self::start_with).
    unsafe fn launch(
        &self,
        on: Handle<'_>,
        overlapped: &Overlapped,
        flight: Flight,
        start: impl FnOnce(&Port, NonNull<RawOverlapped>) -> io::Result<Submitted>,
    ) -> io::Result<()> {
        let registration = self.shared.touch(on)?;
        let block = &overlapped.block;
        // SAFETY: the block was lent; the caller keeps the rest.
        unsafe {
            block.launch(&registration, |inner, header| {
                inner.start_with(header, Block::RECIPIENT, flight, block.offset(), || {
                    start(&inner.port, header)
                })
            })
        }
    }

    /// Takes back an operation that was to be started elsewhere.
    ///
    /// # Safety
    /// No packet will come for it.
    #[cfg_attr(
        target_os = "linux",
        expect(dead_code, reason = "only Windows has such calls")
    )]
    pub(crate) unsafe fn disarm_block(&self, overlapped: &Overlapped) -> bool {
        let block = &overlapped.block;
        let armed = self.shared.core.inner.disarm(block.header().cast());
        if armed {
            // SAFETY: it was lent and is in flight no more; no packet will come.
            unsafe { block.take_back() };
        }
        armed
    }

    /// Waits for the operation that was started last with this block on this handle (Q2).
    ///
    /// One wait at a time for each operation (Q4); the outcome of one that has ended already is
    /// kept (Q5). See [`Wait`] for its errors.
    pub fn wait<'h>(&self, on: impl Into<Handle<'h>>, overlapped: &Overlapped) -> Wait {
        Wait::new(
            self.shared.touch(on.into()),
            &overlapped.block,
            self.only_one(),
        )
    }

    /// Has `then` called with the outcome, by the thread that dispatches the packet; at once, by this
    /// one, if it was dispatched already. A panic in it reaches that thread's `dispatch`.
    ///
    /// # Errors
    /// [`Error::UnregisteredHandle`], [`Error::NotInFlight`], [`Error::AlreadyWaiting`],
    /// [`Error::PrematureClose`]; `then` is dropped. What it is called with may be any
    /// of a [`Wait`]'s later errors.
    ///
    /// # Examples
    /// ```
    /// use longshore::{Dispatcher, Handle, IoQueue, Overlapped, Submission};
    /// use std::{io::Write, net::{TcpListener, TcpStream}};
    /// let queue = IoQueue::new(&Dispatcher::new()?);
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let mut client = TcpStream::connect(listener.local_addr()?)?;
    /// let stream = queue.register(listener.accept()?.0).map_err(|(error, _)| error)?;
    ///
    /// let mut buffer = vec![0u8; 16];
    /// let (address, len) = (buffer.as_mut_ptr(), buffer.len());
    /// let overlapped = Overlapped::keeping(buffer);
    /// let read = Submission::Recv { socket: Handle::from(&stream), buffer: address, len };
    /// // SAFETY: the block keeps the buffer.
    /// unsafe { queue.submit(&stream, &overlapped, read)? };
    /// queue.wait_then(&stream, &overlapped, |result| assert_eq!(result.unwrap(), 5))?;
    /// client.write_all(b"hello")?;
    /// queue.run()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wait_then<'h, F>(
        &self,
        on: impl Into<Handle<'h>>,
        overlapped: &Overlapped,
        then: F,
    ) -> io::Result<()>
    where
        F: FnOnce(io::Result<usize>) + Send + 'static,
    {
        let registration = self.shared.touch(on.into())?;
        wait::wait_then(&registration, &overlapped.block, self.only_one(), then)?;
        Ok(())
    }

    /// Asks for the cancellation of one operation; its wait resolves all the same. `false`: there
    /// was nothing to cancel.
    ///
    /// # Errors
    /// [`Error::UnregisteredHandle`], [`Error::PrematureClose`], or the operating system's.
    pub fn cancel<'h>(
        &self,
        on: impl Into<Handle<'h>>,
        overlapped: &Overlapped,
    ) -> io::Result<bool> {
        self.shared.touch(on.into())?;
        overlapped.block.cancel()
    }

    /// Whether only one operation of each handle can be waited for at a time, as in the library this
    /// interface comes from. Not so at first: one wait for each *operation* (Q4). A second one
    /// is [`Error::AlreadyWaiting`].
    pub fn one_waiter_per_handle(&self, yes: bool) {
        self.shared.one_waiter_per_handle.store(yes, SeqCst);
    }

    fn only_one(&self) -> bool {
        self.shared.one_waiter_per_handle.load(SeqCst)
    }

    /// Whether somebody waits for an operation that is in flight, or for readiness (Q8).
    pub fn running(&self) -> bool {
        self.shared.core.is_waiting()
    }
}

impl fmt::Debug for IoQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoQueue")
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}
