//! Linux: nobody can post to the port, and an event of a descriptor that is gone finds nothing.

use std::{io::Write, os::fd::AsRawFd};

use crate::{
    harness::{Test, port},
    io::Op,
    io_cancel::pair_with,
    io_things::{attached_pair, listener},
    support::passed_in_a_child,
};

pub const TESTS: &[Test] = tests![d02_a_stale_event_finds_nothing];

fn d02_a_stale_event_finds_nothing() {
    if passed_in_a_child() {
        return;
    }
    let port = port();
    // A lower number, for the listener that the new connection needs.
    let spare = listener(false);
    let (old, old_peer) = attached_pair(&port);
    // The duplicate keeps the connection, and with it the registration, alive.
    let duplicate = old.try_clone().unwrap();
    let number = old.as_raw_fd();
    drop((old, spare));
    // Alone in the process, so the lowest free number is that one.
    let (new, new_peer) = pair_with(number as usize);
    port.attach(&*new).unwrap();
    let op = Op::new(4);
    op.recv(&port, &new).unwrap();
    for _ in 0..10 {
        (&*old_peer).write_all(b"x").unwrap();
        assert!(!port.try_dispatch().unwrap(), "an event of the old one");
    }
    assert!(!op.is_idle());
    (&*new_peer).write_all(b"new").unwrap();
    assert_eq!(op.finish(&port, Ok(())), (3, 0));
    drop((old_peer, duplicate));
    assert!(!port.try_dispatch().unwrap(), "nor its end");
    assert_eq!((op.calls(), port.foreign_packets()), (1, 0));
}
