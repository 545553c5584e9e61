//! The checks that cargo's own tools make, with warnings as errors.

use std::process::Command;

use anyhow::Result;

use crate::project::Project;
use crate::setup::rust_target::{GNU, MSVC, Targets};
use crate::shell;

fn cargo(project: &Project, arguments: &str) -> Command {
    let mut cargo = project.cargo();
    cargo.args(arguments.split(' '));
    cargo
}

pub(crate) fn format(project: &Project) -> Result<()> {
    shell::run(&mut cargo(project, "fmt --all --check"))
}

pub(crate) fn clippy(project: &Project) -> Result<()> {
    shell::run(&mut cargo(
        project,
        "clippy --workspace --all-targets -- -D warnings",
    ))
}

pub(crate) fn clippy_windows(project: &Project, targets: &Targets) -> Result<()> {
    lint_windows(project, targets, "")
}

/// With everything that is off by default.
pub(crate) fn clippy_features(project: &Project, targets: &Targets) -> Result<()> {
    let linux = "clippy -p longshore --all-targets --all-features -- -D warnings";
    shell::run(&mut cargo(project, linux))?;
    lint_windows(project, targets, " --all-features")
}

fn lint_windows(project: &Project, targets: &Targets, more: &str) -> Result<()> {
    let arguments =
        format!("clippy -p longshore --all-targets{more} --target {GNU} -- -D warnings");
    let mut cargo = cargo(project, &arguments);
    targets.apply(&mut cargo, GNU, "");
    shell::run(&mut cargo)
}

/// No linker is needed, so the ABI that most Windows users have is checked everywhere.
pub(crate) fn check_msvc(project: &Project, targets: &Targets) -> Result<()> {
    let mut cargo = cargo(
        project,
        &format!("check -p longshore --all-targets --target {MSVC}"),
    );
    targets.apply(&mut cargo, MSVC, "-D warnings");
    shell::run(&mut cargo)
}

pub(crate) fn doc(project: &Project) -> Result<()> {
    let mut cargo = cargo(project, "doc --no-deps -p longshore --all-features");
    shell::run(cargo.env("RUSTDOCFLAGS", "-D warnings"))
}

/// Documents the msvc target: docs.rs shows that one.
pub(crate) fn doc_windows(project: &Project, targets: &Targets) -> Result<()> {
    let mut cargo = cargo(
        project,
        &format!("doc --no-deps -p longshore --all-features --target {MSVC}"),
    );
    targets.apply(&mut cargo, MSVC, "-D warnings");
    shell::run(&mut cargo)
}

/// The checks' own tests: each is shown to fail on bad input.
pub(crate) fn test_xtask(project: &Project) -> Result<()> {
    shell::run(&mut cargo(project, "test -q -p xtask"))
}
