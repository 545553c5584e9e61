//! A tour of longshore: one port under load, and each rule of its contract seen to hold.
//!
//! On one port with several dispatching threads, at the same time, the tour copies a file by
//! overlapped reads and writes, echoes over many TCP connections and has four threads post a
//! flood of callbacks. It verifies every byte and every payload. Then it tries each rule, D1 to
//! D12, and prints what it saw. Nothing in the tables is typed in.
//!
//! How to read it: [`op`] is the pattern to copy, a Context that owns its operation; [`copy`] and
//! [`echo`] are state machines on it; [`rules`] holds the checks.

mod args;
mod copy;
mod echo;
mod figures;
mod op;
mod os;
mod posts;
mod rules;
mod run;
mod table;
mod text;
mod workload;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
};

use args::{Options, Request};
use table::Style;

fn main() -> ExitCode {
    let options = match args::parse() {
        Ok(Request::Help) => {
            println!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Request::Tour(options)) => options,
        Err(line) => {
            eprintln!("tour: {line}");
            return ExitCode::from(2);
        }
    };
    match tour(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tour: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every check held.
fn tour(options: Options) -> io::Result<bool> {
    let folder = tempfile::Builder::new()
        .prefix("longshore-tour-")
        .tempdir()
        .map_err(|error| text::during("make a temporary folder", error))?;
    let facts = Arc::new(workload::run(&options, folder.path())?);
    eprintln!("now each rule by itself");
    let rows = rules::try_all(&facts)?;
    let figures = figures::measure(&facts)?;
    folder
        .close()
        .map_err(|error| text::during("remove the temporary folder", error))?;

    let style = Style::for_output(io::stdout().is_terminal());
    let mut out = io::stdout().lock();
    table::heading(&mut out, &facts)?;
    table::rules(&mut out, style, facts.backend, &rows)?;
    table::figures(&mut out, &figures)?;
    let failed = table::verdict(&mut out, style, &rows)?;
    out.flush()?;
    Ok(!failed)
}
