//! Echoes over TCP on the loopback: accept, connect, send and receive, both ends on one port.

mod client;
mod server;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use longshore::AcceptSlot;

use self::{client::Client, server::Acceptor};
use crate::{
    op::Op,
    run::{Run, lock},
};

/// Messages over each connection.
const MESSAGES: usize = 50;
/// The longest message; their lengths vary.
const LONGEST: usize = 16 * 1024;
/// Clients that may be connecting at once: fewer than the listener's backlog has room for.
const CONNECTING: usize = 100;
/// Accepts in flight at once.
const ACCEPTING: usize = 8;

pub(crate) struct Echo {
    run: Arc<Run>,
    listener: TcpListener,
    address: SocketAddr,
    connections: usize,
    clients_begun: AtomicUsize,
    accepts_begun: AtomicUsize,
    /// Ends of connections that are still to end, both counted.
    ends_left: AtomicUsize,
    /// Ends that the peer finished in good order, as (0 bytes, no error).
    clean_ends: AtomicUsize,
    messages: AtomicUsize,
    bytes: AtomicU64,
    /// Bytes that came back other than they were sent.
    wrong: AtomicU64,
    round_trips: Mutex<Vec<Duration>>,
    began: OnceLock<Instant>,
    took: OnceLock<Duration>,
}

/// What the echo has done.
#[derive(Clone, Debug)]
pub(crate) struct EchoFacts {
    pub(crate) connections: usize,
    pub(crate) clean_ends: usize,
    pub(crate) messages: usize,
    pub(crate) messages_meant: usize,
    pub(crate) bytes: u64,
    pub(crate) wrong: u64,
    pub(crate) round_trips: Vec<Duration>,
    pub(crate) took: Option<Duration>,
}

impl Echo {
    pub(crate) fn listen(run: &Arc<Run>, connections: usize) -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        run.port.attach(&listener)?;
        Ok(Arc::new(Self {
            run: run.clone(),
            address: listener.local_addr()?,
            listener,
            connections,
            clients_begun: AtomicUsize::new(0),
            accepts_begun: AtomicUsize::new(0),
            ends_left: AtomicUsize::new(2 * connections),
            clean_ends: AtomicUsize::new(0),
            messages: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            round_trips: Mutex::default(),
            began: OnceLock::new(),
            took: OnceLock::new(),
        }))
    }

    pub(crate) fn start(self: &Arc<Self>) {
        let _ = self.began.set(Instant::now());
        for _ in 0..ACCEPTING {
            if self.may_accept() {
                let acceptor = Acceptor {
                    echo: self.clone(),
                    slot: Mutex::new(AcceptSlot::new()),
                };
                Op::new(&self.run.port, acceptor).start(|acceptor| Some(acceptor.accept()));
            }
        }
        (0..CONNECTING).for_each(|_| self.start_client());
    }

    /// Whether one more accept is needed. Each is meant for one connection, so none is left over.
    fn may_accept(&self) -> bool {
        self.accepts_begun.fetch_add(1, Relaxed) < self.connections
    }

    /// Starts the next client, if one is left.
    fn start_client(self: &Arc<Self>) {
        let number = self.clients_begun.fetch_add(1, Relaxed);
        if number >= self.connections {
            return;
        }
        match Client::new(self, number) {
            Ok(client) => Op::new(&self.run.port, client).start(|client| Some(client.connect())),
            Err(error) => self.fail(&error),
        }
    }

    /// One end of a connection has come to its end.
    fn end_ended(&self, round_trips: &[Duration]) {
        lock(&self.round_trips).extend_from_slice(round_trips);
        if self.ends_left.fetch_sub(1, Relaxed) == 1 {
            let took = self.began.get().map(Instant::elapsed).unwrap_or_default();
            let _ = self.took.set(took);
            self.run.part_done();
        }
    }

    fn fail(&self, error: &io::Error) {
        self.run.fail("echo", error);
    }

    pub(crate) fn messages(&self) -> usize {
        self.messages.load(Relaxed)
    }

    pub(crate) fn messages_meant(&self) -> usize {
        self.connections * MESSAGES
    }

    pub(crate) fn facts(&self) -> EchoFacts {
        EchoFacts {
            connections: self.connections,
            clean_ends: self.clean_ends.load(Relaxed),
            messages: self.messages(),
            messages_meant: self.messages_meant(),
            bytes: self.bytes.load(Relaxed),
            wrong: self.wrong.load(Relaxed),
            round_trips: std::mem::take(&mut lock(&self.round_trips)),
            took: self.took.get().copied(),
        }
    }
}
