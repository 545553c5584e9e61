//! The dispatcher: the object that gives packets meaning and calls exactly one function for each.
// UNSAFETY: lets foreign functions in.
#![expect(unsafe_code)]

mod builder;
mod close;
mod closure;
mod context;
mod drain;
mod entry;
mod host;
mod in_flight;
mod notices;
mod operations;
mod run;
mod stats;
mod strand;
pub(crate) mod task;
#[cfg(test)]
mod tests;
mod timers;
mod tokens;
mod work;

use std::{
    collections::HashSet,
    fmt, io,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, atomic::AtomicBool},
    time::{Duration, Instant},
};

#[cfg(doc)]
use crate::error::Error;
use crate::{
    packet::Packet,
    port::Port,
    sys::{Backend, backend::Wait},
    trace::event,
};
pub use builder::Builder;
use builder::Foreign;
pub use close::{CloseError, Undelivered};
pub use closure::PostError;
pub use context::{Context, OnCallback, OnEvent};
#[cfg_attr(
    target_os = "linux",
    expect(unused_imports, reason = "only Windows has them")
)]
pub(crate) use host::HostWatch;
use in_flight::InFlight;
pub(crate) use in_flight::{Door, Flight, Recipient, Ticket};
use notices::Notices;
#[cfg_attr(
    target_os = "linux",
    expect(unused_imports, reason = "only Windows has them")
)]
pub(crate) use notices::{Entered, Notice};
pub(crate) use operations::Started;
use run::RunState;
pub use stats::Stats;
use stats::{Count, Counters};
pub use strand::Strand;
use strand::Strands;
use task::Tasks;
pub(crate) use timers::TimerKey;
use timers::Timers;
pub(crate) use tokens::Guest;
use tokens::Guests;
pub use work::WorkGuard;
use work::{Presence, Visitor};

/// One completion port, and the threads' way into it (D1).
///
/// Cloning is cheap and names the same port. Any thread may call any function at any time; any
/// number of threads may dispatch. Nothing runs in the background: callbacks run on the threads
/// that dispatch, and on the one that closes.
///
/// Dropping the last clone closes the port like [`close`](Self::close) does, and prints one line
/// on standard error for each thing that failed. A closure that waits in the port and owns a clone
/// keeps the port alive; [`close`](Self::close) ends that.
///
/// # Examples
/// Two threads share one port:
/// ```
/// use longshore::Dispatcher;
/// let port = Dispatcher::new()?;
/// port.post_fn(|| println!("on whichever thread is free"))?;
/// let worker = std::thread::spawn({
///     let port = port.clone();
///     move || port.run()
/// });
/// port.run()?;
/// worker.join().unwrap()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Dispatcher {
    pub(crate) inner: Arc<Inner>,
    /// Counts the clones. Operations and tasks hold `inner` only, so that what is in flight does
    /// not keep the port open.
    open: Arc<Open>,
}

/// Dropped with the last clone, which closes the port.
#[derive(Debug)]
struct Open {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) port: Port,
    in_flight: InFlight,
    /// Callbacks that others may post to the exported handle.
    registered: RwLock<HashSet<usize>>,
    foreign: Foreign,
    running: RunState,
    presence: Presence,
    counters: Counters,
    pub(crate) notices: Notices,
    strands: Strands,
    pub(crate) timers: Timers,
    guests: Guests,
    pub(crate) tasks: Tasks,
    trust: bool,
    drain: Duration,
    /// The kernel still owns memory, so the port must outlive us.
    leak: AtomicBool,
    released: bool,
}

impl Dispatcher {
    /// A dispatcher with a port of its own and the default settings.
    ///
    /// # Errors
    /// As for [`Builder::build`].
    pub fn new() -> io::Result<Self> {
        Self::builder().build()
    }

