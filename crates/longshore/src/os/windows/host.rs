//! A host's own loop: somebody else takes the packets, and longshore gets its own.

use std::{fmt, io, time::Instant};

#[cfg(doc)]
use crate::error::Error;
use crate::{
    Dispatcher, Packet,
    dispatcher::HostWatch,
    sys::iocp::{Sleeper, timeout_ms},
};

impl Dispatcher {
    /// Dispatches a packet that the caller took from the port by itself, with
    /// `GetQueuedCompletionStatus` or `GetQueuedCompletionStatusEx`. `false` if it is not longshore's:
    /// then nothing was done with it, and it is not counted as foreign.
    ///
    /// The three words are those of the system call (D2), whether the call said that the operation has
    /// failed or not: how it ended is in its own header. A packet that ends a wait of longshore's own
    /// or tells of a timer is longshore's too. Any thread may call this, beside others that are blocked
    /// in [`dispatch`](Self::dispatch) on the same port; after closing as well, so that what was
    /// taken before finds its way.
    ///
    /// What was taken several at a time is in the caller's hands: a callback that blocks holds the others
    /// back, and after a panic it is up to the caller to go on with them.
    ///
    /// A dispatcher that [trusts its packets](crate::Builder::trust_packets) takes every packet for its own: a
    /// host that has packets of another kind must not make one.
    ///
    /// A host that also waits with [`begin_wait`](Self::begin_wait) serves the timers in time.
    ///
    /// # Panics
    /// A panic in the callback is passed on. Its packet is gone, and the port goes on.
    ///
    /// # Examples
    /// A loop that has packets of its own, and longshore's beside them:
    /// ```
    /// use longshore::{Dispatcher, Packet};
    /// use std::os::windows::io::AsRawHandle;
    /// use windows_sys::Win32::System::IO::{GetQueuedCompletionStatusEx, OVERLAPPED_ENTRY};
    /// let port = Dispatcher::new()?; // or one that has adopted the loop's own port
    /// port.post_fn(|| println!("longshore's"))?;
    ///
    /// let (mut entries, mut count) = ([OVERLAPPED_ENTRY::default(); 16], 0);
    /// let wait = port.begin_wait()?;
    /// // SAFETY: entries and count are ours for the call.
    /// let taken = unsafe {
    ///     let (handle, entries) = (port.as_raw_handle(), entries.as_mut_ptr());
    ///     GetQueuedCompletionStatusEx(handle, entries, 16, &raw mut count, wait.timeout_ms(), 0)
    /// };
    /// drop(wait);
    /// for entry in entries.iter().take(if taken == 0 { 0 } else { count as usize }) {
    ///     let packet = Packet {
    ///         key: entry.lpCompletionKey,
    ///         overlapped: entry.lpOverlapped.addr(),
    ///         bytes: entry.dwNumberOfBytesTransferred,
    ///     };
    ///     if !port.dispatch_packet(packet) {
    ///         println!("the loop's own: {packet:?}");
    ///     }
    /// }
    /// # assert_eq!((taken, count), (1, 1));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn dispatch_packet(&self, packet: Packet) -> bool {
        match self.inner.port.driver().recognise(packet) {
            Some(packet) => self.inner.deliver_taken(packet),
            None => true,
        }
    }

    /// Says that the calling thread is about to wait for the port with a system call of its own. Wakes
    /// whoever's timer is due, and tells how long the wait may last.
    ///
    /// Until the [`HostWait`] is dropped the thread counts as one of those that wait in the port: a
    /// timer that is set meanwhile ends its wait by a packet (longshore's, for
    /// [`dispatch_packet`](Self::dispatch_packet)), and so does closing, which waits for it. So drop it
    /// when the system call returns, before its packets are dispatched.
    ///
    /// # Errors
    /// [`Error::Closed`].
    ///
    /// # Panics
    /// A panic in a timer's waker is passed on; the other timers are served.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// let port = longshore::Dispatcher::new()?;
    /// assert_eq!(port.begin_wait()?.timeout_ms(), u32::MAX, "INFINITE: no timer is set");
    /// let task = port.spawn(port.sleep(Duration::from_secs(5)));
    /// port.dispatch()?; // the task sets its timer
    /// assert!((1..=5000).contains(&port.begin_wait()?.timeout_ms()));
    /// # drop(task);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn begin_wait(&self) -> io::Result<HostWait<'_>> {
        let watch = self.inner.watch_for_host();
        // Afterwards, so that no waker is called by a thread that counts as asleep.
        let sleeper = self.inner.port.driver().fall_asleep()?;
        Ok(HostWait {
            _sleeper: sleeper,
            watch,
        })
    }
}

/// A wait for the port that the caller makes with a system call of its own. See
/// [`Dispatcher::begin_wait`], and [`Dispatcher::dispatch_packet`] for a whole loop.
///
/// # Examples
/// ```
/// use std::time::{Duration, Instant};
/// let port = longshore::Dispatcher::new()?;
/// let task = port.spawn(port.sleep(Duration::from_secs(5)));
/// port.dispatch()?; // the task sets its timer
/// let wait = port.begin_wait()?;
/// assert!(wait.deadline() > Some(Instant::now()));
/// // ... the system call, for `wait.timeout_ms()` at most ...
/// drop(wait);
/// # drop(task);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "drop it when the wait is over"]
pub struct HostWait<'a> {
    /// Dropped first: a thread that does not wait in the port any more need not be released.
    _sleeper: Sleeper<'a>,
    watch: HostWatch<'a>,
}

impl HostWait<'_> {
    /// When the earliest timer is due: the wait has to end then. `None`: no timer is set.
    pub fn deadline(&self) -> Option<Instant> {
        self.watch.deadline()
    }

    /// How long the wait may last from now on, in milliseconds, as the system calls take it: rounded up;
    /// 0 when a timer is due, `INFINITE` (`u32::MAX`) without a timer.
    pub fn timeout_ms(&self) -> u32 {
        self.deadline().map_or(u32::MAX, |deadline| {
            timeout_ms(deadline.saturating_duration_since(Instant::now()))
        })
    }
}

impl fmt::Debug for HostWait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostWait")
            .field("deadline", &self.deadline())
            .finish_non_exhaustive()
    }
}
