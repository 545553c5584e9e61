//! How one wait becomes one packet: by the kernel, or by a callback of the system's thread pool.
// UNSAFETY: calls functions found at run time, and is called back.
#![expect(unsafe_code)]

use std::{
    ffi::{CStr, c_void},
    io,
    os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle},
    ptr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use windows_sys::{
    Win32::{
        Foundation::{
            ERROR_INVALID_HANDLE, GENERIC_READ, GENERIC_WRITE, HANDLE, INVALID_HANDLE_VALUE,
            NTSTATUS, RtlNtStatusToDosError,
        },
        System::{
            IO::PostQueuedCompletionStatus,
            LibraryLoader::{GetModuleHandleW, GetProcAddress},
            Threading::{
                INFINITE, RegisterWaitForSingleObject, UnregisterWaitEx, WT_EXECUTEINWAITTHREAD,
                WT_EXECUTEONLYONCE,
            },
        },
    },
    w,
};

use super::{super::queue::Queue, WAIT};

/// Which way waits go. One port uses one.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Mechanism {
    Packets(&'static Packets),
    Registered,
}

impl Mechanism {
    /// The kernel's own, if it has it.
    pub(in super::super) fn best() -> Self {
        static PACKETS: OnceLock<Option<Packets>> = OnceLock::new();
        match PACKETS.get_or_init(Packets::find) {
            Some(packets) => Self::Packets(packets),
            None => Self::Registered,
        }
    }
}

type Create = unsafe extern "system" fn(*mut HANDLE, u32, *const c_void) -> NTSTATUS;
type Associate = unsafe extern "system" fn(
    HANDLE,
    HANDLE,
    HANDLE,
    *const c_void,
    *const c_void,
    NTSTATUS,
    usize,
    *mut u8,
) -> NTSTATUS;
type Cancel = unsafe extern "system" fn(HANDLE, u8) -> NTSTATUS;

/// The wait-completion packets of Windows 8 and later: Microsoft documents them among the "DevNotes"
/// of Win32, as functions to be found at run time.
#[derive(Debug)]
pub(in super::super) struct Packets {
    create: Create,
    associate: Associate,
    cancel: Cancel,
}

impl Packets {
    fn find() -> Option<Self> {
        // SAFETY: ntdll is in every process, and stays. The types are those of the documentation.
        unsafe {
            let ntdll = GetModuleHandleW(w!("ntdll.dll"));
            let find = |name: &CStr| GetProcAddress(ntdll, name.as_ptr().cast());
            Some(Self {
                create: std::mem::transmute::<unsafe extern "system" fn() -> isize, Create>(find(
                    c"NtCreateWaitCompletionPacket",
                )?),
                associate: std::mem::transmute::<unsafe extern "system" fn() -> isize, Associate>(
                    find(c"NtAssociateWaitCompletionPacket")?,
                ),
                cancel: std::mem::transmute::<unsafe extern "system" fn() -> isize, Cancel>(find(
                    c"NtCancelWaitCompletionPacket",
                )?),
            })
        }
    }

    fn start(&'static self, queue: &Queue, object: usize, number: usize) -> io::Result<Armed> {
        let mut packet = ptr::null_mut();
        // SAFETY: the handle is ours; no name and no attributes are given.
        check(unsafe {
            (self.create)(&raw mut packet, GENERIC_READ | GENERIC_WRITE, ptr::null())
        })?;
        // SAFETY: made just now, and nobody else owns it.
        let packet = unsafe { OwnedHandle::from_raw_handle(packet) };
        // An object that is signalled already queues its packet all the same.
        let mut is_signalled = 0;
        // SAFETY: three open handles; the key and the number are carried, not followed.
        check(unsafe {
            (self.associate)(
                packet.as_raw_handle(),
                queue.as_handle().as_raw_handle(),
                object as HANDLE,
                WAIT as *const c_void,
                ptr::without_provenance(number),
                0,
                0,
                &raw mut is_signalled,
            )
        })?;
        let packets = self;
        Ok(Armed::Packet { packets, packet })
    }
}

fn check(status: NTSTATUS) -> io::Result<()> {
    match status {
        0.. => Ok(()),
        // SAFETY: a pure function of its argument.
        _ => Err(io::Error::from_raw_os_error(
            unsafe { RtlNtStatusToDosError(status) }.cast_signed(),
        )),
    }
}

/// A wait that was started. Dropping it ends it, without a packet if none is queued.
#[derive(Debug)]
pub(super) enum Armed {
    Packet {
        packets: &'static Packets,
        packet: OwnedHandle,
    },
    Registered(Registration),
}

impl Armed {
    /// Has (`WAIT`, number) queued once the object is signalled.
    ///
    /// # Safety
    /// The object stays open until the packet was taken, or the wait was cancelled or dropped; the
    /// port stays open for as long as the value lives.
    pub(super) unsafe fn start(
        mechanism: Mechanism,
        queue: &Queue,
        object: usize,
        number: usize,
    ) -> io::Result<Self> {
        match mechanism {
            Mechanism::Packets(packets) => packets.start(queue, object, number),
            Mechanism::Registered => {
                Registration::start(queue, object, number).map(Self::Registered)
            }
        }
    }

