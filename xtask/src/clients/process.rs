//! Child processes whose every wait has a limit, and which never outlive their owner.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// A child that is killed with its owner.
pub(crate) struct Owned(pub(crate) Child);

impl Owned {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().display().to_string();
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {name}"))?;
        Ok(Self(child))
    }

    /// Waits for its end; one that takes longer is a failure.
    pub(crate) fn finish(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("it has not ended after {limit:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let mut kill = Command::new("kill");
        let status = kill
            .args(["-s", name, &self.0.id().to_string()])
            .status()
            .context("cannot run kill")?;
        ensure!(status.success(), "cannot send the signal");
        Ok(())
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended long ago; then both do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets a client run to its end, with this as its input; returns what it wrote.
pub(crate) fn talk(client: &mut Command, input: Vec<u8>, limit: Duration) -> Result<Vec<u8>> {
    client.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Owned::start(client)?;
    let mut stdin = child.0.stdin.take().context("no pipe")?;
    // A client that ends early breaks the pipe; its output tells.
    thread::spawn(move || stdin.write_all(&input));
    let stdout = child.0.stdout.take().context("no pipe")?;
    let output = read_all(stdout);
    let status = child.finish(limit)?;
    ensure!(status.success(), "the client failed: {status}");
    Ok(output.recv_timeout(limit)?)
}

fn read_all(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut all = Vec::new();
        // What came before an error is judged all the same.
        let _ = pipe.read_to_end(&mut all);
        let _ = sender.send(all);
    });
    receiver
}
