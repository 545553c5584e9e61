//! A handle's registration with a queue: what is in flight on it, and how it ends.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt, io,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use super::{attached::TERMS, block::Block};
use crate::{
    dispatcher::{Guest, Inner},
    error::Error,
    handle::{Handle, Kind},
};

/// Why operations ended that did not end by themselves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cause {
    /// Their handle was unregistered.
    Unregistered,
    /// Their handle was found closed.
    PrematureClose,
    /// The dispatcher was closed.
    Closed,
}

/// What outlives the queue: operations in flight refer to it.
pub(super) struct Core {
    pub(super) inner: Arc<Inner>,
    /// Operations in flight that somebody waits for.
    waiting: AtomicUsize,
    /// Threads inside `run` and `poll`, to be told when nothing waits any more.
    runners: Mutex<Vec<Arc<Guest>>>,
}

impl Core {
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    pub(super) fn runners(&self) -> MutexGuard<'_, Vec<Arc<Guest>>> {
        lock(&self.runners)
    }
}

/// The handles of one queue.
pub(super) struct Shared {
    pub(super) core: Arc<Core>,
    handles: RwLock<HashMap<usize, Arc<Registration>>>,
    pub(super) one_waiter_per_handle: AtomicBool,
}

/// One handle, from `register` to `unregister`. A later registration of the same value is another.
pub(super) struct Registration {
    pub(super) core: Arc<Core>,
    pub(super) raw: usize,
    kind: Kind,
    /// The caller's own to close, so it may be closed under us.
    is_bare: bool,
    state: Mutex<Flights>,
    /// Operations on it that somebody waits for.
    waits: AtomicUsize,
}

