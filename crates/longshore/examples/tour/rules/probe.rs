//! Callbacks that note what they receive, and single operations whose outcome can be looked at.
// UNSAFETY: vouches that a probe's buffer is left alone while it is lent.
#![expect(unsafe_code)]

use std::{
    cell::RefCell,
    fs::File,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use longshore::{Completion, Dispatcher, Handle, Submission};
use socket2::Socket;

use crate::{
    op::{Chain, Op},
    run::lock,
};

/// An `on_event`'s three arguments.
type Event = (usize, u32, u32);

thread_local! {
    // For the thread that dispatches: each check has its own.
    static SEEN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    static EVENTS: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

/// A callback that notes its word.
pub(crate) extern "C-unwind" fn note(word: usize) {
    SEEN.with_borrow_mut(|seen| seen.push(word));
}

/// The words that [`note`] got on this thread since the last time.
pub(crate) fn seen() -> Vec<usize> {
    SEEN.take()
}

/// An `on_event` that notes what it is called with.
pub(crate) extern "C-unwind" fn note_event(word: usize, bytes: u32, error: u32) {
    EVENTS.with_borrow_mut(|events| events.push((word, bytes, error)));
}

/// What [`note_event`] got on this thread since the last time.
pub(crate) fn events() -> Vec<Event> {
    EVENTS.take()
}

/// An address by its name if it is the one that is meant, else by its value.
pub(crate) fn name(is: bool, name: &str, address: usize) -> String {
    match is {
        true => name.into(),
        false => format!("{address:#x}"),
    }
}

/// A connection over the loopback.
pub(super) fn tcp_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    // Connections of others may come first.
    loop {
        let (server, peer) = listener.accept()?;
        if peer == client.local_addr()? {
            return Ok((client, server));
        }
    }
}

/// What one operation is tried on.
pub(super) enum On {
    /// A receive.
    Stream(TcpStream),
    /// A connect.
    Unconnected(Socket, SocketAddr),
    /// A read at an offset.
    File(File, u64),
}

/// One operation.
pub(super) struct Probe {
    on: On,
    /// Lent to the kernel while the operation is in flight; nobody looks at it then.
    buffer: Mutex<Vec<u8>>,
    outcome: Mutex<Option<io::Result<Completion>>>,
}

impl Probe {
    /// Attaches what it is tried on, and starts the operation.
    pub(super) fn start(port: &Dispatcher, on: On) -> io::Result<Arc<Op<Self>>> {
        let probe = Self {
            on,
            buffer: Mutex::new(vec![0; 64]),
            outcome: Mutex::default(),
        };
        port.attach(probe.handle())?;
        let op = Op::new(port, probe);
        op.start(|probe| Some(probe.submission()));
        Ok(op)
    }

    fn submission(&self) -> Submission<'_> {
        let mut lent = lock(&self.buffer);
        let (buffer, len) = (lent.as_mut_ptr(), lent.len());
        let handle = self.handle();
        match &self.on {
            On::Stream(_) => Submission::Recv {
                socket: handle,
                buffer,
                len,
            },
            On::Unconnected(_, address) => Submission::Connect {
                socket: handle,
                address: *address,
            },
            On::File(_, offset) => Submission::Read {
                handle,
                offset: *offset,
                buffer,
                len,
            },
        }
    }

    pub(super) fn handle(&self) -> Handle<'_> {
        match &self.on {
            On::Stream(stream) => stream.into(),
            On::Unconnected(socket, _) => socket.into(),
            On::File(file, _) => file.into(),
        }
    }

    /// What has come of it, once.
    pub(super) fn outcome(&self) -> Option<io::Result<Completion>> {
        lock(&self.outcome).take()
    }
}

/// Dispatches until the operation has an outcome. An operating system's error that came from the
/// submission itself is one, too.
pub(super) fn wait(port: &Dispatcher, op: &Op<Probe>) -> io::Result<Completion> {
    loop {
        match op.chain.outcome() {
            Some(Err(error)) => match error.raw_os_error() {
                Some(code) => {
                    return Ok(Completion {
                        bytes: 0,
                        error: code as u32,
                    });
                }
                None => return Err(error),
            },
            Some(Ok(completion)) => return Ok(completion),
            None => port.dispatch()?,
        }
    }
}

// SAFETY: the submission points into the buffer, which is never touched again.
unsafe impl Chain for Probe {
    fn next(&self, completion: Completion) -> io::Result<Option<Submission<'_>>> {
        *lock(&self.outcome) = Some(Ok(completion));
        Ok(None)
    }

    fn failed(&self, error: io::Error) {
        *lock(&self.outcome) = Some(Err(error));
    }
}
