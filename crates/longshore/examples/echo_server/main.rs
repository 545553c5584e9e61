//! An echo server: one port, several threads that dispatch from it, one task for each connection.
//!
//! Where to read: [`serve`] accepts and echoes. [`roll`] is how the server ends without cutting
//! anybody off: it knows every task, and tells them to finish. [`stop`] waits for the signal.

mod args;
mod limits;
mod report;
mod roll;
mod serve;
mod stop;

use std::{
    io::{self, Write},
    process::{self, ExitCode},
    sync::Arc,
    thread,
    time::Duration,
};

use args::{Options, Request};
use longshore::{Dispatcher, net::TcpListener};
use serve::Server;
use stop::Stop;

/// How long connections may go on once the server was told to end.
const GRACE: Duration = Duration::from_secs(3);
/// How long the kernel may take to give back what was cut off after that.
const DRAIN: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let options = match args::parse() {
        Ok(Request::Help) => {
            println!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Request::Serve(options)) => options,
        Err(line) => {
            eprintln!("echo_server: {line}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    if let Some(problem) = limits::raise_files() {
        eprintln!("echo_server: {problem}");
    }
    let port = Dispatcher::builder()
        .backend(options.backend)
        .drain_timeout(DRAIN)
        .build()
        .map_err(|error| during("open a port", error))?;
    let stop = Stop::prepare(&port).map_err(|error| during("listen for signals", error))?;
    let listener = TcpListener::bind(&port, options.address.as_str())
        .map_err(|error| during(&format!("listen at {}", options.address), error))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", listener.local_addr()?)?;
    out.flush()?;
    drop(out);

    // The threads stay although there may be a moment without a connection or an accept.
    let _work = port.work_guard();
    let workers: Vec<_> = (0..options.threads)
        .map(|_| {
            let port = port.clone();
            thread::spawn(move || work(&port))
        })
        .collect();
    let server = Arc::new(Server::new(&port));
    let begun = limits::memory();
    port.spawn(server.clone().accept_all(listener)).detach();
    if options.report {
        port.spawn(report::every_second(server.clone(), begun))
            .detach();
    }

    let signal = port.block_on(stop.wait(&port))??;
    let open = server.connections();
    eprintln!("echo_server: {signal}, finishing {open} connections");
    server.roll.close();
    let finished = Box::pin(server.roll.emptied());
    if port.block_on(port.timeout(GRACE, finished))?.is_err() {
        let open = server.connections();
        eprintln!("echo_server: {open} connections cut off after {GRACE:?}");
    }
    port.stop()?;
    for worker in workers {
        let _ = worker.join();
    }
    port.close()?;
    Ok(())
}

/// What each thread does. A panic in a connection ends its task and never gets here.
fn work(port: &Dispatcher) {
    if let Err(error) = port.run() {
        // Without its threads the server would hang silently.
        eprintln!("echo_server: cannot go on: {error}");
        process::exit(1);
    }
}

/// The error, with what was tried; its kind stays.
fn during(attempt: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {attempt}: {error}"))
}
