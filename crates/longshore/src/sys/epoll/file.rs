//! File operations: readiness means nothing for a file, so they are tried without waiting for the
//! disk, and what would wait goes to a few threads.
//!
//! The threads are made when the first operation needs one, and end after five seconds without
//! work. No other part of longshore makes a thread.
//!
//! They use the caller's descriptor, not a duplicate: closing a duplicate would release the
//! process's record locks on the file (fcntl(2), "Advisory record locking"). So `detach` waits for
//! the one operation a thread may be in the middle of.
// UNSAFETY: system calls on buffers that the submitter lent until the packet.
#![expect(unsafe_code)]

use std::{
    collections::VecDeque,
    io, mem,
    os::fd::RawFd,
    ptr::NonNull,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread,
    time::Duration,
};

use super::{
    calls::{self, Waiting},
    inbox::{Header, Inbox},
    source::Source,
};
use crate::{
    completion::Completion,
    error::Error,
    overlapped::RawOverlapped,
    submission::{Submission, clamp},
    sys::backend::Submitted,
};

/// Reads and writes block on the disk, not on a core, so there may be more threads than cores.
const MAX_THREADS: usize = 4;
const IDLE: Duration = Duration::from_secs(5);

/// An operation on a file.
#[derive(Debug)]
struct Transfer {
    call: Call,
    len: u32,
    offset: u64,
    done: u32,
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Read(*mut u8),
    Write(*const u8),
}

#[derive(Debug)]
struct Job {
    header: Header,
    transfer: Transfer,
    fd: RawFd,
    /// Which use of the descriptor's number.
    source: u64,
}

// SAFETY: one thread at a time has the transfer, and the submitter keeps the buffer valid, and
// away from other uses, until the packet.
unsafe impl Send for Transfer {}

/// Starts one operation on a file: finished at once if the data is at hand, and otherwise given
/// to the pool.
///
/// # Safety
/// As for [`Backend::submit`](crate::sys::backend::Backend::submit).
pub(super) unsafe fn start(
    source: &Source,
    header: NonNull<RawOverlapped>,
    submission: &Submission<'_>,
    inbox: &Arc<Inbox>,
    pool: &Pool,
) -> io::Result<Submitted> {
    if source.is_detached() {
        return Err(Error::NotAttached.into());
    }
    let (call, len) = match *submission {
        Submission::Read { buffer, len, .. } => (Call::Read(buffer), len),
        Submission::Write { buffer, len, .. } => (Call::Write(buffer), len),
        _ => return Err(Error::WrongKind.into()),
    };
    let mut transfer = Transfer {
        call,
        len: clamp(len),
        offset: submission.offset(),
        done: 0,
    };
    let no_wait = match call {
        Call::Read(_) => &source.reads_no_wait,
        Call::Write(_) => &source.writes_no_wait,
    };
    let tried = match no_wait.load(Ordering::Relaxed) {
        true => transfer.go(source.fd, Waiting::NoWait),
        false => Err(libc::EAGAIN),
    };
    // SAFETY: the caller's contract; whoever gets it completes the operation, or an error is
    // returned and it is dropped unused.
    let header = unsafe { Header::new(header, source.terms.key) };
    match tried {
        Ok(()) => Ok(source.end_at_once(header, transfer.completion(0), inbox)),
        Err(code) if wants_waiting(code) => {
            if code != libc::EAGAIN {
                no_wait.store(false, Ordering::Relaxed);
            }
            let job = Job {
                header,
                transfer,
                fd: source.fd,
                source: source.token(),
            };
            match pool.submit(job, source, inbox) {
                Ok(()) => Ok(Submitted::PacketOwed),
                Err((job, error)) => {
                    let code = error_code(&error);
                    give_up(source, job.header, &job.transfer, code, inbox)
                }
            }
        }
        Err(code) => give_up(source, header, &transfer, code, inbox),
    }
}

/// Whether a try without waiting says that the operation has to wait, or that this file system
/// knows no such try (some say EINVAL; a real one comes back from the plain call).
fn wants_waiting(code: i32) -> bool {
    matches!(
        code,
        libc::EAGAIN | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL
    )
}

