//! One backend: build its programs, run each, read what they say.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::parse::Parsed;
use super::report::{Backend, Report};
use crate::artifacts::{self, Artifact};
use crate::project::Project;
use crate::setup::Setup;
use crate::setup::rust_target::{GNU, variable};
use crate::setup::wine::{build_dll, windows_path};
use crate::{counts, shell};

pub(crate) struct Run<'a> {
    pub(crate) backend: Backend,
    project: &'a Project,
    setup: &'a Setup,
    full: bool,
    filter: Option<&'a str>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        project: &'a Project,
        setup: &'a Setup,
        backend: Backend,
        full: bool,
        filter: Option<&'a str>,
    ) -> Self {
        Self {
            backend,
            project,
            setup,
            full,
            filter,
        }
    }

    /// What the backend runs on, for the report.
    pub(crate) fn system(&self) -> String {
        match self.backend {
            Backend::Iocp => format!("Wine {}", self.setup.wine.version),
            Backend::Epoll => {
                let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
                let release: Vec<_> = release.trim().split('.').take(2).collect();
                format!("Linux {}", release.join("."))
            }
        }
    }

    /// `cargo test` for this backend, with everything it needs to run there.
    fn cargo_test(&self) -> Command {
        let mut cargo = self.project.cargo();
        cargo.args(["test", "-p", "longshore"]);
        if self.backend == Backend::Iocp {
            cargo.args(["--target", GNU]);
            cargo.env(variable(GNU, "RUNNER"), &self.setup.wine.runner);
            self.setup.targets.apply(&mut cargo, GNU, "");
        }
        self.environment(&mut cargo);
        cargo
    }

    /// What the tests themselves look at.
    fn environment(&self, command: &mut Command) {
        command.env("LONGSHORE_BACKEND", self.backend.name());
        command
            .env_remove("LONGSHORE_FULL")
            .env_remove("LONGSHORE_WINE_VERSION");
        command.env_remove("LONGSHORE_C_DLL");
        if self.full {
            command.env("LONGSHORE_FULL", "1");
        }
        if self.backend == Backend::Iocp {
            command.env("LONGSHORE_WINE_VERSION", &self.setup.wine.version);
            let library = self.project.work("poster.dll");
            if library.is_file() {
                command.env("LONGSHORE_C_DLL", windows_path(&library));
            }
        }
    }

    /// Unit tests, integration tests and the examples. Doc tests are built when they run.
    pub(crate) fn build(&self) -> Result<Vec<Artifact>> {
        if self.backend == Backend::Iocp {
            self.build_poster()?;
        }
        artifacts::build(self.cargo_test().arg("--no-run"))
    }

    /// The C library that posts its own function to the exported handle.
    fn build_poster(&self) -> Result<()> {
        let source = self.project.root.join("crates/longshore/tests/c/poster.c");
        let library = self.project.work("poster.dll");
        if source.is_file() {
            return build_dll(&source, &library, &[]);
        }
        // A library left over from another checkout would be tested in its place.
        let _ = fs::remove_file(library);
        Ok(())
    }

    pub(crate) fn execute(&self, programs: &[Artifact], report: &mut Report) -> Result<()> {
        let _session = match self.backend {
            Backend::Iocp => Some(self.setup.wine.start()?),
            Backend::Epoll => None,
        };
        // Cargo lists them as they were finished; the order of a report should not depend on it.
        let mut tests: Vec<_> = programs.iter().filter(|program| program.is_test).collect();
        tests.sort_by_key(|program| (program.kind != "lib", &program.name));
        for program in tests {
            let flag = format!("--{}", program.kind);
            match program.kind.as_str() {
                "lib" => self.suite("unit", &["--lib"], report)?,
                _ => self.suite(&program.name, &[&flag, &program.name], report)?,
            }
        }
        // A program of its own, because the others show the library without the feature.
        let traced = ["--features", "tracing", "--test", "tracing"];
        self.suite("tracing", &traced, report)?;
        self.suite("doc", &["--doc"], report)?;
        self.counts(programs, report);
        Ok(())
    }

    /// One call for each program, so that each line is known to be this program's.
    fn suite(&self, name: &str, selection: &[&str], report: &mut Report) -> Result<()> {
        eprintln!("== {}: {name}", self.backend.name());
        let mut cargo = self.cargo_test();
        cargo.args(selection);
        if let Some(filter) = self.filter {
            cargo.args(["--", filter]);
        }
        let mut parsed = Parsed::default();
        let status = shell::tee(&mut cargo, |line| parsed.line(line))?;
        let (tests, problem) = parsed.finish();
        let failed = tests
            .iter()
            .any(|(_, outcome)| *outcome == super::parse::Outcome::Failed);
        report.add(name, tests);
        if let Some(problem) = problem {
            report
                .problems
                .push(format!("{name}: {problem} ({status})"));
        } else if !status.success() && !failed {
            report
                .problems
                .push(format!("{name}: no test failed, yet {status}"));
        }
        Ok(())
    }

    fn counts(&self, programs: &[Artifact], report: &mut Report) {
        let example = programs
            .iter()
            .find(|one| one.kind == "example" && one.name == counts::EXAMPLE);
        let example = example.map(|artifact| artifact.program.as_path());
        let work = self.project.work("");
        let tests = match self.backend {
            Backend::Epoll => counts::epoll(example, &work, self.filter),
            Backend::Iocp => counts::iocp(example, &work, &self.setup.wine, self.filter),
        };
        report.add("counts", tests);
    }
}
