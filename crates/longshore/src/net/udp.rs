//! UDP.
// UNSAFETY: lends owned buffers and slots to operations.
#![expect(unsafe_code)]

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    pin::Pin,
    ptr::NonNull,
    sync::Arc,
    task::{Context, Poll},
};

use socket2::Socket;

use super::address;
use crate::{
    buf::{BufResult, IoBuf, IoBufMut},
    dispatcher::Dispatcher,
    handle::Handle,
    ioqueue::{Attached, Operation},
    submission::{AddressSlot, Submission},
    sys::TOO_LONG,
};

/// A UDP socket on a port.
///
/// Sends and receives take `&self`, and any number of tasks may have any number of them in flight:
/// each datagram goes to one receive. Each resolves to its result and its buffer.
///
/// # Answers of the network
/// A datagram to a port where nobody listens is answered by the network. A socket that is not
/// connected never shows such answers: they would be errors of receives that have nothing to do with
/// them. (On Windows the modes `SIO_UDP_CONNRESET` and `SIO_UDP_NETRESET` are switched off for it.)
/// On Linux a [connected](Self::connect) socket reports one once, as `ConnectionRefused`, to whichever
/// operation meets it first; the next one works. See udp(7).
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, net::UdpSocket};
/// let port = Dispatcher::new()?;
/// let server = UdpSocket::bind(&port, "127.0.0.1:0")?;
/// let client = UdpSocket::bind(&port, "127.0.0.1:0")?;
/// let address = server.local_addr()?;
/// port.block_on(async {
///     let (sent, _buffer) = client.send_to("hello", address).await;
///     assert_eq!(sent?, 5);
///     let (received, buffer) = server.recv_from(vec![0; 64]).await;
///     let received = received?;
///     assert_eq!(&buffer[..received.len], b"hello");
///     assert_eq!(received.from, client.local_addr()?);
///     assert!(!received.truncated);
///     Ok::<(), std::io::Error>(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct UdpSocket {
    socket: Arc<Attached<Socket>>,
}

/// What a receive has brought.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, net::UdpSocket};
/// let port = Dispatcher::new()?;
/// let (here, there) = (UdpSocket::bind(&port, "127.0.0.1:0")?, UdpSocket::bind(&port, "127.0.0.1:0")?);
/// port.block_on(here.send_to("hello", there.local_addr()?))?.0?;
/// let (received, buffer) = port.block_on(there.recv_from(vec![0; 3]))?;
/// let received = received?;
/// assert_eq!((&buffer[..received.len], received.from), (&b"hel"[..], here.local_addr()?));
/// assert!(received.truncated);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// How many bytes of the datagram are in the buffer; 0 is an empty datagram, unless it was
    /// truncated.
    pub len: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Whether the datagram was longer than the buffer. What did not fit is gone.
    pub truncated: bool,
}

impl UdpSocket {
    /// Binds to the first of the addresses that can be bound. Port 0 asks for any free one.
    ///
    /// Looking a name up blocks the calling thread; an address does not.
    ///
    /// # Errors
    /// The last attempt's: `AddrInUse`, `AddrNotAvailable`, …
    pub fn bind(port: &Dispatcher, addresses: impl ToSocketAddrs) -> io::Result<Self> {
        Self::from_std(port, std::net::UdpSocket::bind(addresses)?)
    }

    /// Takes over a socket of std's. On Windows it must not be used through a duplicate that counts on
    /// errors of unreachable ports: those are switched off, for good.
    ///
    /// # Errors
    /// [`Error::OtherPort`](crate::Error::OtherPort) and the other reasons of
    /// [`attach`](Dispatcher::attach).
    pub fn from_std(port: &Dispatcher, socket: std::net::UdpSocket) -> io::Result<Self> {
        let socket = Attached::new(&port.inner, socket.into()).map_err(|(error, _)| error)?;
        Ok(Self { socket })
    }

