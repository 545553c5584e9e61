//! The command line. What is wrong with it is told in one line.

use std::thread;

use lexopt::prelude::*;
use longshore::Backend;

pub(crate) const HELP: &str = "\
Usage: echo_server [--addr HOST:PORT] [--threads N] [--backend NAME] [--report]

Sends back what each client sends, until the client has finished. The address it listens at is the
first line on standard output. SIGINT, SIGTERM, SIGHUP, SIGQUIT (on Windows: Ctrl-C, Ctrl-Break,
closing the console) end it: what has arrived is echoed, for three seconds at most. A second one
ends it at once.

  --addr HOST:PORT  where to listen (default: 127.0.0.1:0, which is any free port)
  --threads N       threads that dispatch from the one port (default: one a core, at least 2)
  --backend NAME    the mechanism: epoll on Linux, iocp on Windows
  --report          once a second on standard error: connections, messages and MiB/s of that
                    second, and how much this process has grown, for each open connection
                    (resident memory; what the kernel keeps for a socket is not in it)
  --help            this text

Exit code: 0 when it was told to end, 1 when it cannot serve, 2 for bad arguments.";

#[derive(Debug)]
pub(crate) enum Request {
    Help,
    Serve(Options),
}

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) address: String,
    pub(crate) threads: usize,
    pub(crate) backend: Backend,
    pub(crate) report: bool,
}

impl Default for Options {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            address: "127.0.0.1:0".into(),
            threads: cores.max(2),
            backend: Backend::default(),
            report: false,
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
            Long("addr") => options.address = address(value(&mut parser, "--addr")?)?,
            Long("threads") => options.threads = threads(&value(&mut parser, "--threads")?)?,
            Long("backend") => options.backend = backend(&value(&mut parser, "--backend")?)?,
            Long("report") => options.report = true,
            other => return Err(format!("{} (try --help)", other.unexpected())),
        }
    }
    Ok(Request::Serve(options))
}

fn value(parser: &mut lexopt::Parser, option: &str) -> Result<String, String> {
    let value = parser.value().map_err(|error| error.to_string())?;
    value
        .into_string()
        .map_err(|value| format!("{option}: '{}' is not text", value.display()))
}

fn address(text: String) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text),
        _ => Err(format!(
            "--addr: '{text}' is not HOST:PORT with a port from 0 to 65535"
        )),
    }
}

fn threads(text: &str) -> Result<usize, String> {
    const MOST: usize = 1024;
    match text.parse() {
        Ok(number) if (1..=MOST).contains(&number) => Ok(number),
        _ => Err(format!(
            "--threads: '{text}' is not a number from 1 to {MOST}"
        )),
    }
}

fn backend(name: &str) -> Result<Backend, String> {
    name.parse().map_err(|_| {
        let offered = Backend::available();
        let offered: Vec<_> = offered.iter().map(Backend::to_string).collect();
        let offered = offered.join(", ");
        format!("--backend: '{name}' is not a backend of this system, which offers: {offered}")
    })
}