/// What is in flight on one handle.
struct Flights {
    live: bool,
    blocks: HashMap<usize, Arc<Block>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self {
            core: Arc::new(Core {
                inner,
                waiting: AtomicUsize::new(0),
                runners: Mutex::default(),
            }),
            handles: RwLock::default(),
            one_waiter_per_handle: AtomicBool::new(false),
        }
    }

    pub(super) fn register(
        &self,
        handle: Handle<'_>,
        is_bare: bool,
    ) -> io::Result<Arc<Registration>> {
        if let Some(before) = self.by_raw(handle.raw()) {
            // A bare value that was closed and has a new owner now.
            self.is_gone(&before);
        }
        self.core.inner.port.attach(handle, TERMS())?;
        let registration = Arc::new(Registration {
            core: self.core.clone(),
            raw: handle.raw(),
            kind: handle.kind(),
            is_bare,
            state: Mutex::new(Flights {
                live: true,
                blocks: HashMap::new(),
            }),
            waits: AtomicUsize::new(0),
        });
        let replaced = self.write().insert(handle.raw(), registration.clone());
        // Attached again although it was here: another thread was quicker with the same value.
        if let Some(stale) = replaced {
            stale.retire(Cause::PrematureClose, false);
        }
        Ok(registration)
    }

    fn by_raw(&self, raw: usize) -> Option<Arc<Registration>> {
        let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
        handles.get(&raw).cloned()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<usize, Arc<Registration>>> {
        self.handles.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registration of a handle, which is looked at if it may have been closed (Q3, Q7).
    pub(super) fn touch(&self, handle: Handle<'_>) -> Result<Arc<Registration>, Error> {
        let found = self.by_raw(handle.raw()).ok_or(Error::UnregisteredHandle)?;
        match self.is_gone(&found) {
            true => Err(Error::PrematureClose),
            false => Ok(found),
        }
    }

    /// Whether a bare handle was closed; ends what is in flight on it then.
    fn is_gone(&self, registration: &Arc<Registration>) -> bool {
        let gone = registration.is_closed();
        if gone {
            self.forget(registration);
            registration.retire(Cause::PrematureClose, false);
        }
        gone
    }

    fn forget(&self, registration: &Arc<Registration>) {
        let mut handles = self.write();
        if let Entry::Occupied(entry) = handles.entry(registration.raw)
            && Arc::ptr_eq(entry.get(), registration)
        {
            entry.remove();
        }
    }

    pub(super) fn unregister(&self, registration: &Arc<Registration>) {
        self.forget(registration);
        registration.retire(Cause::Unregistered, true);
    }
}

impl Drop for Shared {
    /// Only bare handles can be left. Their owner may go on using them.
    fn drop(&mut self) {
        let handles = self.handles.get_mut();
        let handles = std::mem::take(handles.unwrap_or_else(PoisonError::into_inner));
        for registration in handles.into_values() {
            match registration.is_closed() {
                true => registration.retire(Cause::PrematureClose, false),
                false => registration.retire(Cause::Unregistered, true),
            }
        }
    }
}

impl Registration {
    /// Whether the handle is the caller's own to close.
    pub(super) fn is_bare(&self) -> bool {
        self.is_bare
    }

    pub(super) fn is_live(&self) -> bool {
        lock(&self.state).live
    }

    /// Whether its value is not its own any more.
    pub(super) fn is_closed(&self) -> bool {
        let port = &self.core.inner.port;
        self.is_bare && (!self.is_live() || port.forget_if_stale(self.raw, TERMS()))
    }

    /// An operation is about to start.
    pub(super) fn enter(&self, block: &Arc<Block>) -> Result<(), Error> {
        let mut state = lock(&self.state);
        match state.live {
            true => {
                state.blocks.insert(block.address(), block.clone());
                Ok(())
            }
            false => Err(Error::UnregisteredHandle),
        }
    }

    /// An operation has ended.
    pub(super) fn leave(&self, block: &Arc<Block>) {
        let left = lock(&self.state).blocks.remove(&block.address());
        // Not the last reference, which is the caller's.
        drop(left);
    }

    /// Ends everything in flight, each operation by itself (Q6).
    fn retire(&self, cause: Cause, detach: bool) {
        let blocks: Vec<_> = {
            let mut state = lock(&self.state);
            state.live = false;
            state.blocks.values().cloned().collect()
        };
        for block in &blocks {
            block.blame(self, cause);
        }
        if detach {
            // It fails only if the port has forgotten it already.
            let _ = self
                .core
                .inner
                .port
                .detach(Handle::new(self.raw, self.kind));
        }
        for block in &blocks {
            // A refusal means that there is nothing left to cancel; the packet tells.
            let _ = self.core.inner.cancel_on(self.raw, block.header());
        }
    }

    /// Somebody is about to wait. `false`: somebody else does, and only one may.
    pub(super) fn begin_wait(&self, only_one: bool) -> bool {
        if self.waits.fetch_add(1, SeqCst) > 0 && only_one {
            self.waits.fetch_sub(1, SeqCst);
            return false;
        }
        self.core.waiting.fetch_add(1, SeqCst);
        true
    }

    /// A wait is over. Whoever runs until nothing waits is told if it was the last.
    pub(super) fn end_wait(&self) {
        self.waits.fetch_sub(1, SeqCst);
        if self.core.waiting.fetch_sub(1, SeqCst) == 1 {
            let runners = self.core.runners().clone();
            runners.iter().for_each(Guest::wake);
        }
    }
}

/// A handle that is registered with a queue, and owned by this (Q1).
///
/// Dropping it unregisters it and closes the handle: what is in flight on it is asked to end, and
/// its waits resolve with [`Aborted`](super::Aborted).
/// [`IoQueue::unregister`](super::IoQueue::unregister) does the same and gives the handle back.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, IoQueue};
/// let port = Dispatcher::new()?;
/// let queue = IoQueue::new(&port);
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let listener = queue.register(listener).map_err(|(error, _)| error)?;
/// println!("at {}", listener.local_addr()?); // through Deref
/// let listener: std::net::TcpListener = queue.unregister(listener);
/// # let _ = listener;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Registered<T> {
    guard: Guard,
    object: T,
}

/// Dropped before the object.
struct Guard {
    shared: Arc<Shared>,
    registration: Arc<Registration>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.unregister(&self.registration);
    }
}

impl<T> Registered<T> {
    pub(super) fn new(shared: &Arc<Shared>, object: T) -> Result<Self, (io::Error, T)>
    where
        for<'a> &'a T: Into<Handle<'a>>,
    {
        match shared.register((&object).into(), false) {
            Ok(registration) => Ok(Self {
                guard: Guard {
                    shared: shared.clone(),
                    registration,
                },
                object,
            }),
            Err(error) => Err((error, object)),
        }
    }

    /// The object.
    pub fn get_ref(&self) -> &T {
        &self.object
    }

    /// See [`IoQueue::unregister`](super::IoQueue::unregister).
    pub(super) fn into_inner(self) -> T {
        let Self { guard, object } = self;
        drop(guard);
        object
    }
}

impl<T> Deref for Registered<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

impl<'a, T> From<&'a Registered<T>> for Handle<'a> {
    fn from(registered: &'a Registered<T>) -> Self {
        let registration = &registered.guard.registration;
        Self::new(registration.raw, registration.kind)
    }
}

impl<T: fmt::Debug> fmt::Debug for Registered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registered").field(&self.object).finish()
    }
}
