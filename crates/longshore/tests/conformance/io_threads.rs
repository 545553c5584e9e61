//! I/O of several threads: who starts it, who dispatches it, and who has left by then (D1, D6).

use std::{
    io::{Read, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use crate::{
    harness::{Counter, Test, port, scaled, spawn, tick},
    io::Op,
    io_things::{Scratch, attached_file, attached_pair, pattern, workers},
};

pub const TESTS: &[Test] = tests![
    d01_four_dispatchers_echo_fifty_connections_byte_for_byte,
    d06_an_operation_outlives_the_thread_that_started_it,
    d01_two_threads_use_one_handle_at_once,
];

fn d01_four_dispatchers_echo_fifty_connections_byte_for_byte() {
    const PAIRS: usize = 50;
    let len = scaled(200_000);
    let port = port();
    let done = Arc::new(Counter::new());
    let mut ops = Vec::new();
    let mut clients = Vec::new();
    for i in 0..PAIRS {
        let (server, client) = attached_pair(&port);
        let (port, done, sending) = (port.clone(), done.clone(), AtomicBool::new(false));
        let socket = server.clone();
        let echo = Op::hooked(1500 + i, move |op, bytes, error| {
            assert_eq!(error, 0);
            tick();
            if sending.fetch_xor(true, Ordering::Relaxed) {
                op.recv(&port, &socket).unwrap();
            } else if bytes > 0 {
                op.send(&port, &socket, bytes as usize).unwrap();
            } else {
                done.add(1);
            }
        });
        ops.push((echo, server));
        clients.push(client);
    }
    let pool = workers(&port, 4);
    for (op, server) in &ops {
        op.recv(&port, server).unwrap();
    }
    // Two threads stand for all the clients, so that many connections are busy at once.
    let halves: Vec<_> = clients
        .chunks(PAIRS / 2)
        .map(|half| {
            let half = half.to_vec();
            spawn(move || {
                for start in (0..len).step_by(1000) {
                    for (i, client) in half.iter().enumerate() {
                        (&**client).write_all(&pattern(start + i, 1000)).unwrap();
                    }
                    for (i, client) in half.iter().enumerate() {
                        let mut back = [0; 1000];
                        (&**client).read_exact(&mut back).unwrap();
                        assert!(
                            back[..] == pattern(start + i, 1000),
                            "client {i} at {start}"
                        );
                    }
                    tick();
                }
            })
        })
        .collect();
    for half in halves {
        half.join().unwrap();
    }
    drop(clients);
    done.wait_for(PAIRS);
    pool.finish();
    assert_eq!(port.in_flight(), 0);
}

fn d06_an_operation_outlives_the_thread_that_started_it() {
    let (scratch, port) = (Scratch::new(), port());
    let (here, there) = attached_pair(&port);
    let file = attached_file(&port, &scratch, &pattern(0, 64));
    let (recv, read) = (Op::new(4), Op::new(64));
    spawn({
        let (port, here, file) = (port.clone(), here.clone(), file.clone());
        let (recv, read) = (recv.clone(), read.clone());
        move || {
            recv.recv(&port, &here).unwrap();
            read.read(&port, &file, 0).unwrap();
        }
    })
    .join()
    .unwrap();
    assert_eq!(read.finish(&port, Ok(())), (64, 0));
    assert!(!recv.is_idle(), "it goes on without its thread");
    assert!(!port.try_dispatch().unwrap());
    (&*there).write_all(b"x").unwrap();
    assert_eq!(recv.finish(&port, Ok(())), (1, 0));
}

fn d01_two_threads_use_one_handle_at_once() {
    let rounds = scaled(2000);
    let (scratch, port) = (Scratch::new(), port());
    let contents = pattern(0, 4096);
    let file = attached_file(&port, &scratch, &contents);
    let (here, there) = attached_pair(&port);
    port.attach(&*there).unwrap();
    let pool = workers(&port, 2);
    let (sent, to_check) = mpsc::channel();
    let received = Arc::new(Mutex::new(Vec::new()));
    let user = |of: usize, body: Box<dyn Fn(usize) + Send>| {
        let (port, file, contents) = (port.clone(), file.clone(), contents.clone());
        spawn(move || {
            let read = Op::new(32);
            for round in 0..rounds {
                let at = (of * 2000 + round) % 4000;
                read.read(&port, &file, at as u64).unwrap();
                body(round);
                assert_eq!(read.wait(), (32, 0));
                assert_eq!(read.data(32), contents[at..at + 32]);
                tick();
            }
        })
    };
    // Both directions of one connection, too: one thread sends on it, the other receives on it.
    let sender = user(0, {
        let (port, here, op) = (port.clone(), here.clone(), Op::new(8));
        let echo = Op::new(8);
        let there = there.clone();
        Box::new(move |round| {
            op.fill(&(round as u64).to_le_bytes());
            op.send(&port, &here, 8).unwrap();
            assert_eq!(op.wait(), (8, 0));
            echo.fill(&(round as u64).to_le_bytes());
            echo.send(&port, &there, 8).unwrap();
            assert_eq!(echo.wait(), (8, 0));
            sent.send(round).unwrap();
        })
    });
    let receiver = user(1, {
        let (port, here, op, received) = (port.clone(), here.clone(), Op::new(8), received.clone());
        let to_check = Mutex::new(to_check);
        Box::new(move |round| {
            op.recv(&port, &here).unwrap();
            assert_eq!(to_check.lock().unwrap().recv().unwrap(), round);
            assert_eq!(op.wait(), (8, 0));
            received
                .lock()
                .unwrap()
                .push(u64::from_le_bytes(op.data(8).try_into().unwrap()));
        })
    });
    sender.join().unwrap();
    receiver.join().unwrap();
    pool.finish();
    assert!(
        received
            .lock()
            .unwrap()
            .iter()
            .copied()
            .eq(0..rounds as u64)
    );
    let mut all = vec![0; 8 * rounds];
    (&*there).read_exact(&mut all).unwrap();
    for (round, word) in all.chunks(8).enumerate() {
        assert_eq!(word, (round as u64).to_le_bytes());
    }
}
