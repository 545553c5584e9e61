//! A port that is broken from outside: what fails is told, by `close` and by drop (D10).
// UNSAFETY: closes handles under longshore, in a process of its own.
#![expect(unsafe_code)]

use longshore::Dispatcher;

use crate::{
    harness::{Test, in_child, port},
    support::{assert_closed, assert_passed, note, passed_in_a_child, seen},
};

pub const TESTS: &[Test] = tests![
    d06_a_port_that_is_closed_from_outside_fails_the_dispatch,
    d10_close_returns_what_failed,
    d10_drop_prints_one_line_for_each_failure,
    d10_a_drop_without_failures_prints_nothing,
];

fn in_a_child_without_lines(expected: &[&str]) -> bool {
    let Some(output) = in_child() else {
        return false;
    };
    assert_passed(&output);
    let errors = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = errors
        .lines()
        .filter(|line| line.starts_with("longshore: "))
        .collect();
    assert_eq!(lines.len(), expected.len(), "{errors}");
    for (line, attempt) in lines.iter().zip(expected) {
        let told = line.strip_prefix(&format!("longshore: cannot {attempt}"));
        let reason = told.and_then(|told| told.split_once(": "));
        assert!(reason.is_some_and(|(_, why)| !why.is_empty()), "{line}");
    }
    true
}

fn d06_a_port_that_is_closed_from_outside_fails_the_dispatch() {
    if passed_in_a_child() {
        return;
    }
    let (port, break_it) = os::breakable();
    port.post(1, note).unwrap();
    port.dispatch().unwrap();
    let _work = port.work_guard();
    break_it();
    // The system's own reason, from every kind of wait, and no hang.
    let limit = std::time::Duration::from_millis(1);
    let failures = [
        port.dispatch().err(),
        port.try_dispatch().err(),
        port.dispatch_timeout(limit).err(),
        port.run().err(),
    ];
    for failure in failures {
        let failure = failure.expect("the wait fails");
        assert_eq!(failure.raw_os_error(), Some(os::BROKEN), "{failure}");
    }
    assert_eq!(seen(), [1]);
    std::mem::forget(port);
}

fn d10_close_returns_what_failed() {
    // Printed by nobody: the caller has them.
    if in_a_child_without_lines(&[]) {
        return;
    }
    let port = os::port_that_cannot_be_closed();
    let error = port.close().unwrap_err();
    let attempts: Vec<_> = error
        .failures()
        .iter()
        .map(|failure| failure.attempt())
        .collect();
    assert_eq!(attempts.len(), os::ATTEMPTS.len(), "{error}");
    for (attempt, expected) in attempts.iter().zip(os::ATTEMPTS) {
        assert!(attempt.starts_with(expected), "{attempt}");
    }
    let message = error.to_string();
    for failure in error.failures() {
        assert!(failure.error().raw_os_error().is_some(), "{failure}");
        assert!(message.contains(&failure.to_string()), "{message}");
    }
}

fn d10_drop_prints_one_line_for_each_failure() {
    if in_a_child_without_lines(os::ATTEMPTS) {
        return;
    }
    let port = os::port_that_cannot_be_closed();
    drop(port.clone());
    drop(port);
}

fn d10_a_drop_without_failures_prints_nothing() {
    if in_a_child_without_lines(&[]) {
        return;
    }
    let closed = port();
    closed.clone().close().unwrap();
    assert_closed(closed.dispatch());
    drop(closed);
    let port = port();
    port.post(1, note).unwrap();
    port.post_fn(|| note(2)).unwrap();
    drop(port);
    assert_eq!(seen(), []);
}

#[cfg(target_os = "linux")]
mod os {
    use std::{collections::HashSet, fs, path::Path};

    use super::{Dispatcher, port};

    pub const BROKEN: i32 = libc::EBADF;
    pub const ATTEMPTS: &[&str] = &[
        "wake the threads that wait",
        "drain the port",
        "close the epoll set",
    ];

    fn epoll_sets() -> HashSet<i32> {
        let fds = fs::read_dir("/proc/self/fd")
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let epoll = Path::new("anon_inode:[eventpoll]");
        fds.filter(|fd| fs::read_link(fd).is_ok_and(|target| target == epoll))
            .map(|fd| fd.file_name().unwrap().to_str().unwrap().parse().unwrap())
            .collect()
    }

    /// A port, and what closes its descriptor from outside.
    pub fn breakable() -> (Dispatcher, impl FnOnce()) {
        let before = epoll_sets();
        let port = port();
        let mut made: Vec<_> = epoll_sets().difference(&before).copied().collect();
        assert_eq!(made.len(), 1);
        // SAFETY: closed under the library on purpose; this process opens nothing afterwards.
        let break_it = move || assert_eq!(unsafe { libc::close(made.pop().unwrap()) }, 0);
        (port, break_it)
    }

    pub fn port_that_cannot_be_closed() -> Dispatcher {
        let (port, break_it) = breakable();
        break_it();
        port
    }
}

#[cfg(windows)]
mod os {
    use std::os::windows::io::{AsRawHandle, RawHandle};

    use windows_sys::Win32::{
        Foundation::{
            CloseHandle, ERROR_INVALID_HANDLE, HANDLE_FLAG_PROTECT_FROM_CLOSE, SetHandleInformation,
        },
        Networking::WinSock::WSACleanup,
    };

    use super::{Dispatcher, port};

    pub const BROKEN: i32 = ERROR_INVALID_HANDLE as i32;
    pub const ATTEMPTS: &[&str] = &["clean up Winsock", "close the completion port"];

    /// A port, and what closes its handle from outside.
    pub fn breakable() -> (Dispatcher, impl FnOnce()) {
        let port = port();
        let handle = port.as_raw_handle().addr();
        let break_it = move || {
            let handle: RawHandle = std::ptr::without_provenance_mut(handle);
            // SAFETY: closed under the library on purpose; this process opens nothing afterwards.
            assert_ne!(unsafe { CloseHandle(handle) }, 0);
        };
        (port, break_it)
    }

    /// Its Winsock start-up is given back already, and its handle is protected from closing.
    pub fn port_that_cannot_be_closed() -> Dispatcher {
        let port = port();
        // SAFETY: no pointers; the handle is open. No other part of this process uses Winsock.
        unsafe {
            while WSACleanup() == 0 {}
            let flag = HANDLE_FLAG_PROTECT_FROM_CLOSE;
            assert_ne!(SetHandleInformation(port.as_raw_handle(), flag, flag), 0);
        }
        port
    }
}
