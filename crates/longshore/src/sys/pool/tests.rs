//! What a backend needs of the pool for its transfers.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// Says when it has begun, and waits until it may go on.
struct Slow {
    source: u64,
    begun: Sender<u64>,
    go_on: Receiver<()>,
    ended: Sender<u64>,
}

impl Transfer for Slow {
    fn source(&self) -> u64 {
        self.source
    }

    fn carry_out(&mut self) {
        self.begun.send(self.source).unwrap();
        self.go_on.recv().unwrap();
    }

    fn end(self) {
        self.ended.send(self.source).unwrap();
    }
}

/// A pool whose threads are all in the middle of a transfer of source 0, what lets each of them
/// go on, and what hears of ends.
fn busy() -> (Pool<Slow>, Vec<Sender<()>>, Sender<u64>, Receiver<u64>) {
    let ((begun, has_begun), (ended, has_ended)) = (channel(), channel());
    let pool = Pool::new();
    let go_on = (0..MAX_THREADS).map(|_| {
        let (slow, go_on) = slow(0, &begun, &ended);
        assert!(pool.transfer(slow, || false).is_ok());
        go_on
    });
    let go_on = go_on.collect();
    assert!(has_begun.iter().take(MAX_THREADS).all(|source| source == 0));
    (pool, go_on, ended, has_ended)
}

fn slow(source: u64, begun: &Sender<u64>, ended: &Sender<u64>) -> (Slow, Sender<()>) {
    let (go_on, may_go_on) = channel();
    let slow = Slow {
        source,
        begun: begun.clone(),
        go_on: may_go_on,
        ended: ended.clone(),
    };
    (slow, go_on)
}

#[test]
fn d10_what_waits_can_be_taken_back_and_what_has_begun_is_waited_for() {
    let (pool, go_on, ended, has_ended) = busy();
    let (begun, has_begun) = channel();
    let mut kept = Vec::new();
    for source in [1, 2, 2, 3] {
        let (slow, go_on) = slow(source, &begun, &ended);
        assert!(pool.transfer(slow, || false).is_ok());
        kept.push(go_on);
    }
    assert!(pool.take_back(|slow| slow.source == 0).is_none(), "begun");
    assert_eq!(pool.take_back(|slow| slow.source == 1).unwrap().source, 1);
    assert!(pool.take_back(|slow| slow.source == 1).is_none());
    assert_eq!(pool.detach(2).len(), 2);
    thread::scope(|scope| {
        let detaching = scope.spawn(|| pool.detach(0).len());
        for one in go_on {
            // Time for one that does not wait to give itself away.
            (0..1000).for_each(|_| thread::yield_now());
            assert!(!detaching.is_finished());
            one.send(()).unwrap();
        }
        assert_eq!(detaching.join().unwrap(), 0);
    });
    // What was not taken out goes on.
    assert_eq!(has_begun.recv(), Ok(3));
    kept[3].send(()).unwrap();
    let ends: Vec<_> = has_ended.iter().take(MAX_THREADS + 1).collect();
    assert_eq!(ends.iter().sum::<u64>(), 3);
}

#[test]
fn d10_a_transfer_of_a_detached_source_is_given_back() {
    let pool = Pool::new();
    let ((begun, has_begun), (ended, _)) = (channel(), channel());
    let (refused, _go_on) = slow(7, &begun, &ended);
    let (back, error) = pool.transfer(refused, || true).err().unwrap();
    assert!(error.is_none());
    drop((back, begun));
    assert!(has_begun.recv().is_err(), "no thread has it");
}
