//! Operations that can be awaited (Q-rules).

mod attached;
mod operation;
mod state;
mod transfer;

pub(crate) use attached::Attached;
pub(crate) use operation::Operation;
pub(crate) use transfer::Rest;
pub use transfer::Transfer;
