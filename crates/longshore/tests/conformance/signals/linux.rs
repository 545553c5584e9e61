//! Raising signals on Linux.
// UNSAFETY: raises signals.
#![expect(unsafe_code)]

use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus},
};

use super::Signal;

pub const FIRST: Signal = Signal::from_raw(libc::SIGUSR1);
pub const SECOND: Signal = Signal::HANG_UP;
pub const ASKS_TO_END: Signal = Signal::TERMINATE;
pub const FROM_OUTSIDE: &[Signal] = &[Signal::INTERRUPT, Signal::TERMINATE, Signal::HANG_UP];

pub fn with_console(command: &mut Command) -> &mut Command {
    command
}

/// To this thread: its handler has run when this returns.
pub fn raise(signal: Signal) {
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::raise(signal.as_raw()) }, 0);
}

/// To the process: whichever thread the kernel picks.
pub fn send(signal: Signal) {
    // SAFETY: no pointers; it is this process.
    assert_eq!(unsafe { libc::kill(libc::getpid(), signal.as_raw()) }, 0);
}

pub fn send_to(child: &Child, signal: Signal) {
    // SAFETY: no pointers; the child has not been waited for, so the number is its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal.as_raw()) }, 0);
}

pub fn stay_if_it_is_to_end_us() {}

pub fn was_ended_by_default(status: ExitStatus) -> bool {
    status.signal() == Some(ASKS_TO_END.as_raw())
}
