//! Q1 to Q5, Q10: handles of a queue, and waits for operations on them.
// UNSAFETY: lends buffers to operations; the operations' blocks own them.
#![expect(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    future::Future,
    io::{self, Write},
    net::TcpStream,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use longshore::{Dispatcher, Error, Handle, IoQueue, Overlapped, Registered, Submission, Wait};
use socket2::Socket;

use crate::{
    harness::{Test, port},
    io::refusal,
    io_things::{Scratch, open, pair},
};

pub const TESTS: &[Test] = tests![
    q01_a_handle_is_registered_again_and_again,
    q01_a_handle_of_others_comes_back_with_the_reason,
    q01_a_file_is_registered_and_read,
    q02_a_wait_resolves_to_what_was_read,
    q02_a_continuation_gets_what_was_read,
    q02_a_block_is_used_again,
    q02_a_wait_moves_to_another_thread,
    q02_a_cancelled_wait_says_so,
    q03_a_wait_on_an_unregistered_handle_is_refused_at_once,
    q04_a_second_wait_for_one_operation_is_refused,
    q04_two_operations_of_one_handle_are_waited_for,
    q04_one_waiter_for_each_handle_where_that_is_wanted,
    q05_a_packet_that_came_before_the_wait_is_kept,
    q05_a_result_that_nobody_has_read_is_not_overwritten,
    q05_a_dropped_wait_loses_nothing,
    q05_a_wait_dropped_after_the_end_loses_nothing,
    q05_a_dropped_wait_lets_go_of_its_waker,
    q10_raw_and_typed_handles_work_alike,
];

/// A queue on a port of its own.
pub fn queue() -> (Dispatcher, IoQueue) {
    let port = port();
    let queue = IoQueue::new(&port);
    (port, queue)
}

/// A registered connection, and its other end.
pub fn registered(queue: &IoQueue) -> (Registered<TcpStream>, TcpStream) {
    let (here, there) = pair();
    let [here, there] = [here, there].map(|end| Arc::into_inner(end).unwrap());
    (
        queue.register(here).map_err(|(error, _)| error).unwrap(),
        there,
    )
}

/// A block that keeps a buffer of `len` bytes.
pub fn block(len: usize) -> (Overlapped, *mut u8) {
    let mut buffer = vec![0u8; len];
    let address = buffer.as_mut_ptr();
    (Overlapped::keeping(buffer), address)
}

pub fn recv<'h>(
    queue: &IoQueue,
    on: impl Into<Handle<'h>>,
    (overlapped, buffer): &(Overlapped, *mut u8),
    len: usize,
) -> io::Result<()> {
    let socket = on.into();
    let (buffer, len) = (*buffer, len);
    // SAFETY: the block keeps the buffer, which has at least this length.
    unsafe {
        let submission = Submission::Recv {
            socket,
            buffer,
            len,
        };
        queue.submit(socket, overlapped, submission)
    }
}

/// A block whose receive of up to 8 bytes has begun.
pub fn receiving<'h>(queue: &IoQueue, on: impl Into<Handle<'h>>) -> (Overlapped, *mut u8) {
    let block = block(8);
    recv(queue, on, &block, 8).unwrap();
    block
}

pub fn bytes(overlapped: &Overlapped) -> Vec<u8> {
    *overlapped.take_kept().expect("the block keeps a buffer")
}

