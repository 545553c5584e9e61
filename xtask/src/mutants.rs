//! `cargo xtask mutants`: does the suite notice when the library is changed?
//!
//! cargo-mutants changes one function at a time and runs unit and conformance tests on epoll. A mutant
//! that fails, hangs or crashes them is caught. What survives is listed in docs/mutants.md, with the
//! reason. It takes hours; `--shard K/N` does a part of it, and what was done before is not done again
//! (`--fresh` begins anew).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use crate::project::Project;
use crate::{help, shell};

/// What is changed.
const FILES: &[&str] = &[
    "crates/longshore/src/packet.rs",
    "crates/longshore/src/port.rs",
    "crates/longshore/src/dispatcher.rs",
    "crates/longshore/src/dispatcher/**/*.rs",
    "crates/longshore/src/ioqueue.rs",
    "crates/longshore/src/ioqueue/**/*.rs",
    "crates/longshore/src/task.rs",
];

/// Tests that take seconds to show something that no file above decides.
const SLOW: &[&str] = &[
    "d12_a_write_longer_than_u32_max_is_cut_to_u32_max",
    "fault_as_many_connections_as_may_be_open_echo",
    "fault_a_killed_client_disturbs_no_other",
    "fs_threads_are_made_for_calls_and_end_without_work",
    "pipe_cancel_races_a_write_and_loses_none",
    "udp_cancel_races_a_datagram_and_loses_none",
];

/// Seconds for the whole suite; without a mutant it takes a quarter of that on two idle cores. A hang in
/// conformance is found earlier, by the watchdog.
const TIMEOUT: &str = "45";
/// Of a hundred viable mutants, so many have to be caught.
const WANTED: usize = 90;

pub(crate) fn command(project: &Project, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let (mut shard, mut is_fresh, mut lists) = (None, false, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(help()),
            Long("shard") => shard = Some(parser.value()?.string()?),
            Long("fresh") => is_fresh = true,
            Long("list") => lists = true,
            other => return Err(other.unexpected().into()),
        }
    }
    let folder = project.work("mutants");
    if is_fresh {
        let _ = fs::remove_dir_all(&folder);
    }
    fs::create_dir_all(&folder)?;
    let mut mutants = tool(project)?;
    mutants.arg("mutants").current_dir(&project.root);
    mutants.args(["--package", "longshore"]);
    mutants.args(FILES.iter().flat_map(|file| ["--file", file]));
    // How a thing prints itself is not what the suite is about; a model checks, it is not shipped; and
    // a host's own loop, which is Windows only, is nothing that the suite on epoll could reach.
    for excluded in [
        "impl (fmt::)?(Debug|Display)",
        "model::",
        "/model.rs",
        "dispatcher/host.rs",
    ] {
        mutants.args(["--exclude-re", excluded]);
    }
    let shard = shard.map(|shard| format!("--shard={shard}"));
    if lists {
        mutants.args(shard).arg("--list");
        return Ok(ExitCode::from(u8::from(!mutants.status()?.success())));
    }
    let known = listed(&mutants)?;
    mutants.args(shard);
    mutants.args(["--iterate", "--jobs", "2", "--timeout", TIMEOUT]);
    mutants.args(["--shuffle", "--colors", "never", "--output"]);
    mutants.arg(&folder);
    // Given for building, too: examples and other suites need not be built for each mutant.
    let suites = [
        "--lib",
        "--test=conformance",
        "--test=tracing",
        "--features=tracing",
    ];
    mutants.args(suites.map(|suite| format!("--cargo-arg={suite}")));
    mutants.args(["--", "--"]);
    mutants.args(SLOW.iter().flat_map(|test| ["--skip", test]));
    mutants.env("LONGSHORE_QUICK", "1");
    mutants.env("LONGSHORE_FAIL_FAST", "1");
    mutants.env("CARGO_PROFILE_DEV_DEBUG", "0");
    mutants.env("CARGO_PROFILE_TEST_DEBUG", "0");
    // It fails when a mutant survives; what that means is decided below.
    mutants.status().context("cannot run cargo-mutants")?;
    judge(&folder, &known)
}

/// All mutants of the sources as they are, in all shards.
fn listed(mutants: &Command) -> Result<BTreeSet<String>> {
    let mut list = Command::new(mutants.get_program());
    list.args(mutants.get_args()).arg("--list");
    list.current_dir(mutants.get_current_dir().context("set by the caller")?);
    let names = shell::capture(&mut list)?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// cargo-mutants, installed under `target/` where it is not on the path.
fn tool(project: &Project) -> Result<Command> {
    const NAME: &str = "cargo-mutants";
    if shell::which(NAME).is_some() {
        return Ok(Command::new(NAME));
    }
    let tools = project.work("tools");
    let program = tools.join("bin").join(NAME);
    if !program.is_file() {
        eprintln!("mutants: installing {NAME}");
        let mut install = project.cargo();
        install
            .args(["install", NAME, "--locked", "--root"])
            .arg(&tools);
        shell::run(&mut install)?;
    }
    Ok(Command::new(program))
}

/// Counts over all runs so far: what was caught, or cannot be compiled, is not tried again, and a shard
/// leaves out what other shards have tried. What the sources do not have any more does not count.
fn judge(folder: &Path, known: &BTreeSet<String>) -> Result<ExitCode> {
    let all = |kinds: &[&str]| -> BTreeSet<String> {
        let lines = kinds.iter().flat_map(|kind| lines(folder, kind));
        lines.filter(|mutant| known.contains(mutant)).collect()
    };
    let (caught, unviable) = (all(&["caught", "timeout"]), all(&["unviable"]));
    let mut missed = all(&["missed"]);
    missed.retain(|mutant| !caught.contains(mutant));
    for (kind, mutants) in [
        ("caught", &caught),
        ("unviable", &unviable),
        ("missed", &missed),
    ] {
        let list: Vec<_> = mutants.iter().map(String::as_str).collect();
        fs::write(folder.join(kind).with_extension("txt"), list.join("\n"))?;
    }
    let viable = caught.len() + missed.len();
    if viable == 0 {
        bail!("no mutant was tried");
    }
    let percent = caught.len() * 100 / viable;
    missed
        .iter()
        .for_each(|mutant| println!("missed: {mutant}"));
    let untried = known.len() - viable - unviable.len();
    println!(
        "mutants: {viable} viable ({} not), {} caught, {} missed: {percent} %; {untried} not tried",
        unviable.len(),
        caught.len(),
        missed.len()
    );
    Ok(ExitCode::from(u8::from(percent < WANTED)))
}

/// The mutants of one kind, of this run and of those before.
fn lines(folder: &Path, kind: &str) -> Vec<String> {
    [folder.to_owned(), folder.join("mutants.out")]
        .iter()
        .filter_map(|place| fs::read_to_string(place.join(kind).with_extension("txt")).ok())
        .flat_map(|list| list.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}
