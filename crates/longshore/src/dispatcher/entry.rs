//! From packet to call: the only place that gives packets meaning (D2).
// UNSAFETY: turns a packet's words back into a function and into a Context.
#![expect(unsafe_code)]

use std::{
    hint::black_box,
    ptr::{self, NonNull},
};

use super::{
    Inner,
    context::{Context, OnCallback},
    in_flight::{Flight, Looked},
};
use crate::{completion::Completion, overlapped::RawOverlapped, packet::Packet, port::Port};

/// A decoded packet.
pub(crate) enum Entry {
    /// A posted callback with its payload.
    Callback(OnCallback, usize),
    /// A finished operation.
    Event(NonNull<Context>, Completion),
    /// One thread of those inside `run` is to look at the stop flag. Housekeeping.
    Stop,
    /// Not ours. Nothing in it may be believed.
    Foreign(Packet),
}

/// The key of a wake-up: a callback that does nothing (D8).
pub(crate) const WAKE: OnCallback = wake;
/// The key of a stop token. It is recognised, never called.
pub(crate) const STOP: OnCallback = stop;

// Each body is different, so that no linker can fold two of them into one address.
#[inline(never)]
extern "C-unwind" fn wake(payload: usize) {
    black_box(("wake", payload));
}

#[inline(never)]
extern "C-unwind" fn stop(payload: usize) {
    black_box(("stop", payload));
}

impl Inner {
    /// Finds out what a packet is, and marks it as no longer in flight.
    #[inline]
    pub(crate) fn decode(&self, packet: Packet) -> Entry {
        if packet.key == 0 {
            return self.decode_event(packet);
        }
        if Port::STRANGERS && !self.believes_post(packet) {
            return Entry::Foreign(packet);
        }
        if packet.key == STOP as usize {
            return Entry::Stop;
        }
        // SAFETY: the key is the address of an OnCallback: it was posted as one, or registered as
        // one (`believes_post`), or comes through a queue that only we can fill, or the caller
        // promised so for every packet (`trust_packets`). It is not null.
        let callback = unsafe {
            std::mem::transmute::<*const (), OnCallback>(ptr::with_exposed_provenance(packet.key))
        };
        Entry::Callback(callback, packet.overlapped)
    }

    fn believes_post(&self, packet: Packet) -> bool {
        self.in_flight.take_post(packet.key, packet.overlapped)
            || self.is_registered(packet.key)
            || self.trust
    }

    fn decode_event(&self, packet: Packet) -> Entry {
        let address = packet.overlapped;
        let Some(context) = NonNull::new(ptr::with_exposed_provenance_mut::<Context>(address))
        else {
            return Entry::Foreign(packet);
        };
        let taken = self.in_flight.take_event(address, |flight| {
            // SAFETY: the address is in the table, so its submitter keeps the Context alive until
            // the entry is taken out, which happens after this look at the latest.
            unsafe { self.outcome(flight, context.cast()) }
        });
        match taken {
            Looked::Ended(Flight::Issued(issued), completion) => {
                // SAFETY: the submitter keeps what the operation refers to until `on_event`.
                let completion = unsafe { self.port.settle(&issued, completion) };
                Entry::Event(context, completion)
            }
            Looked::Ended(_, completion) => Entry::Event(context, completion),
            Looked::Unknown if self.trust => {
                // SAFETY: the caller promised that every packet on the port is what it says.
                let outcome = unsafe { self.port.outcome(None, context.cast()) };
                let error = outcome.map_or(0, |completion| completion.error);
                let bytes = packet.bytes;
                Entry::Event(context, Completion { bytes, error })
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
    pub(crate) fn deliver(&self, packet: Packet) -> bool {
        match self.decode(packet) {
            Entry::Callback(callback, payload) => callback(payload),
            // SAFETY: `decode` took the Context out of flight; its owner kept it alive for us.
            Entry::Event(context, completion) => unsafe { Context::call(context, completion) },
            Entry::Foreign(packet) => self.foreign.report(packet),
            Entry::Stop => return false,
        }
        true
    }
}
