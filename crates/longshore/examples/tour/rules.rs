//! The rules of the contract, each tried on ports of its own or read off the main job.

mod closing;
mod errors;
mod memory;
mod posting;
pub(crate) mod probe;
mod threads;

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
};

use longshore::{Builder, Dispatcher};

use crate::{run::PATIENCE, workload::Facts};

/// One rule, and how to find out whether it holds.
struct Rule {
    id: &'static str,
    tried: &'static str,
    check: fn(&Facts) -> io::Result<Check>,
}

const fn rule(
    id: &'static str,
    tried: &'static str,
    check: fn(&Facts) -> io::Result<Check>,
) -> Rule {
    Rule { id, tried, check }
}

#[rustfmt::skip]
const RULES: &[Rule] = &[
    rule("D1", "threads meet inside callbacks of one port; look at the exported handle", threads::d01),
    rule("D2", "read the words of a post and of a completion", posting::d02),
    rule("D3", "panic in a C-ABI callback and in an on_event; post a foreign function", posting::d03),
    rule("D4", "compare file, copy and echo; look at a Context in flight and after", memory::d04),
    rule("D5", "flood the port; post to one that is closed", posting::d05),
    rule("D6", "count dispatches against what ran; dispatch once from three", posting::d06),
    rule("D7", "poll an empty port, and one with two entries", posting::d07),
    rule("D8", "wake sleeping threads, one wake each; wake before the wait", threads::d08),
    rule("D9", "interrupt a thread that waits, then post", threads::d09),
    rule("D10", "close with closures, a post and a receive left over, and with threads that wait", closing::d10),
    rule("D11", "re-post a Context, and one in flight", memory::d11),
    rule("D12", "be refused, be reset, be cancelled, come to the end", errors::d12),
];

/// A rule with its outcome.
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) tried: &'static str,
    pub(crate) check: Check,
}

/// What was seen of one rule.
#[derive(Default)]
pub(crate) struct Check {
    observations: Vec<Observation>,
}

pub(crate) struct Observation {
    pub(crate) text: String,
    pub(crate) holds: bool,
}

impl Check {
    /// Notes an observation, and whether it is as the rule says.
    pub(crate) fn saw(mut self, holds: bool, text: impl Into<String>) -> Self {
        let text = text.into();
        self.observations.push(Observation { text, holds });
        self
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::default().saw(false, text)
    }

    pub(crate) fn observations(&self) -> &[Observation] {
        &self.observations
    }

    /// A check that has seen nothing does not hold.
    pub(crate) fn holds(&self) -> bool {
        !self.observations.is_empty() && self.observations.iter().all(|seen| seen.holds)
    }
}

/// Tries every rule, each on a thread of its own, so that one that hangs is a row like any other.
pub(crate) fn try_all(facts: &Arc<Facts>) -> io::Result<Vec<Row>> {
    RULES.iter().map(|rule| attempt(rule, facts)).collect()
}

fn attempt(rule: &'static Rule, facts: &Arc<Facts>) -> io::Result<Row> {
    let (report, outcome) = mpsc::channel();
    let facts = facts.clone();
    thread::Builder::new().name(rule.id.into()).spawn(move || {
        // The receiver has gone if it has lost its patience.
        let _ = report.send((rule.check)(&facts));
    })?;
    let check = match outcome.recv_timeout(PATIENCE) {
        Ok(Ok(check)) => check,
        Ok(Err(error)) => Check::failed(error.to_string()),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Check::failed(format!("the check did not end within {PATIENCE:?}"))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Check::failed("the check panicked"),
    };
    Ok(Row {
        id: rule.id,
        tried: rule.tried,
        check,
    })
}

fn builder(facts: &Facts) -> Builder {
    Dispatcher::builder().backend(facts.backend)
}

/// A fresh port on the backend under test.
fn port(facts: &Facts) -> io::Result<Dispatcher> {
    builder(facts).build()
}
