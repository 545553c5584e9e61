//! What a wait for readiness is about, and its future (Q9).

use std::{
    fmt, io,
    ops::{BitOr, BitOrAssign},
    pin::Pin,
    task::{Context, Poll},
};

use crate::{Registered, Wait};

/// What a descriptor is waited to be ready for, and what it was found ready for.
///
/// # Examples
/// ```
/// use longshore::os::linux::Interest;
/// let both = Interest::READ | Interest::WRITE;
/// assert!(both.contains(Interest::READ));
/// assert!(!both.contains(Interest::PRIORITY));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interest(u8);

const NAMES: [(&str, Interest); 3] = [
    ("READ", Interest::READ),
    ("WRITE", Interest::WRITE),
    ("PRIORITY", Interest::PRIORITY),
];

impl Interest {
    /// A read would not block: there is something, or the end.
    pub const READ: Self = Self(1);
    /// A write would not block.
    pub const WRITE: Self = Self(2);
    /// Something exceptional: urgent data of a TCP socket, a change of a kernel file.
    pub const PRIORITY: Self = Self(4);

    /// Whether all of `other` is in this.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) const NONE: Self = Self(0);
}

impl BitOr for Interest {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Interest {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mine = NAMES.iter().filter(|(_, one)| self.contains(*one));
        f.debug_set().entries(mine.map(|(name, _)| name)).finish()
    }
}

/// Waits until a descriptor is ready: resolves to what it is ready for, of what was asked.
///
/// A descriptor that is broken (an error, a peer that hung up) is ready for everything that was
/// asked: the next call on it tells. Any executor can poll it, on any thread; somebody has to
/// dispatch. Dropping it stops waiting. The descriptor may be closed, and used otherwise,
/// meanwhile.
///
/// # Errors
/// Resolved at the first poll: the reasons why waiting could not begin (`EMFILE`, `ENOMEM`,
/// `Error::Closed`). Later: `Error::Closed`.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, IoQueue, os::linux::{Interest, Readiness}};
/// let port = Dispatcher::new()?;
/// let queue = IoQueue::new(&port);
/// let (_reader, writer) = std::io::pipe()?;
/// let ready: Readiness = queue.readiness(&writer, Interest::WRITE);
/// assert_eq!(port.block_on(ready)??, Interest::WRITE);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "futures do nothing unless they are awaited"]
pub struct Readiness {
    state: State,
}

enum State {
    Waiting(Waiting),
    Ready(io::Result<Interest>),
    Done,
}

struct Waiting {
    wait: Wait,
    /// Dropped after the wait: its registration ends the operation.
    _watched: Box<dyn Send + Sync>,
    decode: fn(u32) -> Interest,
    asked: Interest,
}

impl Readiness {
    /// What the operation's count of bytes means is the system's to say.
    pub(super) fn waiting<T: Send + Sync + 'static>(
        wait: Wait,
        watched: Registered<T>,
        decode: fn(u32) -> Interest,
        asked: Interest,
    ) -> Self {
        Self {
            state: State::Waiting(Waiting {
                wait,
                _watched: Box::new(watched),
                decode,
                asked,
            }),
        }
    }

    pub(super) fn ready(result: io::Result<Interest>) -> Self {
        Self {
            state: State::Ready(result),
        }
    }
}

impl Future for Readiness {
    type Output = io::Result<Interest>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Waiting(Waiting {
            wait,
            decode,
            asked,
            ..
        }) = &mut self.state
        {
            return Pin::new(wait).poll(context).map(|result| {
                let found = decode(result? as u32);
                Ok(Interest(found.0 & asked.0))
            });
        }
        match std::mem::replace(&mut self.state, State::Done) {
            State::Ready(result) => Poll::Ready(result),
            _ => Poll::Ready(Err(io::Error::other("polled after it was ready"))),
        }
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").finish_non_exhaustive()
    }
}
