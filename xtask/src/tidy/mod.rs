//! `cargo xtask tidy`: formatting, lints, documentation, and the house rules. All checks run,
//! whatever fails on the way, and the failures stand together at the end.

mod deps;
mod examples;
mod imports;
mod leftovers;
mod length;
mod links;
mod rules;
mod source;
mod tools;
mod unsafety;

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::project::Project;
use crate::setup::rust_target::Targets;
use crate::{counts, help, setup};
use source::Source;

/// What the checks look at.
struct Tree<'a> {
    project: &'a Project,
    targets: &'a Targets,
    /// All Rust files under `crates/` and `xtask/`.
    sources: Vec<Source>,
}

/// The check's name, and what is wrong: nothing, if the list is empty.
type Check = (&'static str, fn(&Tree<'_>) -> Result<Vec<String>>);

/// Quick ones first. The tools print their own findings, so they only fail or do not.
const CHECKS: &[Check] = &[
    ("formatting", |tree| {
        tools::format(tree.project).map(nothing)
    }),
    ("import direction", |tree| Ok(imports::check(&tree.sources))),
    ("unsafe permits", |tree| {
        // Without the file nothing is permitted, and each use is a finding.
        let permits = read(tree, "docs/unsafe-permits.txt").unwrap_or_default();
        Ok(unsafety::check(&tree.sources, &permits))
    }),
    ("file length", |tree| Ok(length::check(&tree.sources))),
    ("examples", |tree| Ok(examples::check(&tree.sources))),
    ("leftovers", |tree| Ok(leftovers::check(&tree.sources))),
    ("documents", |tree| links::check(&tree.project.root)),
    ("rule map", rule_map),
    ("dependencies", |tree| deps::check(tree.project)),
    ("xtask's own tests", |tree| {
        tools::test_xtask(tree.project).map(nothing)
    }),
    ("clippy", |tree| tools::clippy(tree.project).map(nothing)),
    ("clippy for Windows", |tree| {
        tools::clippy_windows(tree.project, tree.targets).map(nothing)
    }),
    ("clippy with all features", |tree| {
        tools::clippy_features(tree.project, tree.targets).map(nothing)
    }),
    ("check for msvc", |tree| {
        tools::check_msvc(tree.project, tree.targets).map(nothing)
    }),
    ("rustdoc", |tree| tools::doc(tree.project).map(nothing)),
    ("rustdoc for Windows", |tree| {
        tools::doc_windows(tree.project, tree.targets).map(nothing)
    }),
];

fn nothing((): ()) -> Vec<String> {
    Vec::new()
}

fn read(tree: &Tree<'_>, path: &str) -> Result<String> {
    fs::read_to_string(tree.project.root.join(path)).with_context(|| format!("cannot read {path}"))
}

fn rule_map(tree: &Tree<'_>) -> Result<Vec<String>> {
    let library = |source: &&Source| source.path.starts_with("crates/longshore/");
    let functions = rules::functions(tree.sources.iter().filter(library));
    Ok(rules::check(
        &read(tree, "docs/iocp-rules.md")?,
        &functions,
        counts::NAMES,
    ))
}

pub(crate) fn command(project: &Project, mut parser: lexopt::Parser) -> Result<ExitCode> {
    if let Some(argument) = parser.next()? {
        return match argument {
            lexopt::Arg::Long("help") => Ok(help()),
            other => Err(other.unexpected().into()),
        };
    }
    let targets = setup::ensure_targets(project)?;
    let sources = source::rust_files(&project.root, &["crates", "xtask"])?;
    let tree = Tree {
        project,
        targets: &targets,
        sources,
    };
    let mut failures = Vec::new();
    for (name, check) in CHECKS {
        let started = Instant::now();
        let problems = match check(&tree) {
            Ok(problems) => problems,
            Err(error) => vec![format!("{error:#}")],
        };
        let verdict = if problems.is_empty() { "ok" } else { "FAILED" };
        println!(
            "tidy: {name} ... {verdict} ({:.1} s)",
            started.elapsed().as_secs_f32()
        );
        failures.extend(problems.into_iter().map(|problem| (name, problem)));
    }
    for (name, problem) in &failures {
        println!("tidy: {name}: {problem}");
    }
    println!("tidy: {} checks, {} findings", CHECKS.len(), failures.len());
    Ok(if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
