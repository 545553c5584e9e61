//! Cancels that race what they cancel: rounds in which the two meet at ever other steps.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use longshore::ABORTED;

use crate::{
    harness::{scaled, spawn, tick},
    support::pause,
};

/// Rounds until the time is up, because machines differ; returns how many.
pub fn bounded(rounds: usize, mut round: impl FnMut(usize)) -> usize {
    let enough = Instant::now() + Duration::from_secs(12);
    for done in 0..rounds {
        if done % 64 == 0 {
            tick();
            if Instant::now() > enough {
                return done;
            }
        }
        round(done);
    }
    rounds
}

type Received = (io::Result<usize>, [u8; 8]);

/// One number is on its way at a time. The cancelled receive has it, or the next one gets it.
///
/// `receive` calls what it is given, if anything, between its begin and its cancel; without, it waits.
pub fn numbers_against_cancels(
    mut send: impl FnMut([u8; 8]) + Send + 'static,
    receive: impl Fn(Option<&dyn Fn()>) -> Received,
) {
    let go = Arc::new(AtomicUsize::new(0));
    let sender = spawn({
        let go = go.clone();
        move || {
            let mut sent = 0;
            loop {
                match go.load(SeqCst) {
                    usize::MAX => return sent,
                    turn if turn > sent => {
                        sent += 1;
                        pause(sent % 97 * 10);
                        send(sent.to_ne_bytes());
                    }
                    _ => std::hint::spin_loop(),
                }
            }
        }
    });
    let (mut won, mut lost) = (0, 0);
    let rounds = bounded(scaled(100_000), |round| {
        let release = || {
            go.store(round + 1, SeqCst);
            pause(round % 89 * 10);
        };
        let (mut received, mut number) = receive(Some(&release));
        match &received {
            Ok(_) => won += 1,
            Err(error) => {
                lost += 1;
                assert_eq!(error.raw_os_error(), Some(ABORTED as i32));
                (received, number) = receive(None);
            }
        }
        assert_eq!(received.unwrap(), 8);
        assert_eq!(usize::from_ne_bytes(number), round + 1);
    });
    go.store(usize::MAX, SeqCst);
    println!("{rounds} numbers: {won} receives won, {lost} cancels");
    assert_eq!(sender.join().unwrap(), rounds);
    assert_eq!(won + lost, rounds);
}
