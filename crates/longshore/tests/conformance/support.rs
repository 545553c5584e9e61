//! What several modules use: callbacks that note their words, and how to look at a thread.

use std::{
    any::Any,
    cell::RefCell,
    fmt, io,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use longshore::{Dispatcher, Error};

use crate::harness::{Counter, in_child, spawn};

thread_local! {
    static SEEN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Notes the word on the thread that dispatches, so that tests do not see each other's.
pub extern "C-unwind" fn note(word: usize) {
    SEEN.with_borrow_mut(|seen| seen.push(word));
}

/// What [`note`] has seen on this thread since the last call.
pub fn seen() -> Vec<usize> {
    SEEN.take()
}

/// Panics with the word, and without the panic hook's message.
pub extern "C-unwind" fn fail(word: usize) {
    panic::resume_unwind(Box::new(word));
}

/// What `body` panics with; it must.
pub fn panic_of<T>(body: impl FnOnce() -> T) -> Box<dyn Any + Send> {
    match panic::catch_unwind(AssertUnwindSafe(body)) {
        Ok(_) => panic!("it did not panic"),
        Err(payload) => payload,
    }
}

/// The word that [`fail`] panicked with.
pub fn word_of(payload: &(dyn Any + Send)) -> usize {
    *payload.downcast_ref().expect("the panic is ours")
}

/// Counts how many of its kind were dropped.
#[derive(Clone, Debug)]
pub struct Token(Arc<AtomicUsize>);

impl Token {
    pub fn new(dropped: &Arc<AtomicUsize>) -> Self {
        Self(dropped.clone())
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Does something when it is dropped.
pub struct OnDrop<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The call was refused because the dispatcher is closed.
#[track_caller]
pub fn assert_closed<T: fmt::Debug>(result: io::Result<T>) {
    let error = result.expect_err("the dispatcher is closed");
    assert_eq!(Error::of(&error), Some(Error::Closed), "{error}");
}

/// The child process ran one test, and it passed.
pub fn assert_passed(child: &Output) {
    let [said, errors] = [&child.stdout, &child.stderr].map(|text| String::from_utf8_lossy(text));
    let passed = child.status.success() && said.contains("1 passed");
    assert!(passed, "{}\n{said}\n{errors}", child.status);
}

/// Runs the current test in a process of its own. `false` in that process.
pub fn passed_in_a_child() -> bool {
    let child = in_child();
    child.inspect(assert_passed).is_some()
}

/// A thread that can be looked at.
#[derive(Clone, Debug)]
pub struct Seat(PathBuf);

impl Seat {
    /// The calling thread.
    pub fn here() -> Self {
        let thread = std::fs::read_link("/proc/thread-self").unwrap_or_default();
        Self(PathBuf::from("/proc").join(thread).join("stat"))
    }

    /// Returns once the thread sleeps, where the system shows it; elsewhere after a while. A hint,
    /// so that a test meets the case it is about: it must pass whether the thread sleeps or not.
    pub fn until_asleep(&self) {
        if cfg!(windows) {
            (0..20).for_each(|_| thread::yield_now());
            return;
        }
        // The state follows the name, which is in brackets. No file: the thread has ended.
        while std::fs::read_to_string(&self.0)
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").starts_with(" S"))
        {
            thread::yield_now();
        }
    }
}

/// `count` threads that each run `body` on the port; returns when they seem to be asleep in it.
pub fn sleepers<T: Send + 'static>(
    port: &Dispatcher,
    count: usize,
    body: impl Fn(&Dispatcher) -> T + Send + Sync + 'static,
) -> Vec<JoinHandle<T>> {
    let seats = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (body, here) = (Arc::new(body), Arc::new(Counter::new()));
    let threads = (0..count)
        .map(|_| {
            let (port, body) = (port.clone(), body.clone());
            let (seats, here) = (seats.clone(), here.clone());
            spawn(move || {
                seats.lock().unwrap().push(Seat::here());
                here.add(1);
                drop((seats, here));
                body(&port)
            })
        })
        .collect();
    here.wait_for(count);
    for seat in seats.lock().unwrap().iter() {
        seat.until_asleep();
    }
    threads
}

/// Waits without going to sleep, so that the next step follows at once.
pub fn spin_until(is_so: impl Fn() -> bool) {
    for turn in 1u32.. {
        match is_so() {
            true => return,
            false if turn % 1024 == 0 => thread::yield_now(),
            false => std::hint::spin_loop(),
        }
    }
}

/// A pause of a few nanoseconds for each turn: rounds with growing pauses meet a race in each of
/// its steps.
pub fn pause(turns: usize) {
    (0..turns).for_each(|turn| _ = std::hint::black_box(turn));
}

/// What the threads returned.
pub fn join<T>(threads: Vec<JoinHandle<T>>) -> Vec<T> {
    let results = threads.into_iter().map(|thread| thread.join());
    results
        .map(|result| result.unwrap_or_else(|payload| panic::resume_unwind(payload)))
        .collect()
}

/// Fewer rounds under Wine, where a system call costs a hundred times as much.
pub fn rounds(count: usize) -> usize {
    crate::harness::scaled(count)
}
