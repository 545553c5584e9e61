//! A completion port: one queue that many threads can wait on, which delivers posted callbacks
//! and finished I/O through the same door.
//!
//! On Windows it is the real thing, an I/O completion port. On Linux it is epoll, edge-triggered,
//! turned into completions. The same contract holds on each, and the same test-suite proves it.
//!
//! # Start here
//! A [`Dispatcher`] owns one port. Any thread may [`post`](Dispatcher::post) to it, any number of
//! threads may [`dispatch`](Dispatcher::dispatch) from it, and each dispatch runs exactly one
//! entry.
//!
//! ```
//! use longshore::Dispatcher;
//!
//! extern "C-unwind" fn greet(number: usize) {
//!     println!("number {number} came through the port");
//! }
//!
//! let port = Dispatcher::new()?;
//! port.post(42, greet)?;
//! port.post_fn(|| println!("closures travel too")).map_err(|refused| refused.error)?;
//! port.dispatch()?;
//! port.dispatch()?;
//! assert!(!port.try_dispatch()?);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Overlapped I/O uses storage of your own, a [`dispatcher::Context`], which the port fills in and
//! hands to a function of yours. See [`Dispatcher::submit`].
//!
//! # The rules
//! The ids D1 to D12 in these pages name the rules of the dispatcher's contract. They begin the
//! names of the tests that prove them, on each backend.
//!
//! # Features
//! * `tracing` (off): tells what goes on inside to [tracing](https://docs.rs/tracing), target
//!   `longshore`. At `ERROR` and `WARN`: what the kernel refused, what failed while a port was closed, a
//!   foreign packet, a task's panic, a wait because the kernel is out of memory. At `DEBUG`: a port that
//!   is opened or closed (a span, and what was left), a handle that is registered or forgotten. At
//!   `TRACE`: each post, each dispatch (a span around your callback), the start and the end of each
//!   operation. A subscriber is called on the thread that does it, without a lock, and must not panic.
//!   Without the feature nothing of this is compiled.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]
#![doc(test(attr(deny(warnings))))]

#[cfg(not(any(windows, target_os = "linux")))]
compile_error!("longshore has no backend for this operating system: it runs on Windows and Linux");

#[cfg(all(target_os = "linux", not(target_pointer_width = "64")))]
compile_error!("longshore's epoll backend is for 64-bit Linux only, so far");

mod buf;
mod completion;
pub mod dispatcher;
mod error;
pub mod fs;
mod handle;
mod ioqueue;
pub mod net;
pub mod os;
mod overlapped;
mod packet;
pub mod pipe;
mod port;
pub mod process;
pub mod signal;
mod submission;
mod sync;
mod sys;
pub mod task;
pub mod time;
mod trace;
mod waitable;

pub use buf::{BufResult, IoBuf, IoBufMut};
pub use completion::Completion;
pub use dispatcher::{Builder, Dispatcher};
pub use error::Error;
pub use handle::Handle;
pub use ioqueue::{Aborted, IoQueue, Overlapped, Registered, Transfer, VectoredTransfer, Wait};
pub use overlapped::RawOverlapped;
pub use packet::Packet;
pub use submission::{AcceptSlot, AddressSlot, Submission};
pub use sys::{ABORTED, Backend, backend::CloseFailure};
pub use waitable::{Signalled, Waitable};

/// The README's programs, compiled and run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
