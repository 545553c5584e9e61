//! `cargo xtask stress`: the stress program on every backend.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use crate::project::Project;
use crate::setup::{self, rust_target::GNU};
use crate::{Usage, artifacts, help};

const EVENTS: u64 = 1_000_000;
const FULL: u64 = 10_000_000;
/// An event costs so many times more under Wine, whose every system call asks its server.
const WINE: u64 = 20;

pub(crate) fn command(project: &Project, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let (mut events, mut backends, mut seed) = (EVENTS, vec!["epoll", "iocp"], None);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(help()),
            Long("full") => events = FULL,
            Long("seed") => seed = Some(parser.value()?.parse::<u64>()?),
            Long("backend") => {
                let name = parser.value()?.string()?;
                backends.retain(|backend| *backend == name);
                if backends.is_empty() {
                    return Err(Usage(format!("there is no backend `{name}`")).into());
                }
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let mut is_clean = true;
    for backend in backends {
        is_clean &= match backend {
            "iocp" => run_iocp(project, events / WINE, seed)?,
            _ => run_epoll(project, events, seed)?,
        };
    }
    Ok(if is_clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn cargo(project: &Project) -> Command {
    let mut cargo = project.cargo();
    cargo.args([
        "build",
        "--release",
        "-p",
        "longshore-bench",
        "--bin",
        "stress",
    ]);
    cargo
}

fn build(mut cargo: Command) -> Result<std::path::PathBuf> {
    let built = artifacts::build(&mut cargo)?;
    let stress = built.into_iter().find(|artifact| artifact.name == "stress");
    Ok(stress.context("cargo built no such program")?.program)
}

fn finish(mut command: Command, events: u64, seed: Option<u64>) -> Result<bool> {
    command.args(["--events", &events.to_string()]);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    match command.status()?.code() {
        Some(code @ (0 | 1)) => Ok(code == 0),
        other => bail!("the stress program ended with {other:?}"),
    }
}

fn run_epoll(project: &Project, events: u64, seed: Option<u64>) -> Result<bool> {
    let program = build(cargo(project))?;
    finish(Command::new(program), events, seed)
}

fn run_iocp(project: &Project, events: u64, seed: Option<u64>) -> Result<bool> {
    let setup = setup::ensure(project)?;
    let mut cargo = cargo(project);
    cargo.args(["--target", GNU]);
    setup.targets.apply(&mut cargo, GNU, "");
    let program = build(cargo)?;
    let _session = setup.wine.start()?;
    let mut command = Command::new(&setup.wine.runner);
    command.arg(program);
    finish(command, events, seed)
}
