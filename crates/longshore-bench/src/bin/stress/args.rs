//! The command line.

use std::{env, str::FromStr};

use longshore::Backend;

use super::actor::MOST;

pub(crate) const HELP: &str = "\
Usage: stress [--events N] [--actors N] [--seed N] [--backend NAME]

Actors with exactly one outstanding event each (a post, a closure, a timer, a reposted Context, a receive
submitted before or after its data was sent, a receive that is cancelled), and 2 to 8 threads that come and
go, some inside run and its like, others in plain dispatches. Every event has to be delivered once, and none
may take 500 ms longer than it waits on purpose. An event that its actor does not wait for (any more) is
counted as a duplicate, and so is a packet that longshore takes for foreign.

  --events N      how many events (default: 1,000,000)
  --actors N      how many actors, with four sockets each (default: 48)
  --seed N        what the events are chosen by (default: the time; it is printed)
  --backend NAME  the mechanism: epoll on Linux, iocp on Windows

Exit code: 0 if all is well, 1 if an event was lost, late, wrong or delivered twice, or a thread panicked or
was never woken, 2 for bad arguments.";

pub(crate) enum Request {
    Help,
    Run(Options),
}

pub(crate) struct Options {
    pub(crate) events: u64,
    pub(crate) actors: usize,
    pub(crate) seed: u64,
    pub(crate) backend: Backend,
}

/// What to do, or one line that says what is wrong.
pub(crate) fn parse() -> Result<Request, String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut options = Options {
        events: 1_000_000,
        actors: 48,
        seed: now.map_or(1, |now| now.as_secs()),
        backend: Backend::default(),
    };
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if matches!(argument.as_str(), "--help" | "-h") {
            return Ok(Request::Help);
        }
        let value = arguments.next();
        let value = value.ok_or_else(|| format!("{argument} needs a value (try --help)"));
        match argument.as_str() {
            "--events" => options.events = number(&argument, &value?)?,
            "--actors" => options.actors = number(&argument, &value?)?,
            "--seed" => options.seed = number(&argument, &value?)?,
            "--backend" => {
                let name = value?;
                options.backend = name
                    .parse()
                    .map_err(|_| format!("--backend: there is no '{name}' on this system"))?;
            }
            other => return Err(format!("unexpected argument '{other}' (try --help)")),
        }
    }
    match options.actors {
        1..=MOST => Ok(Request::Run(options)),
        _ => Err(format!("--actors: from 1 to {MOST}")),
    }
}

fn number<T: FromStr>(option: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{option}: '{text}' is not a number that fits"))
}
