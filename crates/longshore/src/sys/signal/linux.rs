//! Signals on Linux: an eventfd for each listener, written to by the handler.
//!
//! `signal-hook-registry` owns the handlers, as it does for tokio and smol: one for each signal, made
//! with `SA_RESTART`, which calls every action registered for it and whatever handler was there before.
//! It keeps errno, and waits with freeing an action until no handler runs it. What is ours in
//! there is [`Heard::tell`]: an atomic addition, and one write(2) to an eventfd that does not block,
//! both of which signal-safety(7) allows. The eventfd is open for as long as the action exists, because the
//! action owns it.
//!
//! The registry never gives a signal its default back: where nobody listens any more, it is ignored. So
//! whatever can be refused is refused before anything is registered.
// UNSAFETY: registers what runs in signal handlers.
#![expect(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
    sync::Arc,
};

use signal_hook_registry::{FORBIDDEN, SigId};

use super::{Bell, Heard};
use crate::error::Error;

pub(crate) const INTERRUPT: i32 = libc::SIGINT;
pub(crate) const TERMINATE: i32 = libc::SIGTERM;
pub(crate) const HANG_UP: i32 = libc::SIGHUP;
pub(crate) const QUIT: i32 = libc::SIGQUIT;

pub(crate) fn name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGINT => "SIGINT",
        libc::SIGTERM => "SIGTERM",
        libc::SIGHUP => "SIGHUP",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGCHLD => "SIGCHLD",
        libc::SIGWINCH => "SIGWINCH",
        _ => return None,
    })
}

#[derive(Debug)]
pub(crate) struct Listener {
    heard: Arc<Heard<EventFd>>,
    registered: Vec<SigId>,
}

impl Listener {
    pub(crate) fn new(signals: &[i32]) -> io::Result<Self> {
        // All of them before any is registered: a registration takes the default away for good.
        if !signals.iter().all(|&signal| can_be_heard(signal)) {
            return Err(Error::NoSuchSignal.into());
        }
        let mut listener = Self {
            heard: Arc::new(Heard::new(EventFd::new()?, signals)),
            registered: Vec::new(),
        };
        for signal in listener.heard.numbers() {
            let heard = listener.heard.clone();
            let tell = move || _ = heard.tell(signal);
            // SAFETY: `tell` is async-signal-safe, as is argued above; it does not panic.
            let registered = unsafe { signal_hook_registry::register(signal, tell) }?;
            listener.registered.push(registered);
        }
        Ok(listener)
    }

    pub(crate) fn take(&self) -> Option<i32> {
        self.heard.take()
    }
}

/// Whether the system knows the signal, and lets a program go on that has heard it.
fn can_be_heard(signal: i32) -> bool {
    let (nothing_new, unasked) = (ptr::null(), ptr::null_mut());
    // SAFETY: without an action, old or new, sigaction(2) says whether it knows the number, and no more.
    let is_known = unsafe { libc::sigaction(signal, nothing_new, unasked) } == 0;
    is_known && !FORBIDDEN.contains(&signal)
}

impl Drop for Listener {
    /// Waits until no handler is in the middle of telling this listener.
    fn drop(&mut self) {
        for &registered in &self.registered {
            signal_hook_registry::unregister(registered);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.heard.bell.0.as_fd()
    }
}

#[derive(Debug)]
struct EventFd(OwnedFd);

impl EventFd {
    fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: made just now, and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl Bell for EventFd {
    /// It fails only when the count is full, and then it is readable. It is not interrupted: an
    /// eventfd that does not block never waits.
    fn ring(&self) {
        let one = 1u64;
        // SAFETY: eight readable bytes, as eventfd(2) asks.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    fn hush(&self) {
        let mut count = 0u64;
        // SAFETY: eight writable bytes, as eventfd(2) asks. "Nothing to read" is fine too.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}
