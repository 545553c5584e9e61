//! `cargo xtask test`: the whole suite on every backend, and the proof that it was the same one.

mod compare;
pub(crate) mod parse;
mod report;
mod run;

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use lexopt::prelude::*;

use crate::project::Project;
use crate::{Usage, help, setup};
pub(crate) use report::Backend;
use report::Report;

/// The test programs whose lists of names must be the same on every backend.
const COMPARED: &[&str] = &["conformance", "tracing"];

struct Options {
    full: bool,
    backends: Vec<Backend>,
    filter: Option<String>,
}

pub(crate) fn command(project: &Project, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let mut options = Options {
        full: false,
        backends: Backend::ALL.to_vec(),
        filter: None,
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") => return Ok(help()),
            Long("full") => options.full = true,
            Long("backend") => {
                let name = parser.value()?.string()?;
                options.backends.retain(|backend| backend.name() == name);
                if options.backends.is_empty() {
                    return Err(
                        Usage(format!("there is no backend `{name}`: epoll or iocp")).into(),
                    );
                }
            }
            Value(part) if options.filter.is_none() => options.filter = Some(part.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    test(project, &options)
}

fn test(project: &Project, options: &Options) -> Result<ExitCode> {
    let setup = setup::ensure(project)?;
    let runs: Vec<_> = options
        .backends
        .iter()
        .map(|backend| {
            run::Run::new(
                project,
                &setup,
                *backend,
                options.full,
                options.filter.as_deref(),
            )
        })
        .collect();
    // All builds first: a compile error on the second backend should not take the first one's
    // whole run to show.
    let mut built = Vec::new();
    for run in &runs {
        eprintln!("== {}: building", run.backend.name());
        built.push(run.build());
    }
    let mut reports = Vec::new();
    for (run, built) in runs.iter().zip(built) {
        let started = Instant::now();
        let mut report = Report::new(run.backend, run.system());
        if let Err(error) = built.and_then(|programs| run.execute(&programs, &mut report)) {
            report
                .problems
                .push(format!("the backend could not be run: {error:#}"));
        }
        if report.tests.is_empty() && report.problems.is_empty() {
            report.problems.push("no test was run".into());
        }
        eprintln!("== {}: took {:.0?}", run.backend.name(), started.elapsed());
        reports.push(report);
    }
    let differences = differences(project, options, &reports);
    Ok(conclude(&reports, &differences))
}

/// What the names of those tests say. Compares nothing that was not run.
fn differences(project: &Project, options: &Options, reports: &[Report]) -> Vec<String> {
    let [epoll, iocp] = reports else {
        println!("note: one backend only, so the lists of tests are not compared");
        return Vec::new();
    };
    if reports.iter().any(|report| report.tests.is_empty()) {
        // That has failed already; each name of the other one would only bury the reason.
        println!("note: a backend ran no test, so the lists of tests are not compared");
        return Vec::new();
    }
    let names = |report: &Report| -> compare::Names {
        let tests = report
            .tests
            .iter()
            .filter(|(suite, ..)| COMPARED.contains(&suite.as_str()));
        tests.map(|(_, name, _)| name.clone()).collect()
    };
    let (epoll, iocp) = (names(epoll), names(iocp));
    let path = project
        .root
        .join("crates/longshore/tests/conformance/differences.txt");
    let listed = fs::read_to_string(path).unwrap_or_default();
    compare::compare(&iocp, &epoll, &listed, options.filter.as_deref())
}

/// The last lines of the run: failures, a line for each backend, the sum.
fn conclude(reports: &[Report], differences: &[String]) -> ExitCode {
    println!();
    let failures: Vec<_> = reports.iter().flat_map(Report::failures).collect();
    for failure in failures.iter().chain(differences) {
        println!("FAILED {failure}");
    }
    for report in reports {
        println!("{}", report.line());
    }
    let sum = |count: fn(&Report) -> usize| reports.iter().map(count).sum::<usize>();
    let failed = sum(Report::failed) + differences.len();
    println!(
        "{} passed, {failed} failed, {} skipped",
        sum(Report::passed),
        sum(Report::skipped)
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
