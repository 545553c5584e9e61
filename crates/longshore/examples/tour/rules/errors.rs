//! What an operation's error says: D12.

use std::{
    fs::{self, OpenOptions},
    io,
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use longshore::{Completion, Dispatcher};
use socket2::{Domain, SockRef, Socket, Type};

use super::{
    Check, port,
    probe::{self, On, Probe},
};
use crate::{os, workload::Facts};

pub(super) fn d12(facts: &Facts) -> io::Result<Check> {
    let port = port(facts)?;
    let refused = refused(&port)?;
    let reset = reset(&port)?;
    let cancelled = cancelled(&port)?;
    let finished = finished(&port)?;
    let at_end = end_of_file(&port, facts)?;
    let (clean, ends) = (facts.echo.clean_ends, 2 * facts.echo.connections);
    Ok(Check::default()
        .saw(
            kind(refused) == Some(io::ErrorKind::ConnectionRefused),
            format!("connect, nobody listens: {}", show(refused)),
        )
        .saw(
            kind(reset) == Some(io::ErrorKind::ConnectionReset),
            format!("receive, the peer resets: {}", show(reset)),
        )
        .saw(
            cancelled.error == os::ABORTED,
            format!(
                "receive, cancelled: ({}, {})",
                cancelled.bytes, cancelled.error
            ),
        )
        .saw(
            is_end(finished),
            format!("receive, the peer has finished: {}", show(finished)),
        )
        .saw(
            is_end(at_end),
            format!("read at the end of a file: {}", show(at_end)),
        )
        .saw(
            clean == ends,
            format!("in the main job {clean} of {ends} ends of connections came to a clean end"),
        ))
}

fn kind(completion: Completion) -> Option<io::ErrorKind> {
    completion.result().err().map(|error| error.kind())
}

fn is_end(completion: Completion) -> bool {
    (completion.bytes, completion.error) == (0, 0)
}

fn show(completion: Completion) -> String {
    let Completion { bytes, error } = completion;
    match completion.result() {
        Ok(_) => format!("({bytes}, {error})"),
        Err(known) => format!("({bytes}, {error}: {})", known.kind()),
    }
}

/// A socket that is bound keeps its number to itself; one that does not listen refuses.
fn refused(port: &Dispatcher) -> io::Result<Completion> {
    let deaf = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    deaf.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    let address = deaf.local_addr()?.as_socket();
    let address = address.ok_or_else(|| io::Error::other("a socket without an address"))?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let op = Probe::start(port, On::Unconnected(socket, address))?;
    probe::wait(port, &op)
}

fn reset(port: &Dispatcher) -> io::Result<Completion> {
    let (ours, theirs) = probe::tcp_pair()?;
    let op = Probe::start(port, On::Stream(ours))?;
    // Closing without lingering at all is a reset.
    SockRef::from(&theirs).set_linger(Some(Duration::ZERO))?;
    drop(theirs);
    probe::wait(port, &op)
}

fn cancelled(port: &Dispatcher) -> io::Result<Completion> {
    let (ours, _theirs) = probe::tcp_pair()?;
    let op = Probe::start(port, On::Stream(ours))?;
    op.cancel(op.chain.handle())?;
    probe::wait(port, &op)
}

fn finished(port: &Dispatcher) -> io::Result<Completion> {
    let (ours, theirs) = probe::tcp_pair()?;
    let op = Probe::start(port, On::Stream(ours))?;
    theirs.shutdown(Shutdown::Write)?;
    probe::wait(port, &op)
}

fn end_of_file(port: &Dispatcher, facts: &Facts) -> io::Result<Completion> {
    let path = facts.folder.join("short");
    fs::write(&path, b"short")?;
    let file = os::overlapped(&mut OpenOptions::new())
        .read(true)
        .open(path)?;
    let op = Probe::start(port, On::File(file, 5))?;
    probe::wait(port, &op)
}
