//! Q8: dispatching until nothing waits.
// UNSAFETY: lends buffers to operations; the operations' blocks own them.
#![expect(unsafe_code)]

use std::{
    io::{self, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use longshore::{IoQueue, Submission};

use crate::{
    harness::{Test, scaled, tick},
    ioqueue::{block, queue, receiving, recv, registered},
    support::{fail, join, panic_of, sleepers},
};

pub const TESTS: &[Test] = tests![
    q08_running_and_poll_tell_what_waits,
    q08_poll_waits_for_the_first_entry,
    q08_poll_and_run_dispatch_all_that_is_ready,
    q08_run_goes_on_until_nothing_waits,
    q08_run_releases_every_thread,
    q08_a_poll_that_comes_and_goes_disturbs_no_run,
    q08_a_panic_in_a_continuation_reaches_the_dispatch_only,
];

fn q08_poll_waits_for_the_first_entry() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    let wait = queue.wait(&here, &block.0);
    let mine = queue.clone();
    let poller = sleepers(&port, 1, move |_| mine.poll(Duration::MAX));
    there.write_all(b"bytes").unwrap();
    assert!(join(poller).remove(0).unwrap(), "it waited");
    assert_eq!(port.block_on(wait).unwrap().unwrap(), 5);
}

fn q08_poll_and_run_dispatch_all_that_is_ready() {
    let (port, queue) = queue();
    for way in [
        |queue: &IoQueue| queue.poll(Duration::MAX).map(drop),
        IoQueue::run,
    ] {
        (0..5).for_each(|_| port.wake_one().unwrap());
        way(&queue).unwrap();
        assert!(!port.try_dispatch().unwrap());
    }
}

fn q08_a_poll_that_comes_and_goes_disturbs_no_run() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    let wait = queue.wait(&here, &block.0);
    let mine = queue.clone();
    let runs = sleepers(&port, 2, move |_| mine.run());
    assert!(!queue.poll(Duration::from_millis(1)).unwrap());
    there.write_all(b"bytes").unwrap();
    for result in join(runs) {
        result.unwrap();
    }
    assert_eq!(port.block_on(wait).unwrap().unwrap(), 5);
}

fn q08_running_and_poll_tell_what_waits() {
    let (port, queue) = queue();
    assert!(!queue.running());
    assert!(!queue.poll(Duration::MAX).unwrap(), "nothing to wait for");
    port.wake_one().unwrap();
    port.wake_one().unwrap();
    assert!(queue.poll(Duration::ZERO).unwrap());
    assert!(!port.try_dispatch().unwrap(), "all of what was ready");

    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    assert!(!queue.running(), "in flight, and nobody waits");
    let wait = queue.wait(&here, &block.0);
    assert!(queue.running());
    assert!(!queue.poll(Duration::ZERO).unwrap());
    assert!(!queue.poll(Duration::from_millis(5)).unwrap());
    there.write_all(b"bytes").unwrap();
    while queue.running() {
        assert!(queue.poll(Duration::MAX).unwrap());
    }
    assert_eq!(port.block_on(wait).unwrap().unwrap(), 5);
}

fn q08_run_goes_on_until_nothing_waits() {
    let (_port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let here = Arc::new(here);
    let rounds = Arc::new(AtomicUsize::new(0));

    // Each continuation waits anew.
    fn go_on(
        queue: IoQueue,
        here: Arc<longshore::Registered<TcpStream>>,
        rounds: Arc<AtomicUsize>,
    ) {
        let block = block(1);
        recv(&queue, &*here, &block, 1).unwrap();
        let again = (queue.clone(), here.clone());
        let then = move |result: io::Result<usize>| {
            if result.unwrap() == 1 && rounds.fetch_add(1, SeqCst) < 9 {
                go_on(again.0, again.1, rounds);
            }
        };
        queue.wait_then(&*here, &block.0, then).unwrap();
    }
    go_on(queue.clone(), here, rounds.clone());
    there.write_all(&[7; 10]).unwrap();
    queue.run().unwrap();
    assert_eq!(rounds.load(SeqCst), 10);
    assert!(!queue.running());
    queue.run().unwrap();
}

fn q08_run_releases_every_thread() {
    let (port, queue) = queue();
    for _ in 0..scaled(200) {
        tick();
        let (here, mut there) = registered(&queue);
        let block = receiving(&queue, &here);
        let wait = queue.wait(&here, &block.0);
        let mine = queue.clone();
        let threads = sleepers(&port, 3, move |_| mine.run());
        there.write_all(b"bytes").unwrap();
        for result in join(threads) {
            result.unwrap();
        }
        assert_eq!(port.block_on(wait).unwrap().unwrap(), 5);
    }
}

fn q08_a_panic_in_a_continuation_reaches_the_dispatch_only() {
    let (port, queue) = queue();
    let (here, mut there) = registered(&queue);
    let block = receiving(&queue, &here);
    queue.wait_then(&here, &block.0, |_| fail(7)).unwrap();
    there.write_all(b"bytes").unwrap();
    panic_of(|| port.dispatch());
    assert!(!queue.running());
    // SAFETY: the block keeps the buffer.
    unsafe {
        let receive = Submission::Recv {
            socket: (&here).into(),
            buffer: block.1,
            len: 8,
        };
        queue.submit(&here, &block.0, receive).unwrap();
    }
    there.write_all(b"more").unwrap();
    let count = port.block_on(queue.wait(&here, &block.0)).unwrap();
    assert_eq!(count.unwrap(), 4);
}
