//! A flood of posted callbacks from several threads, each payload noted where it arrives.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::run::Run;

pub(crate) const PRODUCERS: usize = 4;
/// Of so many posts one is timed: looking at the clock for each would double a post's cost.
const TIMED: usize = 16;

/// A posted callback receives one word and nothing else, so what it notes is global.
static TALLY: OnceLock<Tally> = OnceLock::new();

struct Tally {
    run: Arc<Run>,
    began: Instant,
    /// How often each payload was seen.
    seen: Box<[AtomicU8]>,
    /// For the timed posts: nanoseconds from `began` to the post, then from the post to its call.
    timed: Box<[AtomicU64]>,
    /// Calls with a word that nobody posted.
    strays: AtomicU64,
    calls: AtomicUsize,
    took: OnceLock<Duration>,
}

/// What has become of the posts.
#[derive(Clone, Debug)]
pub(crate) struct PostFacts {
    pub(crate) posted: usize,
    pub(crate) once: usize,
    pub(crate) never: usize,
    pub(crate) more_often: usize,
    pub(crate) strays: u64,
    pub(crate) calls: usize,
    pub(crate) latencies: Vec<Duration>,
    pub(crate) took: Option<Duration>,
}

/// The callback.
extern "C-unwind" fn note(word: usize) {
    let Some(tally) = TALLY.get() else { return };
    match tally.seen.get(word) {
        Some(seen) => {
            // A payload that comes more than 255 times must not look like one that never came.
            let _ = seen.fetch_update(Relaxed, Relaxed, |times| Some(times.saturating_add(1)));
        }
        None => _ = tally.strays.fetch_add(1, Relaxed),
    }
    if word.is_multiple_of(TIMED)
        && let Some(timed) = tally.timed.get(word / TIMED)
    {
        timed.store(tally.now().saturating_sub(timed.load(Relaxed)), Relaxed);
    }
    if tally.calls.fetch_add(1, Relaxed) + 1 == tally.seen.len() {
        let _ = tally.took.set(tally.began.elapsed());
        tally.run.part_done();
    }
}

impl Tally {
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn post(&self, word: usize) -> std::io::Result<()> {
        if word.is_multiple_of(TIMED) {
            self.timed[word / TIMED].store(self.now(), Relaxed);
        }
        self.run.port.post(word, note)
    }
}

/// Starts the producers. Once in a process.
pub(crate) fn start(run: &Arc<Run>, count: usize) -> Vec<JoinHandle<()>> {
    let tally = TALLY.get_or_init(|| Tally {
        run: run.clone(),
        seen: (0..count).map(|_| AtomicU8::new(0)).collect(),
        timed: (0..count.div_ceil(TIMED))
            .map(|_| AtomicU64::new(0))
            .collect(),
        strays: AtomicU64::new(0),
        calls: AtomicUsize::new(0),
        took: OnceLock::new(),
        began: Instant::now(), // after all that was allocated
    });
    let share = |producer: usize| count * producer / PRODUCERS;
    (0..PRODUCERS)
        .map(|producer| {
            let mut words = share(producer)..share(producer + 1);
            thread::spawn(move || {
                if let Err(error) = words.try_for_each(|word| tally.post(word)) {
                    tally.run.fail("post", &error);
                }
            })
        })
        .collect()
}

pub(crate) fn calls() -> usize {
    TALLY.get().map_or(0, |tally| tally.calls.load(Relaxed))
}

pub(crate) fn facts() -> Option<PostFacts> {
    let tally = TALLY.get()?;
    let count = |wanted: fn(u8) -> bool| {
        let seen = tally.seen.iter().map(|seen| seen.load(Relaxed));
        seen.filter(|&times| wanted(times)).count()
    };
    let latencies = tally.timed.iter().map(|timed| timed.load(Relaxed));
    Some(PostFacts {
        posted: tally.seen.len(),
        once: count(|times| times == 1),
        never: count(|times| times == 0),
        more_often: count(|times| times > 1),
        strays: tally.strays.load(Relaxed),
        calls: tally.calls.load(Relaxed),
        latencies: latencies.map(Duration::from_nanos).collect(),
        took: tally.took.get().copied(),
    })
}
