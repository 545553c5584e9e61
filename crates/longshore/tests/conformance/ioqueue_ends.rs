//! Q6 and Q7: how operations and handles end.
// UNSAFETY: lends buffers to operations; the operations' blocks own them.
#![expect(unsafe_code)]

use std::{
    io::{self, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
};

use longshore::{Aborted, Error, Overlapped};

use crate::{
    harness::{Test, scaled, spawn, tick},
    io::refusal,
    io_things::pair,
    ioqueue::{block, poll_once, queue, receiving, recv, registered},
    support::Token,
};

pub const TESTS: &[Test] = tests![
    q06_unregistering_aborts_the_waits,
    q06_unregistering_gives_the_handle_back_in_order,
    q06_bytes_that_won_the_race_are_not_lost,
    q06_memory_of_aborted_operations_is_collected_when_nobody_waits,
    q06_a_continuation_is_told_of_the_abort,
    q06_a_dropped_handle_aborts_its_waits,
    q06_the_end_of_a_queue_aborts_the_waits_of_bare_handles,
    q06_waits_end_when_the_port_is_closed,
    q06_an_aborted_block_is_used_again,
    q06_an_aborted_block_is_used_again_when_its_wait_is_dropped,
    q06_a_result_whose_handle_is_gone_does_not_keep_its_block,
    q07_a_handle_closed_early_is_found_and_a_later_one_works,
    q07_a_closed_handle_is_found_when_it_is_touched,
    q07_a_handle_closed_early_is_found_by_whoever_gets_its_value,
    q07_an_open_handle_is_not_taken_for_closed,
    q07_a_result_that_came_before_the_close_is_kept,
];

fn aborted<T: std::fmt::Debug>(result: io::Result<T>) -> Aborted {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    Aborted::of(&error).unwrap_or_else(|| panic!("{error}"))
}

fn q06_unregistering_aborts_the_waits() {
    let (port, queue) = queue();
    let (here, _there) = registered(&queue);
    let (one, two) = (block(8), block(8));
    recv(&queue, &here, &one, 8).unwrap();
    recv(&queue, &here, &two, 8).unwrap();
    let (first, second) = (queue.wait(&here, &one.0), queue.wait(&here, &two.0));
    let stream: TcpStream = queue.unregister(here);
    assert_eq!(aborted(port.block_on(first).unwrap()).completed, None);
    assert_eq!(aborted(port.block_on(second).unwrap()).completed, None);
    let wait = port.block_on(queue.wait(&stream, &one.0)).unwrap();
    assert_eq!(refusal(wait), Some(Error::UnregisteredHandle));
}

fn q06_unregistering_gives_the_handle_back_in_order() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let _first = receiving(&queue, &here);
    let stream = queue.unregister(here);
    // Late packets are harmless, and the next registration has its own.
    let here = queue.register(stream).map_err(|(error, _)| error).unwrap();
    let second = receiving(&queue, &here);
    there.write_all(b"bytes").unwrap();
    let count = port.block_on(queue.wait(&here, &second.0)).unwrap();
    assert_eq!(count.unwrap(), 5);
}

fn q06_bytes_that_won_the_race_are_not_lost() {
    let (port, queue) = queue();
    let rounds = scaled(1000);
    let (mut won, mut lost) = (0, 0);
    for round in 0..rounds {
        tick();
        let (here, there) = registered(&queue);
        let block = receiving(&queue, &here);
        let wait = queue.wait(&here, &block.0);
        let writer = spawn(move || {
            crate::support::pause(round % 50 * 20);
            (&there).write_all(b"bytes").unwrap();
            there
        });
        let stream = queue.unregister(here);
        let result = port.block_on(wait).unwrap();
        let _there = writer.join().unwrap();
        let got = match &result {
            Ok(count) => *count,
            Err(_) => aborted(result)
                .completed
                .map_or(0, |completion| completion.bytes as usize),
        };
        // What the operation did not get is still in the socket.
        let mut rest = [0; 8];
        let left = match got {
            5 => 0,
            _ => {
                stream.set_nonblocking(false).unwrap();
                io::Read::read(&mut &stream, &mut rest).unwrap()
            }
        };
        assert_eq!(got + left, 5);
        match got {
            5 => won += 1,
            _ => lost += 1,
        }
    }
    assert_eq!(won + lost, rounds);
}

