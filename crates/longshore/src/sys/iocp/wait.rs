//! Waiting for objects: events, processes, timers.
//!
//! An object is not bound to a port, so "attached" is an entry in a table here and nothing else. A
//! wait is started for one operation, once, by the best [`Mechanism`] there is: a wait-completion
//! packet, which the kernel queues by itself (E1), or where the system has none (Wine, Windows 7) a
//! registered wait, whose callback posts (E4).
//!
//! # The packet names the wait, not the header
//! Nobody but us writes the header of a wait, and a header must not say "ended" before it is. So what
//! the kernel or the callback queues is (`WAIT`, number), and whoever takes it looks the number up,
//! writes the status into the header and goes on with the operation's own packet, key and header
//! address: rule 5 of the backend's contract, one step later. A number is used once, and cannot be
//! guessed; so neither a late packet nor a forged one finds somebody else's operation at an address
//! that is used again. A packet whose number is unknown is a stranger's.
//!
//! # Exactly one packet
//! A wait is in the table of running ones until somebody takes it out: whoever takes its packet, or
//! whoever cancels it. Its own lock decides between them, because both hold it while they find out:
//! * Starting holds the lock, so that a packet that comes before the starting call has returned
//!   finds a wait that is complete (B1).
//! * Cancelling asks the mechanism, which says whether a packet will come. If so, or if it was
//!   delivered already, nothing changes and the answer is "too late". If not, the wait is taken out
//!   of the table, the header says *cancelled*, and the packet that is owed is posted (E2).
//!
//! A cancelled wait has taken no signal: a packet that is queued already is left there
//! (`RemoveSignaledPacket` is false), and ends the wait as a success.
//!
//! The callback takes no lock of ours. So unregistering, which waits for a callback that runs, can be
//! done under the wait's own lock; it would only wait for itself on the system's wait thread, where
//! no code of ours and no waker runs.
//!
//! # What stays alive
//! Header, key and handle are the submitter's until the packet (E3). The callback has a counted
//! reference to what it uses. The port is closed only after no callback can post to it any more: dropping
//! a registration waits for one that runs, and one whose packet was taken has posted (E4).
// UNSAFETY: writes the headers of waits, which the kernel does not.
#![expect(unsafe_code)]

mod alarm;
mod mechanism;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    hint::black_box,
    io, mem,
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use windows_sys::Win32::Foundation::{GetHandleInformation, STATUS_CANCELLED};

pub(super) use alarm::Alarm;
use mechanism::Armed;
pub(super) use mechanism::Mechanism;

use super::queue::Queue;
use crate::{
    error::Error, handle::Handle, overlapped::RawOverlapped, packet::Packet, sys::backend::Terms,
};

/// The key of the packets that end a wait. A function that does nothing, because whoever else takes
/// packets from the port may call each non-zero key.
const WAIT: extern "C-unwind" fn(usize) = wait;

// Its body is like no other, so that no linker can give another function its address.
#[inline(never)]
extern "C-unwind" fn wait(payload: usize) {
    black_box(("wait", payload));
}

/// Whether this is the packet of a wait, or says so.
pub(super) fn is_wait(packet: Packet) -> bool {
    packet.key == WAIT as usize
}

#[cfg(test)]
pub(super) fn key() -> usize {
    WAIT as usize
}

/// The number of the alarm's wait.
const ALARM: usize = 0;

#[derive(Debug, Default)]
pub(super) struct Waits {
    attached: RwLock<HashMap<usize, Terms>>,
    running: Mutex<Running>,
    count: AtomicUsize,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Running {
    by_number: HashMap<usize, Arc<Record>>,
    by_header: HashMap<usize, usize>,
}

/// One operation's wait.
#[derive(Debug)]
struct Record {
    header: NonNull<RawOverlapped>,
    key: usize,
    /// `None` before it was started, and after it was taken out.
    armed: Mutex<Option<Armed>>,
}

// SAFETY: the header is written once, by whoever takes the record out of the table, on whichever
// thread; the submitter keeps it valid until its packet.
unsafe impl Send for Record {}
// SAFETY: see Send.
unsafe impl Sync for Record {}

impl Record {
    fn armed(&self) -> MutexGuard<'_, Option<Armed>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the result; what remains is the packet.
    ///
    /// # Safety
    /// The caller has taken the record out of the table, so it is the one who ends the operation.
    unsafe fn end(&self, status: u32) -> Packet {
        // SAFETY: as the function says; the submitter keeps the header until the packet.
        unsafe { RawOverlapped::complete(self.header, status as usize, 0) };
        Packet {
            key: self.key,
            overlapped: self.header.as_ptr().expose_provenance(),
            bytes: 0,
        }
    }
}

impl Waits {
    pub(super) fn attach(&self, handle: Handle<'_>, terms: Terms) -> io::Result<()> {
        let mut flags = 0;
        // All ones is the pseudo handle of this process, which is nobody's to wait for.
        // SAFETY: the flags are ours; the value is checked by the system.
        let is_open = ![0, usize::MAX].contains(&handle.raw())
            && unsafe { GetHandleInformation(handle.raw() as _, &raw mut flags) } != 0;
        if !is_open {
            return Err(Error::BadHandle.into());
        }
        let mut attached = self
            .attached
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match attached.get(&handle.raw()) {
            Some(before) => Err(before.attached_already(terms).into()),
            None => {
                attached.insert(handle.raw(), terms);
                Ok(())
            }
        }
    }