fn error_code(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// An error in the submitting call: its own if nothing was moved yet, else the operation's.
fn give_up(
    source: &Source,
    header: Header,
    transfer: &Transfer,
    code: i32,
    inbox: &Inbox,
) -> io::Result<Submitted> {
    match transfer.done {
        0 => Err(io::Error::from_raw_os_error(code)),
        _ => Ok(source.end_at_once(header, transfer.completion(code), inbox)),
    }
}

impl Transfer {
    /// Moves bytes until all are moved, the file ends, or an errno says why not.
    fn go(&mut self, fd: RawFd, waiting: Waiting) -> Result<(), i32> {
        while self.done < self.len {
            let (start, rest) = (self.done as usize, (self.len - self.done) as usize);
            let offset = self.offset + start as u64;
            // SAFETY: `start + rest` is the buffer's length; the submitter keeps it valid.
            let moved = unsafe {
                match self.call {
                    Call::Read(buffer) => {
                        calls::read_at(fd, buffer.add(start), rest, offset, waiting)
                    }
                    Call::Write(buffer) => {
                        calls::write_at(fd, buffer.add(start), rest, offset, waiting)
                    }
                }
            };
            match moved {
                // The end of the file. (A write of more than nothing never moves nothing.)
                Ok(0) => return Ok(()),
                Ok(moved) => self.done += moved as u32,
                Err(error) => return Err(error_code(&error)),
            }
        }
        Ok(())
    }

    fn completion(&self, error: i32) -> Completion {
        Completion {
            bytes: self.done,
            error: error as u32,
        }
    }
}

/// The threads for operations that wait for the disk.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    more: Condvar,
    finished: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// The sources of the jobs that threads are in the middle of.
    running: Vec<u64>,
    threads: usize,
    idle: usize,
    closing: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    pub(super) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                more: Condvar::new(),
                finished: Condvar::new(),
            }),
        }
    }

    fn submit(
        &self,
        job: Job,
        source: &Source,
        inbox: &Arc<Inbox>,
    ) -> Result<(), (Job, io::Error)> {
        let mut state = self.shared.state();
        // Asked under the lock: `detach` sets its mark first and looks at the jobs then, so either
        // it sees this one or we see the mark. The descriptor may be closed after it.
        if source.is_detached() {
            return Err((job, io::Error::from_raw_os_error(libc::ECANCELED)));
        }
        if state.idle <= state.jobs.len() && state.threads < MAX_THREADS {
            let (shared, inbox) = (self.shared.clone(), inbox.clone());
            let spawned = thread::Builder::new()
                .name("longshore-file".into())
                .spawn(move || work(&shared, &inbox));
            match spawned {
                Ok(_) => state.threads += 1,
                // With a thread at work the job only has to wait longer.
                Err(error) if state.threads == 0 => return Err((job, error)),
                Err(_) => {}
            }
        }
        state.jobs.push_back(job);
        drop(state);
        self.shared.more.notify_one();
        Ok(())
    }

    /// Takes back an operation that no thread has begun, and completes it as cancelled.
    pub(super) fn cancel(&self, header: NonNull<RawOverlapped>, inbox: &Inbox) -> bool {
        let mut state = self.shared.state();
        let found = state.jobs.iter().position(|job| job.header.is(header));
        let Some(job) = found.and_then(|at| state.jobs.remove(at)) else {
            return false;
        };
        drop(state);
        let completion = job.transfer.completion(libc::ECANCELED);
        inbox.complete(job.header, completion);
        true
    }
}

impl Pool {
    /// Cancels what is queued for a source, and waits until no thread uses its descriptor.
    pub(super) fn detach(&self, source: u64, inbox: &Inbox) {
        let mut state = self.shared.state();
        let (out, rest) = mem::take(&mut state.jobs)
            .into_iter()
            .partition::<VecDeque<_>, _>(|job| job.source == source);
        state.jobs = rest;
        while state.running.contains(&source) {
            let finished = self.shared.finished.wait(state);
            state = finished.unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        for job in out {
            let completion = job.transfer.completion(libc::ECANCELED);
            inbox.complete(job.header, completion);
        }
    }
}

impl Drop for Pool {
    /// The threads finish what they have, and end by themselves.
    fn drop(&mut self) {
        self.shared.state().closing = true;
        self.shared.more.notify_all();
    }
}

fn work(shared: &Shared, inbox: &Inbox) {
    while let Some(mut job) = next(shared) {
        let error = match job.transfer.go(job.fd, Waiting::Allowed) {
            Ok(()) => 0,
            Err(code) => code,
        };
        let mut state = shared.state();
        if let Some(at) = state.running.iter().position(|&one| one == job.source) {
            state.running.swap_remove(at);
        }
        drop(state);
        shared.finished.notify_all();
        inbox.complete(job.header, job.transfer.completion(error));
    }
}

/// The next job; `None` when this thread is to end.
fn next(shared: &Shared) -> Option<Job> {
    let mut state = shared.state();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            state.running.push(job.source);
            return Some(job);
        }
        if state.closing {
            state.threads -= 1;
            return None;
        }
        state.idle += 1;
        let (back, timed_out) = match shared.more.wait_timeout(state, IDLE) {
            Ok((state, waited)) => (state, waited.timed_out()),
            Err(poisoned) => {
                let (state, waited) = poisoned.into_inner();
                (state, waited.timed_out())
            }
        };
        state = back;
        state.idle -= 1;
        if state.jobs.is_empty() && timed_out {
            state.threads -= 1;
            return None;
        }
    }
}
