//! `cargo xtask asan`: the conformance suite's races under AddressSanitizer.
//!
//! On the stable toolchain: `RUSTC_BOOTSTRAP=1` lets it take `-Zsanitizer=address`, and with a
//! `--target` build scripts and macros stay as they are. std itself is not instrumented (that would
//! take a nightly and `build-std`), but its calls to malloc, free and memcpy are seen all the same.
//! What the kernel writes through a system call is checked as well. Leaks are not looked for:
//! tests forget things on purpose.

use std::process::ExitCode;

use anyhow::{Result, bail};
use lexopt::prelude::*;

use crate::project::Project;
use crate::{help, shell};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Parts of the names of tests that race, drop or cancel; each is one run of the suite, without
/// what ran before.
const RACES: &[&str] = &["race", "cancel", "drop", "forgotten", "closing", "task_"];

pub(crate) fn command(project: &Project, mut parser: lexopt::Parser) -> Result<ExitCode> {
    if let Some(argument) = parser.next()? {
        return match argument {
            Short('h') | Long("help") => Ok(help()),
            other => Err(other.unexpected().into()),
        };
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut is_clean = true;
    for (index, race) in RACES.iter().enumerate() {
        let mut cargo = project.cargo();
        cargo
            .args(["test", "--package", "longshore", "--test", "conformance"])
            .args(["--target", TARGET, "--", race])
            .args(RACES[..index].iter().flat_map(|before| ["--skip", before]))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "-Zsanitizer=address")
            .env("ASAN_OPTIONS", "detect_leaks=0")
            .env("CARGO_TARGET_DIR", project.work("asan"));
        let status = shell::tee(&mut cargo, |line| {
            let is_test = line.starts_with("test ");
            passed += usize::from(is_test && line.ends_with("... ok"));
            failed += usize::from(is_test && line.ends_with("... FAILED"));
            skipped += usize::from(is_test && line.ends_with("... ignored"));
        })?;
        is_clean &= status.success();
    }
    println!("asan: {passed} passed, {failed} failed, {skipped} skipped");
    match (is_clean, passed) {
        (true, 0) => bail!("no test was run"),
        (true, _) => Ok(ExitCode::SUCCESS),
        (false, _) => Ok(ExitCode::FAILURE),
    }
}
