//! File operations: readiness means nothing for a file, so they are tried without waiting for the
//! disk, and what would wait goes to the threads of the [`pool`](crate::sys::pool).
//!
//! They use the caller's descriptor, not a duplicate: closing a duplicate would release the
//! process's record locks on the file (fcntl(2), "Advisory record locking"). So `detach` waits for
//! the one operation a thread may be in the middle of.
// UNSAFETY: system calls on buffers that the submitter lent until the packet.
#![expect(unsafe_code)]

use std::{
    io,
    os::fd::RawFd,
    ptr::NonNull,
    sync::{Arc, atomic::Ordering},
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
    sys::{backend::Submitted, pool},
};

pub(super) type Pool = pool::Pool<Job>;

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

/// An operation that a thread is to carry out.
#[derive(Debug)]
pub(crate) struct Job {
    header: Header,
    transfer: Transfer,
    /// The errno it ended with, or 0.
    error: i32,
    fd: RawFd,
    /// Which use of the descriptor's number.
    source: u64,
    inbox: Arc<Inbox>,
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
                error: 0,
                fd: source.fd,
                source: source.token(),
                inbox: inbox.clone(),
            };
            // The descriptor may be closed after `detach`, which sets its mark first and looks at
            // the jobs then: either it sees this one or we see the mark.
            match pool.transfer(job, || source.is_detached()) {
                Ok(()) => Ok(Submitted::PacketOwed),
                Err((job, error)) => {
                    let code = error.map_or(libc::ECANCELED, |error| error_code(&error));
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

impl pool::Transfer for Job {
    fn source(&self) -> u64 {
        self.source
    }

    fn carry_out(&mut self) {
        self.error = match self.transfer.go(self.fd, Waiting::Allowed) {
            Ok(()) => 0,
            Err(code) => code,
        };
    }

    fn end(self) {
        let completion = self.transfer.completion(self.error);
        self.inbox.complete(self.header, completion);
    }
}

/// Takes back an operation that no thread has begun, and completes it as cancelled.
pub(super) fn cancel(pool: &Pool, header: NonNull<RawOverlapped>) -> bool {
    let job = pool.take_back(|job| job.header.is(header));
    let found = job.is_some();
    job.into_iter().for_each(end_cancelled);
    found
}

/// Cancels what is queued for a source, and waits until no thread uses its descriptor.
pub(super) fn detach(pool: &Pool, source: u64) {
    pool.detach(source).into_iter().for_each(end_cancelled);
}

fn end_cancelled(mut job: Job) {
    job.error = libc::ECANCELED;
    pool::Transfer::end(job);
}
