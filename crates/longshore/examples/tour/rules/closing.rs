//! Closing a port that is still in use: D10.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use longshore::{Dispatcher, Error};

use super::{
    Check, port,
    probe::{self, On, Probe},
};
use crate::{os, workload::Facts};

pub(super) fn d10(facts: &Facts) -> io::Result<Check> {
    let check = Check::default().saw(
        facts.closed.is_ok(),
        match &facts.closed {
            Ok(()) => "the port of the main job closed without a failure".into(),
            Err(failures) => format!("closing the port of the main job: {failures}"),
        },
    );
    let check = left_over(check, port(facts)?)?;
    let check = waiting(check, &port(facts)?)?;
    let carried = std_connection(b"ping")?;
    Ok(check.saw(
        carried == b"ping",
        format!(
            "a connection of std's made afterwards carried \"{}\"",
            carried.escape_ascii()
        ),
    ))
}

/// Closes with entries undelivered and a receive in flight.
fn left_over(check: Check, port: Dispatcher) -> io::Result<Check> {
    const CLOSURES: usize = 100;
    let ran = Arc::new(AtomicUsize::new(0));
    for _ in 0..CLOSURES {
        let ran = ran.clone();
        port.post_fn(move || _ = ran.fetch_add(1, Ordering::Relaxed))?;
    }
    port.post(10, probe::note)?;
    let (ours, _theirs) = probe::tcp_pair()?;
    let recv = Probe::start(&port, On::Stream(ours))?;
    let mut handed_over = Vec::new();
    // The receive holds a clone of the port, which is closed for it, too.
    port.close_with(|undelivered| handed_over.push(undelivered.context))?;

    let dropped = CLOSURES + 1 - Arc::strong_count(&ran);
    let ran = ran.load(Ordering::Relaxed);
    let received = recv.chain.outcome().transpose()?;
    Ok(check
        .saw(
            dropped == CLOSURES && ran == 0,
            format!("of {CLOSURES} closures {dropped} were dropped and {ran} run"),
        )
        .saw(
            handed_over == [10] && probe::seen().is_empty(),
            format!("posts handed over, not run: {handed_over:?}"),
        )
        .saw(
            received.is_some_and(|completion| completion.error == os::ABORTED),
            match received {
                Some(completion) => format!("the receive ended with error {}", completion.error),
                None => "the receive never ended".into(),
            },
        ))
}

/// Closes under threads that wait.
fn waiting(check: Check, port: &Dispatcher) -> io::Result<Check> {
    const WAITERS: usize = 2;
    let (sender, about_to) = mpsc::channel();
    let waiters: Vec<_> = (0..WAITERS)
        .map(|_| {
            let (port, sender) = (port.clone(), sender.clone());
            thread::spawn(move || {
                // The receiver waits for this.
                let _ = sender.send(());
                port.dispatch()
            })
        })
        .collect();
    for _ in 0..WAITERS {
        about_to.recv().map_err(io::Error::other)?;
    }
    // Long enough to fall asleep; whoever has not is refused at the door.
    thread::sleep(std::time::Duration::from_millis(20));
    port.clone().close()?;
    let mut said = Vec::new();
    for waiter in waiters {
        let outcome = waiter.join();
        let outcome = outcome.map_err(|_| io::Error::other("a thread that waited panicked"))?;
        said.push(outcome.err());
    }
    let closed = said
        .iter()
        .flatten()
        .filter(|error| Error::of(error) == Some(Error::Closed))
        .count();
    let shown = said.iter().flatten().next().map(io::Error::to_string);
    Ok(check.saw(
        closed == WAITERS,
        format!(
            "{closed} of {WAITERS} threads that waited returned \"{}\"",
            shown.unwrap_or_default()
        ),
    ))
}

/// Sends a message over std's sockets. Closing gave back one of Winsock's counted start-ups, its
/// own, so they go on working.
fn std_connection(message: &[u8]) -> io::Result<Vec<u8>> {
    let (mut ours, mut theirs) = probe::tcp_pair()?;
    let mut received = vec![0; message.len()];
    ours.write_all(message)?;
    theirs.read_exact(&mut received)?;
    Ok(received)
}
