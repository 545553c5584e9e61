//! Buffers that notice when they are written to after they were given up.
// UNSAFETY: promises about a buffer's memory, as IoBufMut asks.
#![expect(unsafe_code)]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU8, Ordering::SeqCst},
};

use longshore::{IoBuf, IoBufMut};

use crate::io_things::pattern;

const POISON: u8 = 0xEE;

/// Memory that is never freed while the pool lives, and handed out again only when it is verified.
#[derive(Clone, Default)]
pub struct Pool {
    free: Arc<Mutex<Vec<Box<[AtomicU8]>>>>,
}

/// One buffer. Dropped, it is poisoned and goes back.
pub struct Checked {
    memory: Option<Box<[AtomicU8]>>,
    filled: usize,
    pool: Pool,
}

impl Pool {
    /// A buffer of `len` bytes, fresh, or verified to be as its last owner has left it.
    pub fn take(&self, len: usize) -> Checked {
        // The oldest, so that whoever still writes has had time to be caught.
        let mut free = self.free.lock().unwrap();
        let old = (free.len() > 64).then(|| free.remove(0));
        drop(free);
        let memory = match old {
            Some(memory) => {
                verify(&memory);
                memory
            }
            None => (0..len).map(|_| AtomicU8::new(0)).collect(),
        };
        memory.iter().for_each(|byte| byte.store(0, SeqCst));
        Checked {
            memory: Some(memory),
            filled: 0,
            pool: self.clone(),
        }
    }

    /// Every buffer that came back is untouched since; returns how many there are.
    pub fn verify(&self) -> usize {
        let free = self.free.lock().unwrap();
        free.iter().for_each(|memory| verify(memory));
        free.len()
    }
}

fn verify(memory: &[AtomicU8]) {
    let is_poisoned = memory.iter().all(|byte| byte.load(SeqCst) == POISON);
    assert!(is_poisoned, "written to after it was given up");
}

impl Drop for Checked {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            memory.iter().for_each(|byte| byte.store(POISON, SeqCst));
            self.pool.free.lock().unwrap().push(memory);
        }
    }
}

impl Checked {
    fn memory(&self) -> &[AtomicU8] {
        self.memory.as_deref().unwrap_or_default()
    }

    /// What was read.
    pub fn data(&self) -> Vec<u8> {
        let bytes = self.memory()[..self.filled].iter();
        bytes.map(|byte| byte.load(SeqCst)).collect()
    }
}

// SAFETY: boxed atomic bytes, initialised, that stay in place until they are dropped.
unsafe impl IoBuf for Checked {
    fn as_ptr(&self) -> *const u8 {
        self.memory().as_ptr().cast()
    }

    fn len(&self) -> usize {
        self.filled
    }
}

// SAFETY: the same; atomics may be written through a shared reference.
unsafe impl IoBufMut for Checked {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.memory().as_ptr().cast_mut().cast()
    }

    fn capacity(&self) -> usize {
        self.memory().len()
    }

    // SAFETY: all of it is initialised already, so nothing is asked of the caller.
    unsafe fn set_init(&mut self, len: usize) {
        self.filled = len;
    }
}

/// A stream of bytes whose order shows: what a sender has sent is what a receiver expects.
#[derive(Default)]
pub struct Stream(usize);

impl Stream {
    /// The next `len` bytes.
    pub fn next(&mut self, len: usize) -> Vec<u8> {
        self.0 += len;
        (self.0 - len..self.0)
            .flat_map(|at| pattern(at, 1))
            .collect()
    }

    /// How many have passed.
    pub fn passed(&self) -> usize {
        self.0
    }
}
