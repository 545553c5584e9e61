//! How many files the process may open, and how much memory it has.
// UNSAFETY: asks the operating system.
#![expect(unsafe_code)]

pub(crate) use system::{memory, raise_files};

#[cfg(target_os = "linux")]
mod system {
    use std::{fs, io};

    /// Enough for ten thousand connections and some more.
    const WANTED: libc::rlim_t = 16_384;

    /// Raises the limit of open files as far as anyone may. Says so if that is not much.
    pub(crate) fn raise_files() -> Option<String> {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the struct is ours.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
            let error = io::Error::last_os_error();
            return Some(format!("cannot ask for the limit of open files: {error}"));
        }
        let before = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: as above.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            let error = io::Error::last_os_error();
            return Some(format!(
                "cannot raise the limit of {before} open files: {error}"
            ));
        }
        (limit.rlim_cur < WANTED).then(|| {
            let most = limit.rlim_cur;
            format!("cannot raise the limit of open files over {most}: as many connections at most")
        })
    }

    /// The resident memory of this process, in bytes.
    pub(crate) fn memory() -> Option<u64> {
        let text = fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
        // SAFETY: no memory is touched.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Some(pages * u64::try_from(page).ok()?)
    }
}

#[cfg(windows)]
mod system {
    use windows_sys::Win32::System::{
        ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS},
        Threading::GetCurrentProcess,
    };

    /// Windows has no such limit that a process could raise.
    pub(crate) fn raise_files() -> Option<String> {
        None
    }

    /// The working set of this process, in bytes.
    pub(crate) fn memory() -> Option<u64> {
        let mut counters = PROCESS_MEMORY_COUNTERS::default();
        let size = size_of::<PROCESS_MEMORY_COUNTERS>() as u32;
        // SAFETY: the struct is ours and as large as we say.
        let known =
            unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), &raw mut counters, size) };
        (known != 0).then_some(counters.WorkingSetSize as u64)
    }
}
