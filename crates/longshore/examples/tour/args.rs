//! The command line. What is wrong with it is told in one line.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::PathBuf,
    thread,
};

use lexopt::prelude::*;
use longshore::Backend;

pub(crate) const HELP: &str = "\
Usage: tour [FILE] [--threads N] [--backend NAME] [--posts N] [--connections N]

On one port, at the same time: copies FILE by overlapped reads and writes, echoes over TCP
connections, and posts callbacks from four threads. Verifies every byte and every payload, tries
each rule of the contract, and prints what was seen.

  FILE             the file to copy; without it, one of 64 MiB with pseudo-random content
  --threads N      threads that dispatch from the port (default: one a core, at least 2)
  --backend NAME   the mechanism: epoll on Linux, iocp on Windows
  --posts N        callbacks to post in all (default: 1000000)
  --connections N  TCP connections to echo over (default: 100)
  --help           this text

Under Wine a post takes 30 to 150 us, so the default million takes a minute or two there; with
--posts 100000 the tour takes some ten seconds.

Exit code: 0 when every check held, 1 when one failed or the run did, 2 for bad arguments.";

#[derive(Debug)]
pub(crate) enum Request {
    Help,
    Tour(Options),
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) file: Option<PathBuf>,
    pub(crate) threads: usize,
    pub(crate) backend: Backend,
    pub(crate) posts: usize,
    pub(crate) connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            file: None,
            threads: cores.max(2),
            backend: Backend::default(),
            posts: 1_000_000,
            connections: 100,
        }
    }
}

/// What to do, or one line that says what is wrong.
pub(crate) fn parse() -> Result<Request, String> {
    let mut options = Options::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        match argument {
            Long("help") | Short('h') => return Ok(Request::Help),
            Long("threads") => options.threads = number(&mut parser, "--threads", 1024)?,
            Long("posts") => options.posts = number(&mut parser, "--posts", 100_000_000)?,
            Long("connections") => {
                options.connections = number(&mut parser, "--connections", 100_000)?;
            }
            Long("backend") => options.backend = backend(&value(&mut parser, "--backend")?)?,
            Value(path) if options.file.is_none() => options.file = Some(path.into()),
            other => return Err(format!("{} (try --help)", other.unexpected())),
        }
    }
    if let Some(path) = &options.file {
        readable(path).map_err(|problem| format!("cannot copy '{}': {problem}", path.display()))?;
    }
    Ok(Request::Tour(options))
}

fn value(parser: &mut lexopt::Parser, option: &str) -> Result<String, String> {
    let value = parser.value().map_err(|error| error.to_string())?;
    let shown = value.to_string_lossy().into_owned();
    value
        .into_string()
        .map_err(|_| format!("{option}: '{shown}' is not text"))
}

fn number(parser: &mut lexopt::Parser, option: &str, most: usize) -> Result<usize, String> {
    let value = value(parser, option)?;
    match value.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!(
            "{option}: '{value}' is not a number from 1 to {most}"
        )),
    }
}

fn backend(name: &str) -> Result<Backend, String> {
    name.parse().map_err(|_| {
        let offered: Vec<_> = Backend::available()
            .iter()
            .map(Backend::to_string)
            .collect();
        let offered = offered.join(", ");
        format!("--backend: '{name}' is not a backend of this system, which offers: {offered}")
    })
}

fn readable(path: &std::path::Path) -> Result<(), String> {
    // Asked before it is opened: opening a pipe would wait for its writer.
    let about = fs::metadata(path).map_err(|error| describe(&error))?;
    if about.is_dir() {
        return Err("it is a directory".into());
    }
    if !about.is_file() {
        return Err("it is not a regular file".into());
    }
    File::open(OsStr::new(path)).map_err(|error| describe(&error))?;
    Ok(())
}

fn describe(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}
