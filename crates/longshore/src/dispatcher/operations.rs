//! Handles, and operations whose memory is lent to the operating system until their packet.
// UNSAFETY: lends the memory of Contexts to the operating system.
#![expect(unsafe_code)]

use std::{io, ptr::NonNull};

use super::{
    Context, Dispatcher, Inner, drain,
    in_flight::{Door, Flight, Recipient, Ticket},
};
#[cfg(doc)]
use crate::error::Error;
use crate::{
    completion::Completion,
    handle::Handle,
    overlapped::RawOverlapped,
    packet::Packet,
    submission::Submission,
    sys::backend::{Submitted, Terms},
    trace::{self, event},
};

impl Dispatcher {
    /// Binds a file, socket or pipe to this port, for operations with a [`Context`].
    ///
    /// Once, before the first operation on it. On Windows the binding lasts as long as the
    /// object: files must be open with `FILE_FLAG_OVERLAPPED`. Call [`detach`](Self::detach)
    /// before closing the handle. A datagram socket, the caller's own as well, stops reporting
    /// unreachable ports there (`SIO_UDP_CONNRESET` and `SIO_UDP_NETRESET` are switched off), because
    /// they would fail receives that have nothing to do with them; whoever wants them can switch them
    /// on again afterwards.
    ///
    /// # Errors
    /// [`Error::AlreadyAttached`], [`Error::OtherPort`], [`Error::NotOverlapped`],
    /// [`Error::SkipsPort`], [`Error::BadHandle`], [`Error::Closed`], or the operating system's
    /// reason. The handle is untouched then. (Linux: a *file* or pipe may be attached to several
    /// ports; only sockets tell.)
    ///
    /// # Examples
    /// ```
    /// use longshore::{Dispatcher, Error};
    /// let port = Dispatcher::new()?;
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// port.attach(&listener)?;
    /// let again = port.attach(&listener).unwrap_err();
    /// assert_eq!(Error::of(&again), Some(Error::AlreadyAttached));
    /// port.detach(&listener)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn attach<'h>(&self, handle: impl Into<Handle<'h>>) -> io::Result<()> {
        self.inner.port.attach(handle.into(), Terms::CONTEXTS)
    }

    /// Forgets a handle before it is closed. What longshore has in flight on it is cancelled (on
    /// Linux, a file operation that is being carried out is waited for); each
    /// Context still gets its `on_event`. (Windows: system calls of the caller's own, see `arm`,
    /// are the caller's to cancel; the object stays bound to the port, to which it can be attached
    /// again.)
    ///
    /// # Errors
    /// [`Error::NotAttached`].
    pub fn detach<'h>(&self, handle: impl Into<Handle<'h>>) -> io::Result<()> {
        let handle = handle.into();
        // Forgotten first, so that nothing new starts behind the cancelling.
        self.inner.port.detach(handle)?;
        self.inner.cancel_all(handle);
        Ok(())
    }

    /// Starts one operation whose result `context` will receive.
    ///
    /// The Context's `on_event` is called by a dispatch, never inside this function, but perhaps
    /// on another thread before this function has returned. On Linux an operation that cannot
    /// finish at once waits for the descriptor; file operations that would block go to a small
    /// pool of threads, the only threads longshore ever makes.
    ///
    /// # Errors
    /// On any error no packet will come and the Context is the caller's again. What is wrong with
    /// the call: [`Error::ContextInFlight`], [`Error::ZeroLength`], [`Error::TooLong`],
    /// [`Error::NullBuffer`], [`Error::OffsetOutOfRange`], [`Error::WrongKind`],
    /// [`Error::NotAttached`], [`Error::Closed`]. Otherwise the operating system's reason: an
    /// operation may fail here (a reset connection) or later, through its packet.
    ///
    /// # Safety
    /// Until its `on_event` is called, or an error is returned:
    /// * `context` points to a live Context that is not moved, dropped or borrowed mutably;
    /// * the buffer, and the slot if there is one, is valid for the operation and otherwise untouched;
    /// * the handle stays open. (To close it early, [`detach`](Self::detach) first.)
    ///
    /// # Examples
    /// See `examples/read_file.rs` for a whole program; in short:
    /// ```no_run
    /// use longshore::{Dispatcher, Handle, Submission, dispatcher::Context};
    /// use std::ptr::NonNull;
    /// # fn open(_: &str) -> std::io::Result<std::fs::File> { unimplemented!() }
    /// extern "C-unwind" fn finished(_word: usize, bytes: u32, error: u32) {
    ///     println!("{bytes} bytes, error {error}");
    /// }
    /// let port = Dispatcher::new()?;
    /// let file = open("notes.txt")?; // on Windows: with FILE_FLAG_OVERLAPPED
    /// port.attach(&file)?;
    /// let mut buffer = [0u8; 512];
    /// let context = Context::new(finished, 0);
    /// let read = Submission::Read {
    ///     handle: Handle::from(&file),
    ///     offset: 0,
    ///     buffer: buffer.as_mut_ptr(),
    ///     len: buffer.len(),
    /// };
    /// // SAFETY: context, buffer and file outlive the dispatch below.
    /// unsafe { port.submit(NonNull::from(&context), read)? };
    /// port.dispatch()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub unsafe fn submit(
        &self,
        context: NonNull<Context>,
        submission: Submission<'_>,
    ) -> io::Result<()> {
        // SAFETY: our contract is the one of the inner function.
        unsafe { self.inner.submit(context, submission) }
    }

    /// Queues a Context that has no operation in flight, as if one had just ended with this
    /// result (D11).
    ///
    /// # Errors
    /// [`Error::ContextInFlight`], [`Error::Closed`], or the kernel's reason for refusing the
    /// packet.
    ///
    /// # Safety
    /// `context` points to a live Context that is not moved, dropped or borrowed mutably until
    /// its `on_event` is called or an error is returned.
    pub unsafe fn repost(
        &self,
        context: NonNull<Context>,
        bytes: u32,
        error: u32,
    ) -> io::Result<()> {
        let completion = Completion { bytes, error };
        let address = context.as_ptr().expose_provenance();
        let flight = Flight::Ended(completion);
        let to = Context::RECIPIENT;
        let table = &self.inner.in_flight;
        let ticket = table.expect_event(address, to, flight, || {})?;
        self.inner.post_event(address, ticket, bytes)
    }

    /// Asks for the cancellation of one operation. Its `on_event` is called in any case, with the
    /// abort code (`ERROR_OPERATION_ABORTED` 995, `ECANCELED`) and the bytes that moved before, or
    /// with its result if that came first.
    ///
    /// `false` when there was nothing to cancel: the operation has ended and its packet is queued
    /// or dispatched, or another thread is still inside `submit` with it. A file operation that has
    /// begun may not be cancellable. The Context's *next* operation is cancelled if it was
    /// submitted in the meantime, so submit and cancel one Context from one place.
    ///
    /// # Errors
    /// [`Error::Closed`], or the operating system's.
    pub fn cancel<'h>(
        &self,
        handle: impl Into<Handle<'h>>,
        context: NonNull<Context>,
    ) -> io::Result<bool> {
        self.inner.port.open_or_err()?;
        let running = self.inner.in_flight.is_running(context.as_ptr().addr());
        Ok(running
            && self
                .inner
                .port
                .cancel(Some(handle.into().raw()), context.cast())?)
    }

    /// [`cancel`](Self::cancel) for every operation that longshore started on `handle`; returns
    /// how many could still be cancelled. Operations that the caller started with system calls of
    /// its own are left alone.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn cancel_all<'h>(&self, handle: impl Into<Handle<'h>>) -> io::Result<usize> {
        self.inner.port.open_or_err()?;
        Ok(self.inner.cancel_all(handle.into()))
    }
}

