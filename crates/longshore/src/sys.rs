//! The mechanisms, and the choice among them: the only place that knows which system this is.
//!
//! | backend | system | mechanism |
//! |---|---|---|
//! | `iocp` | Windows | a kernel completion port |
//! | `epoll` | Linux | edge-triggered readiness, turned into completions |
//!
//! Each OS gets a type [`Driver`] that keeps the [`backend`] contract. Where a system has several
//! mechanisms, `Driver` is an enum over them and the choice is made when a port is opened.

use std::{fmt, str::FromStr};

use crate::error::Error;

pub(crate) mod backend;
pub(crate) mod call;
pub(crate) mod doze;
pub(crate) mod open;
pub(crate) mod pipe;
mod pool;
pub(crate) mod process;
pub(crate) mod signal;

#[cfg(windows)]
pub(crate) mod iocp;
#[cfg(windows)]
pub(crate) use iocp::Iocp as Driver;

#[cfg(target_os = "linux")]
pub(crate) mod epoll;
#[cfg(target_os = "linux")]
pub(crate) use epoll::Epoll as Driver;

/// Where a port comes from.
pub(crate) type Origin = <Driver as backend::Backend>::Origin;

/// The error code of a cancelled operation: `ERROR_OPERATION_ABORTED` (995) on Windows, `ECANCELED`
/// (125) on Linux.
pub const ABORTED: u32 = <Driver as backend::Backend>::ABORTED;

/// The error code of a datagram that did not fit: `WSAEMSGSIZE` (10040) on Windows, `EMSGSIZE` (90)
/// on Linux.
pub(crate) const TOO_LONG: u32 = <Driver as backend::Backend>::TOO_LONG;

/// The mechanism a port rests on.
///
/// # Examples
/// ```
/// use longshore::Backend;
/// let backend: Backend = Backend::default();
/// assert!(Backend::available().contains(&backend));
/// assert_eq!(backend.to_string().parse(), Ok(backend));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// A Windows I/O completion port.
    Iocp,
    /// Linux epoll, edge-triggered.
    Epoll,
}

impl Backend {
    /// The backends of this operating system, the preferred one first.
    pub const fn available() -> &'static [Self] {
        #[cfg(windows)]
        return &[Self::Iocp];
        #[cfg(target_os = "linux")]
        return &[Self::Epoll];
    }
}

impl Default for Backend {
    /// The preferred backend of this operating system.
    fn default() -> Self {
        Self::available()[0]
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iocp => "iocp",
            Self::Epoll => "epoll",
        })
    }
}

impl FromStr for Backend {
    type Err = Error;

    /// Parses `iocp` or `epoll`, and accepts only what this system offers.
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::available()
            .iter()
            .copied()
            .find(|backend| backend.to_string() == name)
            .ok_or(Error::NoSuchBackend)
    }
}
