//! The checks, each with a server of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::process::{Owned, talk};
use super::server::{Server, ask, limited};
use super::{Bench, Check, Outcome};
use crate::shell;

pub(super) const ALL: &[Check] = &[
    ("short_echo", short_echo),
    ("half_close", half_close),
    ("transfer_of_200_mb", transfer_of_200_mb),
    ("fifty_at_once", fifty_at_once),
    ("killed_client", killed_client),
    ("out_of_descriptors", out_of_descriptors),
    ("ten_thousand_connections", ten_thousand_connections),
    ("sigterm_under_load", sigterm_under_load),
    ("sigint_when_idle", sigint_when_idle),
];

/// For one client. The slow ones move 200 MB.
const LIMIT: Duration = Duration::from_secs(60);
/// All the files that this process may open.
const ALL_FILES: &str = "$(ulimit -Hn)";

fn passed(detail: impl Into<String>) -> Result<Outcome> {
    Ok(Outcome::Passed(detail.into()))
}

fn short_echo(bench: &Bench) -> Result<Outcome> {
    let server = Server::start(bench, ALL_FILES)?;
    let message = b"through the port and back\n".to_vec();
    let clients = [("socat", server.socat()), ("nc", server.netcat(bench))];
    for (name, mut client) in clients {
        let back = talk(&mut client, message.clone(), LIMIT).context(name)?;
        ensure!(back == message, "{name} got {} bytes back", back.len());
    }
    passed("socat and nc")
}

/// The client finishes at once; the server still owes megabytes, and then an end.
fn half_close(bench: &Bench) -> Result<Outcome> {
    let server = Server::start(bench, ALL_FILES)?;
    let message = noise(1, 8 << 20);
    let clients = [("socat", server.socat()), ("nc", server.netcat(bench))];
    for (name, mut client) in clients {
        let begun = Instant::now();
        let back = talk(&mut client, message.clone(), LIMIT).context(name)?;
        ensure!(back == message, "{name} got {} bytes back", back.len());
        // Without the server's own end socat would sit out its minute.
        ensure!(begun.elapsed() < LIMIT / 2, "{name} had to wait for an end");
    }
    passed("8 MiB came back after the client's end, then the server's")
}

fn transfer_of_200_mb(bench: &Bench) -> Result<Outcome> {
    const LENGTH: usize = 200_000_000;
    let server = Server::start(bench, ALL_FILES)?;
    let path = bench.folder.join("200-mb");
    std::fs::write(&path, noise(2, LENGTH))?;
    let wanted = shell::capture(
        Command::new("sha256sum")
            .stdin(File::open(&path)?)
            .arg(&path),
    )?;
    let wanted = wanted.split_whitespace().next().unwrap_or_default();

    let mut detail = Vec::new();
    let clients = [("socat", server.socat()), ("nc", server.netcat(bench))];
    for (name, mut client) in clients {
        let begun = Instant::now();
        client.stdin(File::open(&path)?).stdout(Stdio::piped());
        let mut client = Owned::start(&mut client)?;
        let stream = client.0.stdout.take().context("no pipe")?;
        let mut sum = Command::new("sha256sum");
        let mut sum = Owned::start(sum.stdin(stream).stdout(Stdio::piped()))?;
        ensure!(
            client.finish(LIMIT).context(name)?.success(),
            "{name} failed"
        );
        let took = begun.elapsed().as_secs_f64();
        ensure!(sum.finish(LIMIT)?.success(), "sha256sum failed");
        let mut line = String::new();
        let mut pipe = sum.0.stdout.take().context("no pipe")?;
        pipe.read_to_string(&mut line)?;
        ensure!(
            line.split_whitespace().next() == Some(wanted),
            "{name}: the checksum differs"
        );
        detail.push(format!("{name} {:.0} MB/s", LENGTH as f64 / 1e6 / took));
    }
    std::fs::remove_file(&path)?;
    passed(format!("the checksum is equal; {}", detail.join(", ")))
}

fn fifty_at_once(bench: &Bench) -> Result<Outcome> {
    const COUNT: usize = 50;
    let server = Server::start(bench, ALL_FILES)?;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..COUNT)
            .map(|number| {
                let mut client = match number % 2 {
                    0 => server.socat(),
                    _ => server.netcat(bench),
                };
                scope.spawn(move || {
                    let message = noise(100 + number as u64, 1 << 20);
                    let back = talk(&mut client, message.clone(), LIMIT)?;
                    ensure!(back == message, "{} bytes came back", back.len());
                    Ok(())
                })
            })
            .collect();
        for (number, client) in clients.into_iter().enumerate() {
            let Ok(result) = client.join() else {
                bail!("client {number} panicked");
            };
            result.with_context(|| format!("client {number}"))?;
        }
        Ok(())
    })?;
    passed(format!("{COUNT} clients, 1 MiB each, each its own"))
}

