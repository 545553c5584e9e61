//! The server's ends: accepts connections, and sends back whatever each receives.
// UNSAFETY: vouches that slots and buffers are left alone while they are lent.
#![expect(unsafe_code)]

use std::{
    io,
    net::TcpStream,
    ptr::NonNull,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
};

use longshore::{AcceptSlot, Completion, Handle, Submission};

use super::{Echo, LONGEST};
use crate::{
    op::{Chain, Op},
    run::lock,
};

/// Accepts one connection after the other.
pub(super) struct Acceptor {
    pub(super) echo: Arc<Echo>,
    /// Lent to the kernel while the accept is in flight; nobody looks at it then.
    pub(super) slot: Mutex<AcceptSlot>,
}

impl Acceptor {
    pub(super) fn accept(&self) -> Submission<'_> {
        Submission::Accept {
            listener: Handle::from(&self.echo.listener),
            slot: NonNull::from(&mut *lock(&self.slot)),
        }
    }
}

// SAFETY: submissions point to the slot, which does not move within the Op and is touched by `next`
// alone once an accept was submitted.
unsafe impl Chain for Acceptor {
    fn next(&self, completion: Completion) -> io::Result<Option<Submission<'_>>> {
        completion.result()?;
        let accepted = lock(&self.slot).take();
        let (stream, _peer) =
            accepted.ok_or_else(|| io::Error::other("an accept brought no connection"))?;
        let session = Session::new(&self.echo, stream)?;
        Op::new(&self.echo.run.port, session).start(|session| {
            let state = &mut *lock(&session.state);
            Some(session.recv(state))
        });
        Ok(self.echo.may_accept().then(|| self.accept()))
    }

    fn failed(&self, error: io::Error) {
        self.echo.fail(&error);
    }
}

/// The server's end of one connection.
struct Session {
    echo: Arc<Echo>,
    stream: TcpStream,
    state: Mutex<State>,
}

struct State {
    /// Lent to the kernel while an operation is in flight; nobody looks at it then.
    buffer: Vec<u8>,
    /// How much of the buffer is being sent; `None` while receiving.
    sending: Option<usize>,
}

impl Session {
    fn new(echo: &Arc<Echo>, stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        echo.run.port.attach(&stream)?;
        let state = State {
            buffer: vec![0; LONGEST],
            sending: None,
        };
        Ok(Self {
            echo: echo.clone(),
            stream,
            state: Mutex::new(state),
        })
    }

    fn recv(&self, state: &mut State) -> Submission<'_> {
        state.sending = None;
        Submission::Recv {
            socket: Handle::from(&self.stream),
            buffer: state.buffer.as_mut_ptr(),
            len: state.buffer.len(),
        }
    }

    fn send(&self, state: &mut State, length: usize) -> Submission<'_> {
        state.sending = Some(length);
        Submission::Send {
            socket: Handle::from(&self.stream),
            buffer: state.buffer.as_ptr(),
            len: length,
        }
    }
}

// SAFETY: submissions point into `buffer`, which is touched under the lock of `state` by `next` and
// the start alone, and never while an operation is in flight.
unsafe impl Chain for Session {
    fn next(&self, completion: Completion) -> io::Result<Option<Submission<'_>>> {
        let bytes = completion.result()? as usize;
        let state = &mut *lock(&self.state);
        match state.sending {
            Some(length) if bytes < length => Err(io::ErrorKind::WriteZero.into()),
            Some(_) => Ok(Some(self.recv(state))),
            None if bytes == 0 => {
                self.echo.clean_ends.fetch_add(1, Relaxed);
                self.echo.run.port.detach(&self.stream)?;
                Ok(None)
            }
            None => Ok(Some(self.send(state, bytes))),
        }
    }

    fn ended(&self) {
        self.echo.end_ended(&[]);
    }

    fn failed(&self, error: io::Error) {
        self.echo.fail(&error);
    }
}
