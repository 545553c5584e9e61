//! One actor: always one event on its way, and never two.

use std::{
    io::{self, Write},
    net::{TcpListener, TcpStream as StdStream},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use longshore::{ABORTED, Dispatcher, net::TcpStream};

use super::{
    lent::Lent,
    play::{Play, play},
    random::Random,
};

/// How many actors there may be: an event's word is its generation times this, plus its actor.
pub(crate) const MOST: usize = 1000;
/// In [`Actor::outstanding`]: no event. (Generations begin at 1.)
const NONE: usize = 0;
pub(crate) const OPEN: &str = "the port is open, and nothing is refused";

/// When a receive is submitted.
#[derive(Clone, Copy)]
pub(crate) enum When {
    /// Before the data is sent.
    Before,
    /// After the data was sent.
    After,
    /// No data is sent, and it is cancelled.
    Cancelled,
}

#[derive(Clone, Copy)]
enum Kind {
    /// A word and a callback.
    Post,
    Closure,
    Timer,
    /// A Context that is queued by itself.
    Repost,
    /// A receive with a Context.
    Submit(When),
    /// A receive that is awaited.
    Await(When),
    /// An awaited receive that is cancelled while its data comes.
    Race,
}

/// What is drawn from. Timers are the fewest: they take the longest.
const DECK: [Kind; 13] = [
    Kind::Post,
    Kind::Post,
    Kind::Closure,
    Kind::Timer,
    Kind::Repost,
    Kind::Submit(When::Before),
    Kind::Submit(When::After),
    Kind::Submit(When::Cancelled),
    Kind::Await(When::Before),
    Kind::Await(When::After),
    Kind::Await(When::Cancelled),
    Kind::Race,
    Kind::Race,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Post => "a post",
            Self::Closure => "a closure",
            Self::Timer => "a timer",
            Self::Repost => "a reposted Context",
            Self::Submit(When::Before) => "a Context's receive before the send",
            Self::Submit(When::After) => "a Context's receive after the send",
            Self::Submit(When::Cancelled) => "a Context's cancelled receive",
            Self::Await(When::Before) => "a receive before the send",
            Self::Await(When::After) => "a receive after the send",
            Self::Await(When::Cancelled) => "a cancelled receive",
            Self::Race => "a receive that is cancelled while its data comes",
        }
    }
}

pub(crate) struct Actor {
    number: usize,
    /// The word of the event that is on its way. Whoever delivers it takes it away.
    outstanding: AtomicUsize,
    script: Mutex<Script>,
    pub(crate) lent: Lent,
    ours: TcpStream,
    theirs: StdStream,
}

struct Script {
    random: Random,
    /// Of the event that was begun last.
    generation: usize,
    /// What is on its way, and when it should be there, in microseconds of the play. `None`: it is over.
    event: Option<(Kind, u64)>,
}

/// What an actor waits for, and for how much longer than it may.
pub(crate) struct Stuck {
    pub(crate) actor: usize,
    pub(crate) what: &'static str,
    pub(crate) waited: Duration,
}

impl Actor {
    pub(crate) fn new(port: &Dispatcher, number: usize, seed: u64) -> io::Result<Self> {
        let (ours, theirs) = connection()?;
        let script = Script {
            random: Random::new(seed, number as u64),
            generation: 0,
            event: None,
        };
        Ok(Self {
            number,
            outstanding: AtomicUsize::new(NONE),
            script: Mutex::new(script),
            lent: Lent::new(port, number)?,
            ours: TcpStream::from_std(port, ours)?,
            theirs,
        })
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.script().event.is_none()
    }

    pub(crate) fn stuck(&self, play: &Play, limit: Duration) -> Option<Stuck> {
        let (kind, due_us) = self.script().event?;
        let waited = Duration::from_micros(play.now_us().checked_sub(due_us)?);
        (waited > limit).then_some(Stuck {
            actor: self.number,
            what: kind.name(),
            waited,
        })
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("no panic under the lock")
    }

