//! Signals on Windows: the console's events, told to a handler that the process registers once.
//!
//! The system calls the handler on a thread that it makes for the event, so that, unlike a signal
//! handler, it may lock. It says "handled" if any listener was told; else the next
//! handler is asked, in the end the default one, which ends the process. So the default is back
//! as soon as nobody listens.
//!
//! When the console is closed or the system shut down, the process is ended as soon as a handler has
//! returned. So the handler stays: the program has the time that the system gives (5 seconds for a console,
//! 20 for a service), and is over when it returns from `main`. See HandlerRoutine.
// UNSAFETY: calls SetConsoleCtrlHandler and the functions of events.
#![expect(unsafe_code)]

use std::{
    io,
    os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle},
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use windows_sys::{
    Win32::System::{
        Console::{
            CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT,
            CTRL_SHUTDOWN_EVENT, SetConsoleCtrlHandler,
        },
        Threading::{CreateEventW, ResetEvent, SetEvent},
    },
    core::BOOL,
};

use super::{Bell, Heard};
use crate::error::Error;

pub(crate) const INTERRUPT: i32 = CTRL_C_EVENT as i32;
pub(crate) const TERMINATE: i32 = CTRL_SHUTDOWN_EVENT as i32;
pub(crate) const HANG_UP: i32 = CTRL_CLOSE_EVENT as i32;
pub(crate) const QUIT: i32 = CTRL_BREAK_EVENT as i32;
const LOG_OFF: i32 = CTRL_LOGOFF_EVENT as i32;

pub(crate) fn name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        INTERRUPT => "CTRL_C_EVENT",
        QUIT => "CTRL_BREAK_EVENT",
        HANG_UP => "CTRL_CLOSE_EVENT",
        LOG_OFF => "CTRL_LOGOFF_EVENT",
        TERMINATE => "CTRL_SHUTDOWN_EVENT",
        _ => return None,
    })
}

/// Everybody who listens, and whether the handler was registered.
struct Listeners {
    all: Vec<Arc<Heard<Event>>>,
    is_registered: bool,
}

static LISTENERS: Mutex<Listeners> = Mutex::new(Listeners {
    all: Vec::new(),
    is_registered: false,
});

fn listeners() -> MutexGuard<'static, Listeners> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Called by the system, on a thread of its own. Nothing in here panics or calls foreign code.
extern "system" fn on_event(event: u32) -> BOOL {
    let mut told = false;
    for listener in &listeners().all {
        told |= listener.tell(event as i32);
    }
    let ends_the_process = matches!(
        event,
        CTRL_CLOSE_EVENT | CTRL_LOGOFF_EVENT | CTRL_SHUTDOWN_EVENT
    );
    if told && ends_the_process {
        loop {
            thread::park();
        }
    }
    BOOL::from(told)
}

#[derive(Debug)]
pub(crate) struct Listener {
    heard: Arc<Heard<Event>>,
}

impl Listener {
    pub(crate) fn new(signals: &[i32]) -> io::Result<Self> {
        if signals.iter().any(|&signal| name(signal).is_none()) {
            return Err(Error::NoSuchSignal.into());
        }
        let heard = Arc::new(Heard::new(Event::new()?, signals));
        let mut listeners = listeners();
        if !listeners.is_registered {
            // SAFETY: the handler stays callable for ever.
            if unsafe { SetConsoleCtrlHandler(Some(on_event), 1) } == 0 {
                return Err(io::Error::last_os_error());
            }
            listeners.is_registered = true;
        }
        listeners.all.push(heard.clone());
        Ok(Self { heard })
    }

    pub(crate) fn take(&self) -> Option<i32> {
        self.heard.take()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = listeners();
        listeners.all.retain(|one| !Arc::ptr_eq(one, &self.heard));
    }
}

impl AsHandle for Listener {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.heard.bell.0.as_handle()
    }
}

/// An event that stays signalled until it is reset.
#[derive(Debug)]
struct Event(OwnedHandle);

impl Event {
    fn new() -> io::Result<Self> {
        let (stays, unset) = (1, 0);
        // SAFETY: no attributes and no name.
        let event = unsafe { CreateEventW(ptr::null(), stays, unset, ptr::null()) };
        if event.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: made just now, and nobody else owns it.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(event) }))
    }
}

impl Bell for Event {
    fn ring(&self) {
        // SAFETY: the handle is open. It cannot fail for an event of ours.
        unsafe { SetEvent(self.0.as_raw_handle()) };
    }

    fn hush(&self) {
        // SAFETY: as above.
        unsafe { ResetEvent(self.0.as_raw_handle()) };
    }
}