    /// Settings other than the default.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The process-wide dispatcher, opened by the first call and never closed. Its clones must not
    /// be closed either: that would close it for everybody.
    ///
    /// # Errors
    /// As for [`Builder::build`]; the next call tries again.
    ///
    /// # Examples
    /// ```
    /// use longshore::Dispatcher;
    /// let port = Dispatcher::global()?;
    /// port.wake_one()?;
    /// port.dispatch()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "dispatcher")]
    pub fn global() -> io::Result<&'static Self> {
        static GLOBAL: OnceLock<Dispatcher> = OnceLock::new();
        static OPENING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        match GLOBAL.get() {
            Some(global) => Ok(global),
            None => {
                let opened = Self::new()?;
                Ok(GLOBAL.get_or_init(|| opened))
            }
        }
    }

    /// The mechanism this port rests on.
    pub fn backend(&self) -> Backend {
        self.inner.port.backend()
    }

    /// Queues one callback with one word (D5). One thread's next dispatch calls it.
    ///
    /// Nothing is allocated for it (the queue's blocks are amortised). Posts from one thread are
    /// dispatched in order; with several dispatching threads their callbacks may overlap.
    ///
    /// # Errors
    /// [`Error::Closed`], or the kernel's reason for refusing the packet (Windows: out of non-paged
    /// pool; Linux keeps the queue in the process and refuses none). The callback will not be called
    /// then.
    ///
    /// # Examples
    /// ```
    /// extern "C-unwind" fn hello(word: usize) {
    ///     assert_eq!(word, 7);
    /// }
    /// let port = longshore::Dispatcher::new()?;
    /// port.post(7, hello)?;
    /// port.dispatch()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn post(&self, context: usize, callback: OnCallback) -> io::Result<()> {
        self.inner.post(callback as usize, context)
    }

    /// Queues one closure, at the price of one allocation (D5).
    ///
    /// It runs on whichever thread dispatches it. If the port is closed first it is dropped, never
    /// run.
    ///
    /// # Errors
    /// As for [`post`](Self::post); the closure comes back.
    pub fn post_fn<F>(&self, closure: F) -> Result<(), PostError<F>>
    where
        F: FnOnce() + Send + 'static,
    {
        let word = closure::pack(closure);
        self.inner
            .post(closure::RUN as usize, word)
            .map_err(|error| PostError {
                error,
                // SAFETY: `post` failed, so the word that was packed above is ours alone again.
                closure: unsafe { closure::unpack(word) },
            })
    }

    /// Posts a callback that does nothing, so that one blocked [`dispatch`](Self::dispatch)
    /// returns (D8). Wakes are never merged: n of them release n dispatches, and one that comes
    /// before the wait is not lost.
    ///
    /// # Errors
    /// As for [`post`](Self::post).
    pub fn wake_one(&self) -> io::Result<()> {
        self.inner.post(entry::WAKE as usize, 0)
    }

    /// Lets a function that is not a safe Rust one be posted, by longshore and by anyone who holds
    /// the port's handle: C code posts (key = its address, overlapped = its argument).
    ///
    /// # Safety
    /// `callback` stays callable for as long as the port is open or until
    /// [`unregister_callback`](Self::unregister_callback) and the last packet with its key.
    /// Whoever posts it vouches for the word it receives.
    pub unsafe fn register_callback(
        &self,
        callback: unsafe extern "C-unwind" fn(context: usize),
    ) -> OnCallback {
        // SAFETY: the two types differ in who vouches for the call, which the caller now does.
        let callback = unsafe {
            std::mem::transmute::<unsafe extern "C-unwind" fn(usize), OnCallback>(callback)
        };
        let mut registered = self.inner.registered.write();
        registered
            .as_mut()
            .unwrap_or_else(|poisoned| poisoned.get_mut())
            .insert(callback as usize);
        callback
    }

    /// From now on, packets that others post with this callback are foreign. `false` if it was
    /// not registered.
    pub fn unregister_callback(&self, callback: OnCallback) -> bool {
        let mut registered = self.inner.registered.write();
        registered
            .as_mut()
            .unwrap_or_else(|poisoned| poisoned.get_mut())
            .remove(&(callback as usize))
    }

    /// Waits until an entry is there and dispatches exactly one (D6).
    ///
    /// Posts, completions, wakes and foreign packets are entries; housekeeping is not. A callback
    /// may call this function again.
    ///
    /// # Errors
    /// [`Error::Closed`] once the port is closed, also while waiting; or the operating system's
    /// reason for failing the wait. No entry is lost.
    ///
    /// # Panics
    /// A panic in the callback is passed on. Its entry is gone, no other is, and the port goes on.
    #[inline]
    pub fn dispatch(&self) -> io::Result<()> {
        self.inner.dispatch(Wait::Forever).map(|_| ())
    }

    /// Dispatches exactly one entry if one is there, and tells whether it did (D7).
    ///
    /// # Errors
    /// As for [`dispatch`](Self::dispatch).
    #[inline]
    pub fn try_dispatch(&self) -> io::Result<bool> {
        self.inner.dispatch(Wait::Poll)
    }

    /// [`dispatch`](Self::dispatch), for at most `timeout`; `false` when the time was up.
    ///
    /// It never returns `false` early: the time is rounded up to what the system can measure
    /// (1 ms on Windows, 1 ns on Linux). `Duration::MAX` is for ever.
    ///
    /// # Errors
    /// As for [`dispatch`](Self::dispatch). Running out of time is not an error.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// let port = longshore::Dispatcher::new()?;
    /// assert!(!port.dispatch_timeout(Duration::from_millis(1))?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn dispatch_timeout(&self, timeout: Duration) -> io::Result<bool> {
        self.inner.dispatch(match timeout.is_zero() {
            true => Wait::Poll,
            false => Wait::at_most(timeout),
        })
    }

    /// [`dispatch`](Self::dispatch), until `deadline` at most; `false` when the time was up.
    ///
    /// # Errors
    /// As for [`dispatch`](Self::dispatch).
    pub fn dispatch_deadline(&self, deadline: Instant) -> io::Result<bool> {
        self.inner.dispatch(Wait::Until(deadline))
    }

    /// How many Contexts are in flight at this moment.
    pub fn in_flight(&self) -> usize {
        self.inner.in_flight.events()
    }

    /// How many packets came through the port that longshore did not queue.
    pub fn foreign_packets(&self) -> u64 {
        self.inner.foreign.count()
    }
}

