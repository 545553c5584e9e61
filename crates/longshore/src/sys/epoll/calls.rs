//! The system calls of this backend, each as a function that says what it returns.
//!
//! Buffers come as raw pointers because they are the submitter's, need not be initialised, and
//! may be written by the kernel at any time. Interrupted calls are repeated here and nowhere else.
// UNSAFETY: calls into libc.
#![expect(unsafe_code)]

use std::{
    ffi::c_int,
    io, mem,
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use socket2::SockAddr;

use crate::{error::Error, submission::AddressSlot};

/// How many events one look at the kernel brings at most.
pub(super) const BATCH: usize = 64;
pub(super) type Events = [libc::epoll_event; BATCH];
pub(super) const NO_EVENTS: Events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];

/// Repeats a system call for as long as a signal interrupts it.
pub(super) fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        let result = call();
        if let Ok(result) = usize::try_from(result) {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The result of a call that returns 0 or -1.
pub(super) fn check(result: c_int) -> io::Result<c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn owned(fd: c_int) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: the system call has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn epoll_create() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

pub(super) fn timerfd() -> io::Result<OwnedFd> {
    let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
    // SAFETY: no pointers.
    owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })
}

/// Sets a timerfd to expire once, or stops it; an expiration that was not read is forgotten.
pub(super) fn set_timer(timer: &OwnedFd, after: Option<Duration>) {
    // Zero would stop it.
    let after = after.map_or(Duration::ZERO, |after| after.max(Duration::from_nanos(1)));
    let once = libc::itimerspec {
        it_interval: timespec(Duration::ZERO),
        it_value: timespec(after),
    };
    let old = std::ptr::null_mut();
    // SAFETY: the setting lives across the call. It fails only on values out of range.
    let _ = unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &once, old) };
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// Adds one to an eventfd. It can fail only when the count is full, and then it is readable.
pub(super) fn ring(bell: &OwnedFd) {
    let one = 1u64;
    // SAFETY: eight readable bytes, as eventfd(2) asks.
    let _ = retry(|| unsafe { libc::write(bell.as_raw_fd(), (&raw const one).cast(), 8) });
}

/// Resets an eventfd to 0.
pub(super) fn hush(bell: &OwnedFd) {
    let mut count = 0u64;
    // SAFETY: eight writable bytes, as eventfd(2) asks. "Nothing to read" is fine too.
    let _ = retry(|| unsafe { libc::read(bell.as_raw_fd(), (&raw mut count).cast(), 8) });
}

/// Whether a descriptor is readable, or broken, at this moment.
pub(super) fn is_readable(fd: RawFd) -> io::Result<bool> {
    let mut asked = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, ours for the call.
    let ready = retry(|| unsafe { libc::poll(&raw mut asked, 1, 0) as isize })?;
    match asked.revents & libc::POLLNVAL {
        0 => Ok(ready > 0),
        _ => Err(Error::BadHandle.into()),
    }
}

fn epoll_ctl(epoll: &OwnedFd, op: c_int, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: token };
    // SAFETY: the event lives across the call, which copies it.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), op, fd, &mut event) }).map(|_| ())
}

pub(super) fn epoll_add(epoll: &OwnedFd, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
    epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, events, token)
}

pub(super) fn epoll_modify(epoll: &OwnedFd, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
    epoll_ctl(epoll, libc::EPOLL_CTL_MOD, fd, events, token)
}

pub(super) fn epoll_delete(epoll: &OwnedFd, fd: RawFd) -> io::Result<()> {
    epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd, 0, 0)
}

/// Waits for events; `None` is for ever. An interrupted wait returns 0 events, so that the caller
/// computes its time-out anew.
pub(super) fn epoll_wait(
    epoll: &OwnedFd,
    events: &mut Events,
    timeout: Option<Duration>,
) -> io::Result<usize> {
    // Miri knows the older call only.
    static COARSE: AtomicBool = AtomicBool::new(cfg!(miri));
    if !COARSE.load(Ordering::Relaxed) {
        match epoll_pwait2(epoll, events, timeout) {
            // Older than 5.11, or behind a filter that does not know the call.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                COARSE.store(true, Ordering::Relaxed);
            }
            result => return uninterrupted(result),
        }
    }
    let fd = epoll.as_raw_fd();
    let (buffer, len) = (events.as_mut_ptr(), BATCH as c_int);
    // SAFETY: the buffer holds `len` events.
    let count = check(unsafe { libc::epoll_wait(fd, buffer, len, whole_ms(timeout)) });
    uninterrupted(count.map(|count| count as usize))
}

fn uninterrupted(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        result => result,
    }
}

