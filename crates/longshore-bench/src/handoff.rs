//! One thread posts, one or two others dispatch, beside the same over a lock-free queue with a futex.
//!
//! The dispatchers sleep whenever the queue runs dry, so the figure contains the waking that the two
//! sides do, and what they save of it.

use std::{
    hint::black_box,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_queue::SegQueue;
use longshore::{Dispatcher, dispatcher::OnCallback};

use crate::{burst::callback, rounds::median_ratio};

/// How many threads dispatch.
pub const DISPATCHERS: [usize; 2] = [1, 2];

const ROUNDS: usize = 301;
const CALLBACKS: usize = 4 * 1024;

/// A queue that threads sleep on.
pub trait Sleepy: Send + Sync + 'static {
    /// Queues a callback.
    ///
    /// # Errors
    /// Those of posting.
    fn push(&self, word: usize) -> io::Result<()>;

    /// Runs one callback, after waiting for it.
    ///
    /// # Errors
    /// Those of dispatching.
    fn run_one(&self) -> io::Result<()>;
}

/// A lock-free queue whose consumers sleep in a futex. Nothing is closed, cancelled or counted.
#[derive(Debug, Default)]
pub struct Bare {
    queue: SegQueue<(OnCallback, usize)>,
    sleepers: AtomicU32,
    rings: AtomicU32,
}

impl Bare {
    #[inline]
    fn take(&self) -> (OnCallback, usize) {
        loop {
            if let Some(entry) = self.queue.pop() {
                return entry;
            }
            let rings = self.rings.load(Ordering::Acquire);
            self.sleepers.fetch_add(1, Ordering::Relaxed);
            // With the fence in `push`: the pusher sees the sleeper, or the sleeper the entry.
            fence(Ordering::SeqCst);
            let entry = self.queue.pop();
            if entry.is_none() {
                atomic_wait::wait(&self.rings, rings);
            }
            self.sleepers.fetch_sub(1, Ordering::Relaxed);
            if let Some(entry) = entry {
                return entry;
            }
        }
    }
}

impl Sleepy for Bare {
    #[inline]
    fn push(&self, word: usize) -> io::Result<()> {
        self.queue.push((black_box(callback), word));
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            self.rings.fetch_add(1, Ordering::Release);
            atomic_wait::wake_one(&self.rings);
        }
        Ok(())
    }

    #[inline]
    fn run_one(&self) -> io::Result<()> {
        let (callback, word) = self.take();
        callback(word);
        Ok(())
    }
}

impl Sleepy for Dispatcher {
    #[inline]
    fn push(&self, word: usize) -> io::Result<()> {
        self.post(word, black_box(callback))
    }

    #[inline]
    fn run_one(&self) -> io::Result<()> {
        self.dispatch()
    }
}

/// How many callbacks a thread has run, on a cache line that nobody else writes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Ran(AtomicUsize);

/// A queue with threads that dispatch from it.
#[derive(Debug)]
pub struct Handoff<Q: Sleepy> {
    queue: Arc<Q>,
    ran: Arc<[Ran]>,
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl<Q: Sleepy> Handoff<Q> {
    /// Starts the threads.
    pub fn new(queue: Q, dispatchers: usize) -> Self {
        let queue = Arc::new(queue);
        let ran: Arc<[Ran]> = (0..dispatchers).map(|_| Ran::default()).collect();
        let ends = Arc::new(AtomicBool::new(false));
        let threads = (0..dispatchers).map(|mine| {
            let (queue, ran, ends) = (queue.clone(), ran.clone(), ends.clone());
            thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    queue.run_one().expect("the port is open");
                    let ran = &ran[mine].0;
                    // No other thread writes it.
                    ran.store(ran.load(Ordering::Relaxed) + 1, Ordering::Release);
                }
            })
        });
        let threads = threads.collect();
        Self {
            queue,
            ran,
            ends,
            threads,
        }
    }

    /// Queues so many callbacks and waits until all have run.
    ///
    /// # Errors
    /// Those of posting.
    pub fn run(&self, callbacks: usize) -> io::Result<()> {
        let goal = self.total() + callbacks;
        for word in 0..callbacks {
            self.queue.push(black_box(word))?;
        }
        while self.total() < goal {
            thread::yield_now();
        }
        Ok(())
    }

    fn total(&self) -> usize {
        (self.ran.iter())
            .map(|ran| ran.0.load(Ordering::Acquire))
            .sum()
    }

    fn time(&self) -> io::Result<Duration> {
        let start = Instant::now();
        self.run(CALLBACKS)?;
        Ok(start.elapsed())
    }
}

impl<Q: Sleepy> Drop for Handoff<Q> {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Each takes one more, whoever gets it, and looks at the flag.
            while !thread.is_finished() {
                let _ = self.queue.push(0);
                thread::yield_now();
            }
            let _ = thread.join();
        }
    }
}

/// How many times the bare queue's time the port takes, for each of [`DISPATCHERS`].
///
/// # Errors
/// Those of opening a port and of posting.
pub fn ratios() -> io::Result<[f64; DISPATCHERS.len()]> {
    let mut ratios = [0.0; DISPATCHERS.len()];
    for (ratio, dispatchers) in ratios.iter_mut().zip(DISPATCHERS) {
        let bare = Handoff::new(Bare::default(), dispatchers);
        let longshore = Handoff::new(Dispatcher::new()?, dispatchers);
        *ratio = median_ratio(ROUNDS, || bare.time(), || longshore.time())?;
    }
    Ok(ratios)
}
