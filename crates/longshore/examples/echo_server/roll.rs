//! Who is at work, so that all can be told to finish.

use std::{
    collections::HashMap,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};

#[derive(Default)]
pub(crate) struct Roll {
    closing: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    count: u64,
    /// Each member, and how to wake its task once that has run.
    members: HashMap<u64, Option<Waker>>,
    /// Who waits for the last member to leave.
    waiting: Option<Waker>,
}

impl Roll {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Member {
        let mut state = self.state();
        state.count += 1;
        let number = state.count;
        state.members.insert(number, None);
        drop(state);
        Member {
            roll: self.clone(),
            number,
        }
    }

    /// From now on members finish.
    pub(crate) fn close(&self) {
        self.closing.store(true, SeqCst);
        let wakers: Vec<_> = {
            let state = self.state();
            state.members.values().flatten().cloned().collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }

    /// Waits until the last member has left.
    pub(crate) async fn emptied(&self) {
        poll_fn(|context| {
            let mut state = self.state();
            if state.members.is_empty() {
                return Poll::Ready(());
            }
            state.waiting = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// One task's place in the roll; it leaves when it is dropped.
pub(crate) struct Member {
    roll: Arc<Roll>,
    number: u64,
}

impl Member {
    /// Awaits an operation, which is cancelled when the roll closes. Its result counts all the
    /// same: a cancelled read may have got its bytes first.
    pub(crate) async fn finish<F>(&self, mut operation: F, cancel: fn(&F)) -> F::Output
    where
        F: Future + Unpin,
    {
        let mut cancelled = false;
        poll_fn(|context| {
            if self.is_closing(context) && !cancelled {
                cancelled = true;
                cancel(&operation);
            }
            Pin::new(&mut operation).poll(context)
        })
        .await
    }

    /// Awaits a pause, which ends early when the roll closes.
    pub(crate) async fn pause(&self, mut pause: impl Future + Unpin) {
        poll_fn(|context| match self.is_closing(context) {
            true => Poll::Ready(()),
            false => Pin::new(&mut pause).poll(context).map(drop),
        })
        .await;
    }

    /// Leaves word whom to wake, *then* looks; [`Roll::close`] says so, *then* wakes.
    fn is_closing(&self, context: &Context<'_>) -> bool {
        let mut state = self.roll.state();
        if let Some(mine) = state.members.get_mut(&self.number)
            && !(mine.as_ref()).is_some_and(|mine| mine.will_wake(context.waker()))
        {
            *mine = Some(context.waker().clone());
        }
        drop(state);
        self.roll.is_closing()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.roll.state();
        let mine = state.members.remove(&self.number);
        let waiting = match state.members.is_empty() {
            true => state.waiting.take(),
            false => None,
        };
        drop(state);
        drop(mine);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}
