//! How a dispatcher is made.
// UNSAFETY: offers the switch that believes every packet.
#![expect(unsafe_code)]

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    Dispatcher, Inner, Strands, in_flight::InFlight, notices::Notices, run::RunState,
    stats::Counters, task::Tasks, timers::Timers, tokens::Guests, work::Presence,
};
#[cfg(doc)]
use crate::error::Error;
use crate::{
    packet::Packet,
    port::Port,
    sys::{Backend, Origin},
    trace::{self, event},
};

/// How long closing waits for cancelled operations, unless told otherwise.
const DRAIN: Duration = Duration::from_secs(5);

type Hook = Box<dyn Fn(Packet) + Send + Sync>;

/// Settings for a new [`Dispatcher`].
///
/// # Examples
/// ```
/// use longshore::Dispatcher;
/// let port = Dispatcher::builder()
///     .concurrency(2)
///     .on_foreign(|packet| eprintln!("not ours: {packet:?}"))
///     .build()?;
/// # port.close()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder {
    backend: Backend,
    concurrency: u32,
    on_foreign: Option<Hook>,
    trust: bool,
    drain: Duration,
    pub(crate) origin: Origin,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            concurrency: u32::MAX,
            on_foreign: None,
            trust: false,
            drain: DRAIN,
            origin: Origin::default(),
        }
    }
}

impl Builder {
    /// The mechanism to use. Default: the preferred one of this system.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// How many threads are meant to run at once. Default: no limit.
    ///
    /// Windows holds further threads back while that many are running (not blocked) in a callback,
    /// and that touches other promises: an entry may wait although a thread is free to take it, so
    /// `try_dispatch` may say `false` and `close` may run into its
    /// [`drain_timeout`](Self::drain_timeout). Linux has no such limit and ignores the hint. See
    /// `CreateIoCompletionPort`, `NumberOfConcurrentThreads`.
    pub fn concurrency(mut self, threads: u32) -> Self {
        self.concurrency = threads;
        self
    }

    /// Called, on the thread that dispatches (or closes), with each packet that longshore did not queue. Such a
    /// packet counts as an entry. Only Windows has such packets. A panic in the hook reaches whoever called `dispatch`.
    pub fn on_foreign(mut self, hook: impl Fn(Packet) + Send + Sync + 'static) -> Self {
        self.on_foreign = Some(Box::new(hook));
        self
    }

    /// How long [`close`](Dispatcher::close) and drop wait for operations they cancelled. What
    /// has not come back by then is given up: on Windows the port stays open for ever, and the
    /// memory lent to it must stay, too. Default: 5 seconds;
    /// `Duration::MAX` is without limit.
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// Believes every packet: a non-zero key is called, a zero key's word is followed, whoever
    /// posted it. This is how the plain completion-port dispatchers work that D2 describes. (A
    /// null overlapped word with key 0 is foreign even so.)
    ///
    /// # Safety
    /// Nobody posts a packet to the exported handle, or does overlapped I/O on an attached handle,
    /// whose key is neither 0 nor the address of an [`OnCallback`](super::OnCallback), or whose
    /// overlapped word with key 0 is not the address of a live [`Context`](super::Context) that has
    /// no operation pending.
    pub unsafe fn trust_packets(mut self) -> Self {
        self.trust = true;
        self
    }

    /// Opens the port.
    ///
    /// # Errors
    /// [`Error::NoSuchBackend`]; for a port that was there before, [`Error::NotAPort`] and
    /// [`Error::BadHandle`]; or the operating system's reason:
    /// out of handles or memory (`EMFILE`, `ENOMEM`), on Windows also `WSAStartup`'s.
    pub fn build(self) -> io::Result<Dispatcher> {
        let inner = Inner {
            port: Port::open(self.backend, self.concurrency, self.origin)?,
            in_flight: InFlight::new(),
            registered: Default::default(),
            foreign: Foreign {
                count: AtomicU64::new(0),
                hook: self.on_foreign,
            },
            running: RunState::default(),
            presence: Presence::new(),
            counters: Counters::new(),
            notices: Notices::default(),
            strands: Strands::default(),
            timers: Timers::new(),
            guests: Guests::default(),
            tasks: Tasks::default(),
            trust: self.trust,
            drain: self.drain,
            leak: false.into(),
            released: false,
        };
        let inner = Arc::new(inner);
        event!(
            DEBUG,
            "a port was opened",
            port = inner.port.id(),
            backend = trace::debug(self.backend),
            concurrency = self.concurrency,
        );
        Ok(Dispatcher::new_open(inner))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("backend", &self.backend)
            .field("concurrency", &self.concurrency)
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

/// What came through the port without being ours.
pub(crate) struct Foreign {
    count: AtomicU64,
    hook: Option<Hook>,
}

impl Foreign {
    pub(crate) fn report(&self, packet: Packet) {
        self.count.fetch_add(1, Ordering::Relaxed);
        event!(
            WARN,
            "a foreign packet",
            key = packet.key,
            overlapped = packet.overlapped,
            bytes = packet.bytes,
        );
        if let Some(hook) = &self.hook {
            hook(packet);
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}
