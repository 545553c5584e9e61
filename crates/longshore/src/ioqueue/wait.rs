//! Waiting for an operation: the future, and why it may end otherwise than the operation.

use std::{
    error, fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{block::Block, registered::Registration, state::Polled};
use crate::{completion::Completion, error::Error, sys::ABORTED};

/// Waits for one operation: resolves to its bytes or its error (Q2).
///
/// Any executor can poll it, on any thread; somebody has to dispatch. Dropping it stops waiting and
/// nothing else: the operation goes on, and its outcome is kept for the next wait. Use
/// [`cancel`](Self::cancel) to end the operation.
///
/// # Errors
/// Resolved at the first poll: [`Error::UnregisteredHandle`], [`Error::NotInFlight`],
/// [`Error::AlreadyWaiting`], [`Error::PrematureClose`]. Later: [`Aborted`] if the handle was
/// unregistered, [`Error::PrematureClose`], [`Error::Closed`], or the operating system's error.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, Error, IoQueue, Overlapped, Wait};
/// let port = Dispatcher::new()?;
/// let queue = IoQueue::new(&port);
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let listener = queue.register(listener).map_err(|(error, _)| error)?;
/// let wait: Wait = queue.wait(&listener, &Overlapped::new());
/// let error = port.block_on(wait)?.unwrap_err();
/// assert_eq!(Error::of(&error), Some(Error::NotInFlight), "nothing was started");
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "futures do nothing unless they are awaited"]
pub struct Wait {
    state: State,
}

enum State {
    Claimed(Arc<Block>, u64),
    Refused(Error),
    Done,
}

impl Wait {
    pub(super) fn new(
        on: Result<Arc<Registration>, Error>,
        block: &Arc<Block>,
        only_one: bool,
    ) -> Self {
        let claimed = on.and_then(|on| block.claim(&on, only_one));
        Self {
            state: match claimed {
                Ok(number) => State::Claimed(block.clone(), number),
                Err(refused) => State::Refused(refused),
            },
        }
    }

    /// Asks for the cancellation of the operation. The wait resolves all the same: to the
    /// operation's result if that came first, else to the system's abort code (see
    /// [`ABORTED`](crate::ABORTED)).
    pub fn cancel(&self) {
        if let State::Claimed(block, number) = &self.state
            && block.is_claimed_by(*number)
        {
            // A refusal means that there is nothing left to cancel; the packet tells.
            let _ = block.cancel();
        }
    }
}

impl Future for Wait {
    type Output = io::Result<usize>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &self.state {
            State::Refused(refused) => Err((*refused).into()),
            State::Done => Err(io::Error::other("polled after it was ready")),
            State::Claimed(block, number) if !block.is_claimed_by(*number) => {
                Err(Error::NotInFlight.into())
            }
            State::Claimed(block, _) => match block.state.poll(context.waker()) {
                Polled::Pending => return Poll::Pending,
                Polled::Ended(completion) => block.result(completion),
                Polled::Nothing => Err(Error::NotInFlight.into()),
            },
        };
        self.state = State::Done;
        Poll::Ready(result)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let State::Claimed(block, number) = &self.state {
            block.disclaim(*number);
        }
    }
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").finish_non_exhaustive()
    }
}

/// Has a function called with the outcome.
pub(super) fn wait_then(
    on: &Arc<Registration>,
    block: &Arc<Block>,
    only_one: bool,
    then: impl FnOnce(io::Result<usize>) + Send + 'static,
) -> Result<(), Error> {
    block.claim(on, only_one)?;
    let waits = block.clone();
    block
        .state
        .then(Box::new(move |completion| then(waits.result(completion))))
}

/// Why a wait ended: its handle was unregistered (Q6).
///
/// It travels inside an [`io::Error`] of the kind `ConnectionAborted` (not `Interrupted`, which
/// invites to try again); [`Aborted::of`] finds it there.
///
/// # Examples
/// ```
/// use longshore::Aborted;
/// let aborted = Aborted { completed: None };
/// let error = std::io::Error::from(aborted);
/// assert_eq!(Aborted::of(&error), Some(aborted));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// The operation's own outcome, if it was quicker than its cancellation, or if bytes had moved
    /// before: they are where they are, and not lost.
    pub completed: Option<Completion>,
}

impl Aborted {
    pub(super) fn new(completion: Completion) -> Self {
        let nothing_happened = completion.error == ABORTED && completion.bytes == 0;
        Self {
            completed: (!nothing_happened).then_some(completion),
        }
    }

    /// The abort inside `error`, if that is what it carries.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the handle was unregistered")?;
        match self.completed {
            Some(completion) => write!(f, " (after {} bytes)", completion.bytes),
            None => Ok(()),
        }
    }
}

impl error::Error for Aborted {}

impl From<Aborted> for io::Error {
    fn from(aborted: Aborted) -> Self {
        Self::new(io::ErrorKind::ConnectionAborted, aborted)
    }
}