/// What became of an operation in the call that started it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Started {
    /// Whoever is to be told will be told.
    Running,
    /// It has ended, and nobody was told.
    Ended(Completion),
}

impl Inner {
    /// Queues the packet of a Context whose result is in the table.
    fn post_event(&self, address: usize, ticket: Ticket, bytes: u32) -> io::Result<()> {
        let packet = Packet {
            key: Door::Context.key(),
            overlapped: address,
            bytes,
        };
        self.port
            .post(packet)
            .or_else(|refused| self.take_back(address, ticket, refused))
    }

    /// Nothing was started for a Context after all, unless its `on_event` was called already.
    fn take_back(&self, address: usize, ticket: Ticket, refused: io::Error) -> io::Result<()> {
        let taken_back = self.in_flight.take_back_event(address, ticket, || {
            // SAFETY: the entry was made for a live Context, whose owner has to keep it until
            // `on_event` or our error, and nothing uses its header.
            unsafe { RawOverlapped::reset(drain::header(address)) };
        });
        self.work_ended();
        match taken_back {
            true => Err(refused),
            false => Ok(()),
        }
    }

    /// # Safety
    /// As for [`Dispatcher::submit`].
    unsafe fn submit(
        &self,
        context: NonNull<Context>,
        submission: Submission<'_>,
    ) -> io::Result<()> {
        // SAFETY: the Context is live; the pointer derives from all of it.
        let header = unsafe { Context::overlapped_ptr(context) };
        // SAFETY: the caller's contract.
        let started = unsafe { self.start(header, Context::RECIPIENT, submission)? };
        let (Started::Ended(completion), ticket) = started else {
            return Ok(());
        };
        // The news goes through the port like any other (it was not asked to skip it).
        let address = header.as_ptr().expose_provenance();
        match self.in_flight.end(address, ticket, completion) {
            true => self.post_event(address, ticket, completion.bytes),
            false => Ok(()),
        }
    }

