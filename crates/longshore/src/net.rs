//! Sockets that are awaited.

use std::{io, net::SocketAddr};

mod tcp;
mod udp;

pub use tcp::{Accept, ReadHalf, TcpListener, TcpStream, WriteHalf};
pub use udp::{Received, RecvFrom, SendTo, UdpSocket};

fn address(address: io::Result<socket2::SockAddr>) -> io::Result<SocketAddr> {
    address?
        .as_socket()
        .ok_or_else(|| io::ErrorKind::Unsupported.into())
}
