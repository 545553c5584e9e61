//! An object that belongs to a port for as long as anything uses it.

use std::{fmt, io, sync::Arc};

use crate::{
    dispatcher::{Door, Inner},
    handle::Handle,
    sys::backend::Terms,
};

/// Packets through the queue's own key; what ends at once need not go through the port.
pub(super) const TERMS: fn() -> Terms = || Terms {
    key: Door::Queue.key(),
    may_skip: true,
};

/// A file, socket or pipe of ours, attached. Operations hold a counted reference to it, so its handle
/// stays open, and its value is nobody else's, until the last of them has ended.
pub(crate) struct Attached<T>
where
    for<'a> &'a T: Into<Handle<'a>>,
{
    inner: Arc<Inner>,
    object: T,
}

impl<T> Attached<T>
where
    for<'a> &'a T: Into<Handle<'a>>,
{
    /// Attaches an object; it comes back with the error.
    pub(crate) fn new(inner: &Arc<Inner>, object: T) -> Result<Arc<Self>, (io::Error, T)> {
        match inner.port.attach((&object).into(), TERMS()) {
            Ok(()) => Ok(Arc::new(Self {
                inner: inner.clone(),
                object,
            })),
            Err(error) => Err((error, object)),
        }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    pub(crate) fn object(&self) -> &T {
        &self.object
    }

    pub(crate) fn handle(&self) -> Handle<'_> {
        (&self.object).into()
    }
}

impl<T> Drop for Attached<T>
where
    for<'a> &'a T: Into<Handle<'a>>,
{
    fn drop(&mut self) {
        // Nothing is in flight on it any more. It fails only if the port has forgotten it already.
        let _ = self.inner.port.detach((&self.object).into());
    }
}

impl<T: fmt::Debug> fmt::Debug for Attached<T>
where
    for<'a> &'a T: Into<Handle<'a>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object.fmt(f)
    }
}
