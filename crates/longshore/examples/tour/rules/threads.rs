//! Several threads, sleep and wake: D1, D8, D9.

use std::{
    io,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use longshore::Dispatcher;

use super::{Check, port, probe};
use crate::{
    os,
    text::{grouped, short},
    workload::Facts,
};

pub(super) fn d01(facts: &Facts) -> io::Result<Check> {
    let work = &facts.dispatches;
    let threads = work.by_thread.len();
    let shares: Vec<_> = work.by_thread.iter().map(|&share| grouped(share)).collect();
    let shown = match shares.len() {
        ..=4 => shares.join(" and "),
        _ => {
            let (least, most) = (work.by_thread.iter().min(), work.by_thread.iter().max());
            let grouped = |share: Option<&u64>| grouped(share.copied().unwrap_or_default());
            format!("{} to {} each", grouped(least), grouped(most))
        }
    };
    let check = os::exported(&port(facts)?)?;
    let met = work.met == threads && threads >= 1;
    Ok(check.saw(
        met && work.by_thread.iter().all(|&share| share > 0),
        format!(
            "{} of {threads} threads were in callbacks of one port at one moment; they dispatched \
             {shown}",
            work.met
        ),
    ))
}

fn joined<T>(thread: JoinHandle<T>) -> io::Result<T> {
    thread
        .join()
        .map_err(|_| io::Error::other("a thread of the check panicked"))
}

pub(super) fn d08(facts: &Facts) -> io::Result<Check> {
    const SLEEPERS: usize = 4;
    let port = port(facts)?;
    let sleepers: Vec<_> = (0..SLEEPERS)
        .map(|_| {
            let port = port.clone();
            thread::spawn(move || port.dispatch())
        })
        .collect();
    (0..SLEEPERS).try_for_each(|_| port.wake_one())?;
    let mut released = 0;
    for sleeper in sleepers {
        joined(sleeper)??;
        released += 1;
    }
    let left = port.try_dispatch()?;

    const EARLY: usize = 3;
    (0..EARLY).try_for_each(|_| port.wake_one())?;
    let mut kept = 0;
    while port.try_dispatch()? {
        kept += 1;
    }
    Ok(Check::default()
        .saw(
            released == SLEEPERS && !left,
            format!("{SLEEPERS} wakes released {released} dispatches, then one was left: {left}"),
        )
        .saw(
            kept == EARLY,
            format!("of {EARLY} wakes before any wait {kept} were kept"),
        ))
}

/// What one wait was like.
struct Waited {
    returned: Instant,
    seen: Vec<usize>,
    interruptions: usize,
}

fn wait(port: &Dispatcher, about_to: &mpsc::Sender<()>) -> io::Result<Waited> {
    about_to.send(()).map_err(io::Error::other)?;
    port.dispatch()?;
    let returned = Instant::now();
    Ok(Waited {
        returned,
        seen: probe::seen(),
        interruptions: os::interruptions(),
    })
}

pub(super) fn d09(facts: &Facts) -> io::Result<Check> {
    // Long enough to fall asleep and to be seen waking too early.
    const WHILE: Duration = Duration::from_millis(50);
    let port = port(facts)?;
    let polled = Instant::now();
    let found = port.try_dispatch()?;
    let polled = polled.elapsed();

    let (sender, about_to) = mpsc::channel();
    let waiting = thread::spawn({
        let port = port.clone();
        move || wait(&port, &sender)
    });
    about_to.recv().map_err(io::Error::other)?;
    let began = Instant::now();
    thread::sleep(WHILE);
    os::interrupt(&waiting)?;
    thread::sleep(WHILE);
    let posted = Instant::now();
    port.post(9, probe::note)?;
    let waited = joined(waiting)??;
    let count = waited.interruptions;
    Ok(Check::default()
        .saw(
            waited.returned >= posted && waited.seen == [9] && count == 1,
            format!(
                "dispatch waited {} through {count} {}, and returned {} after the post",
                short(posted - began),
                os::INTERRUPTION,
                match waited.returned.checked_duration_since(posted) {
                    Some(after) => short(after),
                    None => "before, not".into(),
                }
            ),
        )
        .saw(
            !found && polled < WHILE * 10,
            format!(
                "on an empty port try_dispatch said {found} in {}",
                short(polled)
            ),
        ))
}