fn q06_memory_of_aborted_operations_is_collected_when_nobody_waits() {
    let (port, queue) = queue();
    let dropped = Arc::new(AtomicUsize::new(0));
    let (here, _there) = registered(&queue);
    let count = 100;
    for _ in 0..count {
        let mut buffer = vec![0u8; 8];
        let address = buffer.as_mut_ptr();
        let overlapped = Overlapped::keeping((buffer, Token::new(&dropped)));
        recv(&queue, &here, &(overlapped, address), 8).unwrap();
    }
    assert_eq!(dropped.load(SeqCst), 0, "the system has them");
    assert_eq!(port.in_flight(), count);
    drop(queue.unregister(here));
    assert!(!queue.running());
    while port.in_flight() > 0 {
        port.dispatch().unwrap();
    }
    assert_eq!(dropped.load(SeqCst), count);
}

fn q06_a_continuation_is_told_of_the_abort() {
    let (port, queue) = queue();
    let (here, _there) = registered(&queue);
    let block = receiving(&queue, &here);
    let told = Arc::new(AtomicUsize::new(0));
    let note = told.clone();
    let then = move |result: io::Result<usize>| {
        assert_eq!(aborted(result).completed, None);
        note.fetch_add(1, SeqCst);
    };
    queue.wait_then(&here, &block.0, then).unwrap();
    drop(queue.unregister(here));
    while port.in_flight() > 0 {
        port.dispatch().unwrap();
    }
    assert_eq!(told.load(SeqCst), 1);
}

fn q06_a_dropped_handle_aborts_its_waits() {
    let (port, queue) = queue();
    let (here, _there) = registered(&queue);
    let block = receiving(&queue, &here);
    let wait = queue.wait(&here, &block.0);
    drop(here);
    aborted(port.block_on(wait).unwrap());
}

fn q06_the_end_of_a_queue_aborts_the_waits_of_bare_handles() {
    let (port, queue) = queue();
    let (here, _there) = pair();
    let block = block(8);
    // SAFETY: the block keeps the buffer, and the socket outlives the queue.
    unsafe { queue.register_raw(&*here).unwrap() };
    recv(&queue, &*here, &block, 8).unwrap();
    let wait = queue.wait(&*here, &block.0);
    drop(queue);
    assert_eq!(aborted(port.block_on(wait).unwrap()).completed, None);
}

fn q06_waits_end_when_the_port_is_closed() {
    let (port, queue) = queue();
    let (here, _there) = registered(&queue);
    let block = receiving(&queue, &here);
    let mut wait = queue.wait(&here, &block.0);
    assert!(poll_once(&mut wait).is_pending());
    port.close().unwrap();
    let std::task::Poll::Ready(result) = poll_once(&mut wait) else {
        panic!("it waits");
    };
    assert_eq!(refusal(result), Some(Error::Closed));
    assert_eq!(refusal(recv(&queue, &here, &block, 8)), Some(Error::Closed));
}

fn q06_an_aborted_block_is_used_again() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    let stream = queue.unregister(here);
    while block.0.is_in_flight() {
        port.dispatch().unwrap();
    }
    let here = queue.register(stream).map_err(|(error, _)| error).unwrap();
    recv(&queue, &here, &block, 8).unwrap();
    there.write_all(b"bytes").unwrap();
    let count = port.block_on(queue.wait(&here, &block.0)).unwrap();
    assert_eq!(count.unwrap(), 5);
}