fn epoll_pwait2(
    epoll: &OwnedFd,
    events: &mut Events,
    timeout: Option<Duration>,
) -> io::Result<usize> {
    let limit = timeout.map(timespec);
    let limit = limit
        .as_ref()
        .map_or(std::ptr::null(), |limit| limit as *const libc::timespec);
    // The raw call, because C libraries older than it are in use.
    // SAFETY: the buffer holds BATCH events, the time-out is null or lives across the call, and
    // there is no signal mask.
    let count = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.as_raw_fd(),
            events.as_mut_ptr(),
            BATCH,
            limit,
            std::ptr::null::<libc::sigset_t>(),
            0usize,
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Milliseconds, rounded up so that a wait is never early (and a short one no busy loop), and
/// capped below -1, which would mean for ever.
fn whole_ms(timeout: Option<Duration>) -> c_int {
    match timeout {
        None => -1,
        Some(limit) => {
            let ms = limit.as_nanos().div_ceil(1_000_000);
            c_int::try_from(ms).unwrap_or(c_int::MAX)
        }
    }
}

/// What `fstat` says of a descriptor: its type, and what tells it from any other open file. (The ends of
/// a pipe are one file, open in different modes.)
pub(super) fn identity(fd: RawFd) -> io::Result<(libc::mode_t, (u64, u64))> {
    // SAFETY: a stat is plain data, valid when zeroed.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: the stat lives across the call.
    check(unsafe { libc::fstat(fd, &mut stat) })?;
    let (mode, mut device) = (stat.st_mode & libc::S_IFMT, stat.st_dev);
    if mode == libc::S_IFIFO {
        // SAFETY: no pointers.
        let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
        device ^= ((flags & libc::O_ACCMODE) as u64) << 62;
    }
    Ok((mode, (device, stat.st_ino)))
}

/// Makes a descriptor blocking or not; returns whether it was blocking before.
pub(super) fn set_blocking(fd: RawFd, blocking: bool) -> io::Result<bool> {
    // SAFETY: no pointers.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    let was_blocking = flags & libc::O_NONBLOCK == 0;
    if was_blocking != blocking {
        let flags = flags ^ libc::O_NONBLOCK;
        // SAFETY: no pointers.
        check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) })?;
    }
    Ok(was_blocking)
}

/// Receives, and writes down who sent it. Of a datagram socket the result is the message's length,
/// also when it did not fit: recv(2), `MSG_TRUNC`. (On a stream the flag would throw bytes away.)
///
/// # Safety
/// `buffer` is valid for writes of `len` bytes; the slot is valid, and nobody else uses it.
pub(super) unsafe fn recv(
    fd: RawFd,
    buffer: *mut u8,
    len: usize,
    from: Option<NonNull<AddressSlot>>,
    is_datagram: bool,
) -> io::Result<usize> {
    let whole = if is_datagram { libc::MSG_TRUNC } else { 0 };
    let flags = libc::MSG_DONTWAIT | whole;
    let (mut name, mut name_len) = (ptr::null_mut(), ptr::null_mut());
    if let Some(mut from) = from {
        // SAFETY: the caller's slot, for us alone.
        let from = unsafe { from.as_mut() };
        from.clear();
        (name, name_len) = ((&raw mut from.storage).cast(), &raw mut from.len);
    }
    // SAFETY: the caller's buffer, and room for any address with the length of that room. (A call
    // that was interrupted has written nothing.)
    retry(|| unsafe { libc::recvfrom(fd, buffer.cast(), len, flags, name, name_len) })
}

/// Sends: to an address, or to whom the socket is connected to.
///
/// # Safety
/// `buffer` is valid for reads of `len` bytes; the slot is valid.
pub(super) unsafe fn send(
    fd: RawFd,
    buffer: *const u8,
    len: usize,
    to: Option<NonNull<AddressSlot>>,
) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let (mut name, mut name_len) = (ptr::null(), 0);
    if let Some(to) = to {
        // SAFETY: the caller's slot.
        let to = unsafe { to.as_ref() };
        (name, name_len) = ((&raw const to.storage).cast(), to.len);
    }
    // SAFETY: the caller's buffer, and an address with its length or none.
    retry(|| unsafe { libc::sendto(fd, buffer.cast(), len, flags, name, name_len) })
}

/// Accepts one connection, close-on-exec and blocking, with its peer's address.
pub(super) fn accept(listener: RawFd) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    // SAFETY: the storage is big enough for any address, and accept4 says how much it wrote.
    let (fd, address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let accept =
                || libc::accept4(listener, storage.cast(), len, libc::SOCK_CLOEXEC) as isize;
            owned(retry(accept)? as c_int)
        })?
    };
    Ok((fd, address.as_socket()))
}

