//! Pipes between a child process and its parent.

use std::{
    env,
    io::{Read, Write, stderr, stdin},
    process::{Command, Stdio},
};

use futures_lite::future::zip;
use longshore::{
    Dispatcher,
    pipe::{self, Reader, Writer},
    process::Child,
};

use crate::{
    harness::{Test, port},
    io_things::pattern,
};

pub const TESTS: &[Test] = tests![
    pipe_a_child_echoes_between_two_pipes,
    pipe_a_child_that_is_killed_ends_its_pipe,
    pipe_what_std_pipes_from_a_child_is_taken_over,
];

/// Says to a copy of this program that it is to copy its standard input to its standard error.
const ECHO: &str = "LONGSHORE_PIPE_ECHO";

/// A child that echoes, by the name of the test that starts it. `None`: this is that child, and done.
fn echo(test: &str) -> Option<Command> {
    if env::var_os(ECHO).is_some() {
        #[cfg(windows)]
        is_synchronous(&stdin());
        let mut all = Vec::new();
        stdin().read_to_end(&mut all).unwrap();
        #[cfg(windows)]
        is_synchronous(&stderr());
        stderr().write_all(&all).unwrap();
        return None;
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.env(ECHO, "1").stdout(Stdio::null());
    Some(command)
}

/// C21: a program's own reads and writes do not expect anything else.
#[cfg(windows)]
fn is_synchronous(end: &impl std::os::windows::io::AsHandle) {
    let refused = port().attach(longshore::Handle::pipe(end)).unwrap_err();
    let not_overlapped = longshore::Error::NotOverlapped;
    assert_eq!(longshore::Error::of(&refused), Some(not_overlapped));
}

/// Starts a child that reads from the one pipe and writes to the other. The command is gone then, which
/// keeps copies of the child's ends.
fn between_pipes(port: &Dispatcher, mut command: Command) -> (Writer, Reader, Child) {
    let (writer, stdin) = pipe::to_child(port).unwrap();
    let (reader, stderr) = pipe::from_child(port).unwrap();
    let child = Child::spawn(port, command.stdin(stdin).stderr(stderr)).unwrap();
    (writer, reader, child)
}

fn pipe_a_child_echoes_between_two_pipes() {
    let Some(command) = echo("pipe_a_child_echoes_between_two_pipes") else {
        return;
    };
    let port = port();
    let (writer, reader, mut child) = between_pipes(&port, command);
    // More than the pipes hold.
    let sent = pattern(2, 300_000);
    let writing = async {
        writer.write_all(sent.clone()).await.0.unwrap();
        drop(writer);
    };
    let both = zip(writing, reader.read_to_end(Vec::new()));
    let ((), (count, said)) = port.block_on(both).unwrap();
    assert_eq!(count.unwrap(), sent.len());
    assert!(said == sent);
    assert!(port.block_on(child.wait()).unwrap().unwrap().success());
}

fn pipe_a_child_that_is_killed_ends_its_pipe() {
    let Some(command) = echo("pipe_a_child_that_is_killed_ends_its_pipe") else {
        return;
    };
    let port = port();
    let (writer, reader, mut child) = between_pipes(&port, command);
    let reading = reader.read(vec![0; 16]);
    child.kill().unwrap();
    assert!(!port.block_on(child.wait()).unwrap().unwrap().success());
    assert_eq!(port.block_on(reading).unwrap().0.unwrap(), 0);
    let (result, _) = port.block_on(writer.write("nobody")).unwrap();
    let error = result.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

/// At the parent's side std's pipes are overlapped on Windows, too.
fn pipe_what_std_pipes_from_a_child_is_taken_over() {
    let Some(mut command) = echo("pipe_what_std_pipes_from_a_child_is_taken_over") else {
        return;
    };
    let port = port();
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Child::spawn(&port, &mut command).unwrap();
    let writer = pipe::Writer::new(&port, child.stdin.take().unwrap());
    let writer = writer.map_err(|(error, _)| error).unwrap();
    let reader = pipe::Reader::new(&port, child.stderr.take().unwrap());
    let reader = reader.map_err(|(error, _)| error).unwrap();
    port.block_on(async {
        writer.write_all("once there and back").await.0.unwrap();
        drop(writer);
        let (count, said) = reader.read_to_end(Vec::new()).await;
        assert_eq!(count.unwrap(), 19);
        assert_eq!(said, b"once there and back");
        assert!(child.wait().await.unwrap().success());
    })
    .unwrap();
}