fn q06_an_aborted_block_is_used_again_when_its_wait_is_dropped() {
    let (port, queue) = queue();
    let (here, _there) = registered(&queue);
    let block = receiving(&queue, &here);
    let mut wait = queue.wait(&here, &block.0);
    assert!(poll_once(&mut wait).is_pending());
    let _stream: TcpStream = queue.unregister(here);
    while block.0.is_in_flight() {
        port.dispatch().unwrap();
    }
    drop(wait);
    let (here, mut there) = registered(&queue);
    recv(&queue, &here, &block, 8).unwrap();
    there.write_all(b"bytes").unwrap();
    let count = port.block_on(queue.wait(&here, &block.0)).unwrap();
    assert_eq!(count.unwrap(), 5);
}

fn q06_a_result_whose_handle_is_gone_does_not_keep_its_block() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    there.write_all(b"bytes").unwrap();
    port.dispatch().unwrap();
    let _here: TcpStream = queue.unregister(here);
    // Nobody can ask for the five bytes any more.
    let (here, mut there) = registered(&queue);
    recv(&queue, &here, &block, 8).unwrap();
    there.write_all(b"more").unwrap();
    let count = port.block_on(queue.wait(&here, &block.0)).unwrap();
    assert_eq!(count.unwrap(), 4);
}

fn q07_a_closed_handle_is_found_when_it_is_touched() {
    let (_port, queue) = queue();
    let (here, _there) = pair();
    let raw = Handle(&here).raw();
    let block = block(8);
    // SAFETY: nothing is in flight on it when it is closed.
    unsafe { queue.register_raw(&*here).unwrap() };
    drop(here);
    // SAFETY: it is only compared with what was registered.
    let closed = unsafe { Handle::of(raw) };
    let mut wait = queue.wait(longshore::Handle::socket(&closed), &block.0);
    let Poll::Ready(result) = poll_once(&mut wait) else {
        panic!("a wait for nothing")
    };
    assert_eq!(refusal(result), Some(Error::PrematureClose));
    let wait = queue.wait(longshore::Handle::socket(&closed), &block.0);
    let Poll::Ready(result) = poll_once(&mut { wait }) else {
        panic!("a wait for nothing")
    };
    assert_eq!(refusal(result), Some(Error::UnregisteredHandle));
}

/// Not the queue finds it, but the port, when a Context's socket gets the value.
fn q07_a_handle_closed_early_is_found_by_whoever_gets_its_value() {
    let (port, queue) = queue();
    let (here, _there) = pair();
    let early = block(8);
    // SAFETY: the block keeps the buffer, and is kept.
    unsafe { queue.register_raw(&*here).unwrap() };
    recv(&queue, &*here, &early, 8).unwrap();
    let wait = queue.wait(&*here, &early.0);
    let raw = Handle(&here).raw();
    drop(here);
    let Some((later, _there)) = pair_with(raw) else {
        println!("the value did not come back");
        return;
    };
    port.attach(&*later).unwrap();
    let result = port.block_on(wait).unwrap();
    assert_eq!(refusal(result), Some(Error::PrematureClose));
    // The later one is the port's.
    assert_eq!(refusal(port.attach(&*later)), Some(Error::AlreadyAttached));
}

/// A connection of which one end, the first, has this value, if it can be had.
fn pair_with(raw: usize) -> Option<(Arc<TcpStream>, Arc<TcpStream>)> {
    let others: Vec<_> = (0..16).map(|_| pair()).collect();
    others.into_iter().find_map(|(one, two)| {
        let is_two = Handle(&two).raw() == raw;
        match Handle(&one).raw() == raw {
            true => Some((one, two)),
            false => is_two.then_some((two, one)),
        }
    })
}

