//! Linux: the port as a descriptor, and signals.
// UNSAFETY: calls into the C library, and re-posts a Context.
#![expect(unsafe_code)]

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::thread::JoinHandleExt,
    },
    ptr::{self, NonNull},
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use longshore::{
    Dispatcher,
    dispatcher::{Context, OnCallback},
};

use crate::rules::{Check, probe};

/// The error code of a cancelled operation.
pub(crate) const ABORTED: u32 = libc::ECANCELED as u32;
/// What stands for Windows' `OVERLAPPED` has its words: two of a pointer's size, an offset of 8
/// bytes, and a pointer.
pub(crate) const OVERLAPPED: usize = 3 * size_of::<usize>() + 8;
/// What can disturb a thread that waits.
pub(crate) const INTERRUPTION: &str = "signal handler";

pub(crate) fn overlapped(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// D1: another loop can wait for the port.
pub(crate) fn exported(port: &Dispatcher) -> io::Result<Check> {
    let fd = port.pollable()?;
    let before = readable(fd)?;
    port.wake_one()?;
    let waiting = readable(fd)?;
    while port.try_dispatch()? {}
    let after = readable(fd)?;
    Ok(Check::default().saw(
        (before, waiting, after) == (false, true, false),
        format!(
            "pollable() readable: {before} on an empty port, {waiting} while an entry waits, \
             {after} once try_dispatch said false"
        ),
    ))
}

fn readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, ours for the call.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        -1 => Err(io::Error::last_os_error()),
        ready => Ok(ready == 1 && poll.revents & libc::POLLIN != 0),
    }
}

/// D2: nobody can look into the port's queue here, but closing hands out what is left in it.
pub(crate) fn words(port: Dispatcher) -> io::Result<Check> {
    const WORD: usize = 0x5eed;
    let callback: OnCallback = probe::note;
    let context = Box::new(Context::new(probe::note_event, WORD));
    // SAFETY: the Context is dispatched in the next line.
    unsafe { port.repost(NonNull::from(&*context), 7, 0)? };
    port.dispatch()?;
    let events = probe::events();

    port.post(WORD, callback)?;
    let mut left = Vec::new();
    port.close_with(|undelivered| left.push((undelivered.callback as usize, undelivered.context)))?;
    Ok(Check::default()
        .saw(
            left == [(callback as usize, WORD)],
            match left.as_slice() {
                &[(key, word)] => format!(
                    "close_with was handed one post: {}, word {word:#x}",
                    probe::name(key == callback as usize, "the callback's address", key)
                ),
                others => format!("close_with was handed {} posts", others.len()),
            },
        )
        .saw(
            events == [(WORD, 7, 0)],
            format!("a completion reached its Context's on_event: {events:x?}"),
        ))
}

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_signal(_signal: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// D9: a signal interrupts the thread's system call.
pub(crate) fn interrupt<T>(thread: &JoinHandle<T>) -> io::Result<()> {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        // SAFETY: all zeroes is a valid sigaction: no flags (so calls are not restarted), an
        // empty mask. The handler does nothing but add to an atomic.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(libc::SIGUSR1, &raw const action, ptr::null_mut());
        }
    });
    // SAFETY: the thread was not joined yet, so its id is valid.
    match unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// How many interruptions have reached the calling thread, which alone was interrupted.
pub(crate) fn interruptions() -> usize {
    SIGNALS.load(Ordering::Relaxed)
}
