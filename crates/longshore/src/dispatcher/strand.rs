//! Strands: handlers that never run at the same time and keep their order, without holding a thread.
//!
//! A strand has a queue of its own, and at most one packet in the port: that packet is its *turn*. One
//! turn runs one handler, so a busy strand shares the port fairly with everything else. Whoever queues
//! a handler while there is no turn posts one, and a turn that has run its handler posts the next one
//! if there are more. Queue and turn change under one lock, which is never held while a handler runs:
//! so there is a turn for as long as there are handlers, and never a second one. What one handler
//! wrote the next one sees, because each passes through that lock before and after.
// UNSAFETY: a strand travels through the port as a bare word, and what it queues as bare words.
#![expect(unsafe_code)]

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt, io, mem, ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

#[cfg(doc)]
use super::Dispatcher;
use super::{Inner, PostError, closure, context::OnCallback};
#[cfg(doc)]
use crate::error::Error;
use crate::trace::event;

/// A handler: a callback and its word, as it would be posted.
type Handler = (OnCallback, usize);

#[derive(Default)]
struct Line {
    handlers: VecDeque<Handler>,
    /// A turn is in the port, or its handler is running. If not, there are no handlers.
    has_turn: bool,
}

struct Shared {
    inner: Arc<Inner>,
    line: Mutex<Line>,
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self) -> Option<Handler> {
        self.line().handlers.pop_front()
    }

    /// The turn is over. `true`: there is to be another.
    fn end_turn(&self) -> bool {
        let mut line = self.line();
        line.has_turn = !line.handlers.is_empty();
        line.has_turn
    }

    /// The word of a turn: a counted reference, which the packet owns.
    fn word(self: &Arc<Self>) -> usize {
        Arc::into_raw(self.clone()).expose_provenance()
    }

    /// Puts a handler in line; it is the caller's again if its turn cannot be posted.
    fn post(self: &Arc<Self>, handler: Handler) -> io::Result<()> {
        self.inner.port.open_or_err()?;
        {
            let mut line = self.line();
            line.handlers.push_back(handler);
            if mem::replace(&mut line.has_turn, true) {
                return Ok(());
            }
        }
        let word = self.word();
        self.inner.post(TURN as usize, word).inspect_err(|_| {
            // SAFETY: it was not posted, so the reference is ours again.
            drop(unsafe { unpack(word) });
            // There was no turn, so ours is the handler in front. Others may stand behind it by now.
            self.pop();
            if self.end_turn() {
                self.next_turn();
            }
        })
    }

    /// Posts the next turn. Handlers depend on it, so a kernel that is short of memory is asked
    /// again; a port that is closed takes none any more.
    fn next_turn(self: &Arc<Self>) {
        let word = self.word();
        while self.inner.post(TURN as usize, word).is_err() {
            if self.inner.port.open_or_err().is_err() {
                // SAFETY: it was not posted, so the reference is ours again.
                drop(unsafe { unpack(word) });
                return self.discard_all(&mut |_, _| {});
            }
            event!(
                WARN,
                "backing off",
                port = self.inner.port.id(),
                key = TURN as usize
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Drops what is in line; raw handlers are handed over.
    fn discard_all(&self, undelivered: &mut dyn FnMut(OnCallback, usize)) {
        while let Some((callback, word)) = self.pop() {
            if callback as usize == closure::RUN as usize {
                // SAFETY: the strand owned the word, and it is taken out once.
                unsafe { closure::discard_posted(word) };
            } else {
                undelivered(callback, word);
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.discard_all(&mut |_, _| {});
    }
}

/// The key of a strand's turn.
pub(crate) const TURN: OnCallback = take_turn;

thread_local! {
    /// The strand whose handler this thread is running; compared, never followed.
    static CURRENT: Cell<*const Shared> = const { Cell::new(ptr::null()) };
}

/// One handler's time on this thread. Ends, and posts the next turn, also by a panic.
struct Turn {
    shared: Arc<Shared>,
    before: *const Shared,
}

impl Drop for Turn {
    fn drop(&mut self) {
        CURRENT.set(self.before);
        if self.shared.end_turn() {
            self.shared.next_turn();
        }
    }
}

#[inline(never)]
extern "C-unwind" fn take_turn(word: usize) {
    // SAFETY: this key is private and the dispatcher calls it only for a packet that longshore
    // posted, once; so the word came from `Shared::word`, and the packet owned the reference.
    let Some(shared) = (unsafe { unpack(word) }) else {
        return;
    };
    let before = CURRENT.replace(Arc::as_ptr(&shared));
    let turn = Turn { shared, before };
    if let Some((callback, word)) = turn.shared.pop() {
        callback(word);
    }
}

/// # Safety
/// `word` came from [`Shared::word`], and nobody else has it.
unsafe fn unpack(word: usize) -> Option<Arc<Shared>> {
    let raw = ptr::with_exposed_provenance::<Shared>(word);
    // SAFETY: `Shared::word` made it of an Arc, and the caller is its only owner.
    (!raw.is_null()).then(|| unsafe { Arc::from_raw(raw) })
}

/// Gives a strand up whose turn was never dispatched, because the port was closed.
///
/// # Safety
/// `word` was taken from the port in a packet with the key [`TURN`].
pub(crate) unsafe fn discard(word: usize, undelivered: &mut dyn FnMut(OnCallback, usize)) {
    // SAFETY: passed on.
    if let Some(shared) = unsafe { unpack(word) } {
        shared.discard_all(undelivered);
    }
}

/// A line of handlers on a port: they run one at a time and in order, on whichever threads dispatch.
///
/// No lock is held and no thread is kept while one runs: a thread that finds the strand busy does
/// something else, because what waits is in the strand's own queue. Each handler is one entry of the
/// port. What one handler wrote, the next one sees.
///
/// Cloning is cheap and names the same strand. Any thread may post. Dropping the last clone lets the
/// handlers in line run all the same. A panic in a handler reaches whoever dispatched it, and the
/// strand goes on with the next. When the port is closed, closures in line are dropped and raw
/// handlers are given to [`close_with`](Dispatcher::close_with), like other posts.
///
/// # Examples
/// ```
/// use std::sync::{Arc, Mutex};
/// let port = longshore::Dispatcher::new()?;
/// let (strand, log) = (port.strand(), Arc::new(Mutex::new(Vec::new())));
/// for number in 0..3 {
///     let log = log.clone();
///     strand.post_fn(move || log.try_lock().unwrap().push(number))?;
/// }
/// let worker = std::thread::spawn({
///     let port = port.clone();
///     move || port.run()
/// });
/// port.run()?;
/// worker.join().unwrap()?;
/// assert_eq!(*log.lock().unwrap(), [0, 1, 2]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Strand {
    shared: Arc<Shared>,
}

impl Strand {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        Self {
            shared: Arc::new(Shared {
                inner: inner.clone(),
                line: Mutex::default(),
            }),
        }
    }

    /// Puts one callback in line, with the word it receives. Amortised, nothing is allocated.
    ///
    /// # Errors
    /// [`Error::Closed`], or the kernel's reason for refusing the packet (Windows). The callback
    /// will not be called then.
    ///
    /// # Examples
    /// ```
    /// extern "C-unwind" fn hello(word: usize) {
    ///     assert_eq!(word, 7);
    /// }
    /// let port = longshore::Dispatcher::new()?;
    /// port.strand().post(7, hello)?;
    /// port.dispatch()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn post(&self, context: usize, callback: OnCallback) -> io::Result<()> {
        self.shared.post((callback, context))
    }

    /// Puts one closure in line, at the price of one allocation.
    ///
    /// # Errors
    /// As for [`post`](Self::post); the closure comes back.
    ///
    /// # Examples
    /// ```
    /// use std::sync::mpsc;
    /// let port = longshore::Dispatcher::new()?;
    /// let (strand, (sender, receiver)) = (port.strand(), mpsc::channel());
    /// let again = sender.clone();
    /// strand.post_fn(move || sender.send("first").unwrap())?;
    /// strand.post_fn(move || again.send("second").unwrap())?;
    /// port.run()?;
    /// assert_eq!(receiver.try_iter().collect::<Vec<_>>(), ["first", "second"]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn post_fn<F>(&self, handler: F) -> Result<(), PostError<F>>
    where
        F: FnOnce() + Send + 'static,
    {
        let word = closure::pack(handler);
        self.shared
            .post((closure::RUN, word))
            .map_err(|error| PostError {
                error,
                // SAFETY: it is not in line, so the word that was packed above is ours alone.
                closure: unsafe { closure::unpack(word) },
            })
    }

    /// Whether the calling thread is running a handler of this strand at this moment.
    ///
    /// # Examples
    /// ```
    /// let port = longshore::Dispatcher::new()?;
    /// let strand = port.strand();
    /// assert!(!strand.is_running_here());
    /// let inside = strand.clone();
    /// strand.post_fn(move || assert!(inside.is_running_here()))?;
    /// port.dispatch()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "running_in_this_thread")]
    pub fn is_running_here(&self) -> bool {
        CURRENT.get() == Arc::as_ptr(&self.shared)
    }
}

impl fmt::Debug for Strand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strand")
            .field("in_line", &self.shared.line().handlers.len())
            .finish_non_exhaustive()
    }
}

impl super::Dispatcher {
    /// A new [`Strand`] on this port.
    pub fn strand(&self) -> Strand {
        Strand::new(&self.inner)
    }
}
