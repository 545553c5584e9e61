//! What the parts of the workload share: the port, and who has finished or failed.

use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use longshore::Dispatcher;

/// A run in which nothing has moved for so long is stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Run {
    pub(crate) port: Dispatcher,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Parts of the workload that are still at work.
    busy: usize,
    failure: Option<io::Error>,
}

impl Run {
    pub(crate) fn new(port: Dispatcher, parts: usize) -> Self {
        let state = State {
            busy: parts,
            failure: None,
        };
        Self {
            port,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn part_done(&self) {
        lock(&self.state).busy -= 1;
        self.changed.notify_all();
    }

    /// Ends the run. The first failure counts; the others follow from it.
    pub(crate) fn fail(&self, part: &str, error: &io::Error) {
        let error = io::Error::new(error.kind(), format!("{part}: {error}"));
        lock(&self.state).failure.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Waits until all parts are done or one has failed; `false` when nothing moves any more.
    /// `look` is called now and then and returns a number that grows while anything does.
    pub(crate) fn wait(&self, mut look: impl FnMut() -> u64) -> io::Result<bool> {
        let mut moved = (0, Instant::now());
        let mut state = lock(&self.state);
        loop {
            if let Some(failure) = state.failure.take() {
                return Err(failure);
            }
            if state.busy == 0 {
                return Ok(true);
            }
            state = self
                .changed
                .wait_timeout(state, Duration::from_millis(100))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            let now = look();
            if now != moved.0 {
                moved = (now, Instant::now());
            } else if moved.1.elapsed() > PATIENCE {
                return Ok(false);
            }
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
