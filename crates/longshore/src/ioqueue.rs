//! Operations that can be awaited (Q-rules).

mod attached;
mod operation;
mod state;
mod transfer;
mod vectored;

pub(crate) use attached::Attached;
pub(crate) use operation::Operation;
pub(crate) use transfer::Rest;
pub use transfer::Transfer;
pub(crate) use vectored::Staged;
pub use vectored::VectoredTransfer;
