//! One attached descriptor, and the operations that wait for it to become ready.
//!
//! The kernel reports a change once (edge-triggered), so the source remembers that it is ready
//! until a system call says that it would block. Everything happens under the source's lock: the
//! attempt and the note that it would block are one step, and an edge that comes in between waits
//! for the lock and then finds the operation queued.
// UNSAFETY: system calls on buffers that the submitter lent until the packet.
#![expect(unsafe_code)]

mod watches;

use std::{
    collections::VecDeque,
    io,
    os::fd::RawFd,
    ptr::NonNull,
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};

use super::{
    calls,
    inbox::{Header, Inbox},
    op::{CANCELLED, Call, Op},
};
use crate::{
    completion::Completion,
    error::Error,
    handle::Kind,
    overlapped::RawOverlapped,
    submission::{AcceptSlot, Submission},
    sys::backend::{Submitted, Terms},
};

#[derive(Debug)]
pub(super) struct Source {
    pub(super) fd: RawFd,
    /// Tells this use of the descriptor's number from earlier and later ones.
    pub(super) generation: u32,
    pub(super) kind: Kind,
    /// What `fstat` said when it was attached.
    pub(super) identity: (u64, u64),
    pub(super) terms: Terms,
    /// Whether the file system can read without waiting, as far as is known.
    pub(super) reads_no_wait: AtomicBool,
    /// The same of writing: ext4, for one, can do the one and not the other.
    pub(super) writes_no_wait: AtomicBool,
    /// A socket that keeps messages apart, and cuts one that does not fit.
    pub(super) is_datagram: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reads: Side,
    writes: Side,
    /// Operations that end when the descriptor is ready, and the events they wait for.
    watches: Vec<(Header, u32)>,
    /// Operations that end when the descriptor is readable: asked of the descriptor, not of events.
    waits: Vec<Header>,
    /// What the kernel has reported of a watched descriptor.
    seen: u32,
    detached: bool,
}

/// The operations that wait for one direction, first come, first served.
#[derive(Debug)]
struct Side {
    /// Worth a system call. True at first: only a call can tell.
    ready: bool,
    waiting: VecDeque<Op>,
}

impl Default for Side {
    fn default() -> Self {
        Self {
            ready: true,
            waiting: VecDeque::new(),
        }
    }
}

impl Source {
    pub(super) fn new(
        fd: RawFd,
        generation: u32,
        kind: Kind,
        identity: (u64, u64),
        terms: Terms,
    ) -> io::Result<Self> {
        Ok(Self {
            fd,
            generation,
            kind,
            identity,
            terms,
            reads_no_wait: AtomicBool::new(true),
            writes_no_wait: AtomicBool::new(true),
            is_datagram: kind == Kind::Socket && !calls::is_stream(fd)?,
            state: Mutex::default(),
        })
    }

    /// Generation and descriptor: what epoll hands back, and what a stale event no longer matches.
    pub(super) fn token(&self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.fd as u32)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_detached(&self) -> bool {
        self.state().detached
    }

    /// Starts one operation on a socket or pipe: tried at once when that may be ready, and queued
    /// when it would block.
    ///
    /// # Safety
    /// As for [`Backend::submit`](crate::sys::backend::Backend::submit).
    pub(super) unsafe fn start(
        &self,
        header: NonNull<RawOverlapped>,
        submission: &Submission<'_>,
        inbox: &Inbox,
    ) -> io::Result<Submitted> {
        let mut state = self.state();
        if state.detached {
            return Err(Error::NotAttached.into());
        }
        submission.fits(self.is_datagram)?;
        let call = match *submission {
            // A receive would take away the error that tells how the connect ended. Windows
            // refuses it as well.
            Submission::Recv { .. } if state.is_connecting() => {
                return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
            }
            Submission::Recv { buffer, len, .. } => Call::recv(buffer, len, None),
            Submission::RecvFrom {
                buffer, len, from, ..
            } => Call::recv(buffer, len, Some(from)),
            Submission::Send { buffer, len, .. } => Call::send(buffer, len, None),
            Submission::SendTo {
                buffer, len, to, ..
            } => Call::send(buffer, len, Some(to)),
            Submission::Accept { slot, .. } => {
                calls::set_blocking(self.fd, false)?;
                // SAFETY: nothing is in flight yet, so the slot is ours alone.
                unsafe { *slot.as_ptr() = AcceptSlot::new() };
                Call::Accept { slot }
            }
            Submission::Connect { address, .. } => match self.begin_connect(address)? {
                Some(was_blocking) => Call::Connect { was_blocking },
                None => {
                    // SAFETY: the caller's contract; nothing else completes this operation.
                    let header = unsafe { Header::new(header, self.terms.key) };
                    return Ok(self.end_at_once(header, Completion::ok(0), inbox));
                }
            },
            // `Epoll::submit` has seen to it that this is a pipe.
            Submission::Read { buffer, len, .. } => Call::recv(buffer, len, None),
            Submission::Write { buffer, len, .. } => Call::send(buffer, len, None),
            Submission::ConnectPipe { .. } => return Err(Error::NoSuchOperation.into()),
            Submission::Wait { .. } => return Err(Error::WrongKind.into()),
        };
        // SAFETY: the caller's contract: live until the packet. Dropped unused on an error.
        let header = unsafe { Header::new(header, self.terms.key) };
        let is_connect = matches!(call, Call::Connect { .. });
        let mut op = Op {
            header,
            call,
            done: 0,
        };
        let side = state.side(&op.call);
        if side.ready && side.waiting.is_empty() && !is_connect {
            match op.attempt(self) {
                // The submitting call's own failure; nothing was started.
                Some(completion) if op.was_refused(completion) => {
                    return Err(io::Error::from_raw_os_error(completion.error as i32));
                }
                Some(completion) => {
                    return Ok(self.end_at_once(op.header, completion, inbox));
                }
                None => side.ready = false,
            }
        }
        side.waiting.push_back(op);
        Ok(Submitted::PacketOwed)
    }

