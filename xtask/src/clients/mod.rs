//! `cargo xtask clients`: the echo server meets clients that others have written.
//!
//! Each check has a server of its own, on a free port of the loopback. Everything that waits has a
//! limit, and only processes that were started here are ended.

mod checks;
mod process;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use lexopt::prelude::*;

use crate::project::Project;
use crate::setup::packages;
use crate::{artifacts, help, setup};

/// What the checks work with.
struct Bench {
    echo_server: PathBuf,
    /// Our own client, for what no other one can do: ten thousand connections.
    crowd: PathBuf,
    netcat: PathBuf,
    /// For the files that are sent.
    folder: PathBuf,
}

/// What a check came to, if it did not fail.
enum Outcome {
    /// With what is worth telling.
    Passed(String),
    /// With the reason.
    Skipped(String),
}

type Check = (&'static str, fn(&Bench) -> Result<Outcome>);

pub(crate) fn command(project: &Project, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let mut filter = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(help()),
            Value(part) if filter.is_none() => filter = Some(part.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    setup::ensure_clients(project)?;
    let bench = Bench {
        echo_server: build(project, "longshore", "example", "echo_server")?,
        crowd: build(project, "longshore-bench", "bin", "crowd")?,
        netcat: packages::netcat().context("netcat is gone again")?,
        folder: project.work("clients"),
    };
    std::fs::create_dir_all(&bench.folder)?;
    Ok(run(&bench, filter.as_deref()))
}

fn build(project: &Project, package: &str, kind: &str, name: &str) -> Result<PathBuf> {
    let mut cargo = project.cargo();
    cargo.args(["build", "--release", "-p", package]);
    cargo.args([&format!("--{kind}"), name]);
    let built = artifacts::build(&mut cargo)?;
    let found = built.into_iter().find(|artifact| artifact.name == name);
    Ok(found.context("cargo built no such program")?.program)
}

fn run(bench: &Bench, filter: Option<&str>) -> ExitCode {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let wanted = |check: &&Check| filter.is_none_or(|part| check.0.contains(part));
    for (name, check) in checks::ALL.iter().filter(wanted) {
        let started = Instant::now();
        let (verdict, detail) = match check(bench) {
            Ok(Outcome::Passed(detail)) => {
                passed += 1;
                ("ok", detail)
            }
            Ok(Outcome::Skipped(reason)) => {
                skipped += 1;
                ("skipped", reason)
            }
            Err(error) => {
                failed += 1;
                ("FAILED", format!("{error:#}"))
            }
        };
        let took = started.elapsed().as_secs_f32();
        println!("clients: {name} ... {verdict} ({took:.1} s): {detail}");
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    match (failed, passed + skipped) {
        (0, 1..) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