#[derive(Default)]
pub struct Count(pub AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// One poll of a wait.
pub fn poll_once(wait: &mut Wait) -> Poll<io::Result<usize>> {
    let waker = Waker::from(Arc::<Count>::default());
    pin!(wait).poll(&mut Context::from_waker(&waker))
}

fn q01_a_handle_is_registered_again_and_again() {
    let (port, queue) = queue();
    let (mut here, mut there) = registered(&queue);
    for _ in 0..3 {
        let block = receiving(&queue, &here);
        there.write_all(b"again").unwrap();
        let count = port.block_on(queue.wait(&here, &block.0)).unwrap().unwrap();
        assert_eq!(&bytes(&block.0)[..count], b"again");
        let stream: TcpStream = queue.unregister(here);
        here = queue.register(stream).map_err(|(error, _)| error).unwrap();
    }
}

fn q01_a_handle_of_others_comes_back_with_the_reason() {
    let (port, queue) = queue();
    let (here, _there) = pair();
    let here = Arc::into_inner(here).unwrap();
    port.attach(&here).unwrap();
    let (error, here) = queue.register(here).unwrap_err();
    assert_eq!(Error::of(&error), Some(Error::AttachedForContexts));
    drop(here);

    let (here, _there) = registered(&queue);
    assert_eq!(refusal(port.attach(&here)), Some(Error::AttachedForQueue));
    // SAFETY: nothing is started on it.
    let again = unsafe { queue.register_raw(&here) };
    assert_eq!(refusal(again), Some(Error::AlreadyAttached));
    let unregistered = queue.unregister_raw(&here);
    assert_eq!(refusal(unregistered), Some(Error::UnregisteredHandle));

    let elsewhere = crate::harness::port();
    let other = IoQueue::new(&elsewhere);
    // SAFETY: nothing is started on it.
    let refused = unsafe { other.register_raw(&here) };
    assert_eq!(refusal(refused), Some(Error::OtherPort));
}

fn q01_a_file_is_registered_and_read() {
    let (port, queue) = queue();
    let scratch = Scratch::new();
    let path = scratch.file(b"contents of a file");
    let file = Arc::into_inner(open(&path, OpenOptions::new().read(true))).unwrap();
    let file: Registered<File> = queue.register(file).map_err(|(error, _)| error).unwrap();
    let (overlapped, buffer) = block(64);
    let read = Submission::Read {
        handle: (&file).into(),
        offset: 12,
        buffer,
        len: 64,
    };
    // SAFETY: the block keeps the buffer.
    unsafe { queue.submit(&file, &overlapped, read).unwrap() };
    let count = port
        .block_on(queue.wait(&file, &overlapped))
        .unwrap()
        .unwrap();
    assert_eq!(&bytes(&overlapped)[..count], b"a file");
}

fn q02_a_wait_resolves_to_what_was_read() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    let mut wait = queue.wait(&here, &block.0);
    assert!(poll_once(&mut wait).is_pending());
    assert!(block.0.is_in_flight());
    assert!(
        block.0.take_kept::<Vec<u8>>().is_none(),
        "it is the system's"
    );
    there.write_all(b"bytes").unwrap();
    assert_eq!(port.block_on(wait).unwrap().unwrap(), 5);
    assert_eq!(block.0.completion().unwrap().bytes, 5);
    assert_eq!(&bytes(&block.0)[..5], b"bytes");
}

fn q02_a_continuation_gets_what_was_read() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    let got = Arc::new(Mutex::new(None));
    let note = got.clone();
    let then = move |result: io::Result<usize>| *note.lock().unwrap() = Some(result.unwrap());
    queue.wait_then(&here, &block.0, then).unwrap();
    assert!(got.lock().unwrap().is_none());
    there.write_all(b"bytes").unwrap();
    port.dispatch().unwrap();
    assert_eq!(*got.lock().unwrap(), Some(5));
}

fn q02_a_block_is_used_again() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = block(8);
    for round in 0..3u8 {
        recv(&queue, &here, &block, 8).unwrap();
        let second = recv(&queue, &here, &block, 8);
        assert_eq!(refusal(second), Some(Error::ContextInFlight));
        there.write_all(&[round]).unwrap();
        let count = port.block_on(queue.wait(&here, &block.0)).unwrap().unwrap();
        assert_eq!(count, 1);
    }
    assert_eq!(bytes(&block.0)[0], 2);
}

