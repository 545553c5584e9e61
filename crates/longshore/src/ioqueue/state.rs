//! The life of one operation, as seen by those who wait for it.
//!
//! ```text
//!            begin             complete             poll
//!   Idle ------------> InFlight ----------> Ended --------> Taken
//!    ^   <-- undo ---     |                                   |
//!    |                    | abandon                           | begin
//!    |                    v            complete               v
//!    |                Abandoned ------------------> Taken   InFlight
//! ```
//!
//! Two threads meet here: one that waits, polls, cancels or goes away, and one that dispatches the
//! packet. Each step is one short critical section, so either order of any two is one of the lines
//! above. What has to happen outside the lock (waking, running a continuation, dropping either) is
//! returned to the caller.
//!
//! The memory is not this module's concern: both sides hold a counted reference to the block, and
//! the kernel's is given back by the packet alone.

use std::{mem, task::Waker};

use crate::{
    completion::Completion,
    error::Error,
    sync::{Mutex, MutexGuard},
};

/// Who is to be told that an operation has ended.
pub(crate) enum Waiter {
    /// A task that polls.
    Task(Waker),
    /// A function that takes the outcome.
    Then(Box<dyn FnOnce(Completion) + Send>),
}

enum Phase {
    Idle,
    InFlight(Option<Waiter>),
    Ended(Completion),
    /// In flight, and nobody will ask.
    Abandoned,
    Taken,
}

pub(crate) struct State {
    phase: Mutex<Phase>,
}

/// What a look at an operation has found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Polled {
    Ended(Completion),
    Pending,
    /// It was never begun, or its outcome was taken.
    Nothing,
}

/// What the packet's thread has to do with the outcome, after the lock is released.
#[must_use]
pub(crate) enum News {
    /// Wake the task; the outcome stays for it.
    Wake(Waker),
    /// Hand the outcome to the function.
    Call(Box<dyn FnOnce(Completion) + Send>, Completion),
    /// The outcome stays until somebody asks.
    Keep,
    /// Nobody will ask.
    Unwanted,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            phase: Mutex::new(Phase::Idle),
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        // No foreign code runs under the lock, so nothing can poison it half way.
        self.phase
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// An operation is about to start.
    pub(crate) fn begin(&self) -> Result<(), Error> {
        let mut phase = self.phase();
        match *phase {
            Phase::Idle | Phase::Taken => {
                *phase = Phase::InFlight(None);
                Ok(())
            }
            _ => Err(Error::ContextInFlight),
        }
    }

    /// It was not started after all. Whoever has begun to wait is to be woken, and finds nothing.
    pub(crate) fn undo(&self) -> Option<Waker> {
        let before = mem::replace(&mut *self.phase(), Phase::Idle);
        match before {
            Phase::InFlight(Some(Waiter::Task(waker))) => Some(waker),
            _ => None,
        }
    }

    /// The packet came, or the operation ended in the submitting call.
    pub(crate) fn complete(&self, completion: Completion) -> News {
        let mut phase = self.phase();
        match mem::replace(&mut *phase, Phase::Taken) {
            Phase::InFlight(Some(Waiter::Then(then))) => News::Call(then, completion),
            Phase::InFlight(waiter) => {
                *phase = Phase::Ended(completion);
                match waiter {
                    Some(Waiter::Task(waker)) => News::Wake(waker),
                    _ => News::Keep,
                }
            }
            _ => News::Unwanted,
        }
    }

    /// Takes the outcome, or leaves word whom to wake. An earlier waker is replaced: one future is
    /// polled by one task at a time.
    pub(crate) fn poll(&self, waker: &Waker) -> Polled {
        // Cloned while nothing is locked, because that is foreign code; and only if it is needed.
        let mut fresh = None;
        loop {
            let mut phase = self.phase();
            match &mut *phase {
                Phase::Ended(completion) => {
                    let completion = *completion;
                    *phase = Phase::Taken;
                    return Polled::Ended(completion);
                }
                Phase::InFlight(Some(Waiter::Task(mine))) if mine.will_wake(waker) => {
                    return Polled::Pending;
                }
                Phase::InFlight(waiter) => {
                    if let Some(fresh) = fresh.take() {
                        let old = waiter.replace(Waiter::Task(fresh));
                        drop(phase);
                        // A waker's drop is foreign code, too.
                        drop(old);
                        return Polled::Pending;
                    }
                }
                Phase::Idle | Phase::Taken | Phase::Abandoned => return Polled::Nothing,
            }
            drop(phase);
            fresh = Some(waker.clone());
        }
    }

    /// Leaves a function to call with the outcome; called at once if it is there already.
    pub(crate) fn then(&self, then: Box<dyn FnOnce(Completion) + Send>) -> Result<(), Error> {
        let mut phase = self.phase();
        match &mut *phase {
            Phase::Ended(completion) => {
                let completion = *completion;
                *phase = Phase::Taken;
                drop(phase);
                then(completion);
                Ok(())
            }
            Phase::InFlight(waiter @ None) => {
                *waiter = Some(Waiter::Then(then));
                Ok(())
            }
            Phase::InFlight(Some(_)) => Err(Error::AlreadyWaiting),
            Phase::Idle | Phase::Taken | Phase::Abandoned => Err(Error::NotInFlight),
        }
    }

    /// Nobody waits for the moment; the outcome is kept for whoever asks next. Who waited is
    /// returned, to be dropped where nothing is locked.
    #[must_use]
    pub(crate) fn leave(&self) -> Option<Waiter> {
        match &mut *self.phase() {
            Phase::InFlight(waiter) => waiter.take(),
            _ => None,
        }
    }

    /// Nobody will ask any more. `true` if the operation is still in flight: cancel it.
    pub(crate) fn abandon(&self) -> bool {
        let mut phase = self.phase();
        let (in_flight, next) = match *phase {
            Phase::InFlight(_) | Phase::Abandoned => (true, Phase::Abandoned),
            _ => (false, Phase::Taken),
        };
        let old = mem::replace(&mut *phase, next);
        drop(phase);
        // A waker's drop is foreign code.
        drop(old);
        in_flight
    }

    /// Whether the kernel may still use the operation's memory.
    pub(crate) fn is_in_flight(&self) -> bool {
        matches!(*self.phase(), Phase::InFlight(_) | Phase::Abandoned)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::SeqCst},
        },
        task::Wake,
    };

    use super::*;

    /// Whether it was woken.
    #[derive(Default)]
    pub(in crate::ioqueue) struct Told(pub(in crate::ioqueue) AtomicBool);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    #[test]
    fn d03_who_waits_for_an_operation_that_never_began_is_woken() {
        let (state, told) = (State::new(), Arc::<Told>::default());
        state.begin().unwrap();
        assert!(matches!(state.poll(&told.clone().into()), Polled::Pending));
        state.undo().unwrap().wake();
        assert!(told.0.load(SeqCst));
        state.begin().unwrap();
        assert!(state.undo().is_none());
    }
}
