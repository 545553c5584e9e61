//! A job's messages, to be awaited.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    io,
    os::windows::io::{AsHandle, OwnedHandle},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{Association, Job, JobMessage, dissociate, job_of, process_id, take_job};
use crate::{Dispatcher, Error, Packet, dispatcher::Notice};

/// A job's messages, to be awaited.
///
/// They come through the port, so somebody has to dispatch. They are kept until they are asked for,
/// without a limit, in the order in which they were dispatched; with several dispatching
/// threads that need not be the order in which they were sent.
///
/// **Windows does not guarantee that a message arrives** (`JOBOBJECT_ASSOCIATE_COMPLETION_PORT`), but for
/// the limits that only notify; and a process that ends before it is assigned, or
/// before the job's association, has none. To hear of the end of one process, wait for the
/// process: [`process::Child`](crate::process::Child), [`Waitable`](crate::Waitable). What was delivered is not lost: not by a
/// [`next`](Self::next) that is dropped, and not by closing.
///
/// Dropping this ends the association, and closes the job's handle. Messages that are queued by
/// then are foreign packets. Closing the port ends the association as well (but not on Windows 7 and Wine),
/// once the job's messages that are queued have been taken.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, os::windows::{Job, JobEvents, JobMessageKind}};
/// use std::process::Command;
/// let port = Dispatcher::new()?;
/// let mut events = JobEvents::new(&port, Job::new()?).map_err(|(error, _)| error)?;
/// let mut child = Command::new("cmd").args(["/c", "pause"]) // waits for its input
///     .stdin(std::process::Stdio::piped())
///     .stdout(std::process::Stdio::null())
///     .spawn()?;
/// events.job().assign(&child)?;
/// let first = port.block_on(events.next())??;
/// assert_eq!(first.kind, JobMessageKind::NewProcess);
/// assert_eq!(first.process_id, Some(child.id()));
/// events.job().terminate(1)?;
/// child.wait()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct JobEvents {
    /// `None` once the job was taken out.
    association: Option<Association>,
    inbox: Arc<Inbox>,
}

/// Messages that were dispatched and not asked for yet.
struct Inbox {
    /// The job once more, for closing. Nobody else closes this one.
    job: OwnedHandle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    messages: VecDeque<JobMessage>,
    waker: Option<Waker>,
    ended: bool,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.state();
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<io::Result<JobMessage>> {
        // Foreign code, so not under the lock; nor is the old one's drop.
        let fresh = context.waker().clone();
        let _old = {
            let mut state = self.state();
            match (state.messages.pop_front(), state.ended) {
                (Some(message), _) => return Poll::Ready(Ok(message)),
                (None, true) => return Poll::Ready(Err(Error::Closed.into())),
                (None, false) => state.waker.replace(fresh),
            }
        };
        Poll::Pending
    }
}

impl Notice for Inbox {
    fn tell(&self, packet: Packet) {
        let message = JobMessage {
            kind: packet.bytes.into(),
            process_id: process_id(packet),
        };
        self.change(|state| state.messages.push_back(message));
    }

    fn part(&self) {
        dissociate(self.job.as_handle());
    }

    fn end(&self) {
        self.change(|state| state.ended = true);
    }
}

impl JobEvents {
    /// Has a job's messages sent to `port`. A job can have one port.
    ///
    /// For processes that are in it already there may be a message each.
    ///
    /// # Errors
    /// The job comes back with [`Error::Closed`], or the operating system's reason:
    /// `ERROR_INVALID_PARAMETER` for a job that has a port, or a handle that is no job's.
    pub fn new(port: &Dispatcher, job: Job) -> Result<Self, (io::Error, Job)> {
        let twin = match job.handle.try_clone() {
            Ok(twin) => twin,
            Err(error) => return Err((error, job)),
        };
        let inbox = Arc::new(Inbox {
            job: twin,
            state: Mutex::default(),
        });
        Ok(Self {
            association: Some(Association::new(port, job, inbox.clone())?),
            inbox,
        })
    }

    /// The job.
    pub fn job(&self) -> &Job {
        job_of(&self.association)
    }

    /// The next message, as soon as there is one. A future that is dropped has taken none.
    ///
    /// # Errors
    /// [`Error::Closed`] once the port is closed and every message was taken.
    pub async fn next(&mut self) -> io::Result<JobMessage> {
        poll_fn(|context| self.inbox.poll(context)).await
    }

    /// The next message, if one was dispatched already.
    ///
    /// # Examples
    /// ```
    /// use longshore::{Dispatcher, os::windows::{Job, JobEvents, JobMessageKind}};
    /// let port = Dispatcher::new()?;
    /// let mut events = JobEvents::new(&port, Job::new()?).map_err(|(error, _)| error)?;
    /// let mut child = std::process::Command::new("cmd").args(["/c", "pause"]) // waits for its input
    ///     .stdin(std::process::Stdio::piped())
    ///     .stdout(std::process::Stdio::null())
    ///     .spawn()?;
    /// events.job().assign(&child)?;
    /// assert_eq!(events.try_next(), None, "sent, and not dispatched yet");
    /// port.dispatch()?;
    /// let message = events.try_next().expect("it was dispatched");
    /// assert_eq!(message.kind, JobMessageKind::NewProcess);
    /// child.kill()?;
    /// child.wait()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_next(&mut self) -> Option<JobMessage> {
        self.inbox.state().messages.pop_front()
    }

    /// Ends the association and gives the job back. (Windows 7 and Wine cannot undo it: the job cannot
    /// have another port there, and its messages are foreign packets from now on.)
    pub fn into_job(mut self) -> Job {
        take_job(&mut self.association)
    }
}

impl Drop for JobEvents {
    fn drop(&mut self) {
        if let Some(association) = self.association.take() {
            drop(association.into_job());
        }
    }
}

impl fmt::Debug for JobEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobEvents")
            .field("job", self.job())
            .finish_non_exhaustive()
    }
}
