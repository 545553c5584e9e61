//! A timer that ends a wait for the port when the earliest deadline has come, more exactly than the
//! tick of the system's clock (B18).
//!
//! One timer for each port, made when it is first needed, and one wait for it at a time: a new
//! deadline moves the timer under the wait that is there. So at most one packet is queued, and a
//! port without deadlines pays nothing. Whoever waits keeps a time-out of its own as well, because
//! the packet may reach another thread (B19).
// UNSAFETY: calls the system's timer functions.
#![expect(unsafe_code)]

use std::{
    io, mem,
    os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle},
    ptr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use windows_sys::Win32::System::Threading::{
    CREATE_WAITABLE_TIMER_HIGH_RESOLUTION, CancelWaitableTimer, CreateWaitableTimerExW,
    SetWaitableTimer, TIMER_ALL_ACCESS,
};

use super::{super::queue::Queue, ALARM, Armed, Mechanism};
use crate::packet::Packet;

#[derive(Debug, Default)]
pub(in super::super) struct Alarm {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Dropped before the timer, so that nothing waits for a closed handle.
    armed: Option<Armed>,
    due: Option<Instant>,
    timer: Option<OwnedHandle>,
    stopped: bool,
}

impl Alarm {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has an alarm packet queued at `deadline`. Where the system refuses, the waits' own time-outs
    /// remain.
    pub(in super::super) fn set(
        &self,
        mechanism: Mechanism,
        queue: &Queue,
        deadline: Option<Instant>,
    ) {
        let mut state = self.state();
        let State {
            armed,
            due,
            timer,
            stopped,
        } = &mut *state;
        if *stopped || *due == deadline {
            return;
        }
        *due = None;
        let Some(deadline) = deadline else {
            if let Some(timer) = timer {
                // SAFETY: the timer is ours and open.
                unsafe { CancelWaitableTimer(timer.as_raw_handle()) };
            }
            return;
        };
        if timer.is_none() {
            *timer = make_timer().ok();
        }
        let Some(timer) = timer else { return };
        if !set_timer(timer, deadline) {
            return;
        }
        if armed.is_none() {
            // SAFETY: the timer is closed after the wait (see the fields), the port after both.
            let started =
                unsafe { Armed::start(mechanism, queue, timer.as_raw_handle() as usize, ALARM) };
            *armed = started.ok();
        }
        *due = armed.is_some().then_some(deadline);
    }

    /// Whether this is the alarm's packet. The next one has to be set anew.
    pub(in super::super) fn claim(&self, packet: Packet) -> bool {
        let mut state = self.state();
        if packet.overlapped != ALARM || !state.armed.as_ref().is_some_and(Armed::has_posted) {
            return false;
        }
        state.due = None;
        if let Some(armed) = state.armed.take() {
            armed.finish();
        }
        true
    }

    /// The port is closed: no alarm goes off from now on, but its packet may be queued.
    pub(in super::super) fn stop(&self) {
        let armed = {
            let mut state = self.state();
            state.stopped = true;
            state.armed.take()
        };
        drop(armed);
    }

    /// Whether this is an alarm's packet, or says so.
    pub(in super::super) fn is_alarm(packet: Packet) -> bool {
        super::is_wait(packet) && packet.overlapped == ALARM
    }

    /// The port stays open for ever, and so may the wait.
    pub(in super::super) fn forget(&self) {
        let state = mem::take(&mut *self.state());
        mem::forget(state);
    }
}

fn make_timer() -> io::Result<OwnedHandle> {
    // Windows 10 1803 and later; before, the flag is refused.
    for flags in [CREATE_WAITABLE_TIMER_HIGH_RESOLUTION, 0] {
        // SAFETY: no attributes and no name.
        let timer =
            unsafe { CreateWaitableTimerExW(ptr::null(), ptr::null(), flags, TIMER_ALL_ACCESS) };
        if !timer.is_null() {
            // SAFETY: made just now, and nobody else owns it.
            return Ok(unsafe { OwnedHandle::from_raw_handle(timer) });
        }
    }
    Err(io::Error::last_os_error())
}

fn set_timer(timer: &OwnedHandle, deadline: Instant) -> bool {
    // In units of 100 ns, rounded up; negative is relative.
    let left = deadline.saturating_duration_since(Instant::now());
    let units = left.as_nanos().div_ceil(100).max(1);
    let due = -i64::try_from(units).unwrap_or(i64::MAX);
    // SAFETY: the timer is ours and open, the due time is read in the call, nothing is called back.
    unsafe {
        SetWaitableTimer(
            timer.as_raw_handle(),
            &raw const due,
            0,
            None,
            ptr::null(),
            0,
        ) != 0
    }
}
