//! Strands: handlers that never run at the same time and keep their order, without holding a thread.
//!
//! A strand has a queue of its own, and at most one packet in the port: that packet is its *turn*. One
//! turn runs one handler, so a busy strand shares the port fairly with everything else. Whoever queues
//! a handler while there is no turn posts one, and a turn that has run its handler posts the next one
//! if there are more. Queue and turn change under one lock, which is never held while a handler runs:
//! so there is a turn for as long as there are handlers, and never a second one. What one handler
//! wrote the next one sees, because each passes through that lock before and after.
//!
//! Closing takes what is in line from every strand of the port, also from one whose handler runs and
//! which has no packet in the port. It ends the line under the same lock: each handler was in line
//! before, and is dropped or handed over, or comes later and is refused. Until then a strand with
//! handlers has an owner: its turn, or closing, to which whoever finds the turn in vain leaves it.
// UNSAFETY: a strand travels through the port as a bare word, and what it queues as bare words.
#![expect(unsafe_code)]

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt, io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

#[cfg(doc)]
use super::Dispatcher;
use super::{Inner, PostError, close::Undelivered, closure, context::OnCallback, timers::Panic};
use crate::{error::Error, trace::event};

/// A handler: a callback and its word, as it would be posted.
type Handler = (OnCallback, usize);

#[derive(Default)]
struct Line {
    handlers: VecDeque<Handler>,
    /// A turn is in the port, or its handler is running. If not, there are no handlers.
    has_turn: bool,
    /// Closing has taken what was there; there will be no handlers.
    has_ended: bool,
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
            if line.has_ended {
                return Err(Error::Closed.into());
            }
            line.handlers.push_back(handler);
            if mem::replace(&mut line.has_turn, true) {
                return Ok(());
            }
        }
        let word = self.word();
        self.inner.post(TURN as usize, word).or_else(|refused| {
            // SAFETY: it was not posted, so the reference is ours again.
            drop(unsafe { unpack(word) });
            match self.take_back() {
                true => Err(refused),
                // Closing has found it in line.
                false => Ok(()),
            }
        })
    }

    /// The turn of the caller's handler was refused. `false`: the handler is in line no more.
    fn take_back(self: &Arc<Self>) -> bool {
        // There was no turn, so the one in front is the caller's. Others may stand behind it by now.
        let is_there = self.pop().is_some();
        if is_there && self.end_turn() {
            self.next_turn();
        }
        is_there
    }

    /// Posts the next turn. Handlers depend on it, so a kernel that is short of memory is asked
    /// again; a port that is closed takes none any more, and closing takes what is in line.
    fn next_turn(self: &Arc<Self>) {
        let word = self.word();
        while self.inner.post(TURN as usize, word).is_err() {
            if self.inner.port.open_or_err().is_err() {
                // SAFETY: it was not posted, so the reference is ours again.
                drop(unsafe { unpack(word) });
                return self.inner.strands.leave_to_closing(self.clone());
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

    /// Ends the line: closures are dropped, raw handlers handed over. Goes on after a panic.
    fn end(&self, undelivered: &mut dyn FnMut(Undelivered), panic: &mut Option<Panic>) {
        let handlers = {
            let mut line = self.line();
            line.has_ended = true;
            // At once: who finds a handler in line when its turn was refused takes it for its own.
            mem::take(&mut line.handlers)
        };
        for (callback, context) in handlers {
            let discarded = catch_unwind(AssertUnwindSafe(|| {
                if callback as usize == closure::RUN as usize {
                    // SAFETY: the strand owned the word, and it was taken out once, above.
                    unsafe { closure::discard_posted(context) };
                } else {
                    undelivered(Undelivered { callback, context });
                }
            }));
            if let Err(caught) = discarded {
                panic.get_or_insert(caught);
            }
        }
    }
}

/// The strands of a port, for closing.
#[derive(Default)]
pub(crate) struct Strands {
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    strands: Vec<Weak<Shared>>,
    /// Those whose turn was refused, or found in the port: nobody else may have them.
    stuck: Vec<Arc<Shared>>,
    have_ended: bool,
}

impl Strands {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, strand: &Arc<Shared>) {
        let strands = &mut self.all().strands;
        if strands.len() == strands.capacity() {
            strands.retain(|strand| strand.strong_count() > 0);
            // As many again, so that few additions have to look through all.
            let living = strands.len();
            strands.reserve(living.max(16));
        }
        strands.push(Arc::downgrade(strand));
    }

    /// For a strand that will have no turn any more. If closing was here, it has the strand already.
    fn leave_to_closing(&self, strand: Arc<Shared>) {
        let mut all = self.all();
        if !all.have_ended {
            all.stuck.push(strand);
        }
    }

    /// Ends every line. The queue of the port is empty by now.
    pub(super) fn end(&self, undelivered: &mut dyn FnMut(Undelivered), panic: &mut Option<Panic>) {
        let strands: Vec<_> = {
            let mut all = self.all();
            all.have_ended = true;
            let stuck = mem::take(&mut all.stuck);
            let others = mem::take(&mut all.strands);
            let others = others.iter().filter_map(Weak::upgrade);
            others.chain(stuck).collect()
        };
        for strand in strands {
            strand.end(undelivered, panic);
        }
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

/// Leaves a strand to [`Strands::end`], because its turn was found in the port that is closed.
///
/// # Safety
/// `word` was taken from the port in a packet with the key [`TURN`].
pub(crate) unsafe fn discard(word: usize) {
    // SAFETY: passed on.
    if let Some(shared) = unsafe { unpack(word) } {
        let inner = shared.inner.clone();
        inner.strands.leave_to_closing(shared);
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
        let shared = Arc::new(Shared {
            inner: inner.clone(),
            line: Mutex::default(),
        });
        inner.strands.add(&shared);
        Self { shared }
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

#[cfg(test)]
mod tests {
    use crate::dispatcher::Dispatcher;

    use super::*;

    #[test]
    fn strand_those_that_are_gone_are_forgotten() {
        let port = Dispatcher::new().unwrap();
        let kept = port.strand();
        for _ in 0..5000 {
            port.strand();
        }
        let all = port.inner.strands.all();
        assert!(all.strands.len() < 100);
        let known = all.strands.iter().filter_map(Weak::upgrade);
        assert!(known.into_iter().any(|one| Arc::ptr_eq(&one, &kept.shared)));
    }
}
