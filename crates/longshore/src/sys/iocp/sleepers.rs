//! Threads asleep in the kernel, and how closing releases them: the CLOSE packet.
//!
//! The argument why no sleeper is missed is in `iocp`'s essay, under "Closing".

use std::{
    hint::black_box,
    io,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{Alarm, Iocp};
use crate::{packet::Packet, sys::backend::Backend as _};

/// The key of the packets that end a wait. A function that does nothing, because whoever else takes
/// packets from the port may call each non-zero key.
const CLOSE: extern "C-unwind" fn(usize) = close;

// Its body is like no other, so that no linker can give another function its address.
#[inline(never)]
extern "C-unwind" fn close(payload: usize) {
    black_box(("close", payload));
}

/// How long `shut` waits for the sleepers to leave before it gives up on them.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// One thread's place in [`Iocp::waiting`].
#[derive(Debug)]
pub(crate) struct Sleeper<'a>(&'a AtomicUsize);

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Iocp {
    /// Counts the calling thread as a sleeper, unless `shut` came first.
    pub(crate) fn fall_asleep(&self) -> io::Result<Sleeper<'_>> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let sleeper = Sleeper(&self.waiting);
        self.refuse_if_shut()?;
        Ok(sleeper)
    }

    pub(super) fn is_close(packet: Packet) -> bool {
        packet.key == CLOSE as usize
    }

    pub(super) fn close_packet() -> Packet {
        Packet {
            key: CLOSE as usize,
            overlapped: 0,
            bytes: 0,
        }
    }

    /// Posts until no thread sleeps. One round need not be enough: a thread that only polls may
    /// swallow a CLOSE packet that was meant for a sleeper (B12).
    pub(super) fn wake_sleepers(&self) -> io::Result<()> {
        let limit = Instant::now() + LEAVE_LIMIT;
        let mut why = io::ErrorKind::TimedOut.into();
        while Instant::now() < limit {
            for _ in 0..self.waiting.load(Ordering::SeqCst) {
                // The kernel may be short of memory for a moment (A24): the next round tries again.
                if let Err(error) = self.queue.post(Self::close_packet()) {
                    why = error;
                }
            }
            for nap_ms in [0, 0, 0, 1, 2, 4, 8, 16] {
                if self.waiting.load(Ordering::SeqCst) == 0 {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(nap_ms));
            }
        }
        Err(why)
    }

    /// What a packet is that somebody else took from the port: what `take` would have returned for
    /// it, or `None` if it is housekeeping of this backend's, which is done with.
    pub(crate) fn recognise(&self, packet: Packet) -> Option<Packet> {
        // An order to leave was meant for another sleeper, which gets one until it has left.
        let is_order = Self::is_close(packet) && self.is_shut();
        let is_late = Alarm::is_alarm(packet) && self.is_shut();
        (!is_order && !is_late).then(|| self.translate(packet))
    }
}
