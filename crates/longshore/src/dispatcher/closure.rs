//! Posted closures: one allocation that carries the closure and what to do with it.
// UNSAFETY: a closure travels through the port as a bare word.
#![expect(unsafe_code)]

use std::{error, fmt, io, ptr::NonNull};

use super::context::OnCallback;

/// A closure that could not be posted, and why. The closure is yours again.
///
/// # Examples
/// ```
/// let port = longshore::Dispatcher::new()?;
/// let other = port.clone();
/// port.close()?;
/// let refused = other.post_fn(|| println!("run by hand")).unwrap_err();
/// println!("{}", refused.error);
/// (refused.closure)();
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct PostError<F> {
    /// Why it could not be posted.
    pub error: io::Error,
    /// The closure, not called.
    pub closure: F,
}

impl<F> fmt::Debug for PostError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostError")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<F> fmt::Display for PostError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the closure could not be posted: {}", self.error)
    }
}

impl<F> error::Error for PostError<F> {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<F> From<PostError<F>> for io::Error {
    fn from(refused: PostError<F>) -> Self {
        refused.error
    }
}

/// What can be done with a block without knowing the closure's type; first in every block.
struct Header {
    run: unsafe fn(NonNull<Header>),
    discard: unsafe fn(NonNull<Header>),
}

#[repr(C)]
struct Block<F> {
    header: Header,
    closure: F,
}

/// Packs a closure into the word that is posted with [`RUN`]. Whoever takes the word out of the
/// port owns the block.
pub(crate) fn pack<F: FnOnce() + Send + 'static>(closure: F) -> usize {
    let header = Header {
        run: run::<F>,
        discard: discard::<F>,
    };
    Box::into_raw(Box::new(Block { header, closure })).expose_provenance()
}

/// # Safety
/// `word` came from `pack::<F>`, and nobody else has it.
pub(crate) unsafe fn unpack<F>(word: usize) -> F {
    let block = std::ptr::with_exposed_provenance_mut::<Block<F>>(word);
    // SAFETY: `pack::<F>` made the block, and the caller is its only owner.
    unsafe { Box::from_raw(block) }.closure
}

/// # Safety
/// `block` came from `pack::<F>`, and nobody else has it.
unsafe fn run<F: FnOnce()>(block: NonNull<Header>) {
    // SAFETY: passed on. The block is freed before the closure runs, so a panic leaks nothing.
    let closure = unsafe { unpack::<F>(block.as_ptr().expose_provenance()) };
    closure();
}

/// # Safety
/// As for [`run`].
unsafe fn discard<F>(block: NonNull<Header>) {
    // SAFETY: passed on.
    drop(unsafe { unpack::<F>(block.as_ptr().expose_provenance()) });
}

/// The key of a posted closure.
pub(crate) const RUN: OnCallback = run_posted;

#[inline(never)]
extern "C-unwind" fn run_posted(word: usize) {
    let Some(block) = NonNull::new(std::ptr::with_exposed_provenance_mut::<Header>(word)) else {
        return;
    };
    // SAFETY: this key is private and the dispatcher calls it only for a packet that longshore
    // posted (the in-flight table says so where strangers can post), so the word came from
    // `pack` and the packet, which was taken once, owned it.
    unsafe { ((*block.as_ptr()).run)(block) };
}

/// Drops a closure that was never delivered.
///
/// # Safety
/// `word` was taken from the port in a packet with the key [`RUN`].
pub(crate) unsafe fn discard_posted(word: usize) {
    if let Some(block) = NonNull::new(std::ptr::with_exposed_provenance_mut::<Header>(word)) {
        // SAFETY: as in `run_posted`.
        unsafe { ((*block.as_ptr()).discard)(block) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    #[test]
    fn d05_a_refused_closure_comes_with_its_cause() {
        let cause = crate::error::Error::Closed;
        let refused = PostError {
            error: cause.into(),
            closure: || {},
        };
        let source = error::Error::source(&refused).and_then(|error| error.downcast_ref());
        let told = source.and_then(crate::error::Error::of);
        assert_eq!(told, Some(cause));
        assert!(refused.to_string().contains(&cause.to_string()));
    }

    #[test]
    fn d05_a_block_runs_once_or_is_dropped_once() {
        let (token, ran) = (Arc::new(()), Arc::new(AtomicUsize::new(0)));
        let make = || {
            let (token, ran) = (token.clone(), ran.clone());
            move || {
                let _held = token;
                ran.fetch_add(1, Ordering::Relaxed);
            }
        };
        run_posted(pack(make()));
        assert_eq!(ran.load(Ordering::Relaxed), 1);
        // SAFETY: the words come from `pack` and are used once.
        unsafe { discard_posted(pack(make())) };
        let closure = make();
        let word = pack(closure);
        // SAFETY: the type is the one that was packed just above.
        unsafe fn back<F: FnOnce()>(_like: &F, word: usize) -> F {
            // SAFETY: passed on.
            unsafe { unpack::<F>(word) }
        }
        let like = make();
        // SAFETY: both closures come from `make`, so they have one type.
        drop(unsafe { back(&like, word) });
        drop(like);
        assert_eq!(ran.load(Ordering::Relaxed), 1, "neither of the others ran");
        assert_eq!(Arc::strong_count(&token), 1, "all were dropped");
    }
}
