//! Nothing leaks: handles are counted before and after, in a process of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_lite::future::block_on;
use longshore::task::JoinError;

use crate::{
    harness::{Test, port, tick},
    io_things::{pattern, workers},
    resources::handles,
    support::{Token, passed_in_a_child},
    tcp::{client, listen, pair, serve},
};

pub const TESTS: &[Test] = tests![
    fault_dropping_the_last_dispatcher_cancels_what_waits_and_leaks_nothing,
    fault_connections_leak_no_handle,
];

/// A port with tasks that wait on everything there is; returns what their futures owned.
fn leave_them_waiting(round: usize, dropped: &Arc<AtomicUsize>) -> usize {
    let port = port();
    let (listener, _) = listen(&port);
    let (stream, _peer) = pair(&port);
    let (stream, sleep) = (Arc::new(stream), port.sleep(Duration::from_secs(3600)));
    let tokens: [Token; 4] = std::array::from_fn(|_| Token::new(dropped));
    let [a, b, c, d] = tokens;
    let reading = stream.clone();
    let tasks = [
        port.spawn(async move {
            let _token = a;
            let _ = listener.accept().await;
        }),
        port.spawn(async move {
            let _token = b;
            let _ = reading.read(vec![0; 10]).await;
        }),
        port.spawn(async move {
            let _token = c;
            let _ = sleep.await;
        }),
        port.spawn(async move {
            let _token = d;
            std::future::pending::<()>().await;
        }),
    ];
    if round.is_multiple_of(2) {
        // Else they never even ran.
        while port.try_dispatch().unwrap() {}
        assert_eq!(port.in_flight(), 2);
    }
    drop(stream);
    drop(port);
    for task in tasks {
        assert!(matches!(block_on(task), Err(JoinError::Cancelled)));
    }
    4
}

fn fault_dropping_the_last_dispatcher_cancels_what_waits_and_leaks_nothing() {
    if passed_in_a_child() {
        return;
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let mut expected = leave_them_waiting(0, &dropped);
    // What the system opens once is open by now.
    let before = handles();
    for round in 0..20 {
        expected += leave_them_waiting(round, &dropped);
        assert_eq!(dropped.load(SeqCst), expected);
        tick();
    }
    assert_eq!(handles(), before);
}

fn fault_connections_leak_no_handle() {
    if passed_in_a_child() {
        return;
    }
    fn round() {
        let port = port();
        let pool = workers(&port, 1);
        let (listener, address) = listen(&port);
        let server = port.spawn(serve(port.clone(), listener, 2));
        block_on(client(port.clone(), address, pattern(1, 5000)));
        block_on(client(port.clone(), address, pattern(2, 5000)));
        block_on(server).unwrap();
        let (stream, peer) = pair(&port);
        drop(stream.read(vec![0; 10]));
        let (first, second) = stream.split();
        drop((first, peer));
        let _ = block_on(second.write("x"));
        drop(second);
        pool.finish();
        while port.try_dispatch().unwrap() {}
        port.close().unwrap();
    }
    round();
    let before = handles();
    for _ in 0..10 {
        round();
        tick();
    }
    assert_eq!(handles(), before);
}