fn q02_a_wait_moves_to_another_thread() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    let wait = queue.wait(&here, &block.0);
    let task = port.spawn(wait);
    let worker = crate::harness::spawn({
        let port = port.clone();
        move || port.block_on(task).unwrap().unwrap().unwrap()
    });
    there.write_all(b"bytes").unwrap();
    assert_eq!(worker.join().unwrap(), 5);
}

fn q02_a_cancelled_wait_says_so() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    let wait = queue.wait(&here, &block.0);
    wait.cancel();
    let error = port.block_on(wait).unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(longshore::ABORTED.cast_signed()));
    // What comes now is for the next.
    there.write_all(b"bytes").unwrap();
    recv(&queue, &here, &block, 8).unwrap();
    assert_eq!(
        port.block_on(queue.wait(&here, &block.0)).unwrap().unwrap(),
        5
    );
}

fn q03_a_wait_on_an_unregistered_handle_is_refused_at_once() {
    let (_port, queue) = queue();
    let (here, _there) = registered(&queue);
    let (stranger, _) = pair();
    let block = block(8);
    let refused = recv(&queue, &*stranger, &block, 8);
    assert_eq!(refusal(refused), Some(Error::UnregisteredHandle));
    let ready = |mut wait: Wait| match poll_once(&mut wait) {
        Poll::Ready(result) => refusal(result),
        Poll::Pending => panic!("it waits"),
    };
    let unregistered = Some(Error::UnregisteredHandle);
    assert_eq!(ready(queue.wait(&*stranger, &block.0)), unregistered);
    let then = queue.wait_then(&*stranger, &block.0, |_| unreachable!());
    assert_eq!(refusal(then), unregistered);
    assert_eq!(ready(queue.wait(&here, &block.0)), Some(Error::NotInFlight));

    // Started on another handle of the queue.
    let (other, _peer) = registered(&queue);
    recv(&queue, &other, &block, 8).unwrap();
    assert_eq!(ready(queue.wait(&here, &block.0)), unregistered);
    drop(other);
}

fn q04_a_second_wait_for_one_operation_is_refused() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    let first = queue.wait(&here, &block.0);
    let second = port.block_on(queue.wait(&here, &block.0)).unwrap();
    assert_eq!(refusal(second), Some(Error::AlreadyWaiting));
    let third = queue.wait_then(&here, &block.0, |_| unreachable!());
    assert_eq!(refusal(third), Some(Error::AlreadyWaiting));
    there.write_all(b"bytes").unwrap();
    assert_eq!(port.block_on(first).unwrap().unwrap(), 5);
}

fn q04_two_operations_of_one_handle_are_waited_for() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let (one, two) = (block(1), block(1));
    recv(&queue, &here, &one, 1).unwrap();
    recv(&queue, &here, &two, 1).unwrap();
    let (second, first) = (queue.wait(&here, &two.0), queue.wait(&here, &one.0));
    there.write_all(b"12").unwrap();
    assert_eq!(port.block_on(second).unwrap().unwrap(), 1);
    assert_eq!(port.block_on(first).unwrap().unwrap(), 1);
    assert_eq!(
        (bytes(&one.0), bytes(&two.0)),
        (b"1".to_vec(), b"2".to_vec())
    );
}

fn q04_one_waiter_for_each_handle_where_that_is_wanted() {
    let (port, queue) = queue();
    queue.one_waiter_per_handle(true);
    let (here, mut there) = registered(&queue);
    let (one, two) = (block(1), block(1));
    recv(&queue, &here, &one, 1).unwrap();
    recv(&queue, &here, &two, 1).unwrap();
    let first = queue.wait(&here, &one.0);
    let second = port.block_on(queue.wait(&here, &two.0)).unwrap();
    assert_eq!(refusal(second), Some(Error::AlreadyWaiting));
    there.write_all(b"12").unwrap();
    assert_eq!(port.block_on(first).unwrap().unwrap(), 1);
    let second = port.block_on(queue.wait(&here, &two.0)).unwrap();
    assert_eq!(second.unwrap(), 1, "the first does not wait any more");
}

