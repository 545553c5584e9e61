//! Many actors with one outstanding event each, and threads that come and go: is every event delivered,
//! once, and in time?

mod actor;
mod args;
mod crew;
mod lent;
mod play;
mod random;

use std::{
    fmt, io,
    process::ExitCode,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use longshore::Dispatcher;

use actor::Stuck;
use args::{Options, Request};
use crew::Crew;
use play::Play;

/// How often the watchdog looks.
const ROUND: Duration = Duration::from_millis(25);
/// No event may take longer, beyond what it waits for on purpose.
const STALL: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let options = match args::parse() {
        Ok(Request::Help) => {
            println!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Request::Run(options)) => options,
        Err(problem) => {
            eprintln!("stress: {problem}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(outcome) => {
            println!("stress ({}): {outcome}", options.backend);
            ExitCode::from(u8::from(!outcome.is_clean()))
        }
        Err(error) => {
            eprintln!("stress: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Outcome {
    events: u64,
    lost: usize,
    /// Threads that panicked or were never woken.
    missing: usize,
    duplicates: u64,
    wrong: u64,
    longest: Duration,
}

impl Outcome {
    fn is_clean(&self) -> bool {
        self.lost + self.missing == 0 && self.duplicates == 0 && self.wrong == 0
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            events,
            lost,
            missing: _,
            duplicates,
            wrong,
            longest,
        } = self;
        let longest_ms = longest.as_millis();
        write!(
            f,
            "{events} events, {lost} lost, {duplicates} duplicate, {wrong} wrong, longest wait {longest_ms} ms"
        )
    }
}

fn run(options: &Options) -> io::Result<Outcome> {
    println!(
        "stress: {} events, {} actors, seed {}",
        options.events, options.actors, options.seed
    );
    let port = Dispatcher::builder().backend(options.backend).build()?;
    // First, so that the guarded run has nothing to do but its guard for a while.
    let mut crew = Crew::new(&port, options.seed);
    let play = Play::begin(&port, options.events, options.actors, options.seed)?;
    let lost = watch(play, &mut crew);
    let missing = crew.dismiss();
    if missing > 0 {
        eprintln!(
            "stress: {missing} threads panicked or were never woken: {:?}",
            port.stats()
        );
    }
    let has_ended = lost + missing == 0;
    // An event that was queued twice may still be there.
    while has_ended && port.try_dispatch()? {}
    let outcome = Outcome {
        events: play.delivered.load(Ordering::SeqCst),
        lost,
        missing,
        // What longshore itself did not expect to come is foreign to it.
        duplicates: play.duplicates.load(Ordering::SeqCst) + port.foreign_packets(),
        wrong: play.wrong.load(Ordering::SeqCst),
        longest: Duration::from_micros(play.longest_us.load(Ordering::SeqCst)),
    };
    if has_ended {
        port.close()?;
    }
    Ok(outcome)
}

/// Waits until all actors have ended; returns how many are stuck, after naming them.
fn watch(play: &Play, crew: &mut Crew) -> usize {
    let actors = &play.actors;
    let (begun, mut said) = (Instant::now(), Instant::now());
    loop {
        let before = Instant::now();
        thread::sleep(ROUND);
        // On a machine that did not even let this thread run, nobody can be blamed.
        let starved = before.elapsed().saturating_sub(ROUND);
        let running = actors.iter().filter(|actor| !actor.has_ended()).count();
        if running == 0 {
            return 0;
        }
        let stuck: Vec<_> = actors
            .iter()
            .filter_map(|actor| actor.stuck(play, STALL + 2 * starved))
            .collect();
        if !stuck.is_empty() {
            for Stuck {
                actor,
                what,
                waited,
            } in &stuck
            {
                eprintln!("stress: actor {actor} waits for {what} for {waited:?}");
            }
            eprintln!("stress: {:?}", play.port.stats());
            return stuck.len();
        }
        crew.change();
        if said.elapsed() > Duration::from_secs(5) {
            said = Instant::now();
            let events = play.delivered.load(Ordering::Relaxed);
            eprintln!(
                "stress: {events} events after {} s",
                begun.elapsed().as_secs()
            );
        }
    }
}
