//! Cancelling, detaching and closing with operations in flight: each ends exactly once (D10).

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use longshore::{ABORTED, Dispatcher};
use socket2::{Domain, Socket, Type};

use crate::{
    harness::{Test, in_child, port, scaled, spawn, tick},
    io::{Op, refusal},
    io_things::{
        Scratch, attached_file, attached_pair, fresh_socket, listener, loopback, pair,
        pair_through, pattern,
    },
};

pub const TESTS: &[Test] = tests![
    d10_a_cancelled_receive_ends_as_aborted_once,
    d10_a_cancelled_accept_ends_as_aborted_and_the_next_one_works,
    d10_a_cancelled_connect_ends_as_aborted,
    d10_there_is_nothing_to_cancel_in_an_idle_or_ended_operation,
    d10_cancel_all_counts_what_it_cancelled,
    d10_a_cancel_that_races_with_the_end_gives_one_of_the_two,
    d10_the_receive_after_a_cancelled_one_gets_the_data,
    d10_detach_ends_what_is_pending_and_spares_the_next_owner_of_the_value,
    d01_a_value_closed_without_detach_can_be_attached_again,
    d10_close_ends_every_operation_in_flight_once,
    d10_drop_ends_every_operation_in_flight_once,
    d10_closing_one_port_leaves_the_other_and_std_alone,
];

const CANCELLED: (u32, u32) = (0, ABORTED);

fn d10_a_cancelled_receive_ends_as_aborted_once() {
    let port = port();
    let (here, _there) = attached_pair(&port);
    let op = Op::new(10);
    for calls in 1..=3 {
        op.recv(&port, &here).unwrap();
        assert!(op.cancel(&port, &here).unwrap());
        assert!(
            !op.cancel(&port, &here).unwrap(),
            "it was asked for already"
        );
        assert_eq!(op.finish(&port, Ok(())), CANCELLED);
        assert_eq!(op.calls(), calls);
    }
    assert_eq!(port.in_flight(), 0);
    assert!(!port.try_dispatch().unwrap());
}

fn d10_a_cancelled_accept_ends_as_aborted_and_the_next_one_works() {
    let port = port();
    let listener = listener(false);
    port.attach(&*listener).unwrap();
    let op = Op::new(0);
    op.accept(&port, &listener).unwrap();
    assert!(op.cancel(&port, &listener).unwrap());
    assert_eq!(op.finish(&port, Ok(())), CANCELLED);
    assert!(op.accepted().is_none());
    op.accept(&port, &listener).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(op.finish(&port, Ok(())), (0, 0));
    assert_eq!(op.accepted().unwrap().1, client.local_addr().unwrap());
}

fn d10_a_cancelled_connect_ends_as_aborted() {
    // A listener whose queue is full answers nobody.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&loopback(false).into()).unwrap();
    full.listen(0).unwrap();
    let target = full.local_addr().unwrap();
    let fillers: Vec<_> = (0..16).map(|_| fresh_socket(false)).collect();
    for filler in &fillers {
        filler.set_nonblocking(true).unwrap();
        let _ = filler.connect(&target);
    }
    let port = port();
    let socket = fresh_socket(false);
    port.attach(&*socket).unwrap();
    let op = Op::new(0);
    op.connect(&port, &socket, target.as_socket().unwrap())
        .unwrap();
    assert!(op.cancel(&port, &socket).unwrap());
    assert!(!op.cancel(&port, &socket).unwrap());
    assert_eq!(op.finish(&port, Ok(())), CANCELLED);
    assert_eq!(op.calls(), 1);
    assert!(!port.try_dispatch().unwrap());
}

fn d10_there_is_nothing_to_cancel_in_an_idle_or_ended_operation() {
    let (scratch, port) = (Scratch::new(), port());
    let (here, there) = attached_pair(&port);
    let file = attached_file(&port, &scratch, &pattern(0, 100));
    let op = Op::new(10);
    assert!(!op.cancel(&port, &here).unwrap(), "never started");
    op.recv(&port, &here).unwrap();
    (&*there).write_all(b"x").unwrap();
    assert_eq!(op.finish(&port, Ok(())), (1, 0));
    assert!(!op.cancel(&port, &here).unwrap(), "dispatched");
    assert_eq!(op.finish(&port, op.read(&port, &file, 0)), (10, 0));
    assert!(!op.cancel(&port, &file).unwrap(), "dispatched");
    assert_eq!(op.calls(), 2);
    assert!(!port.try_dispatch().unwrap());
}

fn d10_cancel_all_counts_what_it_cancelled() {
    let port = port();
    let (here, there) = attached_pair(&port);
    let (other, _peer) = attached_pair(&port);
    let ops: Vec<_> = (0..3).map(|_| Op::new(10)).collect();
    let bystander = Op::new(10);
    assert_eq!(port.cancel_all(&*here).unwrap(), 0);
    ops.iter().for_each(|op| op.recv(&port, &here).unwrap());
    bystander.recv(&port, &other).unwrap();
    assert_eq!(port.cancel_all(&*here).unwrap(), 3);
    for op in &ops {
        assert_eq!(op.finish(&port, Ok(())), CANCELLED);
    }
    assert_eq!(port.cancel_all(&*here).unwrap(), 0);
    assert!(!bystander.is_idle(), "another handle's");
    // The handle is as good as before.
    ops[0].recv(&port, &here).unwrap();
    (&*there).write_all(b"x").unwrap();
    assert_eq!(ops[0].finish(&port, Ok(())), (1, 0));
    assert_eq!(port.cancel_all(&*other).unwrap(), 1);
    assert_eq!(bystander.finish(&port, Ok(())), CANCELLED);
}