fn killed_client(bench: &Bench) -> Result<Outcome> {
    let server = Server::start(bench, ALL_FILES)?;
    let mut bystander = server.connect()?;
    ask(&mut bystander)?;
    for mut client in [server.socat(), server.netcat(bench)] {
        client
            .stdin(File::open("/dev/zero")?)
            .stdout(Stdio::piped());
        let mut client = Owned::start(&mut client)?;
        let mut stream = client.0.stdout.take().context("no pipe")?;
        // Zeroes go in and come out for ever, until it is killed in the middle.
        let mut some = vec![1; 10 << 20];
        stream.read_exact(&mut some)?;
        drop(client);
        ensure!(some.iter().all(|byte| *byte == 0), "not zeroes");
        ask(&mut bystander).context("another connection was disturbed")?;
    }
    server.forget_said();
    server.hears(|line| line.starts_with("report: 1 connections, "))?;
    ask(&mut server.connect()?)?;
    passed("the server dropped them, and went on with the others")
}

fn out_of_descriptors(bench: &Bench) -> Result<Outcome> {
    let server = Server::start(bench, "40")?;
    // The kernel connects them all; the server can accept some.
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(server.connect()?);
    }
    let is_it = |line: &str| line.contains("cannot accept");
    server.hears(is_it)?;
    ask(&mut clients[0]).context("an accepted connection was disturbed")?;
    clients.drain(..50);
    for client in &mut clients {
        ask(client).context("a connection that had to wait")?;
    }
    let times = server.said().iter().filter(|line| is_it(line)).count();
    ensure!(times == 1, "it was said {times} times");
    passed("said once; served when others had left")
}

fn ten_thousand_connections(bench: &Bench) -> Result<Outcome> {
    const COUNT: usize = 10_000;
    // The port, the pipes, the listener.
    const OTHERS: usize = 50;
    let limit = shell::capture(Command::new("sh").args(["-c", "ulimit -Hn"]))?;
    if let Ok(limit) = limit.trim().parse::<usize>()
        && limit < COUNT + OTHERS
    {
        let reason = format!("only {limit} open files are allowed here");
        return Ok(Outcome::Skipped(reason));
    }
    let mut server = Server::start(bench, ALL_FILES)?;
    let begun = Instant::now();
    let mut crowd = limited(&bench.crowd, ALL_FILES);
    crowd.args([&server.address.to_string(), &COUNT.to_string()]);
    let mut crowd = Owned::start(crowd.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut input = crowd.0.stdin.take();
    let mut output = BufReader::new(crowd.0.stdout.take().context("no pipe")?);
    // It cannot hang without end: when the time is up the client is killed, and its pipe ends.
    let line = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut line = String::new();
            output.read_line(&mut line).map(|_| line)
        });
        while !reader.is_finished() && begun.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(10));
        }
        if !reader.is_finished() {
            crowd.0.kill()?;
        }
        reader.join().unwrap_or_else(|_| Ok(String::new()))
    })?;
    ensure!(line.contains("open and echoed"), "they were not opened");
    let opened = begun.elapsed();
    server.forget_said();
    let idle = format!("report: {COUNT} connections, 0 messages, ");
    let report = server.hears(|line| line.starts_with(&idle))?;
    let memory = report.split(", ").last().unwrap_or_default().to_owned();

    drop(input.take());
    ensure!(crowd.finish(LIMIT)?.success(), "they did not echo again");
    let ended = server.end("TERM")?;
    passed(format!(
        "opened in {:.1} s, echoed, held idle, echoed again; {memory}; ended in {:.1} s",
        opened.as_secs_f64(),
        ended.as_secs_f64()
    ))
}

/// While one client transfers, one is idle, and one sends without reading.
fn sigterm_under_load(bench: &Bench) -> Result<Outcome> {
    let mut server = Server::start(bench, ALL_FILES)?;
    let mut idle = server.connect()?;
    ask(&mut idle)?;
    let mut deaf = server.connect()?;
    deaf.set_write_timeout(Some(Duration::from_millis(300)))?;
    let block = vec![7; 1 << 16];
    while deaf.write_all(&block).is_ok() {}
    let mut busy = server.netcat(bench);
    busy.stdin(File::open("/dev/zero")?).stdout(Stdio::piped());
    let mut busy = Owned::start(&mut busy)?;
    let mut stream = busy.0.stdout.take().context("no pipe")?;
    stream.read_exact(&mut vec![0; 10 << 20])?;
    let reader = std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));

    let ended = server.end("TERM")?;
    ensure!(idle.read(&mut [0; 1])? == 0, "the idle client got no end");
    server.hears(|line| line.contains("cut off"))?;
    drop(busy);
    let _ = reader.join();
    passed(format!("exit code 0 after {:.1} s", ended.as_secs_f64()))
}

fn sigint_when_idle(bench: &Bench) -> Result<Outcome> {
    let mut server = Server::start(bench, ALL_FILES)?;
    let mut idle = server.connect()?;
    ask(&mut idle)?;
    let ended = server.end("INT")?;
    ensure!(idle.read(&mut [0; 1])? == 0, "the idle client got no end");
    ensure!(ended < Duration::from_secs(2), "it took {ended:?}");
    passed(format!("exit code 0 after {:.2} s", ended.as_secs_f64()))
}

/// Bytes that do not repeat (SplitMix64).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
