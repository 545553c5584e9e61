//! One actor: always one event on its way, and never two.

use std::{
    io::{self, Write},
    net::TcpStream as StdStream,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use longshore::{ABORTED, Dispatcher, net::TcpStream};

/// What all actors share.
pub(crate) struct Play {
    pub(crate) port: Dispatcher,
    wanted: u64,
    begun: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    /// Events that brought something else than what was sent.
    pub(crate) wrong: AtomicU64,
    pub(crate) longest_us: AtomicU64,
    epoch: Instant,
}

impl Play {
    pub(crate) fn new(port: &Dispatcher, wanted: u64) -> Self {
        Self {
            port: port.clone(),
            wanted,
            begun: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            longest_us: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }

    fn now_us(&self) -> u64 {
        self.epoch.elapsed().as_micros() as u64
    }
}

const KINDS: [&str; 6] = [
    "a post",
    "a timer",
    "a receive before the send",
    "a receive after the send",
    "a cancelled receive",
    "a receive that is cancelled while its data comes",
];

/// In [`Actor::kind`]: no more events.
const ENDED: usize = usize::MAX;

pub(crate) struct Actor {
    pub(crate) number: usize,
    play: Arc<Play>,
    random: Mutex<Random>,
    /// The event that is on its way.
    sequence: AtomicU64,
    kind: AtomicUsize,
    /// When it should be there, in microseconds of the play.
    due_us: AtomicU64,
    ours: TcpStream,
    theirs: StdStream,
}

impl Actor {
    pub(crate) fn new(play: &Arc<Play>, number: usize, seed: u64) -> io::Result<Arc<Self>> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let theirs = StdStream::connect(listener.local_addr()?)?;
        theirs.set_nodelay(true)?;
        let ours = TcpStream::from_std(&play.port, listener.accept()?.0)?;
        Ok(Arc::new(Self {
            number,
            play: play.clone(),
            random: Mutex::new(Random::new(seed, number as u64)),
            sequence: AtomicU64::new(0),
            kind: AtomicUsize::new(0),
            due_us: AtomicU64::new(u64::MAX),
            ours,
            theirs,
        }))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.kind.load(SeqCst) == ENDED
    }

    /// What it waits for and for how long, if that is longer than it may be.
    pub(crate) fn stuck_for(&self, limit: Duration) -> Option<(&'static str, Duration)> {
        let due_us = self.due_us.load(SeqCst);
        let late = Duration::from_micros(self.play.now_us().checked_sub(due_us)?);
        let kind = KINDS.get(self.kind.load(SeqCst))?;
        (late > limit).then_some((kind, late))
    }

    /// Begins the next event, if there are to be more.
    pub(crate) fn next(self: &Arc<Self>) {
        if self.play.begun.fetch_add(1, Relaxed) >= self.play.wanted {
            self.kind.store(ENDED, SeqCst);
            return;
        }
        let (kind, delay) = {
            let mut random = self.random.lock().expect("no panic under the lock");
            // Posts are the most, and timers the fewest: they take the longest.
            let kind = [0, 0, 0, 0, 1, 2, 2, 3, 3, 4, 5, 5][random.below(12)];
            (kind, Duration::from_micros(random.below(2000) as u64))
        };
        let sequence = self.sequence.load(SeqCst);
        let wait_us = if kind == 1 {
            delay.as_micros() as u64
        } else {
            0
        };
        self.kind.store(kind, SeqCst);
        self.due_us.store(self.play.now_us() + wait_us, SeqCst);
        self.begin(kind, delay, sequence);
    }

    fn begin(self: &Arc<Self>, kind: usize, delay: Duration, sequence: u64) {
        let (actor, port) = (self.clone(), &self.play.port);
        match kind {
            0 => port
                .post_fn(move || actor.delivered(sequence))
                .expect("the port is open"),
            1 => {
                let sleep = port.sleep(delay);
                let task = async move {
                    sleep.await.expect("the port is open");
                    actor.delivered(sequence);
                };
                port.spawn(task).detach();
            }
            _ => self.begin_receive(kind, sequence),
        }
    }

    fn begin_receive(self: &Arc<Self>, kind: usize, sequence: u64) {
        let actor = self.clone();
        if kind == 3 {
            self.send(sequence);
        }
        let mut read = self.ours.read(Vec::with_capacity(8));
        match kind {
            2 => self.send(sequence),
            4 => read.cancel(),
            5 => {
                // Both at once, and neither waits for the other.
                self.send(sequence);
                read.cancel();
            }
            _ => {}
        }
        let task = async move {
            let (result, mut buffer) = (&mut read).await;
            let is_aborted =
                matches!(&result, Err(error) if error.raw_os_error() == Some(ABORTED as i32));
            // What was sent while the receive was cancelled is not lost: the next one gets it.
            if kind == 5 && is_aborted {
                let (again, bytes) = actor.ours.read(Vec::with_capacity(8)).await;
                buffer = bytes;
                actor.check(matches!(again, Ok(8)) && buffer == sequence.to_le_bytes());
            } else if kind == 4 {
                actor.check(is_aborted && buffer.is_empty());
            } else {
                actor.check(matches!(result, Ok(8)) && buffer == sequence.to_le_bytes());
            }
            actor.delivered(sequence);
        };
        self.play.port.spawn(task).detach();
    }

    fn send(&self, sequence: u64) {
        // Eight bytes on an empty connection never block.
        let sent = (&self.theirs).write_all(&sequence.to_le_bytes());
        sent.expect("the connection is open");
    }

    fn check(&self, is_right: bool) {
        self.play.wrong.fetch_add(u64::from(!is_right), Relaxed);
    }

    fn delivered(self: &Arc<Self>, sequence: u64) {
        let play = &self.play;
        let next = sequence + 1;
        if (self.sequence)
            .compare_exchange(sequence, next, SeqCst, SeqCst)
            .is_err()
        {
            play.duplicates.fetch_add(1, SeqCst);
            return;
        }
        let late_us = play.now_us().saturating_sub(self.due_us.load(SeqCst));
        play.longest_us.fetch_max(late_us, Relaxed);
        play.delivered.fetch_add(1, SeqCst);
        self.next();
    }
}

/// A small generator whose numbers depend on the seed alone (the method is Marsaglia's xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        // Never 0, and far apart for seeds that are close.
        Self(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ^ (stream + 1).wrapping_mul(0xd1b5_4a32_d192_ed03)
                | 1,
        )
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}
