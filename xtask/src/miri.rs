//! `cargo xtask miri`: the unit tests that need no socket and no file, under Miri.
//!
//! Miri interprets the library and reports undefined behaviour and leaks. Ports are opened there as
//! well (it knows epoll), so closures, tasks, strands and Contexts travel through a real one as bare
//! words. Pointers are turned into words and back on purpose, which is what permissive provenance is
//! for. It needs a nightly toolchain, which rustup installs if it is not there.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
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
    ensure_nightly()?;
    let mut passed = 0;
    let mut miri = nightly(&["miri", "test", "--package", "longshore", "--lib"]);
    miri.current_dir(&project.root)
        .env("MIRIFLAGS", "-Zmiri-permissive-provenance")
        .env("CARGO_TARGET_DIR", project.work("miri"));
    let status = shell::tee(&mut miri, |line| {
        passed += usize::from(line.starts_with("test ") && line.ends_with("... ok"));
    })?;
    match (status.success(), passed) {
        (true, 0) => bail!("no test was run"),
        (true, _) => Ok(ExitCode::SUCCESS),
        (false, _) => Ok(ExitCode::FAILURE),
    }
}

/// cargo of the nightly toolchain, by way of rustup and not of the cargo that runs us.
pub(crate) fn nightly(arguments: &[&str]) -> Command {
    let mut cargo = Command::new("rustup");
    cargo.args(["run", "nightly", "cargo"]).args(arguments);
    // What the outer cargo has set is about another toolchain.
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(variable);
    }
    cargo
}

/// Installs nightly with Miri and the sources of std; does nothing the second time.
pub(crate) fn ensure_nightly() -> Result<()> {
    let mut version = nightly(&["miri", "--version"]);
    let mut sysroot = Command::new("rustup");
    sysroot.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    let has_source = shell::capture(&mut sysroot).is_ok_and(|sysroot| {
        let source = "lib/rustlib/src/rust/library/std/Cargo.toml";
        std::path::Path::new(sysroot.trim()).join(source).is_file()
    });
    if has_source && shell::capture(&mut version).is_ok() {
        return Ok(());
    }
    eprintln!("setup: installing the nightly toolchain with miri and rust-src");
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
    rustup.args(["--component", "miri", "--component", "rust-src"]);
    shell::run(&mut rustup)
        .context("rustup cannot install a nightly toolchain, and there is no other source")
}
