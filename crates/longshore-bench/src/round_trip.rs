//! Waking a thread that wakes us, beside two futexes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use longshore::Dispatcher;

use crate::{burst::callback, rounds::median_ratio};

const ROUNDS: usize = 301;
const TRIPS: usize = 100;

/// What a thread sleeps on.
pub trait Bell: Send + Sync + 'static {
    /// Wakes the one thread that waits, now or later.
    ///
    /// # Errors
    /// Those of posting.
    fn ring(&self) -> io::Result<()>;

    /// Waits for one ring.
    ///
    /// # Errors
    /// Those of dispatching.
    fn wait(&self) -> io::Result<()>;
}

/// A word, and the system's wait for it to change.
#[derive(Debug, Default)]
pub struct Futex(AtomicU32);

impl Bell for Futex {
    #[inline]
    fn ring(&self) -> io::Result<()> {
        self.0.store(1, Ordering::Release);
        atomic_wait::wake_one(&self.0);
        Ok(())
    }

    #[inline]
    fn wait(&self) -> io::Result<()> {
        while self.0.swap(0, Ordering::Acquire) == 0 {
            atomic_wait::wait(&self.0, 0);
        }
        Ok(())
    }
}

impl Bell for Dispatcher {
    #[inline]
    fn ring(&self) -> io::Result<()> {
        self.post(0, callback)
    }

    #[inline]
    fn wait(&self) -> io::Result<()> {
        self.dispatch()
    }
}

/// Two bells, and a thread that answers the one with the other.
#[derive(Debug)]
pub struct RoundTrip<B: Bell> {
    there: Arc<B>,
    back: Arc<B>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<B: Bell> RoundTrip<B> {
    /// Starts the thread.
    pub fn new(there: B, back: B) -> Self {
        let (there, back) = (Arc::new(there), Arc::new(back));
        let ends = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (there, back, ends) = (there.clone(), back.clone(), ends.clone());
            move || {
                loop {
                    there.wait().expect("the port is open");
                    if ends.load(Ordering::Acquire) {
                        break;
                    }
                    back.ring().expect("the port is open");
                }
            }
        });
        Self {
            there,
            back,
            ends,
            thread: Some(thread),
        }
    }

    /// There and back, so many times.
    ///
    /// # Errors
    /// Those of posting and dispatching.
    pub fn run(&self, trips: usize) -> io::Result<()> {
        for _ in 0..trips {
            self.there.ring()?;
            self.back.wait()?;
        }
        Ok(())
    }

    fn time(&self) -> io::Result<Duration> {
        let start = Instant::now();
        self.run(TRIPS)?;
        Ok(start.elapsed())
    }
}

impl<B: Bell> Drop for RoundTrip<B> {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        let _ = self.there.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How many times the futexes' time the ports take.
///
/// # Errors
/// Those of opening, posting to and dispatching from a port.
pub fn ratio() -> io::Result<f64> {
    let futex = RoundTrip::new(Futex::default(), Futex::default());
    let longshore = RoundTrip::new(Dispatcher::new()?, Dispatcher::new()?);
    median_ratio(ROUNDS, || futex.time(), || longshore.time())
}
