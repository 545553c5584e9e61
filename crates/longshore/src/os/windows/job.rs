//! Job objects, and the messages that the system sends about them (E5).
// UNSAFETY: calls the job functions.
#![expect(unsafe_code)]

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    io, mem,
    os::windows::io::{
        AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle, RawHandle,
    },
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use windows_sys::Win32::System::{
    JobObjects::{
        AssignProcessToJobObject, CreateJobObjectW, JOBOBJECT_ASSOCIATE_COMPLETION_PORT,
        JobObjectAssociateCompletionPortInformation, SetInformationJobObject, TerminateJobObject,
    },
    SystemServices::{
        JOB_OBJECT_MSG_ABNORMAL_EXIT_PROCESS, JOB_OBJECT_MSG_ACTIVE_PROCESS_LIMIT,
        JOB_OBJECT_MSG_ACTIVE_PROCESS_ZERO, JOB_OBJECT_MSG_END_OF_JOB_TIME,
        JOB_OBJECT_MSG_END_OF_PROCESS_TIME, JOB_OBJECT_MSG_EXIT_PROCESS,
        JOB_OBJECT_MSG_JOB_MEMORY_LIMIT, JOB_OBJECT_MSG_NEW_PROCESS,
        JOB_OBJECT_MSG_NOTIFICATION_LIMIT, JOB_OBJECT_MSG_PROCESS_MEMORY_LIMIT,
    },
};

use crate::{
    Dispatcher, Error, Packet,
    dispatcher::{Entered, Notice},
};

/// A job object: processes that belong together, with what they start.
///
/// Set limits with system calls of your own, through the handle. Closing the last handle to a job
/// ends no process, unless it was told to (`JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE`).
///
/// # Examples
/// See [`JobEvents`].
#[derive(Debug)]
pub struct Job {
    handle: OwnedHandle,
}

impl Job {
    /// A new job without a name, which children do not inherit.
    ///
    /// # Errors
    /// The operating system's.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no attributes and no name.
        let job = unsafe { CreateJobObjectW(ptr::null(), ptr::null()) };
        if job.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: made just now, and nobody else owns it.
        let handle = unsafe { OwnedHandle::from_raw_handle(job) };
        Ok(Self { handle })
    }

    /// Makes a process part of the job, and whatever it starts from now on.
    ///
    /// # Errors
    /// `ERROR_ACCESS_DENIED` also for a process that has ended, or that is in another job already
    /// where jobs cannot be nested; otherwise the operating system's.
    pub fn assign(&self, process: &impl AsHandle) -> io::Result<()> {
        let process = process.as_handle().as_raw_handle();
        // SAFETY: two open handles.
        check(unsafe { AssignProcessToJobObject(self.as_raw_handle(), process) })
    }

    /// Ends every process of the job, with this exit code.
    ///
    /// # Errors
    /// The operating system's.
    pub fn terminate(&self, exit_code: u32) -> io::Result<()> {
        // SAFETY: an open handle.
        check(unsafe { TerminateJobObject(self.as_raw_handle(), exit_code) })
    }

}

/// Has a job's messages sent to a port with this key; to none, without a port.
fn associate(job: BorrowedHandle<'_>, port: RawHandle, key: usize) -> io::Result<()> {
    let association = JOBOBJECT_ASSOCIATE_COMPLETION_PORT {
        CompletionKey: ptr::without_provenance_mut(key),
        CompletionPort: port,
    };
    // SAFETY: an open job; the structure is what the class takes, and is read in the call.
    check(unsafe {
        SetInformationJobObject(
            job.as_raw_handle(),
            JobObjectAssociateCompletionPortInformation,
            (&raw const association).cast(),
            size_of_val(&association) as u32,
        )
    })
}

/// Has a job's messages sent nowhere. Windows 7 and Wine cannot; then they go on coming, and are
/// foreign.
fn dissociate(job: BorrowedHandle<'_>) {
    let _ = associate(job, ptr::null_mut(), 0);
}

fn check(done: i32) -> io::Result<()> {
    match done {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

impl From<OwnedHandle> for Job {
    /// Takes a job over. A handle to something else fails in whatever it is used for.
    fn from(handle: OwnedHandle) -> Self {
        Self { handle }
    }
}

impl From<Job> for OwnedHandle {
    fn from(job: Job) -> Self {
        job.handle
    }
}

impl AsHandle for Job {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.handle.as_handle()
    }
}

impl AsRawHandle for Job {
    fn as_raw_handle(&self) -> RawHandle {
        self.handle.as_raw_handle()
    }
}

/// What a job's message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobMessageKind {
    /// A process became part of the job: it was assigned, or started by one of the job's.
    NewProcess,
    /// A process has ended.
    ExitProcess,
    /// A process has ended with one of the exit codes that stand for a crash.
    AbnormalExitProcess,
    /// No process is left.
    ActiveProcessZero,
    /// The job's time is up.
    EndOfJobTime,
    /// A process has used up its time.
    EndOfProcessTime,
    /// There are as many processes as may be.
    ActiveProcessLimit,
    /// A process wanted more memory than it may have.
    ProcessMemoryLimit,
    /// The job wanted more memory than it may have.
    JobMemoryLimit,
    /// One of the limits was passed that only notify.
    NotificationLimit,
    /// A message that longshore does not know: `JOB_OBJECT_MSG_…` of `winnt.h`.
    Other(u32),
}