pub(super) fn connect(fd: RawFd, address: SocketAddr) -> io::Result<()> {
    let address = SockAddr::from(address);
    // SAFETY: the address lives across the call, which copies it.
    check(unsafe { libc::connect(fd, address.as_ptr().cast(), address.len()) }).map(|_| ())
}

/// One socket option that is an int.
fn option(fd: RawFd, option: c_int) -> io::Result<c_int> {
    let (mut value, mut len) = (0 as c_int, mem::size_of::<c_int>() as libc::socklen_t);
    let room = (&raw mut value).cast();
    // SAFETY: `room` is the int that the caller's option is.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, room, &mut len) })?;
    Ok(value)
}

pub(super) fn is_stream(socket: RawFd) -> io::Result<bool> {
    Ok(option(socket, libc::SO_TYPE)? == libc::SOCK_STREAM)
}

/// Whether a connect has ended: `None` while it is still on its way.
pub(super) fn connected(fd: RawFd) -> Option<io::Result<()>> {
    match option(fd, libc::SO_ERROR) {
        Ok(0) => {}
        Ok(code) => return Some(Err(io::Error::from_raw_os_error(code))),
        Err(error) => return Some(Err(error)),
    }
    // A socket that has not been connected yet looks writable and free of errors to epoll, so
    // only the peer's name proves the connection.
    // SAFETY: the storage is big enough, and getpeername says how much it wrote.
    let named = unsafe {
        SockAddr::try_init(|storage, len| check(libc::getpeername(fd, storage.cast(), len)))
    };
    match named {
        Ok(_) => Some(Ok(())),
        Err(error) if error.raw_os_error() != Some(libc::ENOTCONN) => Some(Err(error)),
        // Not connected, and hung up: it has failed, and somebody else took the error away.
        Err(unconnected) => is_hung_up(fd).then_some(Err(unconnected)),
    }
}

fn is_hung_up(fd: RawFd) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one pollfd, and no waiting.
    let found = retry(|| unsafe { libc::poll(&mut poll, 1, 0) } as isize);
    found.is_ok() && poll.revents & (libc::POLLHUP | libc::POLLERR) != 0
}

/// Reads at an offset. With `NoWait`, only what needs no waiting for the disk.
///
/// # Safety
/// `buffer` is valid for writes of `len` bytes.
pub(super) unsafe fn read_at(
    fd: RawFd,
    buffer: *mut u8,
    len: usize,
    offset: u64,
    waiting: Waiting,
) -> io::Result<usize> {
    let part = libc::iovec {
        iov_base: buffer.cast(),
        iov_len: len,
    };
    let (offset, flags) = (offset as libc::off64_t, waiting.flags());
    // SAFETY: one part, which is the caller's buffer. Offsets were checked to fit.
    retry(|| unsafe { libc::preadv2(fd, &part, 1, offset, flags) })
}

/// Writes at an offset; see [`read_at`].
///
/// # Safety
/// `buffer` is valid for reads of `len` bytes.
pub(super) unsafe fn write_at(
    fd: RawFd,
    buffer: *const u8,
    len: usize,
    offset: u64,
    waiting: Waiting,
) -> io::Result<usize> {
    let part = libc::iovec {
        iov_base: buffer.cast_mut().cast(),
        iov_len: len,
    };
    let (offset, flags) = (offset as libc::off64_t, waiting.flags());
    // SAFETY: one part, which is the caller's buffer and is only read. Offsets were checked.
    retry(|| unsafe { libc::pwritev2(fd, &part, 1, offset, flags) })
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Waiting {
    Allowed,
    NoWait,
}

impl Waiting {
    fn flags(self) -> c_int {
        match self {
            Self::Allowed => 0,
            Self::NoWait => libc::RWF_NOWAIT,
        }
    }
}

/// Closes a descriptor and says how it went.
pub(super) fn close(fd: OwnedFd) -> io::Result<()> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is ours and given up here.
    check(unsafe { libc::close(fd.into_raw_fd()) }).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d07_timeouts_are_rounded_up_and_capped() {
        assert_eq!(whole_ms(None), -1);
        assert_eq!(whole_ms(Some(Duration::ZERO)), 0);
        assert_eq!(whole_ms(Some(Duration::from_nanos(1))), 1);
        assert_eq!(whole_ms(Some(Duration::from_micros(900))), 1);
        assert_eq!(whole_ms(Some(Duration::from_millis(1))), 1);
        let over = Duration::from_millis((1 << 32) + 50);
        assert_eq!(whole_ms(Some(over)), c_int::MAX);
        assert_eq!(whole_ms(Some(Duration::MAX)), c_int::MAX);
    }
}
