//! What a port believes of packets that anybody may have posted. Only Windows has such packets; what
//! is made of them is the same everywhere.
// UNSAFETY: registers a callback, believes packets, and makes headers up.
#![expect(unsafe_code)]

use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use super::{ended, note, port};
use crate::{
    completion::Completion,
    dispatcher::{
        Context, Dispatcher, Door, Flight, OnCallback, Recipient,
        entry::Entry,
        in_flight::{InFlight, Looked},
    },
    handle::Kind,
    overlapped::RawOverlapped,
    packet::Packet,
    submission::{Issued, Then},
};

const TO: Recipient = Recipient {
    door: Door::Context,
    deliver: |_, _| {},
};

const ISSUED: Flight = Flight::Issued(Issued {
    handle: 77,
    kind: Kind::File,
    then: Then::Nothing,
});

/// A callback, and its address. Taken once in each test: a function may have several.
fn callback() -> (OnCallback, usize) {
    let callback: OnCallback = note;
    (callback, callback as usize)
}

fn packet(key: usize, overlapped: usize) -> Packet {
    Packet {
        key,
        overlapped,
        bytes: 3,
    }
}

fn trusting() -> Dispatcher {
    // SAFETY: the tests' packets are as they should be.
    unsafe { Dispatcher::builder().trust_packets() }
        .build()
        .expect("a port can be opened")
}

#[test]
fn d02_a_post_is_believed_if_it_was_made_or_its_callback_is_registered() {
    let port = port();
    let (callback, key) = callback();
    let (inner, post) = (&port.inner, packet(key, 5));
    assert!(!inner.believes_post(post));
    inner.in_flight.expect_post(key, 5);
    assert!(inner.in_flight.has_posts());
    assert!(inner.believes_post(post));
    assert!(!inner.believes_post(post), "it was made once");
    assert!(!inner.in_flight.has_posts());
    // SAFETY: a function of ours, which takes any word.
    let callback = unsafe { port.register_callback(callback) };
    assert!(inner.believes_post(post));
    assert!(!inner.believes_post(packet(key + 1, 5)));
    assert!(port.unregister_callback(callback));
    assert!(!port.unregister_callback(callback), "only once");
    assert!(!inner.believes_post(post));
    assert!(trusting().inner.believes_post(post));
}

#[test]
fn d02_a_completion_is_believed_if_its_operation_is_in_flight() {
    let port = port();
    let context = Context::new(ended, 0);
    let header = NonNull::from(&context).cast::<RawOverlapped>();
    let address = header.as_ptr().expose_provenance();
    let is_foreign = |port: &Dispatcher, packet| matches!(port.inner.decode(packet), Entry::Foreign(same) if same == packet);
    assert!(is_foreign(&port, packet(0, address)));
    assert!(is_foreign(&port, packet(0, 0)));
    assert!(
        is_foreign(&trusting(), packet(0, 0)),
        "null is never followed"
    );
    let queue = Door::Queue.key();
    assert!(is_foreign(&trusting(), packet(queue, address)));

    // SAFETY: nobody else uses the header.
    unsafe { RawOverlapped::complete(header, 0, 9) };
    match trusting().inner.decode(packet(0, address)) {
        Entry::Event(to, found, completion) => {
            assert_eq!((to.door, found), (Door::Context, header));
            assert_eq!(completion, Completion::ok(3), "as the packet says");
        }
        _ => panic!("every packet is believed"),
    }
    let expected = port
        .inner
        .in_flight
        .expect_event(address, TO, Flight::Armed, || {});
    expected.unwrap();
    assert!(is_foreign(&port, packet(queue, address)), "not its door");
    match port.inner.decode(packet(0, address)) {
        Entry::Event(_, _, completion) => assert_eq!(completion, Completion::ok(9)),
        _ => panic!("it is in flight"),
    }
    assert!(is_foreign(&port, packet(0, address)), "and has ended");
}

#[test]
fn d02_what_is_foreign_is_counted_and_given_to_the_hook() {
    let heard = Arc::new(AtomicUsize::new(0));
    let hook = {
        let heard = heard.clone();
        move |packet: Packet| {
            heard.fetch_add(packet.overlapped, SeqCst);
        }
    };
    let port = Dispatcher::builder().on_foreign(hook).build().unwrap();
    assert!(port.inner.deliver(packet(0, 40)).unwrap(), "an entry");
    assert!(port.inner.deliver(packet(0, 2)).unwrap());
    assert_eq!((port.foreign_packets(), heard.load(SeqCst)), (2, 42));
    let stats = port.stats();
    assert_eq!(
        (stats.foreign, stats.dispatched, stats.completed),
        (2, 2, 0)
    );
}

#[test]
fn d02_posts_are_counted_one_by_one() {
    let (table, key) = (InFlight::new(), 64);
    for payload in [1, 1, 2] {
        table.expect_post(key, payload);
    }
    assert_eq!(table.posts(), 3);
    assert!(table.take_post(key, 1));
    assert_eq!(table.posts(), 2);
}

#[test]
fn d06_an_operation_that_ended_in_its_call_keeps_what_it_ended_with() {
    let table = InFlight::new();
    let ticket = table.expect_event(64, TO, ISSUED, || {}).unwrap();
    assert_eq!(table.handle_of(64), Some(77));
    assert_eq!(table.running(|_| true), [(64, Some(77))]);
    assert!(table.is_running(64));
    assert!(table.end(64, ticket, Completion::ok(8)));
    assert_eq!(table.handle_of(64), None);
    assert!(!table.is_running(64));
    let ended = table.take_event(Door::Context, 64, |flight| match flight {
        Flight::Ended(completion) => Some(*completion),
        _ => None,
    });
    assert!(matches!(ended, Looked::Ended(_, _, completion) if completion == Completion::ok(8)));
    assert!(
        !table.end(64, ticket, Completion::ok(8)),
        "it was delivered"
    );
    assert!(!table.has_events());
}

#[test]
fn d04_only_what_is_armed_can_be_disarmed() {
    let port = port();
    let context = Context::new(ended, 0);
    let context = NonNull::from(&context);
    let address = context.as_ptr().addr();
    let table = &port.inner.in_flight;
    assert!(!port.inner.disarm(context), "idle");
    table
        .expect_event(address, TO, Flight::Armed, || {})
        .unwrap();
    assert!(port.inner.disarm(context));
    assert!(!port.inner.disarm(context), "only once");
    table.expect_event(address, TO, ISSUED, || {}).unwrap();
    assert!(!port.inner.disarm(context), "its packet will come");
    let ticket = table.expect_event(address, TO, Flight::Armed, || {});
    assert!(ticket.is_err(), "it is in flight still");
    let taken = table.take_event(Door::Context, address, |_| Some(Completion::ok(0)));
    assert!(matches!(taken, Looked::Ended(..)));
}

#[test]
fn d06_posts_that_are_recorded_keep_a_run_going_where_strangers_are() {
    let port = port();
    port.inner.in_flight.expect_post(64, 1);
    assert_eq!(port.inner.has_work(), crate::port::Port::STRANGERS);
    assert!(port.inner.in_flight.take_post(64, 1));
    assert!(!port.inner.has_work());
}
