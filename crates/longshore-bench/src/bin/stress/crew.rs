//! The threads that dispatch: they come and go.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use longshore::Dispatcher;

use super::random::Random;

const FEWEST: usize = 2;
const MOST: usize = 8;
/// The longest of the waits that have a limit: one that is shorter than a stall would hide it.
const LONG: Duration = Duration::from_secs(2);
/// How long threads may take to hear that it is over.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Crew {
    port: Dispatcher,
    random: Random,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    hired: u64,
    panicked: usize,
}

impl Crew {
    pub(crate) fn new(port: &Dispatcher, seed: u64) -> Self {
        let mut crew = Self {
            port: port.clone(),
            random: Random::new(seed, u64::MAX - 1),
            is_over: Arc::default(),
            threads: Vec::new(),
            hired: 0,
            panicked: 0,
        };
        crew.change();
        crew
    }

    /// Those that left are replaced, by more or fewer.
    pub(crate) fn change(&mut self) {
        self.release();
        let wanted = FEWEST + self.random.below(MOST - FEWEST + 1);
        while self.threads.len() < wanted {
            let dispatches = 1 + self.random.below(20_000);
            let (port, is_over) = (self.port.clone(), self.is_over.clone());
            let random = Random::new(self.hired, 7);
            // The first two stay until the end, whoever else leaves.
            let life: Box<dyn FnOnce() + Send> = match self.hired {
                0 => Box::new(move || work(&port, &is_over, random, usize::MAX, dispatch)),
                1 => Box::new(move || run_to_the_end(&port, &is_over)),
                hired if hired % 2 == 0 => {
                    Box::new(move || work(&port, &is_over, random, dispatches, dispatch))
                }
                _ => Box::new(move || work(&port, &is_over, random, dispatches, run)),
            };
            self.hired += 1;
            self.threads.push(thread::spawn(life));
        }
    }

    fn release(&mut self) {
        for thread in self.threads.extract_if(.., |thread| thread.is_finished()) {
            self.panicked += usize::from(thread.join().is_err());
        }
    }

    /// Has every thread leave; returns how many did not, however often they were woken, or had
    /// panicked.
    pub(crate) fn dismiss(mut self) -> usize {
        self.is_over.store(true, SeqCst);
        self.port.stop().expect("the port is open");
        let limit = Instant::now() + PATIENCE;
        loop {
            self.release();
            if self.threads.is_empty() || Instant::now() > limit {
                return self.threads.len() + self.panicked;
            }
            // A thread may be between its look at the flag and its wait: it is woken again.
            let _ = self.port.wake_one();
            thread::yield_now();
        }
    }
}

type Way = fn(&Dispatcher, &mut Random) -> io::Result<u64>;

/// Dispatches so often, and leaves in the middle of whatever goes on. Many waits are without limit: one
/// with a limit would hide that it was never woken.
fn work(port: &Dispatcher, is_over: &AtomicBool, mut random: Random, mut left: usize, way: Way) {
    while left > 0 && !is_over.load(SeqCst) {
        let done = way(port, &mut random).expect("the port is open");
        left = left.saturating_sub(done.max(1) as usize);
    }
}

fn dispatch(port: &Dispatcher, random: &mut Random) -> io::Result<u64> {
    match random.below(3) {
        0 => port.try_dispatch().map(u64::from),
        1 => port.dispatch().map(|()| 1),
        _ => port.dispatch_timeout(LONG).map(u64::from),
    }
}

fn run(port: &Dispatcher, random: &mut Random) -> io::Result<u64> {
    match random.below(3) {
        0 => port.run_one().map(u64::from),
        1 => port.run_ready(),
        _ => port.run_for(LONG.mul_f64(random.below(1000) as f64 / 1000.0)),
    }
}

/// One run, which has its work guard and so must not end by itself.
fn run_to_the_end(port: &Dispatcher, is_over: &AtomicBool) {
    let _guard = port.work_guard();
    port.run().expect("the port is open");
    assert!(is_over.load(SeqCst), "a run ended although it was guarded");
}
