//! Tokens: packets that are for particular threads, or for none.
//!
//! All dispatching threads wait on one queue, so a packet cannot be addressed. A token is taken by
//! whoever comes first; if it is not for that thread, and the one it is for is still blocked, the
//! thread passes it on. Tokens are housekeeping: no dispatch ends because of one.
//!
//! * *Stop*: one thread inside `run` is to look at the stop flag, and whether anything is left to
//!   do. See `run` and `work`.
//! * *Nudge*: the thread that runs one `block_on` is to look at its future.
//! * *Tick*: the earliest timer has changed; whoever waits computes anew how long.
//!
//! Why a nudge is not lost: the guest says that it is blocked, *then* looks at its flag; whoever
//! wakes it sets the flag, *then* looks whether it is blocked. Both are SeqCst, so one sees the
//! other.

use std::{
    collections::HashSet,
    hint::black_box,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use super::{Inner, context::OnCallback, work::Visitor};
use crate::{packet::Packet, sys::backend::Wait, trace::event};

/// The keys of tokens. They are recognised, never called.
pub(crate) const STOP: OnCallback = stop;
const NUDGE: OnCallback = nudge;
pub(super) const TICK: OnCallback = tick;

// Each body is different, so that no linker can fold two of them into one address.
#[inline(never)]
extern "C-unwind" fn stop(payload: usize) {
    black_box(("stop", payload));
}

#[inline(never)]
extern "C-unwind" fn nudge(payload: usize) {
    black_box(("nudge", payload));
}

#[inline(never)]
extern "C-unwind" fn tick(payload: usize) {
    black_box(("tick", payload));
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Token {
    Stop,
    Nudge(usize),
    Tick,
}

impl Token {
    #[inline]
    pub(crate) fn of(packet: Packet) -> Option<Self> {
        match packet.key {
            key if key == STOP as usize => Some(Self::Stop),
            key if key == NUDGE as usize => Some(Self::Nudge(packet.overlapped)),
            key if key == TICK as usize => Some(Self::Tick),
            _ => None,
        }
    }
}

/// The guests that are blocked in the port, by address. The address is compared, never followed.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    blocked: Mutex<HashSet<usize>>,
}

impl Guests {
    fn blocked(&self) -> MutexGuard<'_, HashSet<usize>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that waits in the port for something of its own.
#[derive(Debug)]
pub(crate) struct Guest {
    inner: Arc<Inner>,
    woken: AtomicBool,
    blocked: AtomicBool,
}

impl Guest {
    pub(crate) fn new(inner: Arc<Inner>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            woken: AtomicBool::new(true),
            blocked: AtomicBool::new(false),
        })
    }

    fn address(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    /// Whether it was woken since the last call.
    pub(crate) fn was_woken(&self) -> bool {
        self.woken.swap(false, SeqCst)
    }

    pub(crate) fn wake(self: &Arc<Self>) {
        if !self.woken.swap(true, SeqCst) && self.blocked.load(SeqCst) {
            // Refused only when the port is closed, which ends the wait as well, or when the
            // kernel is out of memory; then the next entry ends it.
            let _ = self.inner.post(NUDGE as usize, self.address());
        }
    }

    /// Dispatches one entry, or returns because of a wake-up.
    pub(crate) fn wait(self: &Arc<Self>) -> io::Result<()> {
        self.wait_for(Wait::Forever).map(|_| ())
    }

    /// Waits for so long, dispatches one entry at most, and tells whether it did. A wake-up ends
    /// the wait early.
    pub(crate) fn wait_for(self: &Arc<Self>, wait: Wait) -> io::Result<bool> {
        let visitor = Visitor::new(&self.inner);
        let taken = {
            let _blocked = Blocked::new(self);
            // A future that wakes itself waits for what others do, so they get their turn.
            let wait = match self.woken.load(SeqCst) {
                true => Wait::Poll,
                false => wait,
            };
            self.inner.take(wait, &visitor)?
        };
        match taken {
            Some(packet) => self.inner.deliver(packet),
            None => Ok(false),
        }
    }
}

/// Says that a guest is blocked, for as long as it lives: also when a waker panics.
struct Blocked<'a>(&'a Arc<Guest>);

impl<'a> Blocked<'a> {
    fn new(guest: &'a Arc<Guest>) -> Self {
        guest.inner.guests.blocked().insert(guest.address());
        guest.blocked.store(true, SeqCst);
        Self(guest)
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.blocked.store(false, SeqCst);
        self.0.inner.guests.blocked().remove(&self.0.address());
    }
}

impl Inner {
    /// The earliest timer has changed.
    pub(crate) fn tick(&self) -> io::Result<()> {
        self.post(TICK as usize, 0)
    }

    pub(crate) fn handle_token(&self, token: Token) -> io::Result<()> {
        match token {
            Token::Stop if self.running.wants_token(|| self.has_work()) => self.pass_on(STOP, 0),
            Token::Nudge(guest) if self.guests.blocked().contains(&guest) => {
                self.pass_on(NUDGE, guest)
            }
            Token::Stop | Token::Nudge(_) | Token::Tick => Ok(()),
        }
    }

    fn pass_on(&self, key: OnCallback, payload: usize) -> io::Result<()> {
        // A thread depends on this token, so a kernel that is short of memory is asked again.
        while let Err(refused) = self.post(key as usize, payload) {
            if self.port.open_or_err().is_err() {
                return Err(refused);
            }
            event!(
                WARN,
                "backing off",
                port = self.port.id(),
                key = key as usize
            );
            thread::sleep(Duration::from_millis(1));
        }
        // Windows wakes the thread that went to sleep last. Two threads could hand a token to each
        // other for ever; one that stays away for a moment lets the right one have it.
        thread::sleep(Duration::from_millis(1));
        Ok(())
    }
}
