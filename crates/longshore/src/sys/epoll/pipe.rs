//! Pipes and FIFOs: read(2) and write(2), and what these do not say.
//!
//! A write to a pipe that nobody reads raises `SIGPIPE`, which ends a process that does not ignore it.
//! (Rust programs ignore it; a library in somebody else's program cannot count on that.) Linux 6.18 has
//! a flag that keeps the signal away. Where it is not known, the signal is blocked for the writing thread
//! alone, and the one that the write has raised is taken back before it is let through again.
// UNSAFETY: calls into libc.
#![expect(unsafe_code)]

use std::{
    ffi::c_int,
    io, mem,
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use super::calls::retry;

/// `RWF_NOSIGNAL`, pwritev2(2), Linux 6.18.
const NO_SIGNAL: c_int = 0x100;

/// Whether the kernel may know [`NO_SIGNAL`].
static KNOWS_NO_SIGNAL: AtomicBool = AtomicBool::new(true);

/// What there is to see at a pipe from which nothing could be read.
#[derive(Debug, PartialEq)]
pub(super) enum Sight {
    Data,
    /// A FIFO that nobody has opened for writing since it was opened for reading.
    NoWriterYet,
    End,
}

/// # Safety
/// `buffer` is valid for writes of `len` bytes.
pub(super) unsafe fn read(fd: RawFd, buffer: *mut u8, len: usize) -> io::Result<usize> {
    // SAFETY: the caller's buffer.
    retry(|| unsafe { libc::read(fd, buffer.cast(), len) })
}

/// Writes without raising a signal.
///
/// # Safety
/// `buffer` is valid for reads of `len` bytes.
pub(super) unsafe fn write(fd: RawFd, buffer: *const u8, len: usize) -> io::Result<usize> {
    if KNOWS_NO_SIGNAL.load(Ordering::Relaxed) {
        // SAFETY: passed on.
        match unsafe { write_unsignalled(fd, buffer, len) } {
            Err(error) if is_unknown(&error) => KNOWS_NO_SIGNAL.store(false, Ordering::Relaxed),
            result => return result,
        }
    }
    // SAFETY: passed on.
    unsafe { write_masked(fd, buffer, len) }
}

fn is_unknown(error: &io::Error) -> bool {
    let code = error.raw_os_error().unwrap_or_default();
    matches!(
        code,
        libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::EPERM
    )
}

/// # Safety
/// As for [`write`].
unsafe fn write_unsignalled(fd: RawFd, buffer: *const u8, len: usize) -> io::Result<usize> {
    let part = libc::iovec {
        iov_base: buffer.cast_mut().cast(),
        iov_len: len,
    };
    // Not an offset: "where the descriptor is", which is all that a pipe can do.
    let here = -1;
    // SAFETY: one part, which is the caller's buffer and is only read.
    retry(|| unsafe { libc::pwritev2(fd, &part, 1, here, NO_SIGNAL) })
}

/// # Safety
/// As for [`write`].
unsafe fn write_masked(fd: RawFd, buffer: *const u8, len: usize) -> io::Result<usize> {
    let signal = only_sigpipe();
    let (mut pending, mut before) = (only_sigpipe(), only_sigpipe());
    // SAFETY: three sets of ours. None of the calls fails with valid sets.
    let was_pending = unsafe {
        libc::sigpending(&mut pending);
        libc::pthread_sigmask(libc::SIG_BLOCK, &signal, &mut before);
        libc::sigismember(&pending, libc::SIGPIPE) == 1
    };
    // SAFETY: the caller's buffer.
    let result = retry(|| unsafe { libc::write(fd, buffer.cast(), len) });
    let raised = |error: &io::Error| error.raw_os_error() == Some(libc::EPIPE);
    if !was_pending && result.as_ref().is_err_and(raised) {
        let at_once = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // Where the signal is ignored there is none.
        // SAFETY: a set and a time of ours; nothing is to be told of the signal.
        let _ =
            retry(|| unsafe { libc::sigtimedwait(&signal, ptr::null_mut(), &at_once) as isize });
    }
    // SAFETY: the set that was filled above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    result
}

fn only_sigpipe() -> libc::sigset_t {
    // SAFETY: plain data, valid when zeroed, and then made a proper set.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGPIPE);
        set
    }
}

/// Looks at a pipe from which 0 bytes were read. Nobody had it open for writing then: the end, unless
/// nobody ever had. poll(2) tells: it says "hung up" only if a writer has been there. And if one has come
/// and gone since the read, what it wrote is there.
pub(super) fn look(fd: RawFd) -> Sight {
    let mut asked = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, ours for the call.
    let looked = retry(|| unsafe { libc::poll(&raw mut asked, 1, 0) as isize });
    match asked.revents {
        _ if looked.is_err() => Sight::End,
        found if found & libc::POLLIN != 0 => Sight::Data,
        0 => Sight::NoWriterYet,
        _ => Sight::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::fd::AsRawFd, sync::atomic::AtomicUsize};

    static SIGNALS: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn count(_signal: c_int) {
        SIGNALS.fetch_add(1, Ordering::SeqCst);
    }

    fn is_blocked() -> bool {
        let mut now = only_sigpipe();
        // SAFETY: a set of ours; nothing is changed.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut now);
            libc::sigismember(&now, libc::SIGPIPE) == 1
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no signals")]
    fn pipe_each_way_to_write_says_epipe_and_raises_nothing() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let fd = writer.as_raw_fd();
        let way = |write: unsafe fn(RawFd, *const u8, usize) -> io::Result<usize>| {
            // SAFETY: one byte.
            let error = unsafe { write(fd, &7, 1) }.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
            assert!(!is_blocked(), "it is let through again");
            SIGNALS.swap(0, Ordering::SeqCst)
        };
        // SAFETY: called with one byte, above.
        unsafe fn plain(fd: RawFd, buffer: *const u8, len: usize) -> io::Result<usize> {
            // SAFETY: the caller's buffer.
            retry(|| unsafe { libc::write(fd, buffer.cast(), len) })
        }
        // SAFETY: the handler does nothing but count.
        unsafe { libc::signal(libc::SIGPIPE, count as *const () as libc::sighandler_t) };
        assert_eq!(way(plain), 1, "this test hears signals");
        assert_eq!(way(write_masked), 0);
        assert_eq!(way(write), 0);
        // SAFETY: as Rust programs begin.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        assert_eq!(way(write_masked), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not know pwritev2")]
    fn pipe_an_end_is_told_from_data() {
        let (reader, writer) = io::pipe().unwrap();
        // SAFETY: a buffer of one byte.
        assert_eq!(unsafe { write(writer.as_raw_fd(), &7, 1) }.unwrap(), 1);
        drop(writer);
        assert_eq!(look(reader.as_raw_fd()), Sight::Data);
        let mut byte = 0;
        // SAFETY: a buffer of one byte.
        let count = unsafe { read(reader.as_raw_fd(), &mut byte, 1) };
        assert_eq!(count.unwrap(), 1);
        assert_eq!((byte, look(reader.as_raw_fd())), (7, Sight::End));
    }
}