    /// Whether a packet of this wait can be there. The kernel does not say, a callback does.
    pub(super) fn has_posted(&self) -> bool {
        match self {
            Self::Packet { .. } => true,
            Self::Registered(registration) => registration.shared.posted.load(Ordering::SeqCst),
        }
    }

    /// Ends the wait, if its packet is not queued. `true`: none will come. `false`: it comes, or came.
    pub(super) fn cancel(&mut self) -> bool {
        match self {
            Self::Packet { packets, packet } => {
                // SAFETY: the packet is open. A signalled one is left in the queue. Pending: it is too
                // late; cancelled: it was taken already. Neither is 0, although the first counts as a
                // success (E2).
                let status = unsafe { (packets.cancel)(packet.as_raw_handle(), 0) };
                status == 0
            }
            Self::Registered(registration) => {
                registration.end();
                !self.has_posted()
            }
        }
    }

    /// The packet was taken.
    pub(super) fn finish(self) {
        match self {
            // Closing it is all.
            Self::Packet { .. } => {}
            Self::Registered(mut registration) => registration.leave(),
        }
    }
}

/// A registered wait.
#[derive(Debug)]
pub(super) struct Registration {
    /// Null once it has ended.
    wait: HANDLE,
    shared: Arc<Shared>,
}

// SAFETY: the handle is a name for the thread pool's record, which any thread may use.
unsafe impl Send for Registration {}
// SAFETY: see Send; shared access only reads `shared`.
unsafe impl Sync for Registration {}

/// What the callback uses. It has a reference of its own, and gives it back when it runs.
#[derive(Debug)]
struct Shared {
    port: HANDLE,
    number: usize,
    posted: AtomicBool,
}

// SAFETY: the port's handle is only passed to system calls, and open as long as a registration is.
unsafe impl Send for Shared {}
// SAFETY: see Send.
unsafe impl Sync for Shared {}

impl Registration {
    fn start(queue: &Queue, object: usize, number: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            port: queue.as_handle().as_raw_handle(),
            number,
            posted: AtomicBool::new(false),
        });
        let mut wait = ptr::null_mut();
        let lent = Arc::into_raw(shared.clone());
        // SAFETY: the callback gets the reference made above and gives it back; the object and the
        // port stay open (`Armed::start`).
        let registered = unsafe {
            RegisterWaitForSingleObject(
                &raw mut wait,
                object as HANDLE,
                Some(fired),
                lent.cast(),
                INFINITE,
                WT_EXECUTEONLYONCE | WT_EXECUTEINWAITTHREAD,
            )
        };
        if registered == 0 {
            let error = io::Error::last_os_error();
            // SAFETY: nothing was registered, so the reference is still ours.
            drop(unsafe { Arc::from_raw(lent) });
            return Err(error);
        }
        Ok(Self { wait, shared })
    }

    /// Ends it, and waits for a callback that runs: afterwards none does.
    fn end(&mut self) {
        let wait = std::mem::replace(&mut self.wait, ptr::null_mut());
        if wait.is_null() {
            return;
        }
        // SAFETY: registered and not ended before; the callback takes no lock.
        let ended = unsafe { UnregisterWaitEx(wait, INVALID_HANDLE_VALUE) } != 0;
        if ended && !self.shared.posted.load(Ordering::SeqCst) {
            // SAFETY: the callback did not run, and never will: its reference is ours.
            drop(unsafe { Arc::from_raw(Arc::as_ptr(&self.shared)) });
        }
    }

    /// Gives up the registration of a callback that has posted, which may still be on its way out. It is
    /// not waited for: all that it has left to do is to give its reference back.
    fn leave(&mut self) {
        let wait = std::mem::replace(&mut self.wait, ptr::null_mut());
        if !wait.is_null() {
            // SAFETY: registered and not ended before. What the callback uses is its own.
            let _ = unsafe { UnregisterWaitEx(wait, ptr::null_mut()) };
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.end();
    }
}

/// The object is signalled. Runs on a thread of the system's.
///
/// # Safety
/// `context` is the reference that `start` lent, and this is its one call.
unsafe extern "system" fn fired(context: *mut c_void, _timed_out: bool) {
    // SAFETY: `start` lent this reference, and the callback runs once.
    let shared = unsafe { Arc::from_raw(context.cast::<Shared>().cast_const()) };
    // Before the packet, which is believed only if this is set.
    shared.posted.store(true, Ordering::SeqCst);
    // SAFETY: the port is open until the registration has ended, which waits for us unless the
    // packet was taken; the number is carried, not followed.
    while unsafe {
        PostQueuedCompletionStatus(
            shared.port,
            0,
            WAIT as usize,
            ptr::without_provenance(shared.number),
        )
    } == 0
    {
        // A kernel that is short of memory is asked again (A24): somebody waits for this packet.
        let error = io::Error::last_os_error().raw_os_error();
        if error == Some(ERROR_INVALID_HANDLE.cast_signed()) {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}