impl From<u32> for JobMessageKind {
    /// The kind of a `JOB_OBJECT_MSG_…`.
    fn from(message: u32) -> Self {
        match message {
            JOB_OBJECT_MSG_NEW_PROCESS => Self::NewProcess,
            JOB_OBJECT_MSG_EXIT_PROCESS => Self::ExitProcess,
            JOB_OBJECT_MSG_ABNORMAL_EXIT_PROCESS => Self::AbnormalExitProcess,
            JOB_OBJECT_MSG_ACTIVE_PROCESS_ZERO => Self::ActiveProcessZero,
            JOB_OBJECT_MSG_END_OF_JOB_TIME => Self::EndOfJobTime,
            JOB_OBJECT_MSG_END_OF_PROCESS_TIME => Self::EndOfProcessTime,
            JOB_OBJECT_MSG_ACTIVE_PROCESS_LIMIT => Self::ActiveProcessLimit,
            JOB_OBJECT_MSG_PROCESS_MEMORY_LIMIT => Self::ProcessMemoryLimit,
            JOB_OBJECT_MSG_JOB_MEMORY_LIMIT => Self::JobMemoryLimit,
            JOB_OBJECT_MSG_NOTIFICATION_LIMIT => Self::NotificationLimit,
            other => Self::Other(other),
        }
    }
}

/// One message about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct JobMessage {
    /// What it is about.
    pub kind: JobMessageKind,
    /// The process, where it is about one. It may have ended, and the number be another's by now.
    pub process_id: Option<u32>,
}

/// A job's association with a port: while it lives, messages come with its key.
struct Association {
    /// Dropped first: what comes from then on is foreign.
    entered: Entered,
    job: Job,
}

impl Association {
    fn new(port: &Dispatcher, job: Job, notice: Arc<dyn Notice>) -> Result<Self, (io::Error, Job)> {
        let entered = match Entered::new(&port.inner, notice) {
            Ok(entered) => entered,
            Err(closed) => return Err((closed, job)),
        };
        let port = entered.port().driver().as_handle().as_raw_handle();
        let associated = associate(job.as_handle(), port, entered.key()).and_then(|()| {
            entered
                .open_or_err()
                .inspect_err(|_| dissociate(job.as_handle()))
        });
        match associated {
            Ok(()) => Ok(Self { entered, job }),
            Err(error) => Err((error, job)),
        }
    }

    fn into_job(self) -> Job {
        let Self { entered, job } = self;
        drop(entered);
        dissociate(job.as_handle());
        job
    }
}

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
/// then are foreign packets.
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
                (None, false) => mem::replace(&mut state.waker, Some(fresh)),
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

/// The word that is a pointer in other packets. Windows hands process ids out as 32 bits.
fn process_id(packet: Packet) -> Option<u32> {
    let id = u32::try_from(packet.overlapped).ok();
    id.filter(|&id| id != 0)
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
    pub fn try_next(&mut self) -> Option<JobMessage> {
        self.inbox.state().messages.pop_front()
    }

    /// Ends the association and gives the job back. (Windows 7 and Wine cannot undo it: the job cannot
    /// have another port there, and its messages are foreign packets from now on.)
    pub fn into_job(mut self) -> Job {
        take_job(&mut self.association)
    }
}

fn job_of(association: &Option<Association>) -> &Job {
    let association = association.as_ref();
    &association
        .expect("it is taken out by what consumes the owner")
        .job
}

fn take_job(association: &mut Option<Association>) -> Job {
    let association = association.take();
    association
        .expect("it is taken out by what consumes the owner")
        .into_job()
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

/// Told of a job's messages: receives the word given with it, the message (`JOB_OBJECT_MSG_…` of
/// `winnt.h`, see [`JobMessageKind::from`]), and the id of the process it is about, or 0.
pub type OnJobMessage = extern "C-unwind" fn(context: usize, message: u32, process_id: u32);

/// A job's messages, each of which calls a function on the thread that dispatches it.
///
/// What [`JobEvents`] says of them holds here too. Closing the port calls it for what is queued by
/// then, on the closing thread. A panic in it reaches whoever called `dispatch`. Messages do not count as
/// work: a [`run`](Dispatcher::run) that shall wait for them needs a
/// [`work_guard`](Dispatcher::work_guard).
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
/// let child = std::process::Command::new("hostname").stdout(std::process::Stdio::null()).spawn()?;
/// job.job().assign(&child)?;
/// port.dispatch()?; // there is a new process
/// # let mut child = child;
/// # child.wait()?;
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