    /// The operation ended inside the submitting call.
    pub(super) fn end_at_once(
        &self,
        header: Header,
        completion: Completion,
        inbox: &Inbox,
    ) -> Submitted {
        if self.terms.may_skip {
            return Submitted::Done(completion);
        }
        inbox.complete(header, completion);
        Submitted::PacketOwed
    }

    /// `None` when connected at once; otherwise whether the socket was blocking before.
    fn begin_connect(&self, address: std::net::SocketAddr) -> io::Result<Option<bool>> {
        let was_blocking = calls::set_blocking(self.fd, false)?;
        let result = calls::connect(self.fd, address);
        match result {
            // Interrupted: it goes on by itself, as connect(2) says.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR)) => {
                Ok(Some(was_blocking))
            }
            result => {
                self.restore(was_blocking);
                result.map(|()| None)
            }
        }
    }

    fn restore(&self, was_blocking: bool) {
        if was_blocking {
            // It cannot fail on a descriptor that took the opposite a moment ago.
            let _ = calls::set_blocking(self.fd, true);
        }
    }

    /// The kernel reported a change. Returns how many packets were queued; nobody was woken.
    pub(super) fn on_ready(&self, events: u32, inbox: &Inbox) -> usize {
        let broken = events & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0;
        let readable = events & (libc::EPOLLIN | libc::EPOLLRDHUP) as u32 != 0;
        let writable = events & libc::EPOLLOUT as u32 != 0;
        let mut state = self.state();
        if state.detached {
            return 0;
        }
        if self.kind == Kind::Waitable {
            state.seen |= events;
            return self.tell_watches(&mut state, events, inbox);
        }
        let mut queued = 0;
        // Writes first: among them is a connect, and its error must not go to a receive.
        if writable || broken {
            state.writes.ready = true;
            queued += self.proceed(&mut state.writes, inbox);
        }
        if readable || broken {
            state.reads.ready = true;
            queued += self.proceed(&mut state.reads, inbox);
        }
        queued
    }

    fn proceed(&self, side: &mut Side, inbox: &Inbox) -> usize {
        let mut queued = 0;
        while let Some(op) = side.waiting.front_mut() {
            let Some(completion) = op.attempt(self) else {
                side.ready = false;
                break;
            };
            queued += self.finish(side.waiting.pop_front(), completion, inbox);
        }
        queued
    }

    fn finish(&self, op: Option<Op>, completion: Completion, inbox: &Inbox) -> usize {
        let Some(op) = op else { return 0 };
        if let Call::Connect { was_blocking } = op.call {
            self.restore(was_blocking);
        }
        inbox.complete_quietly(op.header, completion);
        1
    }

    /// Takes one waiting operation out and completes it as cancelled.
    pub(super) fn cancel(&self, header: NonNull<RawOverlapped>, inbox: &Inbox) -> bool {
        let mut state = self.state();
        if let Some(header) = state.take_watch(header) {
            inbox.complete_quietly(header, CANCELLED);
            drop(state);
            inbox.wake_if_more();
            return true;
        }
        let State { reads, writes, .. } = &mut *state;
        let found = [reads, writes].into_iter().find_map(|side| {
            let at = side.waiting.iter().position(|op| op.header.is(header))?;
            side.waiting.remove(at)
        });
        let Some(op) = found else { return false };
        let completion = op.cancelled();
        self.finish(Some(op), completion, inbox);
        drop(state);
        inbox.wake_if_more();
        true
    }

    /// No system call touches the descriptor from here on; what waits is cancelled.
    pub(super) fn detach(&self, inbox: &Inbox) {
        let mut state = self.state();
        state.detached = true;
        let State { watches, waits, .. } = &mut *state;
        let watches = watches.drain(..).map(|(header, _)| header);
        for header in watches.chain(waits.drain(..)) {
            inbox.complete_quietly(header, CANCELLED);
        }
        let State { reads, writes, .. } = &mut *state;
        for op in reads.waiting.drain(..).chain(writes.waiting.drain(..)) {
            let completion = op.cancelled();
            self.finish(Some(op), completion, inbox);
        }
        drop(state);
        inbox.wake_if_more();
    }
}

impl State {
    fn is_connecting(&self) -> bool {
        let connect = |op: &Op| matches!(op.call, Call::Connect { .. });
        self.writes.waiting.iter().any(connect)
    }

    fn side(&mut self, call: &Call) -> &mut Side {
        match call {
            Call::Recv { .. } | Call::Accept { .. } => &mut self.reads,
            Call::Send { .. } | Call::Connect { .. } => &mut self.writes,
        }
    }
}