fn d10_a_cancel_that_races_with_the_end_gives_one_of_the_two() {
    const LEN: usize = 64;
    let port = port();
    let (here, there) = attached_pair(&port);
    let (op, rest) = (Op::new(LEN), Op::new(LEN));
    let rounds = scaled(100_000);
    // Enough rounds, or as many as fit.
    let limit = Instant::now() + Duration::from_secs(8);
    let gate = Arc::new(Barrier::new(3));
    let go_on = Arc::new(AtomicUsize::new(1));
    let racer = |act: Box<dyn Fn(usize) + Send>| {
        let (gate, go_on) = (gate.clone(), go_on.clone());
        spawn(move || {
            for round in 0.. {
                gate.wait();
                if go_on.load(Ordering::Relaxed) == 0 {
                    return;
                }
                act(round);
                gate.wait();
            }
        })
    };
    // How long the canceller holds back. It follows the outcomes, so that both stay close.
    let delay = Arc::new(AtomicUsize::new(0));
    let writer = racer(Box::new({
        let there = there.clone();
        move |round| {
            (&*there).write_all(&[(round % 251) as u8]).unwrap();
        }
    }));
    let canceller = racer(Box::new({
        let (op, port, here, delay) = (op.clone(), port.clone(), here.clone(), delay.clone());
        move |_| {
            (0..delay.load(Ordering::Relaxed)).for_each(|_| std::hint::spin_loop());
            op.cancel(&port, &here).unwrap();
        }
    }));
    let (mut received, mut ended, mut aborted, mut ran) = (Vec::new(), 0, 0, 0);
    while ran < rounds && Instant::now() < limit {
        // What an aborted receive has left would end this one before the race begins.
        while received.len() < ran {
            let (bytes, error) = rest.finish(&port, rest.recv(&port, &here));
            assert!(error == 0 && bytes > 0);
            received.extend(rest.data(bytes as usize));
        }
        let started = op.recv(&port, &here);
        gate.wait();
        let (bytes, error) = op.finish(&port, started);
        assert!(error == 0 && bytes > 0 || (bytes, error) == CANCELLED);
        received.extend(op.data(bytes as usize));
        let before = delay.load(Ordering::Relaxed);
        if error == 0 {
            ended += 1;
            delay.store(before - before / 8, Ordering::Relaxed);
        } else {
            aborted += 1;
            delay.store(before + before / 8 + 8, Ordering::Relaxed);
        }
        ran += 1;
        gate.wait();
        assert_eq!(op.calls(), ran);
        tick();
    }
    go_on.store(0, Ordering::Relaxed);
    gate.wait();
    writer.join().unwrap();
    canceller.join().unwrap();
    // What the aborted ones did not take is still there, in order.
    there.shutdown(Shutdown::Write).unwrap();
    (&*here).read_to_end(&mut received).unwrap();
    assert_eq!(ended + aborted, ran);
    println!("{ended} ended, {aborted} aborted");
    assert_eq!(received.len(), ran, "{ended} ended, {aborted} aborted");
    assert!(
        received
            .iter()
            .enumerate()
            .all(|(i, byte)| *byte == (i % 251) as u8)
    );
    assert!(!port.try_dispatch().unwrap());
}

fn d10_the_receive_after_a_cancelled_one_gets_the_data() {
    let port = port();
    let (here, there) = attached_pair(&port);
    let (first, second) = (Op::new(10), Op::new(10));
    first.recv(&port, &here).unwrap();
    second.recv(&port, &here).unwrap();
    assert!(first.cancel(&port, &here).unwrap());
    assert_eq!(first.finish(&port, Ok(())), CANCELLED);
    (&*there).write_all(b"data").unwrap();
    assert_eq!(second.finish(&port, Ok(())), (4, 0));
    assert_eq!(second.data(4), b"data");
    assert_eq!(
        first.data(10),
        [0; 10],
        "nothing was written to the cancelled one"
    );
}

/// The handle's value, to see it used again.
fn value(stream: &TcpStream) -> usize {
    #[cfg(unix)]
    return std::os::fd::AsRawFd::as_raw_fd(stream) as usize;
    #[cfg(windows)]
    return std::os::windows::io::AsRawSocket::as_raw_socket(stream) as usize;
}

/// A connection whose first end has this value. Alone in its process, it comes soon.
pub fn pair_with(wanted: usize) -> (Arc<TcpStream>, Arc<TcpStream>) {
    let (listener, mut others) = (listener(false), Vec::new());
    for _ in 0..1000 {
        let (a, b) = pair_through(&listener);
        if value(&a) == wanted {
            return (a, b);
        }
        if value(&b) == wanted {
            return (b, a);
        }
        others.push((a, b));
    }
    panic!("the system never used the value again");
}

