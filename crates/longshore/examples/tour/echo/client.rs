//! The client's end: connects, then sends messages and compares what comes back.
// UNSAFETY: vouches that the buffers are left alone while they are lent.
#![expect(unsafe_code)]

use std::{
    io,
    net::Shutdown,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use longshore::{Completion, Handle, Submission};
use socket2::{Domain, Socket, Type};

use super::{Echo, LONGEST, MESSAGES};
use crate::{op::Chain, run::lock, text};

pub(super) struct Client {
    echo: Arc<Echo>,
    number: usize,
    socket: Socket,
    state: Mutex<State>,
}

struct State {
    step: Step,
    /// Both lent to the kernel while an operation is in flight; nobody looks at them then.
    message: Vec<u8>,
    answer: Vec<u8>,
    sent_at: Instant,
    round_trips: Vec<Duration>,
}

#[derive(Clone, Copy)]
enum Step {
    Connecting,
    Sending,
    Receiving { received: usize },
    Finishing,
}

impl Client {
    pub(super) fn new(echo: &Arc<Echo>, number: usize) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_tcp_nodelay(true)?;
        echo.run.port.attach(&socket)?;
        let state = State {
            step: Step::Connecting,
            message: Vec::with_capacity(LONGEST),
            answer: vec![0; LONGEST],
            sent_at: Instant::now(),
            round_trips: Vec::with_capacity(MESSAGES),
        };
        Ok(Self {
            echo: echo.clone(),
            number,
            socket,
            state: Mutex::new(state),
        })
    }

    pub(super) fn connect(&self) -> Submission<'_> {
        Submission::Connect {
            socket: Handle::from(&self.socket),
            address: self.echo.address,
        }
    }

    /// Another message than any other, of another length than the last.
    fn send(&self, state: &mut State) -> Submission<'_> {
        let seed = (self.number * MESSAGES + state.round_trips.len()) as u64;
        let length = 1 + (seed as usize).wrapping_mul(7919) % LONGEST;
        state.message.resize(length, 0);
        text::fill(seed, &mut state.message);
        state.step = Step::Sending;
        state.sent_at = Instant::now();
        Submission::Send {
            socket: Handle::from(&self.socket),
            buffer: state.message.as_ptr(),
            len: length,
        }
    }

    fn recv(&self, state: &mut State, received: usize) -> Submission<'_> {
        state.step = Step::Receiving { received };
        let rest = &mut state.answer[received..];
        Submission::Recv {
            socket: Handle::from(&self.socket),
            buffer: rest.as_mut_ptr(),
            len: rest.len(),
        }
    }

    /// The whole answer is there.
    fn verify(&self, state: &mut State, received: usize) -> io::Result<Submission<'_>> {
        state.round_trips.push(state.sent_at.elapsed());
        let wrong = text::differences(&state.message, &state.answer[..received]);
        self.echo.wrong.fetch_add(wrong, Relaxed);
        self.echo.bytes.fetch_add(received as u64, Relaxed);
        self.echo.messages.fetch_add(1, Relaxed);
        if state.round_trips.len() < MESSAGES {
            return Ok(self.send(state));
        }
        self.socket.shutdown(Shutdown::Write)?;
        let last = self.recv(state, 0);
        state.step = Step::Finishing;
        Ok(last)
    }
}

// SAFETY: submissions point into `message` and `answer`, which are touched under the lock of
// `state` by `next` and what it calls alone, and never while an operation is in flight.
unsafe impl Chain for Client {
    fn next(&self, completion: Completion) -> io::Result<Option<Submission<'_>>> {
        let bytes = completion.result()? as usize;
        let mut state = lock(&self.state);
        let state = &mut *state;
        match state.step {
            Step::Connecting => {
                self.echo.start_client();
                Ok(Some(self.send(state)))
            }
            Step::Sending if bytes < state.message.len() => Err(io::ErrorKind::WriteZero.into()),
            Step::Sending => Ok(Some(self.recv(state, 0))),
            Step::Receiving { .. } if bytes == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            Step::Receiving { received } => {
                let received = received + bytes;
                match received < state.message.len() {
                    true => Ok(Some(self.recv(state, received))),
                    false => self.verify(state, received).map(Some),
                }
            }
            Step::Finishing => {
                let clean = usize::from(bytes == 0);
                self.echo.clean_ends.fetch_add(clean, Relaxed);
                self.echo.run.port.detach(&self.socket)?;
                Ok(None)
            }
        }
    }

    fn ended(&self) {
        self.echo.end_ended(&lock(&self.state).round_trips);
    }

    fn failed(&self, error: io::Error) {
        self.echo.fail(&error);
    }
}
