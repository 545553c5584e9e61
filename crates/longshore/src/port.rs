//! The port: packets in and out, handles attached, operations submitted and cancelled.
//!
//! It knows nothing about what packets mean; that is the dispatcher's. It adds to the backend what
//! is the same everywhere: refusing calls after `shut`, and validating a submission before the
//! operating system sees it.
// UNSAFETY: passes on the backend's unsafe operations with the same contract.
#![expect(unsafe_code)]

use std::{io, ptr::NonNull, sync::Arc, time::Instant};

use crate::{
    completion::Completion,
    error::Error,
    handle::Handle,
    overlapped::RawOverlapped,
    packet::Packet,
    submission::{Issued, Submission},
    sys::{
        self, Driver,
        backend::{Backend as _, CloseFailure, Rest, SleepStats, Submitted, Terms, Wait},
        call::{Call, Errand},
        doze::Doze,
    },
    trace::{self, event},
};

#[derive(Debug)]
pub(crate) struct Port {
    driver: Driver,
    backend: sys::Backend,
}

impl Port {
    /// Whether others can put packets on the port, so that each one must be checked.
    pub(crate) const STRANGERS: bool = Driver::STRANGERS;

    pub(crate) fn open(
        backend: sys::Backend,
        concurrency: u32,
        origin: sys::Origin,
    ) -> io::Result<Self> {
        if !sys::Backend::available().contains(&backend) {
            return Err(Error::NoSuchBackend.into());
        }
        let driver = Driver::open(concurrency, origin)?;
        Ok(Self { driver, backend })
    }

    pub(crate) fn backend(&self) -> sys::Backend {
        self.backend
    }

    /// The mechanism itself, for what only one of them offers.
    pub(crate) fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Tells this port from others, for whoever traces them.
    pub(crate) fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    #[inline]
    pub(crate) fn post(&self, packet: Packet) -> io::Result<()> {
        let posted = self.driver.post(packet);
        posted.inspect_err(|error| self.tell_failure("post", error))
    }

    /// The operating system has refused what it hardly ever refuses. (A closed port is no failure.)
    #[cold]
    fn tell_failure(&self, what: &str, error: &io::Error) {
        if Error::of(error) != Some(Error::Closed) {
            event!(
                ERROR,
                "the kernel refused",
                port = self.id(),
                call = what,
                error = trace::display(error)
            );
        }
    }

    #[inline]
    pub(crate) fn take_queued(&self) -> io::Result<Option<Packet>> {
        self.driver.take_queued()
    }

    #[inline]
    pub(crate) fn take(&self, wait: Wait, doze: &dyn Doze) -> io::Result<Option<Packet>> {
        let taken = self.driver.take(wait, doze);
        taken.inspect_err(|error| self.tell_failure("wait", error))
    }

    pub(crate) fn sleep_stats(&self) -> SleepStats {
        self.driver.sleep_stats()
    }

    /// Has whoever waits for the port from outside look again at `deadline`.
    pub(crate) fn set_alarm(&self, deadline: Option<Instant>) {
        self.driver.set_alarm(deadline);
    }

    pub(crate) fn open_or_err(&self) -> io::Result<()> {
        match self.driver.is_shut() {
            true => Err(Error::Closed.into()),
            false => Ok(()),
        }
    }

    pub(crate) fn attach(&self, handle: Handle<'_>, terms: Terms) -> io::Result<()> {
        self.open_or_err()?;
        let attached = self.driver.attach(handle, terms);
        event!(
            DEBUG,
            "a handle was registered",
            port = self.id(),
            handle = handle.raw(),
            kind = trace::debug(handle.kind()),
            key = terms.key,
            result = trace::debug(attached.as_ref()),
        );
        attached
    }

    pub(crate) fn detach(&self, handle: Handle<'_>) -> io::Result<()> {
        let detached = self.driver.detach(handle);
        event!(
            DEBUG,
            "a handle was forgotten",
            port = self.id(),
            handle = handle.raw(),
            result = trace::debug(detached.as_ref()),
        );
        detached
    }

    pub(crate) fn forget_if_stale(&self, handle: usize, terms: Terms) -> bool {
        self.driver.forget_if_stale(handle, terms)
    }

    /// # Safety
    /// As for [`Backend::submit`](sys::backend::Backend::submit); the submission was validated.
    pub(crate) unsafe fn submit(
        &self,
        header: NonNull<RawOverlapped>,
        submission: &Submission<'_>,
    ) -> io::Result<Submitted> {
        // SAFETY: the caller keeps the backend's contract, which is ours word for word.
        unsafe { self.driver.submit(header, submission) }
    }

    pub(crate) fn cancel(
        &self,
        handle: Option<usize>,
        header: NonNull<RawOverlapped>,
    ) -> io::Result<bool> {
        self.driver.cancel(handle, header)
    }

    /// # Safety
    /// The header is live.
    pub(crate) unsafe fn outcome(
        &self,
        issued: Option<&Issued>,
        header: NonNull<RawOverlapped>,
    ) -> Option<Completion> {
        // SAFETY: passed on.
        unsafe { self.driver.outcome(issued, header) }
    }

    /// # Safety
    /// What the operation refers to is still valid.
    pub(crate) unsafe fn settle(&self, issued: &Issued, completion: Completion) -> Completion {
        // SAFETY: passed on.
        unsafe { self.driver.settle(issued, completion) }
    }

    /// Has `work`, which may block, done by a thread of the port's own.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Call<T> {
        Call::start(work, |call: Arc<dyn Errand>| self.driver.call(call))
    }

    /// Ends every call that somebody waits for.
    pub(crate) fn end_calls(&self) {
        self.driver.end_calls();
    }

    pub(crate) fn shut(&self, failures: &mut Vec<CloseFailure>) -> bool {
        self.driver.shut(failures)
    }

    pub(crate) fn take_rest(&self, wait: Wait) -> io::Result<Option<Rest>> {
        self.driver.take_rest(wait)
    }

    pub(crate) fn lent(&self) -> io::Result<Option<usize>> {
        self.driver.lent()
    }

    pub(crate) fn put_back(&self, rest: Rest) -> io::Result<()> {
        self.driver.put_back(rest)
    }

    pub(crate) fn clean_up(&self, failures: &mut Vec<CloseFailure>) {
        self.driver.clean_up(failures);
    }

    pub(crate) fn release(&mut self, leak: bool, failures: &mut Vec<CloseFailure>) {
        self.driver.release(leak, failures);
    }
}
