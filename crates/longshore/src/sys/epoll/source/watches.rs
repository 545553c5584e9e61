//! Operations that end when a descriptor is ready: of these events (`watch`), or readable (`wait`).
// UNSAFETY: keeps headers that the submitter lent until the packet.
#![expect(unsafe_code)]

use std::{io, mem, ptr::NonNull};

use super::{Source, State};
use crate::{
    completion::Completion,
    error::Error,
    overlapped::RawOverlapped,
    submission::Submission,
    sys::{
        backend::Submitted,
        epoll::{
            calls,
            inbox::{Header, Inbox},
        },
    },
};

impl Source {
    /// Starts an operation that ends when one of these events was reported. Its count of bytes is
    /// the set of those events.
    ///
    /// # Safety
    /// The header is live and in place until its packet, or until `Done` or an error is returned.
    pub(in crate::sys::epoll) unsafe fn watch(
        &self,
        header: NonNull<RawOverlapped>,
        events: u32,
        inbox: &Inbox,
    ) -> io::Result<Submitted> {
        let mut state = self.state();
        if state.detached {
            return Err(Error::NotAttached.into());
        }
        // SAFETY: the caller's contract. Dropped unused on `Done`.
        let header = unsafe { Header::new(header, self.terms.key) };
        match state.seen & events {
            0 => {
                state.watches.push((header, events));
                Ok(Submitted::PacketOwed)
            }
            seen => Ok(self.end_at_once(header, Completion::ok(seen), inbox)),
        }
    }

    /// Starts an operation that ends when the descriptor is readable.
    ///
    /// The descriptor itself is asked, under the lock, before and after: an event may be about
    /// something that was read away since, and what comes after the look is an edge of its own, which
    /// waits for the lock and finds the operation queued.
    ///
    /// # Safety
    /// As for [`watch`](Self::watch).
    pub(in crate::sys::epoll) unsafe fn wait(
        &self,
        header: NonNull<RawOverlapped>,
        submission: &Submission<'_>,
        inbox: &Inbox,
    ) -> io::Result<Submitted> {
        if !matches!(submission, Submission::Wait { .. }) {
            return Err(Error::WrongKind.into());
        }
        let mut state = self.state();
        if state.detached {
            return Err(Error::NotAttached.into());
        }
        let is_readable = calls::is_readable(self.fd)?;
        // SAFETY: the caller's contract. Dropped unused on `Done`.
        let header = unsafe { Header::new(header, self.terms.key) };
        if is_readable {
            return Ok(self.end_at_once(header, Completion::ok(0), inbox));
        }
        state.waits.push(header);
        Ok(Submitted::PacketOwed)
    }

    pub(super) fn tell_watches(&self, state: &mut State, events: u32, inbox: &Inbox) -> usize {
        let (told, left) = mem::take(&mut state.watches)
            .into_iter()
            .partition(|(_, wanted)| wanted & events != 0);
        state.watches = left;
        let told: Vec<(Header, u32)> = told;
        let queued = told.len();
        for (header, wanted) in told {
            inbox.complete_quietly(header, Completion::ok(wanted & events));
        }
        queued + self.end_waits(state, inbox)
    }

    fn end_waits(&self, state: &mut State, inbox: &Inbox) -> usize {
        // A descriptor that cannot be asked is none any more, which is for whoever closed it.
        if state.waits.is_empty() || !calls::is_readable(self.fd).unwrap_or(false) {
            return 0;
        }
        let queued = state.waits.len();
        for header in state.waits.drain(..) {
            inbox.complete_quietly(header, Completion::ok(0));
        }
        queued
    }
}

impl State {
    pub(super) fn take_watch(&mut self, header: NonNull<RawOverlapped>) -> Option<Header> {
        if let Some(at) = self.waits.iter().position(|wait| wait.is(header)) {
            return Some(self.waits.swap_remove(at));
        }
        let at = self
            .watches
            .iter()
            .position(|(watch, _)| watch.is(header))?;
        Some(self.watches.swap_remove(at).0)
    }
}