    /// Takes note of an event, and begins the next one if it was the one that is outstanding.
    pub(crate) fn delivered(&'static self, word: usize) {
        match (self.outstanding).compare_exchange(word, NONE, SeqCst, SeqCst) {
            Ok(_) => self.next(),
            Err(_) => {
                play().duplicates.fetch_add(1, SeqCst);
            }
        }
    }

    /// Begins the next event, if there are to be more. Nothing is outstanding.
    pub(crate) fn next(&'static self) {
        let play = play();
        let mut script = self.script();
        let now_us = play.now_us();
        if let Some((_, due_us)) = script.event.take() {
            play.came(now_us.saturating_sub(due_us));
        }
        if !play.goes_on() {
            return;
        }
        let kind = DECK[script.random.below(DECK.len())];
        let wait_us = match kind {
            Kind::Timer => script.random.below(2000) as u64,
            _ => 0,
        };
        script.generation += 1;
        script.event = Some((kind, now_us + wait_us));
        let word = script.generation * MOST + self.number;
        drop(script);
        self.outstanding.store(word, SeqCst);
        self.begin(&play.port, kind, Duration::from_micros(wait_us), word);
    }

    fn begin(&'static self, port: &Dispatcher, kind: Kind, wait: Duration, word: usize) {
        match kind {
            Kind::Post => port.post(word, posted).expect(OPEN),
            Kind::Closure => port.post_fn(move || self.delivered(word)).expect(OPEN),
            Kind::Timer => {
                let sleep = port.sleep(wait);
                let task = async move {
                    sleep.await.expect(OPEN);
                    self.delivered(word);
                };
                port.spawn(task).detach();
            }
            Kind::Repost => self.lent.repost(port, word),
            Kind::Submit(when) => self.lent.receive(port, when, word),
            Kind::Await(when) => self.receive(port, when, word),
            Kind::Race => self.race(port, word),
        }
    }

    fn receive(&'static self, port: &Dispatcher, when: When, word: usize) {
        if matches!(when, When::After) {
            send(&self.theirs, word);
        }
        let read = self.ours.read(Vec::with_capacity(8));
        match when {
            When::Before => send(&self.theirs, word),
            When::After => {}
            When::Cancelled => read.cancel(),
        }
        let task = async move {
            let (result, buffer) = read.await;
            play().check(match when {
                When::Cancelled => is_aborted(&result) && buffer.is_empty(),
                _ => brought(&result, &buffer, word),
            });
            self.delivered(word);
        };
        port.spawn(task).detach();
    }

    fn race(&'static self, port: &Dispatcher, word: usize) {
        let read = self.ours.read(Vec::with_capacity(8));
        // Both at once, and neither waits for the other.
        send(&self.theirs, word);
        read.cancel();
        let task = async move {
            let (mut result, mut buffer) = read.await;
            // What was sent while the receive was cancelled is not lost: the next one gets it.
            if is_aborted(&result) {
                (result, buffer) = self.ours.read(Vec::with_capacity(8)).await;
            }
            play().check(brought(&result, &buffer, word));
            self.delivered(word);
        };
        port.spawn(task).detach();
    }
}

extern "C-unwind" fn posted(word: usize) {
    if let Some(actor) = play().actor(word % MOST) {
        actor.delivered(word);
    }
}

/// Our end of a connection, and the other one.
pub(crate) fn connection() -> io::Result<(StdStream, StdStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let theirs = StdStream::connect(listener.local_addr()?)?;
    theirs.set_nodelay(true)?;
    Ok((listener.accept()?.0, theirs))
}

pub(crate) fn send(mut theirs: &StdStream, word: usize) {
    // Eight bytes on an empty connection never block.
    let sent = theirs.write_all(&(word as u64).to_ne_bytes());
    sent.expect("the connection is open");
}

fn brought(result: &io::Result<usize>, buffer: &[u8], word: usize) -> bool {
    matches!(result, Ok(8)) && buffer == (word as u64).to_ne_bytes()
}

fn is_aborted(result: &io::Result<usize>) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(ABORTED as i32))
}