fn q05_a_packet_that_came_before_the_wait_is_kept() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    there.write_all(b"bytes").unwrap();
    while block.0.is_in_flight() {
        port.dispatch().unwrap();
    }
    assert!(!queue.running());
    let Poll::Ready(result) = poll_once(&mut queue.wait(&here, &block.0)) else {
        panic!("the result was there");
    };
    assert_eq!(result.unwrap(), 5);

    // The same for an operation that ends in the call, and for a continuation.
    there.write_all(b"more").unwrap();
    recv(&queue, &here, &block, 8).unwrap();
    while block.0.is_in_flight() {
        port.dispatch().unwrap();
    }
    let called = Arc::new(AtomicUsize::new(0));
    let note = called.clone();
    let then = move |result: io::Result<usize>| note.store(result.unwrap(), SeqCst);
    queue.wait_then(&here, &block.0, then).unwrap();
    assert_eq!(called.load(SeqCst), 4);
}

fn q05_a_result_that_nobody_has_read_is_not_overwritten() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    there.write_all(b"bytes").unwrap();
    port.dispatch().unwrap();
    let again = recv(&queue, &here, &block, 8);
    assert_eq!(refusal(again), Some(Error::ContextInFlight));
    let result = port.block_on(queue.wait(&here, &block.0)).unwrap();
    assert_eq!(result.unwrap(), 5);
}

fn q05_a_dropped_wait_loses_nothing() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    let mut wait = queue.wait(&here, &block.0);
    assert!(poll_once(&mut wait).is_pending());
    assert!(queue.running());
    drop(wait);
    assert!(!queue.running());
    there.write_all(b"bytes").unwrap();
    assert_eq!(
        port.block_on(queue.wait(&here, &block.0)).unwrap().unwrap(),
        5
    );
}

fn q05_a_wait_dropped_after_the_end_loses_nothing() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    let mut wait = queue.wait(&here, &block.0);
    assert!(poll_once(&mut wait).is_pending());
    there.write_all(b"bytes").unwrap();
    port.dispatch().unwrap();
    assert!(!block.0.is_in_flight());
    drop(wait);
    let count = port.block_on(queue.wait(&here, &block.0)).unwrap();
    assert_eq!(count.unwrap(), 5);
}

fn q05_a_dropped_wait_lets_go_of_its_waker() {
    let (_port, queue) = queue();
    let (here, _there) = registered(&queue);
    let block = receiving(&queue, &here);
    let count = Arc::<Count>::default();
    let waker = Waker::from(count.clone());
    let mut wait = queue.wait(&here, &block.0);
    let polled = pin!(&mut wait).poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    drop(waker);
    assert_eq!(Arc::strong_count(&count), 2);
    drop(wait);
    assert_eq!(Arc::strong_count(&count), 1);
}

fn q10_raw_and_typed_handles_work_alike() {
    let (port, queue) = queue();
    let (here, there) = pair();
    let block = block(8);
    // SAFETY: nothing is in flight on it when it is closed.
    unsafe { queue.register_raw(&*here).unwrap() };
    recv(&queue, &*here, &block, 8).unwrap();
    (&*there).write_all(b"bytes").unwrap();
    let wait = queue.wait(&*here, &block.0);
    assert_eq!(port.block_on(wait).unwrap().unwrap(), 5);
    queue.unregister_raw(&*here).unwrap();

    // The same object, typed.
    let here: Socket = Arc::into_inner(here).unwrap().into();
    let here = queue.register(here).map_err(|(error, _)| error).unwrap();
    recv(&queue, &here, &block, 8).unwrap();
    (&*there).write_all(b"bytes").unwrap();
    let wait = queue.wait(&here, &block.0);
    assert_eq!(port.block_on(wait).unwrap().unwrap(), 5);
}