impl Inner {
    /// Queues one post, recorded first where strangers can post too.
    #[inline]
    fn post(&self, key: usize, payload: usize) -> io::Result<()> {
        let packet = Packet {
            key,
            overlapped: payload,
            bytes: 0,
        };
        self.counters.add(Count::Posted);
        event!(
            TRACE,
            "post",
            port = self.port.id(),
            key = key,
            word = payload
        );
        if !Port::STRANGERS {
            return self.port.post(packet);
        }
        let ticket = self.in_flight.expect_post(key, payload);
        self.port.post(packet).or_else(|refused| {
            if !self.in_flight.take_back_post(key, payload, ticket) {
                return Ok(());
            }
            // A run may have taken it for work. (A token that is refused is not worth another.)
            if key != tokens::STOP as usize {
                self.work_ended();
            }
            Err(refused)
        })
    }

    #[inline]
    pub(crate) fn dispatch(&self, wait: Wait) -> io::Result<bool> {
        let visitor = Visitor::new(self);
        loop {
            match self.take(wait, &visitor)? {
                Some(packet) if self.deliver(packet)? => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            }
        }
    }

    fn is_registered(&self, key: usize) -> bool {
        self.registered
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&key)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher")
            .field("backend", &self.backend())
            .field("in_flight", &self.in_flight())
            .field("foreign_packets", &self.foreign_packets())
            .finish_non_exhaustive()
    }
}

// Send and Sync are part of the contract (D1).
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Dispatcher>();
};