fn d10_detach_ends_what_is_pending_and_spares_the_next_owner_of_the_value() {
    // Alone in a process, where nobody else takes the value.
    if let Some(output) = in_child() {
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let port = port();
    let (here, there) = attached_pair(&port);
    let ops: Vec<_> = (0..3).map(|_| Op::new(10)).collect();
    ops.iter().for_each(|op| op.recv(&port, &here).unwrap());
    port.detach(&*here).unwrap();
    let refused = refusal(ops[0].recv(&port, &here));
    assert!(refused.is_some(), "detached, and in flight");
    // The abort packets of the old handle are still queued when the new one takes its value.
    let old = value(&here);
    for op in &ops[1..] {
        assert_eq!(op.finish(&port, Ok(())), CANCELLED);
    }
    assert_eq!(ops[0].finish(&port, Ok(())), CANCELLED);
    drop((here, there));
    let (here, there) = pair_with(old);
    port.attach(&*here).unwrap();
    let op = Op::new(10);
    op.recv(&port, &here).unwrap();
    assert!(
        !ops[0].cancel(&port, &here).unwrap(),
        "the old operation's end is over"
    );
    assert!(
        !port.try_dispatch().unwrap(),
        "nothing of the old owner is left"
    );
    (&*there).write_all(b"new").unwrap();
    assert_eq!(op.finish(&port, Ok(())), (3, 0));
    assert!(ops.iter().all(|op| op.calls() == 1));
}

fn d01_a_value_closed_without_detach_can_be_attached_again() {
    if let Some(output) = in_child() {
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let port = port();
    let (here, there) = attached_pair(&port);
    let old = value(&here);
    drop((here, there));
    let (here, there) = pair_with(old);
    port.attach(&*here).unwrap();
    let op = Op::new(10);
    op.recv(&port, &here).unwrap();
    (&*there).write_all(b"new").unwrap();
    assert_eq!(op.finish(&port, Ok(())), (3, 0));
}

fn end_everything(end: fn(Dispatcher)) {
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &pattern(0, 1 << 16));
    let pairs: Vec<_> = (0..8).map(|_| attached_pair(&port)).collect();
    let listener = listener(false);
    port.attach(&*listener).unwrap();
    let ops: Vec<_> = (0..64).map(|_| Op::new(1024)).collect();
    for (i, (here, _)) in pairs.iter().enumerate() {
        ops[2 * i].recv(&port, here).unwrap();
        ops[2 * i + 1].recv(&port, here).unwrap();
    }
    ops[16].accept(&port, &listener).unwrap();
    ops[17].accept(&port, &listener).unwrap();
    for (i, op) in ops.iter().enumerate().skip(18) {
        op.read(&port, &file, i as u64 * 1024).unwrap();
    }
    assert_eq!(port.in_flight(), 64);
    end(port);
    for (i, op) in ops.iter().enumerate() {
        assert_eq!(op.calls(), 1, "operation {i}");
        let is_file = i >= 18;
        let ended = op.last();
        assert!(
            ended == CANCELLED || is_file && ended == (1024, 0),
            "{i}: {ended:?}"
        );
    }
    // The handles are the caller's and as good as before.
    let (here, there) = &pairs[0];
    (&**there).write_all(b"x").unwrap();
    assert_eq!((&**here).read(&mut [0; 4]).unwrap(), 1);
}

fn d10_close_ends_every_operation_in_flight_once() {
    end_everything(|port| port.close().unwrap());
}

fn d10_drop_ends_every_operation_in_flight_once() {
    end_everything(drop);
}

fn d10_closing_one_port_leaves_the_other_and_std_alone() {
    let (one, other) = (port(), port());
    let (first, second) = (attached_pair(&one), attached_pair(&other));
    let std_pair = pair();
    let (ended, pending) = (Op::new(10), Op::new(10));
    ended.recv(&one, &first.0).unwrap();
    pending.recv(&other, &second.0).unwrap();
    one.close().unwrap();
    assert_eq!((ended.calls(), ended.last()), (1, CANCELLED));

    let talks = |(a, b): &(Arc<TcpStream>, Arc<TcpStream>)| {
        (&**a).write_all(b"ping").unwrap();
        (&**b).read_exact(&mut [0; 4]).unwrap();
    };
    talks(&std_pair);
    talks(&first);
    (&*second.1).write_all(b"x").unwrap();
    assert_eq!(pending.finish(&other, Ok(())), (1, 0));
    other.close().unwrap();
    talks(&std_pair);
    talks(&second);
    talks(&pair());
    drop(TcpListener::bind(loopback(false)).unwrap());
    // And a third one starts as if nothing had been.
    let third = port();
    let (here, there) = attached_pair(&third);
    pending.recv(&third, &here).unwrap();
    (&*there).write_all(b"y").unwrap();
    assert_eq!(pending.finish(&third, Ok(())), (1, 0));
}
