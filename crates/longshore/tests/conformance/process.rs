//! Waiting for objects and for child processes.

use std::process::{Command, Stdio};

use longshore::{Waitable, process::Child};

use crate::{
    harness::{Test, port, scaled, tick},
    support::assert_closed,
};

pub const TESTS: &[Test] = tests![
    process_exit_statuses_are_told_and_told_again,
    process_a_killed_child_is_waited_for,
    process_a_dropped_wait_leaves_the_child_to_the_next,
    process_many_children_at_once,
    process_a_child_that_has_exited_already,
    process_a_closed_port_ends_the_wait_and_refuses_the_next,
    wait_one_object_for_many_waits,
];

/// A child that ends with its standard input, with this status.
pub fn child(status: i32) -> Command {
    let mut command = match cfg!(windows) {
        true => {
            let mut command = Command::new("cmd");
            command.args(["/c", &format!("set /p x= & exit {status}")]);
            command
        }
        false => {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("read x; exit {status}")]);
            command
        }
    };
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    command
}

fn process_exit_statuses_are_told_and_told_again() {
    let port = port();
    for status in [0, 1, 7] {
        let mut child = Child::spawn(&port, &mut child(status)).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        for _ in 0..2 {
            let told = port.block_on(child.wait()).unwrap().unwrap();
            assert_eq!(told.code(), Some(status));
        }
    }
}

fn process_a_killed_child_is_waited_for() {
    let port = port();
    let mut child = Child::spawn(&port, &mut child(0)).unwrap();
    let stdin = child.stdin.take();
    child.kill().unwrap();
    assert!(!port.block_on(child.wait()).unwrap().unwrap().success());
    drop(stdin);
}

fn process_a_dropped_wait_leaves_the_child_to_the_next() {
    let port = port();
    let mut child = Child::spawn(&port, &mut child(3)).unwrap();
    let stdin = child.stdin.take();
    for _ in 0..3 {
        let mut wait = Box::pin(child.wait());
        let polled = port.block_on(futures_lite::future::poll_once(&mut wait));
        assert!(polled.unwrap().is_none());
    }
    drop(stdin);
    let status = port.block_on(child.wait()).unwrap().unwrap();
    assert_eq!(status.code(), Some(3));
}

fn process_many_children_at_once() {
    let port = port();
    let mut children: Vec<_> = (0..scaled(100) as i32)
        .map(|status| {
            tick();
            Child::spawn(&port, &mut child(status)).unwrap()
        })
        .collect();
    let stdins: Vec<_> = children.iter_mut().map(|c| c.stdin.take()).collect();
    let tasks: Vec<_> = children
        .into_iter()
        .map(|mut child| port.spawn(async move { child.wait().await.unwrap().code() }))
        .collect();
    drop(stdins);
    for (status, task) in tasks.into_iter().enumerate() {
        assert_eq!(port.block_on(task).unwrap().unwrap(), Some(status as i32));
        tick();
    }
}

fn process_a_child_that_has_exited_already() {
    let port = port();
    let mut std = child(5).spawn().unwrap();
    std.wait().unwrap();
    let mut waited = Child::new(&port, std).map_err(|(error, _)| error).unwrap();
    let status = port.block_on(waited.wait()).unwrap().unwrap();
    assert_eq!(status.code(), Some(5));
}

fn process_a_closed_port_ends_the_wait_and_refuses_the_next() {
    let port = port();
    let mut running = Child::spawn(&port, &mut child(0)).unwrap();
    let stdin = running.stdin.take();
    let mut wait = Box::pin(running.wait());
    let polled = port.block_on(futures_lite::future::poll_once(&mut wait));
    assert!(polled.unwrap().is_none());
    port.clone().close().unwrap();
    let error = futures_lite::future::block_on(wait).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(longshore::ABORTED as i32));
    assert_closed(Child::spawn(&port, &mut child(0)).map(drop));
    drop(stdin);
    futures_lite::future::block_on(running.wait()).unwrap_or_default();
}

/// An object, and what signals it when it is dropped.
#[cfg(windows)]
fn object() -> (std::os::windows::io::OwnedHandle, impl Sized) {
    let mut child = child(0).spawn().unwrap();
    let stdin = child.stdin.take();
    (child.into(), stdin)
}

#[cfg(unix)]
fn object() -> (std::io::PipeReader, impl Sized) {
    std::io::pipe().unwrap()
}

fn wait_one_object_for_many_waits() {
    let port = port();
    let (object, signal) = object();
    let object = Waitable::new(&port, object).map_err(|(error, _)| error);
    let object = object.unwrap();
    let waits: Vec<_> = (0..8).map(|_| port.spawn(object.wait())).collect();
    let cancelled = object.wait();
    cancelled.cancel();
    let error = port.block_on(cancelled).unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(longshore::ABORTED as i32));
    drop(signal);
    for wait in waits {
        port.block_on(wait).unwrap().unwrap().unwrap();
    }
    port.block_on(object.wait()).unwrap().unwrap();
}