    /// Connects: from now on [`send`](Self::send) sends there, and datagrams of others are not
    /// received. (What came from them before is still delivered.) Nothing is sent, so it does not
    /// wait, and succeeds although nobody may be there. It may be called again, for another peer.
    ///
    /// # Errors
    /// The last address's, from the operating system (another family, no route), or `InvalidInput` if
    /// there is no address.
    ///
    /// # Examples
    /// ```
    /// # use longshore::{Dispatcher, net::UdpSocket};
    /// # let port = Dispatcher::new()?;
    /// let (here, there) = (UdpSocket::bind(&port, "127.0.0.1:0")?, UdpSocket::bind(&port, "127.0.0.1:0")?);
    /// here.connect(there.local_addr()?)?;
    /// there.connect(here.local_addr()?)?;
    /// assert_eq!(here.peer_addr()?, there.local_addr()?);
    /// port.block_on(async {
    ///     assert_eq!(here.send("hello").await.0?, 5);
    ///     let (received, buffer) = there.recv(vec![0; 16]).await;
    ///     assert_eq!(&buffer[..received?.len], b"hello");
    ///     # std::io::Result::Ok(())
    /// })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn connect(&self, addresses: impl ToSocketAddrs) -> io::Result<()> {
        let mut result = Err(io::ErrorKind::InvalidInput.into());
        for address in addresses.to_socket_addrs()? {
            result = self.socket.object().connect(&address.into());
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Sends the buffer as one datagram, an empty one if it is empty.
    ///
    /// It resolves to the count of bytes, which is all of them, or to an error, and then nothing was
    /// sent: the datagram is too long (more than 65,507 bytes over IPv4), the address is of another
    /// family, the route is missing, it was cancelled first. That it was sent does not mean that it
    /// arrives. If the socket's buffer is full it waits.
    ///
    /// # Examples
    /// ```
    /// # use longshore::{Dispatcher, net::UdpSocket};
    /// # let port = Dispatcher::new()?;
    /// let socket = UdpSocket::bind(&port, "127.0.0.1:0")?;
    /// let other_family = "[::1]:9".parse().unwrap();
    /// let (sent, buffer) = port.block_on(socket.send_to(vec![1, 2], other_family))?;
    /// assert!(sent.is_err());
    /// assert_eq!(buffer, [1, 2], "the buffer comes back all the same");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn send_to<B: IoBuf>(&self, buffer: B, to: SocketAddr) -> SendTo<B> {
        SendTo(self.start(
            buffer,
            AddressSlot::from(to),
            |socket, buffer: &mut B, to| Submission::SendTo {
                socket,
                buffer: buffer.as_ptr(),
                len: buffer.len(),
                to,
            },
        ))
    }

    /// [`send_to`](Self::send_to) the peer that the socket is [connected](Self::connect) to.
    ///
    /// # Errors
    /// It resolves to the system's error if the socket is not connected (Windows: `NotConnected`;
    /// Linux: `EDESTADDRREQ`).
    ///
    /// # Examples
    /// See [`connect`](Self::connect).
    pub fn send<B: IoBuf>(&self, buffer: B) -> SendTo<B> {
        SendTo(
            self.start(buffer, AddressSlot::new(), |socket, buffer: &mut B, _| {
                Submission::Send {
                    socket,
                    buffer: buffer.as_ptr(),
                    len: buffer.len(),
                }
            }),
        )
    }

    /// Receives one datagram, and who sent it.
    ///
    /// A datagram that is longer than the buffer's capacity is cut, and [`Received::truncated`] says
    /// so. A buffer without any room takes a datagram, too. An empty datagram is no end: there is none.
    pub fn recv_from<B: IoBufMut>(&self, buffer: B) -> RecvFrom<B> {
        RecvFrom(self.start(
            buffer,
            AddressSlot::new(),
            |socket, buffer: &mut B, from| Submission::RecvFrom {
                socket,
                buffer: buffer.as_mut_ptr(),
                len: buffer.capacity(),
                from,
            },
        ))
    }

