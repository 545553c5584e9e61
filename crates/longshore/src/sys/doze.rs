//! Telling whether a thread that takes packets is asleep.

/// Whoever has to know when a taking thread sleeps, and may keep it from sleeping.
///
/// A backend calls [`falls_asleep`](Self::falls_asleep), looks for a packet once more, and asks
/// [`may_sleep`](Self::may_sleep) if there is none. It calls [`wakes_up`](Self::wakes_up) after
/// each `falls_asleep`, and before it takes a packet from where another thread could see that it is
/// gone. None of them is called under a lock.
pub(crate) trait Doze {
    /// The thread is going to look for the last time before it sleeps.
    fn falls_asleep(&self);

    /// There is nothing. `false`: the thread shall return without a packet instead of sleeping.
    fn may_sleep(&self) -> bool;

    /// The thread does not sleep any more.
    fn wakes_up(&self);
}

/// Nobody has to know.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    all(windows, not(test)),
    expect(dead_code, reason = "only a look that may sleep asks there")
)]
pub(crate) struct Unwatched;

impl Doze for Unwatched {
    fn falls_asleep(&self) {}

    fn may_sleep(&self) -> bool {
        true
    }

    fn wakes_up(&self) {}
}

/// One sleep, of which somebody has to know.
pub(crate) struct Dozing<'a>(&'a dyn Doze);

impl<'a> Dozing<'a> {
    pub(crate) fn new(doze: &'a dyn Doze) -> Self {
        doze.falls_asleep();
        Self(doze)
    }
}

impl Drop for Dozing<'_> {
    fn drop(&mut self) {
        self.0.wakes_up();
    }
}