    /// Starts one operation for whoever is to be told. `Ended` leaves it in the table: its packet
    /// is to be posted, or its ticket taken back.
    ///
    /// # Safety
    /// Until `to` is told, or an error is returned: the header is live and in place, the buffer or
    /// slot is valid and otherwise untouched, the handle stays open. `to` can deal with the header.
    pub(crate) unsafe fn start(
        &self,
        header: NonNull<RawOverlapped>,
        to: Recipient,
        submission: Submission<'_>,
    ) -> io::Result<(Started, Ticket)> {
        submission.validate()?;
        let flight = Flight::Issued(submission.issued());
        // SAFETY: the caller's contract. The header was prepared when `submit` gets it.
        unsafe {
            self.start_with(header, to, flight, submission.offset(), || {
                self.port.submit(header, &submission)
            })
        }
    }

    /// [`start`](Self::start), with whatever system call `submit` makes: its result says whether a
    /// packet is owed.
    ///
    /// # Safety
    /// As for [`start`](Self::start).
    pub(crate) unsafe fn start_with(
        &self,
        header: NonNull<RawOverlapped>,
        to: Recipient,
        flight: Flight,
        offset: u64,
        submit: impl FnOnce() -> io::Result<Submitted>,
    ) -> io::Result<(Started, Ticket)> {
        // SAFETY: the header is live and idle, and stays the kernel's until its packet.
        let ticket = unsafe { self.expect(header, to, flight, offset)? };
        let address = header.as_ptr().addr();
        event!(
            TRACE,
            "an operation begins",
            port = self.port.id(),
            operation = address,
            flight = trace::debug(flight),
        );
        match submit() {
            Ok(Submitted::PacketOwed) => Ok((Started::Running, ticket)),
            Ok(Submitted::Done(completion)) => Ok((Started::Ended(completion), ticket)),
            Err(refused) => {
                event!(
                    TRACE,
                    "an operation was refused",
                    operation = address,
                    error = trace::debug(&refused),
                );
                self.take_back(address, ticket, refused)?;
                Ok((Started::Running, ticket))
            }
        }
    }

    /// Takes an operation that ended inside the submitting call out of the table. `false` if it
    /// was delivered already, by a forged packet.
    pub(crate) fn finish_at_once(&self, header: NonNull<RawOverlapped>, ticket: Ticket) -> bool {
        let address = header.as_ptr().addr();
        let taken_back = self.in_flight.take_back_event(address, ticket, || {});
        event!(TRACE, "an operation has ended at once", operation = address);
        self.work_ended();
        taken_back
    }

    /// Enters an operation into the table and prepares its header, unless the port is closed.
    ///
    /// # Safety
    /// The header is live; if it is idle, it is not touched until its packet.
    pub(crate) unsafe fn expect(
        &self,
        header: NonNull<RawOverlapped>,
        to: Recipient,
        flight: Flight,
        offset: u64,
    ) -> io::Result<Ticket> {
        let address = header.as_ptr().expose_provenance();
        let ticket = self.in_flight.expect_event(address, to, flight, || {
            // SAFETY: live, and idle, as the table says.
            unsafe { RawOverlapped::prepare(header, offset) };
        })?;
        // After the entry is made: closing sets its flag first and looks at the table then, so
        // either we see the flag here or it sees (and waits for) our entry.
        if let Err(closed) = self.port.open_or_err() {
            self.take_back(address, ticket, closed)?;
        }
        Ok(ticket)
    }

    /// # Safety
    /// As for [`Dispatcher::arm`].
    #[cfg_attr(
        target_os = "linux",
        expect(dead_code, reason = "only Windows can arm")
    )]
    pub(crate) unsafe fn arm(&self, context: NonNull<Context>) -> io::Result<()> {
        // SAFETY: passed on.
        unsafe {
            self.expect(context.cast(), Context::RECIPIENT, Flight::Armed, 0)
                .map(|_| ())
        }
    }

    pub(crate) fn disarm(&self, context: NonNull<Context>) -> bool {
        let disarmed = self.in_flight.disarm(context.as_ptr().addr());
        self.work_ended();
        disarmed
    }

    /// Asks for the cancellation of an operation that longshore started, if it still runs.
    pub(crate) fn cancel_event(&self, header: NonNull<RawOverlapped>) {
        let address = header.as_ptr().addr();
        if let Some(handle) = self.in_flight.handle_of(address) {
            // A refusal means that there is nothing left to cancel; the packet tells.
            let _ = self.port.cancel(Some(handle), header);
        }
    }

    /// Asks for the cancellation of an operation on this handle, whoever started it. `false`: there
    /// was nothing left to cancel.
    pub(crate) fn cancel_on(
        &self,
        handle: usize,
        header: NonNull<RawOverlapped>,
    ) -> io::Result<bool> {
        let running = self.in_flight.is_running(header.as_ptr().addr());
        Ok(running && self.port.cancel(Some(handle), header)?)
    }

    fn cancel_all(&self, handle: Handle<'_>) -> usize {
        let on_handle = |flight: &Flight| match flight {
            Flight::Issued(issued) => issued.handle == handle.raw(),
            _ => false,
        };
        let asked = self.in_flight.running(on_handle).into_iter();
        asked
            .filter(|&(address, raw)| {
                // A refusal means that there was nothing left to cancel.
                let header = drain::header(address);
                self.port.cancel(raw, header).unwrap_or(false)
            })
            .count()
    }
}