fn q07_a_handle_closed_early_is_found_and_a_later_one_works() {
    let (port, queue) = queue();
    let (here, _there) = pair();
    let early = block(8);
    // SAFETY: the block keeps the buffer, and is kept.
    unsafe { queue.register_raw(&*here).unwrap() };
    recv(&queue, &*here, &early, 8).unwrap();
    let wait = queue.wait(&*here, &early.0);
    let value = Handle(&here);
    let raw = value.raw();
    drop(here);
    let found = pair_with(raw);
    let reused = found.is_some();
    let (later, there) = found.unwrap_or_else(pair);
    // SAFETY: nothing is in flight on it when it is closed.
    unsafe { queue.register_raw(&*later).unwrap() };
    let fresh = block(8);
    recv(&queue, &*later, &fresh, 8).unwrap();
    if reused {
        let error = port.block_on(wait).unwrap();
        assert_eq!(refusal(error), Some(Error::PrematureClose));
    }
    (&*there).write_all(b"bytes").unwrap();
    let count = port.block_on(queue.wait(&*later, &fresh.0)).unwrap();
    assert_eq!(count.unwrap(), 5, "the later one was not disturbed");
    queue.unregister_raw(&*later).unwrap();
}

struct Handle<'a>(&'a TcpStream);

impl Handle<'_> {
    /// # Safety
    /// Nothing is done with it that needs it to be open.
    #[cfg(unix)]
    unsafe fn of(raw: usize) -> std::os::fd::BorrowedFd<'static> {
        // SAFETY: the caller's promise.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(raw as std::os::fd::RawFd) }
    }

    /// # Safety
    /// Nothing is done with it that needs it to be open.
    #[cfg(windows)]
    unsafe fn of(raw: usize) -> std::os::windows::io::BorrowedSocket<'static> {
        use std::os::windows::io::{BorrowedSocket, RawSocket};
        // SAFETY: the caller's promise.
        unsafe { BorrowedSocket::borrow_raw(raw as RawSocket) }
    }

    #[cfg(unix)]
    fn raw(&self) -> usize {
        std::os::fd::AsRawFd::as_raw_fd(self.0) as usize
    }

    #[cfg(windows)]
    fn raw(&self) -> usize {
        std::os::windows::io::AsRawSocket::as_raw_socket(self.0) as usize
    }
}

fn q07_an_open_handle_is_not_taken_for_closed() {
    let (port, queue) = queue();
    let (here, _there) = pair();
    // SAFETY: it is unregistered below.
    unsafe { queue.register_raw(&*here).unwrap() };
    let block = block(8);
    for _ in 0..10 {
        recv(&queue, &*here, &block, 8).unwrap();
        let wait = queue.wait(&*here, &block.0);
        assert!(queue.cancel(&*here, &block.0).unwrap());
        let error = port.block_on(wait).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(longshore::ABORTED.cast_signed()));
    }
    recv(&queue, &*here, &block, 8).unwrap();
    let wait = queue.wait(&*here, &block.0);
    queue.unregister_raw(&*here).unwrap();
    aborted(port.block_on(wait).unwrap());
}

/// Both results are there before the first is dispatched; then the other one's handle is closed.
fn q07_a_result_that_came_before_the_close_is_kept() {
    let (port, queue) = queue();
    let (one, two) = (pair(), pair());
    let mut waits = [&one, &two].map(|(here, there)| {
        let block = block(8);
        // SAFETY: the block keeps the buffer, and is kept until its wait is over.
        unsafe { queue.register_raw(&**here).unwrap() };
        recv(&queue, &**here, &block, 8).unwrap();
        let wait = queue.wait(&**here, &block.0);
        (&**there).write_all(b"bytes").unwrap();
        (block, wait)
    });
    port.dispatch().unwrap();
    let first_is_over = poll_once(&mut waits[0].1).is_ready();
    let (open, closed) = match first_is_over {
        true => (one, two),
        false => (two, one),
    };
    drop(closed);
    let [(_one, first), (_two, second)] = waits;
    let wait = if first_is_over { second } else { first };
    assert_eq!(port.block_on(wait).unwrap().unwrap(), 5);
    queue.unregister_raw(&*open.0).unwrap();
}
