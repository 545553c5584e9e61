//! Copies a file: several blocks in flight, a bar that a timer draws, and never half a target.
//!
//! The copy grows beside the target, as `TO.part`, and takes the target's name when it is complete
//! and its length was verified. Whatever goes wrong before leaves the target as it was.

mod blocks;
mod part;
mod progress;
#[path = "../echo_server/stop.rs"]
mod stop;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use blocks::Copy;
use longshore::Dispatcher;
use part::Part;
use progress::Bar;
use stop::Stop;

const HELP: &str = "\
Usage: copy FROM TO

Copies the file FROM to TO, with eight blocks in flight, and verifies the length. The copy grows as
TO.part and is renamed when it is complete, so TO is never half a copy; a file that was TO before is
replaced. A bar is drawn where standard error is a terminal. SIGINT, SIGTERM, or Ctrl-C end it and
remove what was copied so far.

Exit code: 0 when TO is a copy of FROM, 1 when it could not be made, 2 for bad arguments.";

/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let (from, to) = match parse() {
        Ok(Some(paths)) => paths,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(line) => {
            eprintln!("copy: {line}");
            return ExitCode::from(2);
        }
    };
    let begun = Instant::now();
    match run(&from, &to) {
        Ok(length) => {
            let seconds = begun.elapsed().as_secs_f64();
            let mib = length as f64 / f64::from(1 << 20) / seconds;
            let line = format!("copied {length} bytes in {seconds:.2} s, {mib:.0} MiB/s");
            // The file is copied, whether anybody reads of it or not.
            let _ = writeln!(io::stdout(), "{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("copy: {error}");
            ExitCode::FAILURE
        }
    }
}

/// FROM and TO; `None` for the help; or one line that says what is wrong.
fn parse() -> Result<Option<(PathBuf, PathBuf)>, String> {
    let mut paths = Vec::new();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        match argument {
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(None),
            lexopt::Arg::Value(path) if paths.len() < 2 => paths.push(PathBuf::from(path)),
            other => return Err(format!("{} (try --help)", other.unexpected())),
        }
    }
    match <[PathBuf; 2]>::try_from(paths) {
        Ok([from, to]) => Ok(Some((from, to))),
        Err(_) => Err("two paths are needed, FROM and TO (try --help)".into()),
    }
}

/// The length of the copy.
fn run(from: &Path, to: &Path) -> io::Result<u64> {
    let about = fs::metadata(from).map_err(|error| on("read", from, error))?;
    if !about.is_file() {
        return Err(refuse(from, "is not a regular file"));
    }
    let to = target(from, to)?;

    let port = Dispatcher::new()?;
    let stop = Stop::prepare(&port)?;
    let work = port.work_guard();
    let worker = port.clone();
    let worker = thread::spawn(move || worker.run());
    let part = Part::beside(&to);
    let copied = port.block_on(copy(&port, from, &part, about.len(), stop));
    drop(work);
    port.stop()?;
    let _ = worker.join();
    port.close()?;

    // The files are closed by now: an open one could not be renamed or removed on Windows.
    let length = copied??;
    part.finish(&to, length, about.permissions())?;
    Ok(length)
}

/// Where the copy goes in the end, links followed.
fn target(from: &Path, to: &Path) -> io::Result<PathBuf> {
    let existing = match fs::canonicalize(to) {
        Ok(existing) => existing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(to.into()),
        Err(error) => return Err(on("write", to, error)),
    };
    let about = fs::metadata(&existing).map_err(|error| on("write", to, error))?;
    if about.is_dir() {
        return Err(refuse(to, "is a directory"));
    }
    if !about.is_file() {
        return Err(refuse(to, "is not a regular file"));
    }
    if fs::canonicalize(from).is_ok_and(|from| from == existing) {
        return Err(refuse(to, "is the file that is to be copied"));
    }
    Ok(existing)
}

async fn copy(
    port: &Dispatcher,
    from: &Path,
    part: &Part,
    length: u64,
    stop: Stop,
) -> io::Result<u64> {
    let copy = Arc::new(Copy::open(port, from, part, length).await?);
    // The task waits for longer than the files are open, so it must not own them.
    let (told, on) = (Arc::downgrade(&copy), port.clone());
    port.spawn(async move {
        if let Ok(signal) = stop.wait(&on).await
            && let Some(copy) = told.upgrade()
        {
            copy.fail(io::Error::other(format!("ended by {signal}")));
        }
    })
    .detach();
    let mut bar = Bar::new(length);
    let mut all = Box::pin(copy.run(port));
    loop {
        // When the time is up the future comes back, still running.
        match port.timeout(TICK, all).await {
            Ok(result) => {
                bar.show(copy.copied());
                bar.end();
                return result;
            }
            Err(elapsed) => {
                all = elapsed.future;
                bar.show(copy.copied());
            }
        }
    }
}

/// The error, with what was tried on which file; its kind stays.
fn on(attempt: &str, path: &Path, error: io::Error) -> io::Error {
    let path = path.display();
    io::Error::new(error.kind(), format!("cannot {attempt} '{path}': {error}"))
}

fn refuse(path: &Path, reason: &str) -> io::Error {
    io::Error::other(format!("'{}' {reason}", path.display()))
}
