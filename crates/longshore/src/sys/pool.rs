//! A few threads for calls that block, where the system offers no other way.
//!
//! Two kinds of work come here. *Calls* run to their end and hand their result to a future (see
//! [`call`](super::call)): opening, syncing, asking for metadata; on Windows a named pipe's clients and
//! `flush`. *Transfers* are a backend's own: file operations of a mechanism that would make the submitter
//! wait for the disk.
//!
//! The threads are made when the first work needs one, and end after five seconds without any. No
//! other part of longshore makes a thread. A call may block for as long as it likes (the open of a
//! FIFO waits for the other end, a `flush` for its reader), so calls leave one thread to the transfers.

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::call::Errand;
use crate::error::Error;

/// Such work blocks on the disk, not on a core, so there may be more threads than cores.
const MAX_THREADS: usize = 4;
/// How many of them may be in a call at once.
const MAX_CALLS: usize = MAX_THREADS - 1;
const IDLE: Duration = Duration::from_secs(5);

/// A file operation that a thread carries out.
pub(crate) trait Transfer: Send + 'static {
    /// Whose handle it uses.
    fn source(&self) -> u64;

    /// Does it. The handle is not used any more afterwards.
    fn carry_out(&mut self);

    /// Tells the submitter how it ended.
    fn end(self);
}

/// For a mechanism whose transfers need no threads.
#[derive(Debug)]
#[cfg_attr(
    target_os = "linux",
    expect(dead_code, reason = "file operations need threads there")
)]
pub(crate) enum NoTransfer {}

impl Transfer for NoTransfer {
    fn source(&self) -> u64 {
        match *self {}
    }

    fn carry_out(&mut self) {
        match *self {}
    }

    fn end(self) {
        match self {}
    }
}

enum Job<T> {
    Transfer(T),
    Call(Arc<dyn Errand>),
}

pub(crate) struct Pool<T: Transfer> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    more: Condvar,
    finished: Condvar,
}

struct State<T> {
    jobs: VecDeque<Job<T>>,
    /// The sources of the transfers that threads are in the middle of.
    sources: Vec<u64>,
    /// The calls that threads are in the middle of.
    calls: Vec<Arc<dyn Errand>>,
    threads: usize,
    idle: usize,
    refuses_calls: bool,
    closing: bool,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    /// The first job that may begin now.
    fn next(&mut self) -> Option<Job<T>> {
        let may_call = self.calls.len() < MAX_CALLS;
        let fits = |job: &Job<T>| may_call || matches!(job, Job::Transfer(_));
        let at = self.jobs.iter().position(fits)?;
        self.jobs.remove(at)
    }

    /// Takes the jobs out that `pick` turns into something else.
    fn take<P>(&mut self, mut pick: impl FnMut(Job<T>) -> Result<P, Job<T>>) -> Vec<P> {
        let mut taken = Vec::new();
        for job in mem::take(&mut self.jobs) {
            match pick(job) {
                Ok(picked) => taken.push(picked),
                Err(other) => self.jobs.push_back(other),
            }
        }
        taken
    }
}

