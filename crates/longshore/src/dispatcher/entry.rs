//! From packet to call: the only place that gives packets meaning (D2).
// UNSAFETY: turns a packet's words back into a function and into a Context.
#![expect(unsafe_code)]

use std::{
    hint::black_box,
    io,
    ptr::{self, NonNull},
    sync::Arc,
};

use super::{
    Inner,
    context::{Context, OnCallback},
    in_flight::{Door, Flight, Looked, Recipient},
    notices::Notice,
    stats::Count,
    tokens::Token,
};
use crate::{
    completion::Completion,
    overlapped::RawOverlapped,
    packet::Packet,
    port::Port,
    trace::{event, span},
};

/// A decoded packet.
pub(crate) enum Entry {
    /// A posted callback with its payload.
    Callback(OnCallback, usize),
    /// A finished operation.
    Event(Recipient, NonNull<RawOverlapped>, Completion),
    /// News of an object that has a key of its own.
    Notice(Arc<dyn Notice>, Packet),
    /// Housekeeping.
    Token(Token),
    /// Not ours. Nothing in it may be believed.
    Foreign(Packet),
}

/// The key of a completion that is awaited. It is recognised, never called.
const QUEUE: OnCallback = queue;
/// The key of a wake-up: a callback that does nothing (D8).
pub(crate) const WAKE: OnCallback = wake;
// Each body is different, so that no linker can fold two of them into one address.
#[inline(never)]
extern "C-unwind" fn wake(payload: usize) {
    black_box(("wake", payload));
}

#[inline(never)]
extern "C-unwind" fn queue(payload: usize) {
    black_box(("queue", payload));
}

impl Door {
    fn of(key: usize) -> Option<Self> {
        [Self::Context, Self::Queue]
            .into_iter()
            .find(|door| door.key() == key)
    }

    /// The key of the packets that come through this door.
    pub(crate) fn key(self) -> usize {
        match self {
            Self::Context => 0,
            Self::Queue => QUEUE as usize,
        }
    }
}

impl Inner {
    /// Finds out what a packet is, and marks it as no longer in flight.
    #[inline]
    pub(crate) fn decode(&self, packet: Packet) -> Entry {
        if let Some(door) = Door::of(packet.key) {
            return self.decode_event(door, packet);
        }
        if Port::STRANGERS {
            if let Some(notice) = self.notices.of(packet.key) {
                return Entry::Notice(notice, packet);
            }
            if !self.believes_post(packet) {
                return Entry::Foreign(packet);
            }
        }
        if let Some(token) = Token::of(packet) {
            return Entry::Token(token);
        }
        // SAFETY: the key is the address of an OnCallback: it was posted as one, or registered as
        // one (`believes_post`), or comes through a queue that only we can fill, or the caller
        // promised so for every packet (`trust_packets`). It is not null.
        let callback = unsafe {
            std::mem::transmute::<*const (), OnCallback>(ptr::with_exposed_provenance(packet.key))
        };
        Entry::Callback(callback, packet.overlapped)
    }

    pub(super) fn believes_post(&self, packet: Packet) -> bool {
        self.in_flight.take_post(packet.key, packet.overlapped)
            || self.is_registered(packet.key)
            || self.trust
    }

    fn decode_event(&self, door: Door, packet: Packet) -> Entry {
        let address = packet.overlapped;
        let Some(header) = NonNull::new(ptr::with_exposed_provenance_mut::<RawOverlapped>(address))
        else {
            return Entry::Foreign(packet);
        };
        let taken = self.in_flight.take_event(door, address, |flight| {
            // SAFETY: the address is in the table, so its submitter keeps the header alive until
            // the entry is taken out, which happens after this look at the latest.
            unsafe { self.outcome(flight, header) }
        });
        match taken {
            Looked::Ended(to, Flight::Issued(issued), completion) => {
                // SAFETY: the submitter keeps what the operation refers to until it is told.
                let completion = unsafe { self.port.settle(&issued, completion) };
                Entry::Event(to, header, completion)
            }
            Looked::Ended(to, _, completion) => Entry::Event(to, header, completion),
            Looked::Unknown if self.trust && door == Door::Context => {
                // SAFETY: the caller promised that every packet on the port is what it says.
                let outcome = unsafe { self.port.outcome(None, header) };
                let error = outcome.map_or(0, |completion| completion.error);
                let bytes = packet.bytes;
                Entry::Event(Context::RECIPIENT, header, Completion { bytes, error })
            }
            Looked::Pending | Looked::Unknown => Entry::Foreign(packet),
        }
    }

    /// # Safety
    /// The header is live.
    unsafe fn outcome(
        &self,
        flight: &Flight,
        header: NonNull<RawOverlapped>,
    ) -> Option<Completion> {
        // SAFETY: the header is live, as the caller says.
        unsafe {
            match flight {
                Flight::Issued(issued) => self.port.outcome(Some(issued), header),
                Flight::Armed => self.port.outcome(None, header),
                Flight::Ended(completion) => Some(*completion),
            }
        }
    }

    /// Decodes and runs one packet. `false` for housekeeping, which does not count as an entry.
    #[inline]
    pub(crate) fn deliver(&self, packet: Packet) -> io::Result<bool> {
        let entry = self.decode(packet);
        self.carry_out(entry, packet)
    }

    /// Runs what `packet` was found to be.
    #[inline]
    pub(super) fn carry_out(&self, entry: Entry, packet: Packet) -> io::Result<bool> {
        if let Entry::Token(token) = entry {
            self.handle_token(token)?;
            return Ok(false);
        }
        // Counted first: a callback may ask, and may panic.
        self.counters.add(Count::Dispatched);
        let _span = span!(
            TRACE,
            "dispatch",
            port = self.port.id(),
            key = packet.key,
            word = packet.overlapped,
        );
        match entry {
            Entry::Callback(callback, payload) => callback(payload),
            Entry::Event(to, header, completion) => {
                self.counters.add(Count::Completed);
                event!(
                    TRACE,
                    "an operation has ended",
                    operation = header.as_ptr().addr(),
                    bytes = completion.bytes,
                    error = completion.error,
                );
                // SAFETY: `decode` took the operation out of flight; its owner kept it alive for us.
                unsafe { (to.deliver)(header, completion) };
            }
            Entry::Notice(notice, packet) => notice.tell(packet),
            Entry::Foreign(packet) => self.foreign.report(packet),
            Entry::Token(_) => {}
        }
        Ok(true)
    }
}
