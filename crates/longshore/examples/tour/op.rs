//! One overlapped operation at a time, and everything it needs, in one counted allocation.
//!
//! The kernel writes into a Context and a buffer until the packet comes, so both must stay. The
//! way to be sure is to count the kernel as an owner: submitting an [`Op`] takes one more count,
//! and its packet gives it back. Whatever else happens, the memory is there.
// UNSAFETY: a Context's word is the address of its Op, and buffers are lent to the kernel.
#![expect(unsafe_code)]

use std::{
    io,
    ptr::{self, NonNull},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use longshore::{
    Completion, Dispatcher, Handle, Submission,
    dispatcher::{Context, OnEvent},
};

/// Completions that were dispatched to an Op, in the whole process.
static COMPLETIONS: AtomicU64 = AtomicU64::new(0);

pub(crate) fn completions() -> u64 {
    COMPLETIONS.load(Ordering::Relaxed)
}

/// What a chain of operations does: each completion leads to the next submission.
///
/// # Safety
/// What a returned submission points to belongs to `self`, does not move, and is not touched
/// again until `next` is called with its completion.
pub(crate) unsafe trait Chain: Send + Sync + Sized + 'static {
    /// Takes a completion in; `None` when there is nothing more to do.
    fn next(&self, completion: Completion) -> io::Result<Option<Submission<'_>>>;

    /// `next` said `None`.
    fn ended(&self) {}

    /// An operation could not be started, or `next` failed.
    fn failed(&self, _error: io::Error) {}
}

/// A Context that owns its operation. The Context is the first field, so that the address in the
/// packet is the address of the whole.
#[repr(C)]
pub(crate) struct Op<T> {
    context: Context,
    port: Dispatcher,
    pub(crate) chain: T,
}

impl<T: Chain> Op<T> {
    pub(crate) fn new(port: &Dispatcher, chain: T) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            context: Context::new(on_event::<T> as OnEvent, this.as_ptr().expose_provenance()),
            port: port.clone(),
            chain,
        })
    }

    /// Begins the chain with what `first` returns, under the conditions of [`Chain`]; `None` ends
    /// it at once.
    pub(crate) fn start<'a>(
        self: &'a Arc<Self>,
        first: impl FnOnce(&'a T) -> Option<Submission<'a>>,
    ) {
        self.go_on(Ok(first(&self.chain)));
    }

    fn go_on(self: &Arc<Self>, next: io::Result<Option<Submission<'_>>>) {
        let submitted = match next {
            // SAFETY: the submission comes from the chain, which says what it points to.
            Ok(Some(submission)) => unsafe { self.submit(submission) },
            Ok(None) => return self.chain.ended(),
            Err(error) => Err(error),
        };
        if let Err(error) = submitted {
            self.chain.failed(error);
        }
    }

    /// The raw status of the operation in flight, or of the last one.
    pub(crate) fn status(&self) -> u32 {
        // SAFETY: the Context is part of `self`.
        unsafe { Context::raw_status(NonNull::from(&self.context)) }
    }

    /// Asks for the cancellation of the operation in flight.
    pub(crate) fn cancel<'h>(&self, handle: impl Into<Handle<'h>>) -> io::Result<bool> {
        self.port.cancel(handle, NonNull::from(&self.context))
    }

    /// # Safety
    /// What the submission points to is valid and untouched until its completion.
    unsafe fn submit(self: &Arc<Self>, submission: Submission<'_>) -> io::Result<()> {
        let lent = Arc::into_raw(self.clone());
        // SAFETY: the count that was just taken keeps the Context in place until `on_event` gives
        // it back; the rest is the caller's promise. One operation is in flight at a time,
        // because the next one is started by the completion of the last.
        let submitted = unsafe { self.port.submit(NonNull::from(&self.context), submission) };
        if submitted.is_err() {
            // SAFETY: no packet will come for it, so the count is ours again.
            drop(unsafe { Arc::from_raw(lent) });
        }
        submitted
    }
}

extern "C-unwind" fn on_event<T: Chain>(word: usize, bytes: u32, error: u32) {
    // SAFETY: the word is the address of an `Op<T>` (`new`), and the packet owns the count that
    // `submit` took for it.
    let op = unsafe { Arc::from_raw(ptr::with_exposed_provenance::<Op<T>>(word)) };
    COMPLETIONS.fetch_add(1, Ordering::Relaxed);
    op.go_on(op.chain.next(Completion { bytes, error }));
}
