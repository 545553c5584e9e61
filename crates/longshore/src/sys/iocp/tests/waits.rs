//! Waits for objects, by packets of the kernel where it has them, and by registered waits.
// UNSAFETY: makes events, and starts waits on memory that the tests keep.
#![expect(unsafe_code)]

use std::{
    os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle},
    ptr,
};

use windows_sys::Win32::System::Threading::{CreateEventW, ResetEvent, SetEvent};

use super::{super::wait::Mechanism, *};
use crate::sys::backend::alarm;

/// Each mechanism that this system has.
fn each(test: impl Fn(Iocp)) {
    test(Iocp::open_with(0, Origin::New, Mechanism::Registered).expect("a port"));
    test(port());
}

fn event(manual: bool) -> OwnedHandle {
    // SAFETY: no attributes, no name; the handle is nobody else's.
    unsafe {
        OwnedHandle::from_raw_handle(CreateEventW(ptr::null(), manual.into(), 0, ptr::null()))
    }
}

fn set(event: &OwnedHandle) {
    // SAFETY: the event is open.
    assert_ne!(unsafe { SetEvent(event.as_raw_handle()) }, 0);
}

fn wait(event: &OwnedHandle) -> Submission<'_> {
    let object = Handle::waitable(event);
    Submission::Wait { object }
}

fn attach(port: &Iocp, event: &OwnedHandle) {
    let handle = Handle::waitable(event);
    port.attach(handle, Terms::CONTEXTS).expect("attached");
}

#[test]
fn wait_ends_by_a_signal_before_and_after_it_begins() {
    each(|port| {
        let event = event(false);
        attach(&port, &event);
        for before in [true, false, true, false] {
            let op = Op::new();
            if before {
                set(&event);
            }
            let issued = op.start(&port, wait(&event));
            if !before {
                nothing_left(&port);
                set(&event);
            }
            assert_eq!(op.finish(&port, &issued), Completion::ok(0));
        }
        nothing_left(&port);
        close(port);
    });
}

#[test]
fn wait_that_is_cancelled_owes_one_packet_and_takes_no_signal() {
    each(|port| {
        let event = event(false);
        attach(&port, &event);
        for _ in 0..20 {
            let op = Op::new();
            let issued = op.start(&port, wait(&event));
            assert!(port.cancel(None, op.0).expect("asked"));
            assert!(!matches!(port.cancel(None, op.0), Ok(true)), "once");
            assert_eq!(op.finish(&port, &issued).error, Iocp::ABORTED);
            set(&event);
            let op = Op::new();
            let issued = op.start(&port, wait(&event));
            assert_eq!(op.finish(&port, &issued), Completion::ok(0));
        }
        nothing_left(&port);
        close(port);
    });
}

#[test]
fn wait_that_is_cancelled_while_it_ends_gives_one_of_the_two() {
    each(|port| {
        let event = event(true);
        attach(&port, &event);
        let mut cancelled = 0;
        for _ in 0..100 {
            // SAFETY: the event is open.
            unsafe { ResetEvent(event.as_raw_handle()) };
            let op = Op::new();
            let issued = op.start(&port, wait(&event));
            let won = std::thread::scope(|scope| {
                scope.spawn(|| set(&event));
                port.cancel(None, op.0).expect("asked")
            });
            let completion = op.finish(&port, &issued);
            assert_eq!(won, completion.error == Iocp::ABORTED);
            assert!(won || completion == Completion::ok(0));
            nothing_left(&port);
            cancelled += usize::from(won);
        }
        println!("{cancelled} of 100 were cancelled");
        close(port);
    });
}

#[test]
fn wait_refuses_what_is_not_attached_and_forged_packets_end_nothing() {
    each(|port| {
        let event = event(true);
        let op = Op::new();
        refused(op.submit(&port, wait(&event)), Error::NotAttached);
        attach(&port, &event);
        let again = port.attach(Handle::waitable(&event), Terms::CONTEXTS);
        refused(again, Error::AlreadyAttached);
        let issued = op.start(&port, wait(&event));
        let key = super::super::wait::key();
        for number in [0, 1, 2, op.0.as_ptr().addr()] {
            let forged = Packet {
                key,
                overlapped: number,
                bytes: 0,
            };
            port.post(forged).expect("posted");
            assert_eq!(
                port.take(soon(), &Unwatched).expect("a take"),
                Some(forged),
                "foreign"
            );
        }
        set(&event);
        assert_eq!(op.finish(&port, &issued), Completion::ok(0));
        port.detach(Handle::waitable(&event)).expect("detached");
        close(port);
    });
}

#[test]
fn time_an_alarm_ends_a_wait_without_limit_and_is_one_packet() {
    each(|port| {
        for _ in 0..5 {
            let due = Instant::now() + Duration::from_millis(5);
            port.set_alarm(Some(due + PATIENCE));
            port.set_alarm(Some(due));
            assert_eq!(
                port.take(Wait::Forever, &Unwatched).expect("a take"),
                Some(alarm())
            );
            nothing_left(&port);
        }
        // One that is called off, and one that the port is closed under.
        port.set_alarm(Some(Instant::now() + PATIENCE));
        port.set_alarm(None);
        nothing_left(&port);
        port.set_alarm(Some(Instant::now() + PATIENCE));
        close(port);
    });
}
