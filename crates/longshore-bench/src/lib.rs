//! longshore beside its bare references, measured in one run.
//!
//! The question is what post and dispatch cost on top of the queue that any such library needs.
//! So the same lock-free queue, holding the same pair of words, is measured beside the port.

use std::{
    fmt,
    hint::black_box,
    io,
    time::{Duration, Instant},
};

use crossbeam_queue::SegQueue;
use longshore::{Dispatcher, dispatcher::OnCallback};

/// The bursts that are compared: one post answered at once, and a queue that fills and drains.
pub const BURSTS: [usize; 2] = [1, 64];

/// How many times each side is measured; odd, so that there is a middle one.
const ROUNDS: usize = 1001;

/// Callbacks in one measurement: long enough for the clock, and so much shorter than a thread's
/// turn on a busy core that most rounds are not interrupted.
const CALLBACKS: usize = 8 * 1024;

extern "C-unwind" fn callback(word: usize) {
    black_box(word);
}

/// What one burst is measured on.
pub trait Queue {
    /// Queues `burst` callbacks, then takes and calls each.
    fn run(&self, burst: usize) -> io::Result<()>;
}

/// A lock-free queue of (function, word), and nothing else.
#[derive(Debug, Default)]
pub struct Bare {
    queue: SegQueue<(OnCallback, usize)>,
}

impl Queue for Bare {
    #[inline]
    fn run(&self, burst: usize) -> io::Result<()> {
        for word in 0..burst {
            self.queue.push((black_box(callback), black_box(word)));
        }
        for _ in 0..burst {
            if let Some((callback, word)) = self.queue.pop() {
                callback(word);
            }
        }
        Ok(())
    }
}

/// A port.
#[derive(Debug)]
pub struct Longshore {
    port: Dispatcher,
}

impl Longshore {
    /// A port with the default settings.
    ///
    /// # Errors
    /// Those of [`Dispatcher::new`].
    pub fn new() -> io::Result<Self> {
        let port = Dispatcher::new()?;
        Ok(Self { port })
    }
}

impl Queue for Longshore {
    #[inline]
    fn run(&self, burst: usize) -> io::Result<()> {
        for word in 0..burst {
            self.port.post(black_box(word), black_box(callback))?;
        }
        for _ in 0..burst {
            self.port.dispatch()?;
        }
        Ok(())
    }
}

/// How many times the bare queue's time post and dispatch take, for each of [`BURSTS`].
#[derive(Clone, Copy, Debug)]
pub struct Ratios([f64; BURSTS.len()]);

impl Ratios {
    /// Measures both sides turn by turn, so that whatever else the machine does hits both.
    ///
    /// # Errors
    /// Those of opening, posting to and dispatching from a port.
    pub fn measure() -> io::Result<Self> {
        let (bare, longshore) = (Bare::default(), Longshore::new()?);
        let mut ratios = [0.0; BURSTS.len()];
        for (ratio, burst) in ratios.iter_mut().zip(BURSTS) {
            *ratio = median_ratio(&bare, &longshore, burst)?;
        }
        Ok(Self(ratios))
    }

    /// The larger one.
    pub fn worst(&self) -> f64 {
        self.0.into_iter().fold(0.0, f64::max)
    }
}

impl fmt::Display for Ratios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("post+dispatch / bare queue:")?;
        for (i, (burst, ratio)) in BURSTS.iter().zip(self.0).enumerate() {
            let separator = if i == 0 { "" } else { "," };
            write!(f, "{separator} burst {burst}: {ratio:.2}x")?;
        }
        Ok(())
    }
}

/// The median over the rounds of the ratio within each round.
fn median_ratio(bare: &impl Queue, longshore: &impl Queue, burst: usize) -> io::Result<f64> {
    let mut ratios = vec![0.0; ROUNDS];
    time(bare, burst)?;
    time(longshore, burst)?;
    for (round, ratio) in ratios.iter_mut().enumerate() {
        // Who goes first changes, so that neither always meets the other's traces.
        let (below, above) = if round % 2 == 0 {
            let below = time(bare, burst)?;
            (below, time(longshore, burst)?)
        } else {
            let above = time(longshore, burst)?;
            (time(bare, burst)?, above)
        };
        *ratio = above.as_secs_f64() / below.as_secs_f64();
    }
    ratios.sort_by(f64::total_cmp);
    Ok(ratios[ROUNDS / 2])
}

#[inline(never)]
fn time(queue: &impl Queue, burst: usize) -> io::Result<Duration> {
    let start = Instant::now();
    for _ in 0..CALLBACKS / burst {
        queue.run(burst)?;
    }
    Ok(start.elapsed())
}
