//! `cargo xtask tsan`: the stress program and the suite's races under ThreadSanitizer.
//!
//! std is built anew with the sanitizer, because its locks and counted references order what we do;
//! that takes a nightly toolchain with `rust-src`, as Miri does. ThreadSanitizer does not know fences.
//! Those of `sleepers` and `work` order only atomics, about which it never complains, so nothing has to
//! be suppressed.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use lexopt::prelude::*;

use crate::miri::{ensure_nightly, nightly};
use crate::project::Project;
use crate::{help, shell};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// How many events the stress program has here, where each costs many times more.
const EVENTS: &str = "100000";
/// Parts of the names of tests that race; each is one run of the suite, without what ran before.
const RACES: &[&str] = &["race", "strand_", "d06_a_run", "d06_the_last", "stats_"];

pub(crate) fn command(project: &Project, mut parser: lexopt::Parser) -> Result<ExitCode> {
    if let Some(argument) = parser.next()? {
        return match argument {
            Short('h') | Long("help") => Ok(help()),
            other => Err(other.unexpected().into()),
        };
    }
    ensure_nightly()?;
    let mut is_clean = true;
    let mut stress = sanitized(project, &["run", "--release", "-p", "longshore-bench"]);
    stress.args(["--bin", "stress", "--", "--events", EVENTS]);
    is_clean &= shell::tee(&mut stress, |_| {})?.success();
    let (mut passed, mut failed) = (0, 0);
    for (index, race) in RACES.iter().enumerate() {
        let mut cargo = sanitized(project, &["test", "--package", "longshore"]);
        cargo.args(["--test", "conformance", "--", race, "--test-threads=2"]);
        cargo.args(RACES[..index].iter().flat_map(|before| ["--skip", before]));
        let status = shell::tee(&mut cargo, |line| {
            let is_test = line.starts_with("test ");
            passed += usize::from(is_test && line.ends_with("... ok"));
            failed += usize::from(is_test && line.ends_with("... FAILED"));
        })?;
        is_clean &= status.success();
    }
    println!("tsan: {passed} passed, {failed} failed, 0 skipped");
    match (is_clean, passed) {
        (true, 0) => bail!("no test was run"),
        (true, _) => Ok(ExitCode::SUCCESS),
        (false, _) => Ok(ExitCode::FAILURE),
    }
}

fn sanitized(project: &Project, arguments: &[&str]) -> Command {
    let mut cargo = nightly(arguments);
    cargo
        .args(["--target", TARGET, "-Zbuild-std"])
        .current_dir(&project.root)
        .env("RUSTFLAGS", "-Zsanitizer=thread")
        .env("TSAN_OPTIONS", "halt_on_error=0 exitcode=66")
        // A tenth of the rounds: each is ten times as slow.
        .env("LONGSHORE_QUICK", "1")
        .env("CARGO_TARGET_DIR", project.work("tsan"));
    cargo
}
