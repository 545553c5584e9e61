//! `cargo xtask loom`: every schedule of the lock-free protocols, on the shipped source.
//!
//! The library is built with `--cfg longshore_loom`, which exchanges its atomics for loom's; the
//! models stand beside the protocols. Those that are about fences are run without any, too: then they
//! have to fail. A build folder of its own keeps the other builds warm.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Result, bail};
use lexopt::prelude::*;

use crate::project::Project;
use crate::{help, shell};

/// Models of the protocols in which a fence decides.
const FENCED: &[&str] = &[
    "loom_one_pusher_one_sleeper",
    "loom_a_harvest_and_a_post_reach_the_sleeper",
    "loom_a_thread_that_exits_passes_on_what_it_answered_for",
    "loom_closing_wakes_the_sleeper_and_loses_no_post",
    "loom_dropping_the_last_guard_ends_the_run",
];

pub(crate) fn command(project: &Project, mut parser: lexopt::Parser) -> Result<ExitCode> {
    if let Some(argument) = parser.next()? {
        return match argument {
            Short('h') | Long("help") => Ok(help()),
            other => Err(other.unexpected().into()),
        };
    }
    let mut passed = 0;
    let status = shell::tee(&mut models(project, "loom_"), |line| {
        passed += usize::from(line.starts_with("test ") && line.ends_with("... ok"));
    })?;
    match (status.success(), passed) {
        (true, 0) => bail!("no model was run"),
        (true, _) => see_them_fail(project),
        (false, _) => Ok(ExitCode::FAILURE),
    }
}

/// A model that cannot fail shows nothing: without the fences each of these must.
fn see_them_fail(project: &Project) -> Result<ExitCode> {
    for model in FENCED {
        let mut cargo = models(project, model);
        cargo.env("LONGSHORE_NO_FENCES", "1").stderr(Stdio::null());
        let (mut has_begun, mut has_passed) = (false, false);
        shell::stream(&mut cargo, |line| {
            has_begun |= line == "running 1 test";
            has_passed |= line.starts_with("test result: ok");
        })?;
        match (has_begun, has_passed) {
            (false, _) => bail!("{model} was not run"),
            (true, true) => bail!("{model} passes without fences"),
            (true, false) => println!("{model} fails without fences, as it should"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn models(project: &Project, filter: &str) -> Command {
    let mut cargo = project.cargo();
    cargo
        .args(["test", "--package", "longshore", "--lib", "--release"])
        .arg(filter)
        .env("RUSTFLAGS", "--cfg longshore_loom")
        .env("CARGO_TARGET_DIR", project.work("loom"));
    cargo
}
