//! A descriptor of ours that is only waited for, until it is ready.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use crate::handle::{Handle, Kind};

/// A duplicate of a caller's descriptor: epoll knows descriptors by number *and* object, so this one
/// has its own place in the set, whatever the caller does with the other.
#[derive(Debug)]
pub(crate) struct Watched(OwnedFd);

impl Watched {
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        fd.try_clone_to_owned().map(Self)
    }
}

impl<'a> From<&'a Watched> for Handle<'a> {
    fn from(watched: &'a Watched) -> Self {
        Self::new(watched.0.as_fd().as_raw_fd() as usize, Kind::Waitable)
    }
}
