//! One running echo server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Bench;
use super::process::Owned;

/// For what should take no time at all.
const SOON: Duration = Duration::from_secs(10);
/// How long a server may take to end.
const END: Duration = Duration::from_secs(5);

pub(crate) struct Server {
    process: Owned,
    pub(crate) address: SocketAddr,
    said: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `files` is its limit of open files; a number, or `$(ulimit -Hn)` for all that is allowed.
    pub(crate) fn start(bench: &Bench, files: &str) -> Result<Self> {
        let mut command = limited(&bench.echo_server, files);
        command.arg("--report").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Owned::start(&mut command)?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let stderr = process.0.stderr.take().context("no pipe")?;
        let lines = said.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lock(&lines).push(line);
            }
        });
        let stdout = process.0.stdout.take().context("no pipe")?;
        let (sender, first) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(line);
        });
        let first = first.recv_timeout(SOON).context("it prints no address")?;
        let address = first.trim().parse();
        let address = address.with_context(|| format!("'{first}' is not an address"))?;
        Ok(Self {
            process,
            address,
            said,
        })
    }

    pub(crate) fn socat(&self) -> Command {
        let mut socat = Command::new("socat");
        // How long it waits for the rest after its input has ended.
        socat.args(["-t", "60", "-"]);
        socat.arg(format!("TCP:{}", self.address));
        socat
    }

    pub(crate) fn netcat(&self, bench: &Bench) -> Command {
        let mut netcat = Command::new(&bench.netcat);
        // Half-closes when its input has ended.
        netcat.args(["-N", &self.address.ip().to_string()]);
        netcat.arg(self.address.port().to_string());
        netcat
    }

    pub(crate) fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok(stream)
    }

    /// Waits until it has said a line that fits.
    pub(crate) fn hears(&self, fits: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(line) = self.said().iter().find(|line| fits(line)) {
                return Ok(line.clone());
            }
            if Instant::now() >= deadline {
                bail!("it did not say so; it said {:?}", self.said());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn forget_said(&self) {
        self.said().clear();
    }

    pub(crate) fn said(&self) -> MutexGuard<'_, Vec<String>> {
        lock(&self.said)
    }

    /// Ends it by a signal, and judges how it ends.
    pub(crate) fn end(&mut self, signal: &str) -> Result<Duration> {
        let told = Instant::now();
        self.process.signal(signal)?;
        let status = self.process.finish(END).context(signal.to_owned())?;
        ensure!(
            status.code() == Some(0),
            "after SIG{signal} it ended with {status}; it said {:?}",
            self.said()
        );
        Ok(told.elapsed())
    }
}

/// A program with a limit of open files.
pub(crate) fn limited(program: &std::path::Path, files: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
    command.arg("-c").arg(script).arg(program);
    command
}

/// Sends a line over an open connection and wants it back.
pub(crate) fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"are you there?")?;
    let mut answer = [0; 14];
    stream.read_exact(&mut answer)?;
    ensure!(&answer == b"are you there?", "something else came back");
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
