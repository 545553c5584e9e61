//! Named pipes: between processes of one machine, both ways, as bytes or as messages.
//!
//! A server makes [instances](Server) of a pipe with [`ServerOptions`]; each of them serves one client at a
//! time. A client [opens](ClientOptions::open) the name and gets any instance that is free.
//! [`longshore::pipe`](crate::pipe) has pipes without a name.

mod client;
mod server;
mod stream;

use std::os::windows::io::{AsHandle, BorrowedHandle};

use crate::pipe::{Reader, Writer};

pub use client::ClientOptions;
pub use server::{Access, Connect, Connection, Server, ServerOptions};
pub use stream::{Receive, Received, Stream};

impl AsHandle for Reader {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.object().as_handle()
    }
}

impl AsHandle for Writer {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.object().as_handle()
    }
}