impl<T: Transfer> Pool<T> {
    pub(crate) fn new() -> Self {
        let state = State {
            jobs: VecDeque::new(),
            sources: Vec::new(),
            calls: Vec::new(),
            threads: 0,
            idle: 0,
            refuses_calls: false,
            closing: false,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                more: Condvar::new(),
                finished: Condvar::new(),
            }),
        }
    }

    /// Queues a call.
    ///
    /// # Errors
    /// `Closed` after [`end_calls`](Self::end_calls), or the system's reason for making no thread.
    pub(crate) fn call(&self, call: Arc<dyn Errand>) -> io::Result<()> {
        let state = self.shared.state();
        if state.refuses_calls {
            return Err(Error::Closed.into());
        }
        self.push(state, Job::Call(call))
            .map_err(|(_, error)| error)
    }

    /// Queues a transfer, unless `is_refused`: that is asked under the pool's lock, so that either
    /// it says so, or a `detach` that comes later finds the transfer.
    #[cfg_attr(
        all(windows, not(test)),
        expect(dead_code, reason = "the kernel does them there")
    )]
    pub(crate) fn transfer(
        &self,
        transfer: T,
        is_refused: impl FnOnce() -> bool,
    ) -> Result<(), (T, Option<io::Error>)> {
        let state = self.shared.state();
        if is_refused() {
            return Err((transfer, None));
        }
        let pushed = self.push(state, Job::Transfer(transfer));
        pushed.map_err(|(job, error)| match job {
            Job::Transfer(transfer) => (transfer, Some(error)),
            Job::Call(_) => unreachable!("a transfer was pushed"),
        })
    }

    fn push(
        &self,
        mut state: MutexGuard<'_, State<T>>,
        job: Job<T>,
    ) -> Result<(), (Job<T>, io::Error)> {
        if state.idle <= state.jobs.len() && state.threads < MAX_THREADS {
            let shared = self.shared.clone();
            let spawned = thread::Builder::new()
                .name("longshore-file".into())
                .spawn(move || work(&shared));
            match spawned {
                Ok(_) => state.threads += 1,
                // Nobody would come to it, or nobody who is sure to come back from a call.
                Err(error) if state.threads <= state.calls.len() => return Err((job, error)),
                // It only has to wait longer.
                Err(_) => {}
            }
        }
        state.jobs.push_back(job);
        drop(state);
        self.shared.more.notify_one();
        Ok(())
    }

    /// Takes a transfer out that no thread has begun.
    #[cfg_attr(
        all(windows, not(test)),
        expect(dead_code, reason = "the kernel does them there")
    )]
    pub(crate) fn take_back(&self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let mut state = self.shared.state();
        let fits = |job: &Job<T>| matches!(job, Job::Transfer(transfer) if is_it(transfer));
        let at = state.jobs.iter().position(fits)?;
        match state.jobs.remove(at) {
            Some(Job::Transfer(transfer)) => Some(transfer),
            _ => None,
        }
    }

    /// Takes out what is queued for a source, and waits until no thread uses its handle.
    #[cfg_attr(
        all(windows, not(test)),
        expect(dead_code, reason = "the kernel does them there")
    )]
    pub(crate) fn detach(&self, source: u64) -> Vec<T> {
        let mut state = self.shared.state();
        let taken = state.take(|job| match job {
            Job::Transfer(transfer) if transfer.source() == source => Ok(transfer),
            other => Err(other),
        });
        while state.sources.contains(&source) {
            let finished = self.shared.finished.wait(state);
            state = finished.unwrap_or_else(PoisonError::into_inner);
        }
        taken
    }

    /// Nobody is kept waiting for a call any more, and no new one is taken. A call that has begun
    /// goes on, and its result is dropped.
    pub(crate) fn end_calls(&self) {
        let mut state = self.shared.state();
        state.refuses_calls = true;
        let queued = state.take(|job| match job {
            Job::Call(call) => Ok(call),
            other => Err(other),
        });
        let running = state.calls.clone();
        drop(state);
        for call in queued.into_iter().chain(running) {
            // One waker's panic is no reason to keep the others waiting.
            let _ = catch_unwind(AssertUnwindSafe(|| call.give_up()));
        }
    }
}

impl<T: Transfer> Drop for Pool<T> {
    /// The threads finish what they have, and end by themselves.
    fn drop(&mut self) {
        self.shared.state().closing = true;
        self.shared.more.notify_all();
    }
}

impl<T: Transfer> std::fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

fn work<T: Transfer>(shared: &Shared<T>) {
    while let Some(job) = next(shared) {
        match job {
            Job::Transfer(mut transfer) => {
                transfer.carry_out();
                let source = transfer.source();
                remove(&mut shared.state().sources, |&one| one == source);
                shared.finished.notify_all();
                transfer.end();
            }
            Job::Call(call) => {
                // The waker is foreign code; its panic has been printed and is not ours to die of.
                let _ = catch_unwind(AssertUnwindSafe(|| call.run()));
                remove(&mut shared.state().calls, |one| Arc::ptr_eq(one, &call));
            }
        }
    }
}

fn remove<V>(from: &mut Vec<V>, is_it: impl Fn(&V) -> bool) {
    if let Some(at) = from.iter().position(is_it) {
        from.swap_remove(at);
    }
}

/// The next job; `None` when this thread is to end.
fn next<T: Transfer>(shared: &Shared<T>) -> Option<Job<T>> {
    let mut state = shared.state();
    let mut waited_long = false;
    loop {
        if let Some(job) = state.next() {
            match &job {
                Job::Transfer(transfer) => state.sources.push(transfer.source()),
                Job::Call(call) => state.calls.push(call.clone()),
            }
            return Some(job);
        }
        if state.closing || waited_long {
            state.threads -= 1;
            return None;
        }
        state.idle += 1;
        let waited = shared.more.wait_timeout(state, IDLE);
        let (back, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        state = back;
        state.idle -= 1;
        waited_long = timeout.timed_out();
    }
}
