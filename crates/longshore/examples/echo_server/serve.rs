//! Accepting and echoing.

use std::{
    io,
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use longshore::{
    ABORTED, Dispatcher, Transfer,
    net::{Accept, TcpListener, TcpStream},
};

use crate::roll::{Member, Roll};

/// What an idle connection waits with. A client that fills it gets a large one.
const SMALL: usize = 1024;
const LARGE: usize = 64 * 1024;
/// The waits after an accept that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Server {
    pub(crate) port: Dispatcher,
    pub(crate) roll: Arc<Roll>,
    open: AtomicUsize,
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl Server {
    pub(crate) fn new(port: &Dispatcher) -> Self {
        Self {
            port: port.clone(),
            roll: Arc::default(),
            open: AtomicUsize::new(0),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Accepts until the roll is closed. An accept that fails stops nothing: it is said once for
    /// each kind of failure, and tried again after a pause. (Without the pause a server that is
    /// out of descriptors would spin until a client leaves.)
    pub(crate) async fn accept_all(self: Arc<Self>, listener: TcpListener) {
        let member = self.roll.enter();
        let mut pause = FIRST_PAUSE;
        let mut said = Vec::new();
        while !self.roll.is_closing() {
            match member.finish(listener.accept(), Accept::cancel).await {
                Ok((stream, _peer)) => {
                    pause = FIRST_PAUSE;
                    let connection = Connection::new(&self, stream);
                    self.port.spawn(connection.run()).detach();
                }
                Err(_) if self.roll.is_closing() => {}
                Err(error) => {
                    let code = error.raw_os_error();
                    if !said.contains(&code) {
                        said.push(code);
                        eprintln!("echo_server: cannot accept: {error}; trying again and again");
                    }
                    member.pause(self.port.sleep(pause)).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }
}

struct Connection {
    server: Arc<Server>,
    stream: TcpStream,
    member: Member,
}

impl Connection {
    fn new(server: &Arc<Server>, stream: TcpStream) -> Self {
        server.open.fetch_add(1, Relaxed);
        Self {
            server: server.clone(),
            stream,
            member: server.roll.enter(),
        }
    }

    async fn run(self) {
        // A client that goes away in the middle is its own affair.
        let _ = self.echo().await;
    }

    /// One block after the other, so that a client that does not read stops its own sending.
    async fn echo(&self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let mut buffer = Vec::with_capacity(SMALL);
        loop {
            buffer.clear();
            let read = self.stream.read(buffer);
            let (result, filled) = self.member.finish(read, Transfer::cancel).await;
            buffer = filled;
            match result {
                Ok(0) => break,
                Ok(count) => {
                    self.server.messages.fetch_add(1, Relaxed);
                    self.server.bytes.fetch_add(count as u64, Relaxed);
                }
                // The server ends, and there was nothing to read.
                Err(error) if is_aborted(&error) => break,
                Err(error) => return Err(error),
            }
            let (result, written) = self.stream.write_all(buffer).await;
            result?;
            buffer = fitting(written);
        }
        self.stream.shutdown(Shutdown::Write)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.open.fetch_sub(1, Relaxed);
    }
}

/// A buffer for the next read, by how full this one was.
fn fitting(buffer: Vec<u8>) -> Vec<u8> {
    match (buffer.len(), buffer.capacity()) {
        (SMALL.., ..LARGE) => Vec::with_capacity(LARGE),
        (..SMALL, LARGE..) => Vec::with_capacity(SMALL),
        _ => buffer,
    }
}

fn is_aborted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ABORTED as i32)
}
