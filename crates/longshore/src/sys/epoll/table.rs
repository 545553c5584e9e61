//! The attached descriptors of one port, and which port each socket belongs to.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    os::fd::{OwnedFd, RawFd},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

use super::{calls, source::Source};
use crate::{
    error::Error,
    handle::{Handle, Kind},
    sys::backend::Terms,
};

/// What tells one open socket from every other, whatever its number: device and inode.
type Identity = (u64, u64);

/// Which port each attached socket belongs to. Windows binds a socket, with all its duplicates, to
/// one port for its life; here nothing would stop a second one, so this table does.
static OWNERS: Mutex<Option<HashMap<Identity, u64>>> = Mutex::new(None);

fn with_owners<T>(act: impl FnOnce(&mut HashMap<Identity, u64>) -> T) -> T {
    let mut owners = OWNERS.lock().unwrap_or_else(PoisonError::into_inner);
    act(owners.get_or_insert_default())
}

#[derive(Debug)]
pub(super) struct Table {
    /// Tells this port from others in the process.
    port: u64,
    /// Indexed by descriptor: the kernel hands out the lowest free number, so it stays dense.
    sources: RwLock<Vec<Option<Arc<Source>>>>,
    /// Those in the epoll set.
    polled: AtomicUsize,
    generation: AtomicU32,
}

impl Table {
    pub(super) fn new() -> Self {
        static PORTS: AtomicU64 = AtomicU64::new(0);
        Self {
            port: PORTS.fetch_add(1, Ordering::Relaxed),
            sources: RwLock::default(),
            polled: AtomicUsize::new(0),
            generation: AtomicU32::new(0),
        }
    }

    #[inline]
    pub(super) fn has_no_sockets(&self) -> bool {
        self.polled.load(Ordering::Relaxed) == 0
    }

    pub(super) fn by_fd(&self, fd: RawFd) -> Option<Arc<Source>> {
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        sources.get(usize::try_from(fd).ok()?)?.clone()
    }

    /// The source an event is for; `None` if the event is stale.
    pub(super) fn by_token(&self, token: u64) -> Option<Arc<Source>> {
        let source = self.by_fd(token as u32 as RawFd)?;
        (source.token() == token).then_some(source)
    }

    /// Adds a descriptor. Returns the source that had its number before, if that one is stale.
    pub(super) fn attach(
        &self,
        handle: Handle<'_>,
        terms: Terms,
        epoll: &OwnedFd,
    ) -> io::Result<Option<Arc<Source>>> {
        let (fd, kind) = (handle.raw() as RawFd, handle.kind());
        let identity = identify(fd, kind)?;
        // The lock is held throughout, so that two threads cannot attach one descriptor.
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        let index = fd as usize;
        let before = sources.get(index).cloned().flatten();
        match &before {
            Some(source) if source.identity == identity => {
                return Err(source.terms.attached_already(terms).into());
            }
            _ => {}
        }
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let source = Source::new(fd, generation, kind, identity, terms)?;
        let edges = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        match kind {
            Kind::File => {}
            Kind::Socket => {
                self.claim(identity)?;
                calls::epoll_add(epoll, fd, edges as u32, source.token())
                    .inspect_err(|_| self.disclaim(identity))?;
            }
            Kind::Pipe => {
                let was_blocking = calls::set_blocking(fd, false)?;
                calls::epoll_add(epoll, fd, edges as u32, source.token()).inspect_err(|_| {
                    let _ = calls::set_blocking(fd, was_blocking);
                })?;
            }
            Kind::Waitable => {
                let edges = edges | libc::EPOLLPRI;
                calls::epoll_add(epoll, fd, edges as u32, source.token())?;
            }
        }
        if sources.len() <= index {
            sources.resize(index + 1, None);
        }
        sources[index] = Some(Arc::new(source));
        if kind != Kind::File {
            self.polled.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(stale) = &before {
            self.uncount(stale);
        }
        Ok(before)
    }

    pub(super) fn remove(&self, fd: RawFd) -> io::Result<Arc<Source>> {
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        let slot = usize::try_from(fd).ok().and_then(|fd| sources.get_mut(fd));
        let source = slot.and_then(Option::take).ok_or(Error::NotAttached)?;
        self.uncount(&source);
        Ok(source)
    }

    /// Whether a descriptor is not, or no longer, the attached one; takes out what is stale.
    pub(super) fn remove_if_stale(&self, fd: RawFd, terms: Terms) -> (bool, Option<Arc<Source>>) {
        // On other terms it is another's, who has got the number since.
        let Some(source) = self.by_fd(fd).filter(|source| source.terms == terms) else {
            return (true, None);
        };
        if calls::identity(fd).is_ok_and(|(_, now)| now == source.identity) {
            return (false, None);
        }
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        let slot = sources.get_mut(fd as usize);
        // Unless another thread was quicker, and has perhaps attached the number's new owner.
        match slot.and_then(|slot| slot.take_if(|now| Arc::ptr_eq(now, &source))) {
            Some(stale) => {
                self.uncount(&stale);
                (true, Some(stale))
            }
            None => (true, None),
        }
    }

    fn uncount(&self, source: &Source) {
        if source.kind != Kind::File {
            self.polled.fetch_sub(1, Ordering::Relaxed);
        }
        if source.kind == Kind::Socket {
            self.disclaim(source.identity);
        }
    }

    fn claim(&self, identity: Identity) -> io::Result<()> {
        with_owners(|owners| match owners.entry(identity) {
            Entry::Vacant(entry) => {
                entry.insert(self.port);
                Ok(())
            }
            // By another of its numbers.
            Entry::Occupied(entry) if *entry.get() == self.port => {
                Err(Error::AlreadyAttached.into())
            }
            Entry::Occupied(_) => Err(Error::OtherPort.into()),
        })
    }

    fn disclaim(&self, identity: Identity) {
        with_owners(|owners| {
            if owners.get(&identity) == Some(&self.port) {
                owners.remove(&identity);
            }
        });
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        with_owners(|owners| owners.retain(|_, port| *port != self.port));
    }
}

/// Checks that a descriptor is what its handle says, and finds out what tells it from others.
fn identify(fd: RawFd, kind: Kind) -> io::Result<Identity> {
    let (mode, identity) = match calls::identity(fd) {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Err(Error::BadHandle.into()),
        other => other,
    }?;
    let fits = match kind {
        Kind::Socket => mode == libc::S_IFSOCK,
        Kind::Pipe => mode == libc::S_IFIFO,
        Kind::File => matches!(mode, libc::S_IFREG | libc::S_IFBLK | libc::S_IFCHR),
        Kind::Waitable => true,
    };
    match fits {
        true => Ok(identity),
        false => Err(Error::WrongKind.into()),
    }
}
