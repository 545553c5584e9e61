//! `cargo xtask setup`: installs what is missing, says so, and does nothing when all is there.

pub(crate) mod packages;
pub(crate) mod rust_target;
mod sysroot;
pub(crate) mod wine;

use std::fs::File;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::project::Project;
use rust_target::Targets;
use wine::Wine;

/// Proof that a set-up succeeded, and what it found.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) targets: Targets,
    pub(crate) wine: Wine,
}

pub(crate) fn command(project: &Project, mut parser: lexopt::Parser) -> Result<ExitCode> {
    if let Some(argument) = parser.next()? {
        return match argument {
            lexopt::Arg::Long("help") => Ok(crate::help()),
            other => Err(other.unexpected().into()),
        };
    }
    let setup = ensure(project)?;
    println!(
        "set up: {}, Wine {}",
        setup.targets.describe(),
        setup.wine.version
    );
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn ensure(project: &Project) -> Result<Setup> {
    let _alone = lock(project)?;
    packages::ensure()?;
    let targets = rust_target::ensure(project)?;
    let wine = wine::ensure(project)?;
    Ok(Setup { targets, wine })
}

/// The Rust side only, for `tidy`, which runs no Windows program.
pub(crate) fn ensure_targets(project: &Project) -> Result<Targets> {
    let _alone = lock(project)?;
    rust_target::ensure(project)
}

/// The TCP clients only, for `clients`.
pub(crate) fn ensure_clients(project: &Project) -> Result<()> {
    let _alone = lock(project)?;
    packages::ensure_clients()
}

/// Two set-ups at once would trample on each other; the second waits and then finds all done.
fn lock(project: &Project) -> Result<File> {
    let file =
        File::create(project.work("setup.lock")).context("cannot make target/xtask/setup.lock")?;
    file.lock()?;
    Ok(file)
}
