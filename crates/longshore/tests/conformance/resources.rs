//! What a process may open, and has open.
// UNSAFETY: system calls that std does not have.
#![expect(unsafe_code)]

/// How many descriptors may be open: now, and at most.
#[cfg(target_os = "linux")]
pub fn descriptors() -> (u64, u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit lives across the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    assert_eq!(result, 0);
    (limit.rlim_cur, limit.rlim_max)
}

/// For a process of its own. `false` if that many are not allowed.
#[cfg(target_os = "linux")]
pub fn set_descriptors(now: u64) -> bool {
    let limit = libc::rlimit {
        rlim_cur: now,
        rlim_max: descriptors().1.max(now),
    };
    // SAFETY: the limit lives across the call.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0 }
}

/// How many handles this process has open.
#[cfg(windows)]
pub fn handles() -> usize {
    use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessHandleCount};
    let mut count = 0;
    // SAFETY: the count lives across the call; the handle stands for this process.
    let counted = unsafe { GetProcessHandleCount(GetCurrentProcess(), &mut count) };
    assert_ne!(counted, 0);
    match count {
        // Wine says so of every process.
        0 => handles_one_by_one(),
        count => count as usize,
    }
}

/// Handles are multiples of 4, and low ones are given out again first.
#[cfg(windows)]
fn handles_one_by_one() -> usize {
    use windows_sys::Win32::Foundation::GetHandleInformation;
    let (mut open, mut last) = (0, 0);
    for number in 1.. {
        let (handle, mut flags) = (std::ptr::without_provenance_mut(4 * number), 0);
        // SAFETY: any value may be asked about; the flags live across the call.
        if unsafe { GetHandleInformation(handle, &raw mut flags) } != 0 {
            (open, last) = (open + 1, number);
        } else if number > last + 1000 {
            break;
        }
    }
    open
}

/// How many descriptors this process has open.
#[cfg(target_os = "linux")]
pub fn handles() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
