//! Post and dispatch on one thread, beside push, pop and call.
//!
//! The question is what they cost on top of the queue that any such library needs. So the same
//! lock-free queue, holding the same pair of words, is measured beside the port.

use std::{
    hint::black_box,
    io,
    time::{Duration, Instant},
};

use crossbeam_queue::SegQueue;
use longshore::{Dispatcher, dispatcher::OnCallback};

use crate::rounds::median_ratio;

/// The bursts that are compared: one post answered at once, and a queue that fills and drains.
pub const BURSTS: [usize; 2] = [1, 64];

const ROUNDS: usize = 1001;

/// Callbacks in one measurement: long enough for the clock, and so much shorter than a thread's
/// turn on a busy core that most rounds are not interrupted.
const CALLBACKS: usize = 8 * 1024;

pub(crate) extern "C-unwind" fn callback(word: usize) {
    black_box(word);
}

/// What one burst is measured on.
pub trait Queue {
    /// Queues `burst` callbacks, then takes and calls each.
    ///
    /// # Errors
    /// Those of posting and dispatching.
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
///
/// # Errors
/// Those of opening, posting to and dispatching from a port.
pub fn ratios() -> io::Result<[f64; BURSTS.len()]> {
    let (bare, longshore) = (Bare::default(), Longshore::new()?);
    let mut ratios = [0.0; BURSTS.len()];
    for (ratio, burst) in ratios.iter_mut().zip(BURSTS) {
        *ratio = median_ratio(ROUNDS, || time(&bare, burst), || time(&longshore, burst))?;
    }
    Ok(ratios)
}

#[inline(never)]
fn time(queue: &impl Queue, burst: usize) -> io::Result<Duration> {
    let start = Instant::now();
    for _ in 0..CALLBACKS / burst {
        queue.run(burst)?;
    }
    Ok(start.elapsed())
}
