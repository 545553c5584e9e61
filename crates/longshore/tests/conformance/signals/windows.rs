//! Raising a console's events.
// UNSAFETY: raises events, and calls the system's own routine for them.
#![expect(unsafe_code)]

use std::{
    ffi::c_void,
    io, mem,
    os::windows::process::CommandExt,
    process::{Child, Command, ExitStatus},
    ptr, thread,
    time::Duration,
};

use windows_sys::Win32::{
    Foundation::{CloseHandle, STATUS_CONTROL_C_EXIT},
    System::{
        Console::GenerateConsoleCtrlEvent,
        LibraryLoader::{GetModuleHandleA, GetProcAddress},
        Threading::{CREATE_NO_WINDOW, CreateThread},
    },
};

use super::Signal;

pub const FIRST: Signal = Signal::INTERRUPT;
pub const SECOND: Signal = Signal::QUIT;
pub const ASKS_TO_END: Signal = Signal::INTERRUPT;
/// Wine sends no Ctrl-Break from one process to another.
pub const FROM_OUTSIDE: &[Signal] = &[Signal::INTERRUPT, Signal::INTERRUPT];

/// A console of its own, without a window.
pub fn with_console(command: &mut Command) -> &mut Command {
    command.creation_flags(CREATE_NO_WINDOW)
}

/// To everybody at this process' console. A thread of the system's runs the handler.
pub fn raise(signal: Signal) {
    // SAFETY: no pointers.
    if unsafe { GenerateConsoleCtrlEvent(signal.as_raw() as u32, 0) } == 0 {
        let refused = io::Error::last_os_error();
        assert_ne!(signal, Signal::INTERRUPT, "{refused}");
        call_the_routine(signal);
    }
}

/// Wine generates no other event than Ctrl-C. This is what the system starts a thread with in each
/// process at the console, and what calls the handlers.
fn call_the_routine(signal: Signal) {
    // SAFETY: the names end with a zero; the routine has the type of a thread's start.
    unsafe {
        let library = GetModuleHandleA(c"kernelbase".as_ptr().cast());
        let routine = GetProcAddress(library, c"CtrlRoutine".as_ptr().cast());
        let routine = routine.expect("the system has it");
        let start = mem::transmute::<
            unsafe extern "system" fn() -> isize,
            unsafe extern "system" fn(*mut c_void) -> u32,
        >(routine);
        let event = ptr::without_provenance(signal.as_raw() as usize);
        let thread = CreateThread(ptr::null(), 0, Some(start), event, 0, ptr::null_mut());
        assert!(!thread.is_null(), "{}", io::Error::last_os_error());
        CloseHandle(thread);
    }
}

pub fn send(signal: Signal) {
    raise(signal);
}

pub fn send_to(_child: &Child, signal: Signal) {
    raise(signal);
}

pub fn stay_if_it_is_to_end_us() {
    thread::sleep(Duration::from_secs(15));
}

/// With `STATUS_CONTROL_C_EXIT`; Wine says 0.
pub fn was_ended_by_default(status: ExitStatus) -> bool {
    status.code() == Some(STATUS_CONTROL_C_EXIT) || status.success()
}
