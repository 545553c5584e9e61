//! Operations that can be awaited (Q-rules).

mod attached;
mod block;
mod operation;
mod overlapped;
mod queue;
mod registered;
mod run;
mod state;
mod transfer;
mod vectored;
mod wait;

pub(crate) use attached::Attached;
pub(crate) use operation::Operation;
pub use overlapped::Overlapped;
pub use queue::IoQueue;
pub use registered::Registered;
pub(crate) use transfer::Rest;
pub use transfer::Transfer;
pub(crate) use vectored::Staged;
pub use vectored::VectoredTransfer;
pub use wait::{Aborted, Wait};
