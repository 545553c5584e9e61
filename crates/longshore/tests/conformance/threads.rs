//! How many threads this process has, and how to disturb one.
// UNSAFETY: asks the system about threads, and interrupts one.
#![expect(unsafe_code)]

/// Waits for threads that were joined to be gone for the system, too.
pub fn until(count: usize) {
    while self::count() != count {
        std::thread::yield_now();
    }
}

pub use os::{Interrupted, Target, count};

#[cfg(target_os = "linux")]
mod os {
    use std::{
        ptr,
        sync::atomic::{AtomicUsize, Ordering},
    };

    /// Threads of this process.
    pub fn count() -> usize {
        std::fs::read_dir("/proc/self/task").unwrap().count()
    }

    /// A thread that can be interrupted.
    #[derive(Clone, Copy, Debug)]
    pub struct Target(libc::pthread_t);

    static HANDLED: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn handle(_signal: libc::c_int) {
        HANDLED.fetch_add(1, Ordering::SeqCst);
    }

    impl Target {
        /// The calling thread. Only in a child process: it changes how signals are handled.
        pub fn here() -> Self {
            // SAFETY: the action is whole, without SA_RESTART, and the handler only counts. The
            // thread's own id is always valid.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handle as *const () as usize;
                assert_eq!(
                    libc::sigaction(libc::SIGUSR1, &raw const action, ptr::null_mut()),
                    0
                );
                Self(libc::pthread_self())
            }
        }

        /// Sends a signal, whose handler interrupts system calls. The thread must not have been
        /// joined.
        pub fn interrupt(self) {
            // SAFETY: the thread has not been joined, as the caller sees to.
            assert_eq!(unsafe { libc::pthread_kill(self.0, libc::SIGUSR1) }, 0);
        }
    }

    /// How often handlers ran, for the test to look at afterwards.
    #[derive(Debug)]
    pub struct Interrupted;

    impl Interrupted {
        /// During the dispatch: a signal's handler may run at any time.
        pub fn may_have_run_early() -> bool {
            true
        }

        /// At the end, on the interrupted thread.
        pub fn total() -> usize {
            HANDLED.load(Ordering::SeqCst)
        }
    }
}

#[cfg(windows)]
mod os {
    use std::{
        cell::Cell,
        os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle},
        ptr,
        sync::Arc,
    };

    use windows_sys::Win32::{
        Foundation::{DUPLICATE_SAME_ACCESS, DuplicateHandle, INVALID_HANDLE_VALUE},
        System::{
            Diagnostics::ToolHelp::{
                CreateToolhelp32Snapshot, TH32CS_SNAPTHREAD, THREADENTRY32, Thread32First,
                Thread32Next,
            },
            Threading::{GetCurrentProcess, GetCurrentThread, QueueUserAPC, SleepEx},
        },
    };

    /// Threads of this process.
    pub fn count() -> usize {
        let mut threads = 0;
        // SAFETY: the snapshot is checked and closed by its owner, the entry has its size set and
        // is ours for each call.
        unsafe {
            let snapshot = CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0);
            assert_ne!(snapshot, INVALID_HANDLE_VALUE);
            let _owner = OwnedHandle::from_raw_handle(snapshot);
            let mut entry = THREADENTRY32 {
                dwSize: size_of::<THREADENTRY32>() as u32,
                ..Default::default()
            };
            let mut found = Thread32First(snapshot, &raw mut entry);
            while found != 0 {
                threads += usize::from(entry.th32OwnerProcessID == std::process::id());
                found = Thread32Next(snapshot, &raw mut entry);
            }
        }
        threads
    }

    /// A thread that can be interrupted.
    #[derive(Clone, Debug)]
    pub struct Target(Arc<OwnedHandle>);

    thread_local! {
        static CALLED: Cell<usize> = const { Cell::new(0) };
    }

    // SAFETY: an APC's signature; it asks nothing of its caller.
    unsafe extern "system" fn handle(_word: usize) {
        CALLED.set(CALLED.get() + 1);
    }

    impl Target {
        /// The calling thread.
        pub fn here() -> Self {
            let mut thread = ptr::null_mut();
            // SAFETY: the pseudo handles are always valid, and the new handle gets one owner.
            let thread = unsafe {
                let process = GetCurrentProcess();
                let made = DuplicateHandle(
                    process,
                    GetCurrentThread(),
                    process,
                    &raw mut thread,
                    0,
                    0,
                    DUPLICATE_SAME_ACCESS,
                );
                assert_ne!(made, 0);
                OwnedHandle::from_raw_handle(thread)
            };
            Self(Arc::new(thread))
        }

        /// Queues an asynchronous procedure call, which ends an alertable wait.
        pub fn interrupt(&self) {
            // SAFETY: the handle is open, and the function takes any word.
            let queued = unsafe { QueueUserAPC(Some(handle), self.0.as_raw_handle(), 0) };
            assert_ne!(queued, 0);
        }
    }

    /// How often calls ran, for the test to look at afterwards.
    #[derive(Debug)]
    pub struct Interrupted;

    impl Interrupted {
        /// During the dispatch: it is not alertable, so none did.
        pub fn may_have_run_early() -> bool {
            CALLED.get() != 0
        }

        /// At the end, on the interrupted thread, once it lets them run.
        pub fn total() -> usize {
            // SAFETY: no pointers. The calls that run are ours and only count.
            unsafe { SleepEx(0, 1) };
            CALLED.get()
        }
    }
}
