//! What all actors share, and the actors themselves.

use std::{
    io,
    sync::{
        OnceLock,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Instant,
};

use longshore::Dispatcher;

use super::actor::Actor;

/// Never freed, so that an event that is delivered twice, or to nobody, is counted and does no harm.
static PLAY: OnceLock<Play> = OnceLock::new();

/// The play that [`Play::begin`] has begun.
pub(crate) fn play() -> &'static Play {
    PLAY.get().expect("the play has begun")
}

pub(crate) struct Play {
    pub(crate) port: Dispatcher,
    pub(crate) actors: Vec<Actor>,
    wanted: u64,
    begun: AtomicU64,
    pub(crate) delivered: AtomicU64,
    /// Events that nobody waited for, or not any more.
    pub(crate) duplicates: AtomicU64,
    /// Events that brought something else than what was sent.
    pub(crate) wrong: AtomicU64,
    pub(crate) longest_us: AtomicU64,
    epoch: Instant,
}

impl Play {
    /// Has every actor begin its first event; once in a program.
    pub(crate) fn begin(
        port: &Dispatcher,
        wanted: u64,
        actors: usize,
        seed: u64,
    ) -> io::Result<&'static Self> {
        let actors = (0..actors).map(|number| Actor::new(port, number, seed));
        let play = Self {
            port: port.clone(),
            actors: actors.collect::<io::Result<_>>()?,
            wanted,
            begun: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            longest_us: AtomicU64::new(0),
            epoch: Instant::now(),
        };
        let play = PLAY.get_or_init(|| play);
        play.actors.iter().for_each(Actor::next);
        Ok(play)
    }

    /// Whom an event is for. An event for nobody is one too many.
    pub(crate) fn actor(&self, number: usize) -> Option<&Actor> {
        let actor = self.actors.get(number);
        if actor.is_none() {
            self.duplicates.fetch_add(1, SeqCst);
        }
        actor
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.epoch.elapsed().as_micros() as u64
    }

    /// Whether there is to be one event more.
    pub(crate) fn goes_on(&self) -> bool {
        self.begun.fetch_add(1, Relaxed) < self.wanted
    }

    pub(crate) fn came(&self, late_us: u64) {
        self.longest_us.fetch_max(late_us, Relaxed);
        self.delivered.fetch_add(1, SeqCst);
    }

    pub(crate) fn check(&self, is_right: bool) {
        self.wrong.fetch_add(u64::from(!is_right), Relaxed);
    }
}