    /// Receives one datagram of the peer that the socket is [connected](Self::connect) to: then
    /// [`recv_from`](Self::recv_from), which this is, brings no other.
    ///
    /// # Examples
    /// See [`connect`](Self::connect).
    pub fn recv<B: IoBufMut>(&self, buffer: B) -> RecvFrom<B> {
        self.recv_from(buffer)
    }

    fn start<B: Send + 'static>(
        &self,
        buffer: B,
        slot: AddressSlot,
        describe: impl for<'a> FnOnce(Handle<'a>, &mut B, NonNull<AddressSlot>) -> Submission<'a>,
    ) -> Operation<Lent<B>> {
        let lent = Lent {
            buffer,
            slot,
            socket: self.socket.clone(),
        };
        // SAFETY: the payload owns the buffer, whose bytes stay in place (IoBuf), and the slot, which
        // stays where the payload is; and it keeps the socket open.
        unsafe {
            Operation::start(self.socket.inner(), lent, |lent| {
                let slot = NonNull::from(&mut lent.slot);
                describe(lent.socket.handle(), &mut lent.buffer, slot)
            })
        }
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        address(self.socket.object().local_addr())
    }

    /// The address it is [connected](Self::connect) to.
    ///
    /// # Errors
    /// `NotConnected`, or another reason of the operating system's.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        address(self.socket.object().peer_addr())
    }

    /// Whether it may send to a broadcast address (`SO_BROADCAST`); at first it may not.
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_broadcast(&self, broadcast: bool) -> io::Result<()> {
        self.socket.object().set_broadcast(broadcast)
    }

    /// See [`set_broadcast`](Self::set_broadcast).
    ///
    /// # Errors
    /// The operating system's.
    pub fn broadcast(&self) -> io::Result<bool> {
        self.socket.object().broadcast()
    }

    /// How many hops a datagram to one receiver may travel, 1 to 255: the time to live of IPv4, the hop
    /// limit of IPv6.
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        match self.local_addr()? {
            SocketAddr::V4(_) => self.socket.object().set_ttl_v4(ttl),
            SocketAddr::V6(_) => self.socket.object().set_unicast_hops_v6(ttl),
        }
    }

    /// See [`set_ttl`](Self::set_ttl).
    ///
    /// # Errors
    /// The operating system's.
    pub fn ttl(&self) -> io::Result<u32> {
        match self.local_addr()? {
            SocketAddr::V4(_) => self.socket.object().ttl_v4(),
            SocketAddr::V6(_) => self.socket.object().unicast_hops_v6(),
        }
    }

    /// Receives what is sent to a multicast group from now on, on the interface with this address
    /// (`0.0.0.0`: one that the system picks). The socket should be bound to the group's port.
    ///
    /// # Errors
    /// The operating system's: no such interface, not a multicast address, an IPv6 socket.
    pub fn join_multicast_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.socket.object().join_multicast_v4(&group, &interface)
    }

    /// Ends [`join_multicast_v4`](Self::join_multicast_v4). The socket's end does so, too.
    ///
    /// # Errors
    /// The operating system's: it is no member, say.
    pub fn leave_multicast_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.socket.object().leave_multicast_v4(&group, &interface)
    }

    /// The same for IPv6; the interface is told by its index (0: one that the system picks).
    ///
    /// # Errors
    /// The operating system's: no such interface, not a multicast address, an IPv4 socket.
    pub fn join_multicast_v6(&self, group: Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket.object().join_multicast_v6(&group, interface)
    }

    /// Ends [`join_multicast_v6`](Self::join_multicast_v6). The socket's end does so, too.
    ///
    /// # Errors
    /// The operating system's: it is no member, say.
    pub fn leave_multicast_v6(&self, group: Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket.object().leave_multicast_v6(&group, interface)
    }
}

/// What an operation co-owns.
struct Lent<B> {
    buffer: B,
    slot: AddressSlot,
    socket: Arc<Attached<Socket>>,
}

