//! Waiting to be told to end, without doing anything in a signal handler.
// UNSAFETY: signals and console events are the operating system's.
#![expect(unsafe_code)]

pub(crate) use system::Stop;

#[cfg(target_os = "linux")]
mod system {
    use std::{io, mem, ptr};

    /// SIGINT and SIGTERM are blocked in every thread, and one thread waits for them: no handler
    /// runs, so nothing has to be safe in one.
    pub(crate) struct Stop {
        signals: libc::sigset_t,
    }

    impl Stop {
        /// To be called before other threads are made: they inherit what is blocked.
        pub(crate) fn prepare() -> io::Result<Self> {
            // SAFETY: the set is ours, and `sigemptyset` makes it a valid one.
            let signals = unsafe {
                let mut signals = mem::zeroed();
                libc::sigemptyset(&raw mut signals);
                libc::sigaddset(&raw mut signals, libc::SIGINT);
                libc::sigaddset(&raw mut signals, libc::SIGTERM);
                signals
            };
            let stop = Self { signals };
            stop.mask(libc::SIG_BLOCK)?;
            Ok(stop)
        }

        fn mask(&self, how: libc::c_int) -> io::Result<()> {
            // SAFETY: the set is valid; nobody asks for the old one.
            checked(unsafe { libc::pthread_sigmask(how, &raw const self.signals, ptr::null_mut()) })
        }

        /// Blocks until one of them comes, and returns its name. The next one ends the process.
        pub(crate) fn wait(self) -> io::Result<&'static str> {
            let mut signal = 0;
            // SAFETY: the set is valid, the number is ours.
            checked(unsafe { libc::sigwait(&raw const self.signals, &raw mut signal) })?;
            self.mask(libc::SIG_UNBLOCK)?;
            Ok(match signal {
                libc::SIGINT => "SIGINT",
                _ => "SIGTERM",
            })
        }
    }

    fn checked(code: libc::c_int) -> io::Result<()> {
        match code {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

#[cfg(windows)]
mod system {
    use std::{
        io,
        sync::{Condvar, Mutex, PoisonError},
        thread,
        time::Duration,
    };

    use windows_sys::{
        Win32::System::Console::{
            CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_CLOSE_EVENT, SetConsoleCtrlHandler,
        },
        core::BOOL,
    };

    static CAME: Mutex<Option<&str>> = Mutex::new(None);
    static CHANGED: Condvar = Condvar::new();

    /// Called by the system on a thread of its own, so it may do as any thread may.
    extern "system" fn on_event(event: u32) -> BOOL {
        let name = match event {
            CTRL_C_EVENT => "Ctrl-C",
            CTRL_BREAK_EVENT => "Ctrl-Break",
            CTRL_CLOSE_EVENT => "the console was closed",
            // Log-off and shutdown are for services.
            _ => return 0,
        };
        let mut came = CAME.lock().unwrap_or_else(PoisonError::into_inner);
        if came.is_some() {
            // The second one: as if there were no handler, which ends the process.
            return 0;
        }
        *came = Some(name);
        CHANGED.notify_all();
        drop(came);
        if event == CTRL_CLOSE_EVENT {
            // The process is ended when this returns; the system waits five seconds.
            thread::sleep(Duration::from_secs(5));
        }
        1
    }

    /// Ctrl-C, Ctrl-Break, and the end of the console.
    pub(crate) struct Stop(());

    impl Stop {
        pub(crate) fn prepare() -> io::Result<Self> {
            // SAFETY: the handler stays callable for ever.
            match unsafe { SetConsoleCtrlHandler(Some(on_event), 1) } {
                0 => Err(io::Error::last_os_error()),
                _ => Ok(Self(())),
            }
        }

        /// Blocks until one of them comes, and returns its name. The next one ends the process.
        pub(crate) fn wait(self) -> io::Result<&'static str> {
            let mut came = CAME.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                match *came {
                    Some(name) => return Ok(name),
                    None => came = CHANGED.wait(came).unwrap_or_else(PoisonError::into_inner),
                }
            }
        }
    }
}
