//! `cargo xtask wine run` and `wine exec`: programs under Wine, with their own exit code.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use crate::artifacts::{self, Artifact};
use crate::project::Project;
use crate::setup::{self, Setup, rust_target::GNU};
use crate::{Usage, help};

pub(crate) fn command(project: &Project, mut parser: lexopt::Parser) -> Result<ExitCode> {
    match parser.next()? {
        Some(Long("help")) => Ok(help()),
        Some(Value(verb)) if verb == "run" => run(project, &parse_run(parser)?),
        Some(Value(verb)) if verb == "exec" => {
            let mut words = parser.raw_args()?;
            let program = words.next().ok_or_else(|| Usage("which program?".into()))?;
            let setup = setup::ensure(project)?;
            execute(&setup, Path::new(&program), &words.collect::<Vec<_>>())
        }
        Some(other) => Err(other.unexpected().into()),
        None => Err(Usage("`wine` needs `run` or `exec`".into()).into()),
    }
}

/// What to build, and the program's own arguments, which nobody touches.
struct Run {
    /// `--example`, `--bin` or `--test`
    flag: String,
    name: String,
    release: bool,
    arguments: Vec<OsString>,
}

fn parse_run(mut parser: lexopt::Parser) -> Result<Run> {
    let mut which = None;
    let mut release = false;
    let mut arguments = Vec::new();
    loop {
        // Everything after `--` is the program's. lexopt would go on looking for our options.
        if let Some(rest) = parser.try_raw_args()
            && rest.peek().is_some_and(|word| word == "--")
        {
            arguments.extend(rest.skip(1));
        }
        match parser.next()? {
            Some(Long(flag @ ("example" | "bin" | "test"))) => {
                let flag = format!("--{flag}");
                which = Some((flag, parser.value()?.string()?));
            }
            Some(Long("release")) => release = true,
            Some(other) => return Err(other.unexpected().into()),
            None => break,
        }
    }
    let (flag, name) =
        which.ok_or_else(|| Usage("`wine run` needs --example, --bin or --test".into()))?;
    Ok(Run {
        flag,
        name,
        release,
        arguments,
    })
}

fn run(project: &Project, run: &Run) -> Result<ExitCode> {
    let setup = setup::ensure(project)?;
    let verb: &[&str] = if run.flag == "--test" {
        &["test", "--no-run"]
    } else {
        &["build"]
    };
    let mut cargo = project.cargo();
    cargo
        .args(verb)
        .args(["-p", "longshore", "--target", GNU, &run.flag, &run.name]);
    if run.release {
        cargo.arg("--release");
    }
    setup.targets.apply(&mut cargo, GNU, "");
    let built = artifacts::build(&mut cargo)?;
    let wanted = |artifact: &&Artifact| {
        artifact.name == run.name && format!("--{}", artifact.kind) == run.flag
    };
    let artifact = built
        .iter()
        .find(wanted)
        .context("cargo built no such program")?;
    execute(&setup, &artifact.program, &run.arguments)
}

fn execute(setup: &Setup, program: &Path, arguments: &[OsString]) -> Result<ExitCode> {
    let _session = setup.wine.start()?;
    let status = Command::new(&setup.wine.runner)
        .arg(program)
        .args(arguments)
        .env("LONGSHORE_WINE_VERSION", &setup.wine.version)
        .status()?;
    pass_on(status)
}

fn pass_on(status: ExitStatus) -> Result<ExitCode> {
    match status.code() {
        Some(124) => {
            bail!("the program was ended after its time-out (LONGSHORE_WINE_TIMEOUT, 600 s)")
        }
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        None => bail!("the program was ended: {status}"),
    }
}