/// A mistake in whoever polls: the buffer was handed out already.
const POLLED_AGAIN: &str = "a datagram is polled after it was ready";

/// A datagram on its way out: resolves to the count of bytes and the buffer, whatever happens.
///
/// Dropping it asks for cancellation and gives the buffer up; the datagram may have left. Polling needs
/// no particular thread or executor, but somebody has to dispatch.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, net::UdpSocket};
/// let port = Dispatcher::new()?;
/// let (here, there) = (UdpSocket::bind(&port, "127.0.0.1:0")?, UdpSocket::bind(&port, "127.0.0.1:0")?);
/// let sending = here.send_to("hello", there.local_addr()?);
/// let (count, buffer) = port.block_on(sending)?;
/// assert_eq!((count?, buffer), (5, "hello"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "futures do nothing unless they are awaited"]
pub struct SendTo<B: Send + 'static>(Operation<Lent<B>>);

impl<B: Send + 'static> SendTo<B> {
    /// Asks for cancellation. The future resolves all the same: to the count of bytes if the datagram
    /// was sent, else to the abort error (see [`ABORTED`](crate::ABORTED)).
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl<B: Send + Unpin + 'static> Future for SendTo<B> {
    type Output = BufResult<usize, B>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|(result, lent)| {
            let result = result.and_then(|completion| completion.result());
            let buffer = lent.expect(POLLED_AGAIN).buffer;
            (result.map(|count| count as usize), buffer)
        })
    }
}

/// A receive in flight: resolves to [`Received`] and the buffer, whatever happens.
///
/// Dropping it asks for cancellation and gives the buffer up; a datagram that had come in by then is
/// lost. To lose none, [`cancel`](Self::cancel) it and await it. Polling needs no particular thread or
/// executor, but somebody has to dispatch.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, net::UdpSocket};
/// let port = Dispatcher::new()?;
/// let (here, there) = (UdpSocket::bind(&port, "127.0.0.1:0")?, UdpSocket::bind(&port, "127.0.0.1:0")?);
/// let receiving = there.recv_from(vec![0; 16]);
/// receiving.cancel();
/// let (result, buffer) = port.block_on(receiving)?;
/// assert_eq!(result.unwrap_err().raw_os_error(), Some(longshore::ABORTED as i32));
/// assert_eq!(buffer.len(), 16, "it comes back");
/// # drop(here);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "futures do nothing unless they are awaited"]
pub struct RecvFrom<B: Send + 'static>(Operation<Lent<B>>);

impl<B: Send + 'static> RecvFrom<B> {
    /// Asks for cancellation. The future resolves all the same: to the datagram if one had come in,
    /// else to the abort error (see [`ABORTED`](crate::ABORTED)); then the next receive gets what
    /// comes.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl<B: IoBufMut + Unpin> Future for RecvFrom<B> {
    type Output = BufResult<Received, B>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|(result, lent)| {
            let lent = lent.expect(POLLED_AGAIN);
            let (mut buffer, from) = (lent.buffer, lent.slot.address());
            let result = result.and_then(|completion| {
                let len = completion.bytes as usize;
                // SAFETY: the operation wrote `len` bytes, within the capacity it was given.
                unsafe { buffer.set_init(len) };
                let truncated = completion.error == TOO_LONG;
                match (from, truncated) {
                    (Some(from), true) => Ok(Received {
                        len,
                        from,
                        truncated,
                    }),
                    // Without a sender there was no datagram: the route has become narrower than
                    // what was sent before.
                    _ => completion.result().and_then(|_| {
                        Ok(Received {
                            len,
                            from: from.ok_or(io::ErrorKind::Unsupported)?,
                            truncated,
                        })
                    }),
                }
            });
            (result, buffer)
        })
    }
}

impl<B: Send + 'static> fmt::Debug for SendTo<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendTo").finish_non_exhaustive()
    }
}

impl<B: Send + 'static> fmt::Debug for RecvFrom<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvFrom").finish_non_exhaustive()
    }
}
