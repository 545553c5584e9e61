//! Every job of longshore's CI as a command that anyone can run: `cargo xtask --help`.

mod artifacts;
mod asan;
mod clients;
mod counts;
mod loom;
mod miri;
mod mutants;
mod project;
mod setup;
mod shell;
mod stress;
mod test;
mod tidy;
mod tsan;
mod wine;

use std::fmt;
use std::process::ExitCode;

use lexopt::prelude::*;

use crate::project::Project;

const HELP: &str = "\
Usage: cargo xtask COMMAND

  setup                        install what the other commands need: the Windows
                               targets, Wine and its prefix, mingw, strace
  test [--full] [--backend epoll|iocp] [FILTER]
                               the whole suite on every backend; FILTER is a part
                               of a test's name; --full runs the long variants
  wine run (--example|--bin|--test) NAME [--release] [-- ARGS]
                               build for Windows, run under Wine, pass on the exit
                               code (NT's code & 0xff)
  wine exec EXE [ARGS]         run a finished Windows program under Wine
  clients [FILTER]             the echo server with real clients: installs socat and
                               netcat-openbsd; FILTER is a part of a check's name
  tidy                         formatting, lints, docs, and the house rules
  loom                         model-check the lock-free protocols, on the shipped
                               source
  asan                         the races of the suite under AddressSanitizer
                               (std itself is not instrumented)
  stress [--full] [--backend epoll|iocp] [--seed N]
                               actors with one outstanding event each, and threads
                               that come and go: 1,000,000 events, 10,000,000 with
                               --full; a twentieth of that under Wine
  tsan                         the stress program and the races of the suite under
                               ThreadSanitizer, std included (nightly, as for miri)
  mutants [--shard K/N] [--fresh] [--list]
                               changes the library one function at a time: at least
                               90 % have to be caught by the suite on epoll (hours;
                               it goes on where it was interrupted)
  miri                         the unit tests that need no socket and no file, under
                               Miri (installs a nightly toolchain where there is none)

Exit codes: 0 all is well, 1 something failed, 2 the command line is wrong.
";

type Parser = lexopt::Parser;

/// What a command may take, and what it returns to the shell.
type Command = fn(&Project, Parser) -> anyhow::Result<ExitCode>;

const COMMANDS: &[(&str, Command)] = &[
    ("setup", setup::command),
    ("test", test::command),
    ("wine", wine::command),
    ("clients", clients::command),
    ("tidy", tidy::command),
    ("loom", loom::command),
    ("asan", asan::command),
    ("miri", miri::command),
    ("stress", stress::command),
    ("mutants", mutants::command),
    ("tsan", tsan::command),
];

/// A mistake in the command line, as opposed to a job that failed.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (see `cargo xtask --help`)", self.0)
    }
}

impl std::error::Error for Usage {}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            // lexopt's own errors are all about the command line.
            let usage = error.is::<Usage>() || error.is::<lexopt::Error>();
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let mut parser = Parser::from_env();
    match parser.next()? {
        Some(Long("help") | Short('h')) => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        Some(Value(name)) => {
            let name = name.string()?;
            let Some((_, command)) = COMMANDS.iter().find(|(known, _)| *known == name) else {
                return Err(Usage(format!("there is no command `{name}`")).into());
            };
            command(&Project::find()?, parser)
        }
        Some(other) => Err(other.unexpected().into()),
        None => Err(Usage("a command is missing".into()).into()),
    }
}

/// `--help` after a command prints the same page.
pub(crate) fn help() -> ExitCode {
    print!("{HELP}");
    ExitCode::SUCCESS
}