    pub(super) fn detach(&self, raw: usize) -> io::Result<()> {
        let mut attached = self
            .attached
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match attached.remove(&raw) {
            Some(_) => Ok(()),
            None => Err(Error::NotAttached.into()),
        }
    }

    /// The terms of an attached value.
    pub(super) fn terms(&self, raw: usize) -> Option<Terms> {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        attached.get(&raw).copied()
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the wait of one operation. Its packet will come.
    ///
    /// # Safety
    /// Header and object stay valid until the packet was taken, or an error is returned.
    pub(super) unsafe fn start(
        &self,
        mechanism: Mechanism,
        queue: &Queue,
        header: NonNull<RawOverlapped>,
        object: Handle<'_>,
    ) -> io::Result<()> {
        let terms = self.terms(object.raw()).ok_or(Error::NotAttached)?;
        let record = Arc::new(Record {
            header,
            key: terms.key,
            armed: Mutex::default(),
        });
        // Held until the wait is complete: its packet may be taken before the call returns.
        let mut armed = record.armed();
        let number = self.enter(&record);
        // SAFETY: the object stays open, says the caller; the port outlives every registration.
        match unsafe { Armed::start(mechanism, queue, object.raw(), number) } {
            Ok(started) => *armed = Some(started),
            Err(error) => {
                self.take_out(number);
                return Err(error);
            }
        }
        Ok(())
    }

    fn enter(&self, record: &Arc<Record>) -> usize {
        loop {
            let count = self.count.fetch_add(1, Ordering::Relaxed);
            let number = self.hasher.hash_one(count) as usize;
            let mut running = self.running();
            if number != ALARM && !running.by_number.contains_key(&number) {
                let header = record.header.as_ptr().addr();
                running.by_header.insert(header, number);
                running.by_number.insert(number, record.clone());
                return number;
            }
        }
    }

    fn take_out(&self, number: usize) -> Option<Arc<Record>> {
        let mut running = self.running();
        let record = running.by_number.remove(&number)?;
        running.by_header.remove(&record.header.as_ptr().addr());
        Some(record)
    }

    /// A packet that says that a wait is over: the operation's own packet, or `None` if there is no
    /// such wait.
    pub(super) fn claim(&self, packet: Packet) -> Option<Packet> {
        let number = packet.overlapped;
        let record = self.running().by_number.get(&number).cloned()?;
        let mut armed = record.armed();
        if !armed.as_ref().is_some_and(Armed::has_posted) || self.take_out(number).is_none() {
            return None;
        }
        if let Some(armed) = armed.take() {
            armed.finish();
        }
        drop(armed);
        // SAFETY: taken out of the table just now, by us.
        Some(unsafe { record.end(0) })
    }

    /// Asks for the end of an operation's wait: `None` if there is no such operation, `false` if its
    /// packet is on its way.
    pub(super) fn cancel(&self, queue: &Queue, header: NonNull<RawOverlapped>) -> Option<bool> {
        let (number, record) = {
            let running = self.running();
            let number = *running.by_header.get(&header.as_ptr().addr())?;
            (number, running.by_number.get(&number).cloned()?)
        };
        let mut armed = record.armed();
        let is_cancelled = armed.as_mut().is_some_and(Armed::cancel);
        if !is_cancelled || self.take_out(number).is_none() {
            return Some(false);
        }
        *armed = None;
        drop(armed);
        // SAFETY: taken out of the table just now, by us.
        let packet = unsafe { record.end(STATUS_CANCELLED.cast_unsigned()) };
        // Somebody waits for this packet, so a kernel that is short of memory is asked again.
        while queue.post(packet).is_err() && !queue.is_gone() {
            thread::sleep(Duration::from_millis(1));
        }
        Some(true)
    }

    /// See [`Backend::forget_if_stale`](crate::sys::backend::Backend::forget_if_stale): whether the
    /// value is closed is all that the system tells. `None` if it is not attached here.
    pub(super) fn forget_if_stale(&self, raw: usize, terms: Terms) -> Option<bool> {
        self.terms(raw).filter(|mine| *mine == terms)?;
        let mut flags = 0;
        // SAFETY: as in `attach`.
        let is_open = unsafe { GetHandleInformation(raw as _, &raw mut flags) } != 0;
        if !is_open {
            let _ = self.detach(raw);
        }
        Some(!is_open)
    }

    /// The port stays open for ever, and so do the waits that would post to it.
    pub(super) fn forget(&self) {
        let running = mem::take(&mut *self.running());
        mem::forget(running);
    }
}
