//! Sockets that are awaited.

mod tcp;

pub use tcp::{Accept, ReadHalf, TcpListener, TcpStream, WriteHalf};
