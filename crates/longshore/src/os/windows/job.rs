//! Job objects, and the messages that the system sends about them (E5).
// UNSAFETY: calls the job functions.
#![expect(unsafe_code)]

mod callback;
mod events;

use std::{
    io,
    os::windows::io::{
        AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle, RawHandle,
    },
    ptr,
    sync::Arc,
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
    Dispatcher, Packet,
    dispatcher::{Entered, Notice},
};
pub use callback::{JobCallback, OnJobMessage};
pub use events::JobEvents;

/// A job object: processes that belong together, with what they start.
///
/// Set limits with system calls of your own, through the handle. Closing the last handle to a job
/// ends no process, unless it was told to (`JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE`).
///
/// # Examples
/// ```
/// use longshore::os::windows::Job;
/// use std::process::{Command, Stdio};
/// let job = Job::new()?;
/// let mut child = Command::new("cmd").args(["/c", "pause"]) // waits for its input
///     .stdin(Stdio::piped())
///     .stdout(Stdio::null())
///     .spawn()?;
/// job.assign(&child)?;
/// job.terminate(5)?; // and whatever it has started
/// assert_eq!(child.wait()?.code(), Some(5));
/// # Ok::<(), std::io::Error>(())
/// ```
/// With its messages: see [`JobEvents`] and [`JobCallback`].
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
///
/// # Examples
/// ```
/// use longshore::os::windows::JobMessageKind;
/// const JOB_OBJECT_MSG_NEW_PROCESS: u32 = 6;
/// assert_eq!(JobMessageKind::from(JOB_OBJECT_MSG_NEW_PROCESS), JobMessageKind::NewProcess);
/// assert_eq!(JobMessageKind::from(99), JobMessageKind::Other(99));
/// ```
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
///
/// # Examples
/// ```
/// use longshore::os::windows::{JobMessage, JobMessageKind};
/// fn has_ended(message: JobMessage, process_id: u32) -> bool {
///     let ends = [JobMessageKind::ExitProcess, JobMessageKind::AbnormalExitProcess];
///     ends.contains(&message.kind) && message.process_id == Some(process_id)
/// }
/// # let _ = has_ended;
/// ```
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
        // After closing it may have another port by now, through another handle.
        if entered.leave() {
            dissociate(job.as_handle());
        }
        job
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

/// The word that is a pointer in other packets. Windows hands process ids out as 32 bits.
fn process_id(packet: Packet) -> Option<u32> {
    let id = u32::try_from(packet.overlapped).ok();
    id.filter(|&id| id != 0)
}
