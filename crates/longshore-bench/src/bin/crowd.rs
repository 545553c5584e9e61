//! Many clients of an echo server in one process.

use std::{
    env,
    io::{self, Read, Write},
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use longshore::{Dispatcher, net::TcpStream};

const HELP: &str = "\
Usage: crowd HOST:PORT COUNT

Opens COUNT connections to an echo server and has each of them echo a message of its own. Holds
them open until standard input ends, has each echo once more, and closes them. One line on
standard output for each step. Exit code: 0, 1 when a connection or an echo failed, 2 for bad
arguments. It does not raise the limit of open files.";

/// Connections that are opened, or echo, at once.
const WIDTH: usize = 128;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if arguments.iter().any(|one| one == "--help" || one == "-h") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let [address, count] = arguments.as_slice() else {
        eprintln!("crowd: an address and a count are needed (try --help)");
        return ExitCode::from(2);
    };
    let (Ok(address), Ok(count)) = (address.parse(), count.parse()) else {
        eprintln!("crowd: '{address} {count}' is not an address and a count (try --help)");
        return ExitCode::from(2);
    };
    match crowd(address, count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crowd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn crowd(address: SocketAddr, count: usize) -> io::Result<()> {
    let port = Dispatcher::new()?;
    let _work = port.work_guard();
    let worker = port.clone();
    let worker = thread::spawn(move || worker.run());

    let streams = port.block_on(open(&port, address, count))??;
    let count = streams.len();
    say(&format!("{count} connections are open and echoed"))?;
    io::stdin().read_to_end(&mut Vec::new())?;
    let streams = port.block_on(again(&port, streams))??;
    say(&format!("{count} connections echoed again"))?;
    drop(streams);
    port.stop()?;
    worker.join().expect("the worker does not panic")?;
    port.close()?;
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

async fn open(port: &Dispatcher, address: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    let next = Arc::new(AtomicUsize::new(0));
    let openers: Vec<_> = (0..WIDTH)
        .map(|_| {
            let (port, next) = (port.clone(), next.clone());
            port.clone().spawn(async move {
                let mut streams = Vec::new();
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= count {
                        return Ok(streams);
                    }
                    let attempt = async {
                        let stream = TcpStream::connect(&port, address).await?;
                        echo(&stream, number).await?;
                        Ok(stream)
                    };
                    streams.push(attempt.await.map_err(|error| of(number, &error))?);
                }
            })
        })
        .collect();
    let mut streams = Vec::with_capacity(count);
    for opener in openers {
        let opened: io::Result<Vec<_>> = opener.await?;
        streams.extend(opened?);
    }
    Ok(streams)
}

async fn again(port: &Dispatcher, mut streams: Vec<TcpStream>) -> io::Result<Vec<TcpStream>> {
    let mut parts = Vec::new();
    let each = streams.len().div_ceil(WIDTH).max(1);
    while !streams.is_empty() {
        let part = streams.split_off(streams.len().saturating_sub(each));
        parts.push(port.spawn(async move {
            for (number, stream) in part.iter().enumerate() {
                let echoed = echo(stream, number).await;
                echoed.map_err(|error| of(number, &error))?;
            }
            Ok(part)
        }));
    }
    let mut all = Vec::new();
    for part in parts {
        let part: io::Result<Vec<_>> = part.await?;
        all.extend(part?);
    }
    Ok(all)
}

/// Sends a message that names the connection, and reads it back.
async fn echo(stream: &TcpStream, number: usize) -> io::Result<()> {
    let message = format!("this is connection {number}").into_bytes();
    let (result, message) = stream.write_all(message).await;
    result?;
    let mut echoed = Vec::new();
    while echoed.len() < message.len() {
        let (result, part) = stream.read(Vec::with_capacity(64)).await;
        if result? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        echoed.extend(part);
    }
    match echoed == message {
        true => Ok(()),
        false => Err(io::Error::other("something else came back")),
    }
}

fn of(number: usize, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("connection {number}: {error}"))
}
