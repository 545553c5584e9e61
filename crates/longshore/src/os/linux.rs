//! Linux: the port as a file descriptor that another loop can wait for.

// UNSAFETY: starts an operation that ends when a descriptor is ready.
#![expect(unsafe_code)]

mod fifo;
mod readiness;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use crate::{
    Dispatcher, IoQueue, Overlapped, handle::Handle, signal::Listener, sys::epoll::Watched,
};
pub use readiness::{Interest, Readiness};

/// A descriptor that is readable while a signal waits to be taken. Reading it is left to
/// [`take`](Listener::take).
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.object.as_fd()
    }
}

impl IoQueue {
    /// Waits until a descriptor is ready: a pipe, a socket, an eventfd, whatever poll(2) knows (Q9).
    ///
    /// It need not be registered, and may be: what is waited for is a duplicate, which is closed
    /// with the future. So each call costs a few system calls; for sockets, operations are cheaper.
    /// Regular files are always ready, as for poll(2).
    ///
    /// # Examples
    /// ```
    /// use longshore::{Dispatcher, IoQueue, os::linux::Interest};
    /// use std::io::Write;
    /// let port = Dispatcher::new()?;
    /// let queue = IoQueue::new(&port);
    /// let (reader, mut writer) = std::io::pipe()?;
    /// let ready = queue.readiness(&reader, Interest::READ);
    /// writer.write_all(b"x")?;
    /// assert_eq!(port.block_on(ready)??, Interest::READ);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn readiness(&self, fd: impl AsFd, interest: Interest) -> Readiness {
        match self.watch(fd.as_fd(), interest) {
            // Always ready; epoll says so in its way.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                Readiness::ready(Ok(interest))
            }
            Err(error) => Readiness::ready(Err(error)),
            Ok(readiness) => readiness,
        }
    }

    fn watch(&self, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<Readiness> {
        let watched = self
            .register(Watched::new(fd)?)
            .map_err(|(error, _)| error)?;
        let overlapped = Overlapped::new();
        let handle = Handle::from(&watched);
        // SAFETY: there is no memory but the block's own.
        unsafe {
            self.start_with(handle, &overlapped, |port, header| {
                port.driver()
                    .watch(handle.raw() as i32, header, events(interest))
            })?;
        }
        let wait = self.wait(&watched, &overlapped);
        Ok(Readiness::waiting(wait, watched, found, interest))
    }
}

const EVENTS: [(Interest, i32); 3] = [
    (Interest::READ, libc::EPOLLIN | libc::EPOLLRDHUP),
    (Interest::WRITE, libc::EPOLLOUT),
    (Interest::PRIORITY, libc::EPOLLPRI),
];

fn events(interest: Interest) -> i32 {
    let asked = EVENTS.iter().filter(|(one, _)| interest.contains(*one));
    asked.fold(0, |all, (_, events)| all | events)
}

fn found(events: u32) -> Interest {
    // Broken is ready for everything.
    let broken = events & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0;
    let is_ready = |mine: i32| broken || events & mine as u32 != 0;
    let ready = EVENTS.iter().filter(|(_, mine)| is_ready(*mine));
    ready.fold(Interest::NONE, |all, (one, _)| all | *one)
}

impl Dispatcher {
    /// A descriptor that is readable while an entry or a due timer waits, for `poll(2)`, `epoll(7)` or another
    /// runtime (D1).
    ///
    /// It is not readable any more once [`try_dispatch`](Self::try_dispatch) has said `false`. It
    /// may be readable once too often, so call `try_dispatch` until it does. The descriptor is the
    /// port's own: wait for it, but do not read, write or close it.
    ///
    /// From the first call on, the port counts the descriptor as one more sleeping thread: a post
    /// that finds it not yet readable makes one system call.
    ///
    /// # Errors
    /// The first call makes two descriptors and fails where the process or the system has no more
    /// (`EMFILE`, `ENFILE`, `ENOMEM`); a later call may try again.
    ///
    /// # Examples
    /// A loop around `poll(2)`, which has events of its own beside the port's:
    /// ```
    /// use std::os::fd::AsRawFd;
    /// let port = longshore::Dispatcher::new()?;
    /// port.post_fn(|| println!("from the host's loop"))?;
    /// let fd = port.pollable()?.as_raw_fd();
    /// let mut asked = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }]; // and others
    /// // SAFETY: the array is ours for the call.
    /// assert_eq!(unsafe { libc::poll(asked.as_mut_ptr(), 1, -1) }, 1);
    /// while port.try_dispatch()? {}
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// A task inside a tokio runtime, whose descriptors tell of edges. That is enough, because the next
    /// post or timer after a `false` makes a new one:
    /// ```
    /// use longshore::Dispatcher;
    /// use tokio::io::{Interest, unix::AsyncFd};
    /// async fn drive(port: &Dispatcher) -> std::io::Result<()> {
    ///     // SAFETY: the port, which is borrowed, keeps its descriptor open.
    ///     let fd = unsafe { AsyncFd::register_with_interest(port.pollable()?, Interest::READABLE)? };
    ///     loop {
    ///         let mut ready = fd.readable().await?;
    ///         while port.try_dispatch()? {} // not for ever: to be fair to others, yield in between
    ///         ready.clear_ready();
    ///     }
    /// }
    /// let port = Dispatcher::new()?;
    /// let task = port.spawn(async { 6 * 7 });
    /// let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    /// let answer = async { task.await.ok() };
    /// let driving = async { drive(&port).await.err().and(None) }; // for ever
    /// let answer = runtime.block_on(futures_lite::future::or(answer, driving));
    /// assert_eq!(answer, Some(42));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn pollable(&self) -> io::Result<BorrowedFd<'_>> {
        self.inner.port.open_or_err()?;
        let descriptor = self.inner.port.driver().pollable()?;
        self.inner.set_alarm();
        Ok(descriptor)
    }
}
