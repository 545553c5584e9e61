//! The threads that dispatch: they come and go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use longshore::Dispatcher;

use super::actor::Random;

const FEWEST: usize = 2;
const MOST: usize = 8;
/// How long threads may take to hear that it is over.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Crew {
    port: Dispatcher,
    random: Random,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    hired: u64,
}

impl Crew {
    pub(crate) fn new(port: &Dispatcher, seed: u64) -> Self {
        let mut crew = Self {
            port: port.clone(),
            random: Random::new(seed, u64::MAX - 1),
            is_over: Arc::default(),
            threads: Vec::new(),
            hired: 0,
        };
        crew.change();
        crew
    }

    /// Those that left are replaced, by more or fewer.
    pub(crate) fn change(&mut self) {
        self.threads.retain(|thread| !thread.is_finished());
        let wanted = FEWEST + self.random.below(MOST - FEWEST + 1);
        while self.threads.len() < wanted {
            let dispatches = 1 + self.random.below(20_000);
            self.hired += 1;
            let random = Random::new(self.hired, 7);
            let (port, is_over) = (self.port.clone(), self.is_over.clone());
            // At least so many stay until the end, whoever else leaves.
            let stays = self.threads.len() < FEWEST;
            self.threads.push(thread::spawn(move || {
                work(
                    &port,
                    &is_over,
                    random,
                    if stays { usize::MAX } else { dispatches },
                );
            }));
        }
    }

    /// Has every thread leave; returns how many did not, however often they were woken.
    pub(crate) fn dismiss(self) -> usize {
        self.is_over.store(true, SeqCst);
        let limit = Instant::now() + PATIENCE;
        loop {
            let asleep = self.threads.iter().filter(|thread| !thread.is_finished());
            let asleep = asleep.count();
            if asleep == 0 || Instant::now() > limit {
                return asleep;
            }
            // A thread may be between its look at the flag and its wait: it is woken again.
            let _ = self.port.wake_one();
            thread::yield_now();
        }
    }
}

/// Dispatches in every way there is, so often, and leaves in the middle of whatever goes on. Most waits
/// are without limit: one with a limit would hide that it was never woken.
fn work(port: &Dispatcher, is_over: &AtomicBool, mut random: Random, mut left: usize) {
    let long = Duration::from_secs(2);
    while left > 0 && !is_over.load(SeqCst) {
        let done = match random.below(5) {
            0 => port.try_dispatch().map(u64::from),
            1 => port.dispatch().map(|()| 1),
            2 => port.dispatch_timeout(long).map(u64::from),
            3 => port.run_one().map(u64::from),
            _ => port.run_ready(),
        };
        let done = done.expect("the port is open");
        left = left.saturating_sub(done.max(1) as usize);
    }
}
