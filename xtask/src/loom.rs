//! `cargo xtask loom`: every schedule of the lock-free protocols, on the shipped source.
//!
//! The library is built with `--cfg longshore_loom`, which exchanges its atomics for loom's; the
//! models stand beside the protocols. A build folder of its own keeps the other builds warm.

use std::process::ExitCode;

use anyhow::{Result, bail};
use lexopt::prelude::*;

use crate::project::Project;
use crate::{help, shell};

pub(crate) fn command(project: &Project, mut parser: lexopt::Parser) -> Result<ExitCode> {
    if let Some(argument) = parser.next()? {
        return match argument {
            Short('h') | Long("help") => Ok(help()),
            other => Err(other.unexpected().into()),
        };
    }
    let mut passed = 0;
    let mut cargo = project.cargo();
    cargo
        .args([
            "test",
            "--package",
            "longshore",
            "--lib",
            "--release",
            "loom_",
        ])
        .env("RUSTFLAGS", "--cfg longshore_loom")
        .env("CARGO_TARGET_DIR", project.work("loom"));
    let status = shell::tee(&mut cargo, |line| {
        passed += usize::from(line.starts_with("test ") && line.ends_with("... ok"));
    })?;
    match (status.success(), passed) {
        (true, 0) => bail!("no model was run"),
        (true, _) => Ok(ExitCode::SUCCESS),
        (false, _) => Ok(ExitCode::FAILURE),
    }
}
