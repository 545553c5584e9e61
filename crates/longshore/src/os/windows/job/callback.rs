//! A job's messages, each of which calls a function.

use std::{
    fmt, io,
    os::windows::io::{AsHandle, OwnedHandle},
    sync::Arc,
};

use super::{Association, Job, dissociate, job_of, process_id, take_job};
#[cfg(doc)]
use super::{JobEvents, JobMessageKind};
use crate::{Dispatcher, Packet, dispatcher::Notice};

/// Told of a job's messages: receives the word given with it, the message (`JOB_OBJECT_MSG_…` of
/// `winnt.h`, see [`JobMessageKind::from`]), and the id of the process it is about, or 0.
pub type OnJobMessage = extern "C-unwind" fn(context: usize, message: u32, process_id: u32);

/// A job's messages, each of which calls a function on the thread that dispatches it.
///
/// What [`JobEvents`] says of them holds here too. Closing the port calls it for what is queued by
/// then, on the closing thread. Messages do not count as work: a [`run`](Dispatcher::run) that shall wait
/// for them needs a [`work_guard`](Dispatcher::work_guard).
///
/// A panic in it reaches whoever called `dispatch`. One while the port is being closed does not stop that: the
/// function is called for the other messages, and when everything else is done the first panic is passed on by
/// [`close`](Dispatcher::close), or by the drop of the last clone, unless that is part of another panic.
///
/// Dropping this ends the association, and closes the job's handle. A call that another thread has
/// begun, or whose packet it has taken, may still go on.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, os::windows::{Job, JobCallback}};
/// extern "C-unwind" fn told(_context: usize, message: u32, process_id: u32) {
///     println!("message {message} about process {process_id}");
/// }
/// let port = Dispatcher::new()?;
/// let job = JobCallback::new(&port, Job::new()?, 7, told).map_err(|(error, _)| error)?;
/// let mut child = std::process::Command::new("cmd").args(["/c", "pause"]) // waits for its input
///     .stdin(std::process::Stdio::piped())
///     .stdout(std::process::Stdio::null())
///     .spawn()?;
/// job.job().assign(&child)?;
/// port.dispatch()?; // there is a new process
/// child.kill()?;
/// child.wait()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct JobCallback {
    /// `None` once the job was taken out.
    association: Option<Association>,
}

struct Callback {
    /// As in [`Inbox`].
    job: OwnedHandle,
    context: usize,
    on_message: OnJobMessage,
}

impl Notice for Callback {
    fn tell(&self, packet: Packet) {
        let process_id = process_id(packet).unwrap_or_default();
        (self.on_message)(self.context, packet.bytes, process_id);
    }

    fn part(&self) {
        dissociate(self.job.as_handle());
    }

    fn end(&self) {}
}

impl JobCallback {
    /// Has `on_message` called with `context` for each of a job's messages.
    ///
    /// # Errors
    /// As for [`JobEvents::new`].
    pub fn new(
        port: &Dispatcher,
        job: Job,
        context: usize,
        on_message: OnJobMessage,
    ) -> Result<Self, (io::Error, Job)> {
        let twin = match job.handle.try_clone() {
            Ok(twin) => twin,
            Err(error) => return Err((error, job)),
        };
        let notice = Arc::new(Callback {
            job: twin,
            context,
            on_message,
        });
        Ok(Self {
            association: Some(Association::new(port, job, notice)?),
        })
    }

    /// The job.
    pub fn job(&self) -> &Job {
        job_of(&self.association)
    }

    /// [`JobEvents::into_job`].
    pub fn into_job(mut self) -> Job {
        take_job(&mut self.association)
    }
}

impl Drop for JobCallback {
    fn drop(&mut self) {
        if let Some(association) = self.association.take() {
            drop(association.into_job());
        }
    }
}

impl fmt::Debug for JobCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobCallback")
            .field("job", self.job())
            .finish_non_exhaustive()
    }
}
