//! TCP.
// UNSAFETY: lends owned buffers and slots to operations.
#![expect(unsafe_code)]

use std::{
    io,
    net::{Shutdown, SocketAddr, ToSocketAddrs},
    pin::Pin,
    ptr::NonNull,
    sync::Arc,
    task::{Context, Poll},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::address;
use crate::{
    buf::{BufResult, IoBuf, IoBufMut},
    dispatcher::Dispatcher,
    ioqueue::{Attached, Operation, Rest, Staged, Transfer, VectoredTransfer},
    submission::{AcceptSlot, Submission},
};

/// A TCP connection on a port.
///
/// Reads and writes take `&self`, so one task may read while another writes; each resolves to its
/// result and its buffer. Cloning is [`split`](Self::split).
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, net::{TcpListener, TcpStream}};
/// let port = Dispatcher::new()?;
/// let listener = TcpListener::bind(&port, "127.0.0.1:0")?;
/// let address = listener.local_addr()?;
/// port.block_on(async {
///     let client = port.spawn({
///         let port = port.clone();
///         async move {
///             let stream = TcpStream::connect(&port, address).await?;
///             stream.write_all("hello").await.0
///         }
///     });
///     let (stream, _peer) = listener.accept().await?;
///     let (count, buffer) = stream.read(vec![0; 64]).await;
///     assert_eq!(&buffer[..count?], b"hello");
///     client.await?
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct TcpStream {
    socket: Arc<Attached<Socket>>,
}

impl TcpStream {
    /// Connects to the first address that answers, in the order given.
    ///
    /// Looking a name up blocks the calling thread; an address does not. Dropping the future cancels
    /// the attempt.
    ///
    /// # Errors
    /// The last attempt's, or `InvalidInput` if there is no address.
    pub async fn connect(port: &Dispatcher, addresses: impl ToSocketAddrs) -> io::Result<Self> {
        let addresses: Vec<_> = addresses.to_socket_addrs()?.collect();
        let mut result = Err(io::ErrorKind::InvalidInput.into());
        for address in addresses {
            result = Self::connect_one(port, address).await;
            if result.is_ok() {
                break;
            }
        }
        result
    }

    async fn connect_one(port: &Dispatcher, address: SocketAddr) -> io::Result<Self> {
        let socket = stream_socket(address)?;
        let socket = Attached::new(&port.inner, socket).map_err(|(error, _)| error)?;
        // SAFETY: the payload keeps the socket open; there is no other memory.
        let operation = unsafe {
            Operation::start(&port.inner, socket.clone(), |socket| Submission::Connect {
                socket: socket.handle(),
                address,
            })
        };
        let (result, _) = operation.await;
        result?.result()?;
        Ok(Self { socket })
    }

    /// Takes over a connection of std's.
    ///
    /// # Errors
    /// [`Error::OtherPort`](crate::Error::OtherPort) and the other reasons of
    /// [`attach`](Dispatcher::attach).
    pub fn from_std(port: &Dispatcher, stream: std::net::TcpStream) -> io::Result<Self> {
        let socket = Attached::new(&port.inner, stream.into()).map_err(|(error, _)| error)?;
        Ok(Self { socket })
    }

    /// Reads what is there, at least one byte; 0 when the peer has finished.
    pub fn read<B: IoBufMut>(&self, buffer: B) -> Transfer<B> {
        Transfer::read(&self.socket, buffer, |socket, buffer, len| {
            Submission::Recv {
                socket,
                buffer,
                len,
            }
        })
    }

    /// Writes the buffer; fewer bytes only if it was cancelled, or is longer than `u32::MAX`.
    pub fn write<B: IoBuf>(&self, buffer: B) -> Transfer<B> {
        Transfer::write(&self.socket, buffer, |socket, buffer, len| {
            Submission::Send {
                socket,
                buffer,
                len,
            }
        })
    }

    /// Reads what is there into the buffers, one after the other, at most 64 KiB at once.
    ///
    /// One operation and one system call, into a buffer that is copied to these.
    pub fn read_vectored<B: IoBufMut>(&self, buffers: Vec<B>) -> VectoredTransfer<B> {
        VectoredTransfer::new(self.read(Staged::room(buffers)))
    }

    /// Writes the buffers, one after the other; nothing that another task writes comes in between.
    ///
    /// One operation, of a copy of them all. The count is as for [`write`](Self::write).
    ///
    /// # Examples
    /// ```
    /// # use longshore::{Dispatcher, net::{TcpListener, TcpStream}};
    /// # let port = Dispatcher::new()?;
    /// # let listener = TcpListener::bind(&port, "127.0.0.1:0")?;
    /// # port.block_on(async {
    /// let stream = TcpStream::connect(&port, listener.local_addr()?).await?;
    /// let (written, parts) = stream.write_vectored(vec!["head", "body"]).await;
    /// assert_eq!((written?, parts), (8, vec!["head", "body"]));
    /// # Ok::<(), std::io::Error>(())
    /// # })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn write_vectored<B: IoBuf>(&self, buffers: Vec<B>) -> VectoredTransfer<B> {
        VectoredTransfer::new(self.write(Staged::gather(buffers)))
    }

    /// Writes the whole buffer, however long, in as many writes as it takes. It begins when it is first
    /// polled; what another task writes may come in between two of them.
    ///
    /// It cannot be cancelled but by dropping it. Then how much of the buffer was sent is unknown, and the
    /// buffer is lost; [`write`](Self::write) tells and gives it back.
    ///
    /// # Errors
    /// The operating system's: `ConnectionReset`, `BrokenPipe`, …; `WriteZero` if one of the writes moved
    /// nothing. The buffer comes back, but how much of it was sent is not told.
    pub async fn write_all<B: IoBuf + Unpin>(&self, buffer: B) -> BufResult<(), B> {
        let stuck = io::ErrorKind::WriteZero;
        Rest::move_all(buffer, IoBuf::len, stuck, |rest| self.write(rest)).await
    }

    /// Shuts one or both directions down. The peer reads the end; see shutdown(2).
    ///
    /// # Errors
    /// The operating system's, `NotConnected` above all.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.object().shutdown(how)
    }

    /// Two owned halves, for a task that reads and one that writes. The connection is closed with
    /// the second of them.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        let stream = Arc::new(self);
        (ReadHalf(stream.clone()), WriteHalf(stream))
    }

    /// The address of this end.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        address(self.socket.object().local_addr())
    }

    /// The address of the other end.
    ///
    /// # Errors
    /// The operating system's; `NotConnected` when the peer has reset the connection.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        address(self.socket.object().peer_addr())
    }

    /// Whether small writes are sent at once (`TCP_NODELAY`).
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.socket.object().set_tcp_nodelay(nodelay)
    }
}

/// The half of a connection that reads.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, net::{TcpListener, TcpStream}};
/// let port = Dispatcher::new()?;
/// let listener = TcpListener::bind(&port, "127.0.0.1:0")?;
/// port.block_on(async {
///     let stream = TcpStream::connect(&port, listener.local_addr()?).await?;
///     let (reader, writer) = stream.split();
///     let (peer, _) = listener.accept().await?;
///     peer.write_all("hello").await.0?;
///     let (count, buffer) = reader.read(vec![0; 16]).await;
///     assert_eq!(&buffer[..count?], b"hello");
///     drop(writer);
///     std::io::Result::Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct ReadHalf(Arc<TcpStream>);

impl ReadHalf {
    /// See [`TcpStream::read`].
    pub fn read<B: IoBufMut>(&self, buffer: B) -> Transfer<B> {
        self.0.read(buffer)
    }

    /// See [`TcpStream::read_vectored`].
    pub fn read_vectored<B: IoBufMut>(&self, buffers: Vec<B>) -> VectoredTransfer<B> {
        self.0.read_vectored(buffers)
    }
}

/// The half of a connection that writes. Dropping it tells the peer that no more will come, so await
/// its writes first: one that is still in flight then fails.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, net::{TcpListener, TcpStream}};
/// let port = Dispatcher::new()?;
/// let listener = TcpListener::bind(&port, "127.0.0.1:0")?;
/// port.block_on(async {
///     let stream = TcpStream::connect(&port, listener.local_addr()?).await?;
///     let (reader, writer) = stream.split();
///     let (peer, _) = listener.accept().await?;
///     writer.write_all("the end").await.0?;
///     drop(writer);
///     let (count, _) = peer.read(vec![0; 16]).await;
///     assert_eq!(count?, 7);
///     let (count, _) = peer.read(vec![0; 16]).await;
///     assert_eq!(count?, 0, "the peer reads the end");
///     drop(reader);
///     std::io::Result::Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct WriteHalf(Arc<TcpStream>);

impl WriteHalf {
    /// See [`TcpStream::write`].
    pub fn write<B: IoBuf>(&self, buffer: B) -> Transfer<B> {
        self.0.write(buffer)
    }

    /// See [`TcpStream::write_vectored`].
    pub fn write_vectored<B: IoBuf>(&self, buffers: Vec<B>) -> VectoredTransfer<B> {
        self.0.write_vectored(buffers)
    }

    /// See [`TcpStream::write_all`].
    pub async fn write_all<B: IoBuf + Unpin>(&self, buffer: B) -> BufResult<(), B> {
        self.0.write_all(buffer).await
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        // It fails if the connection has ended already.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

/// A listening TCP socket on a port.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, net::TcpListener};
/// let port = Dispatcher::new()?;
/// let listener = TcpListener::bind(&port, "127.0.0.1:0")?;
/// assert_ne!(listener.local_addr()?.port(), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct TcpListener {
    socket: Arc<Attached<Socket>>,
}

impl TcpListener {
    /// Listens at the first of the addresses that can be bound.
    ///
    /// # Errors
    /// The last attempt's: `AddrInUse`, `PermissionDenied`, …
    pub fn bind(port: &Dispatcher, addresses: impl ToSocketAddrs) -> io::Result<Self> {
        Self::from_std(port, std::net::TcpListener::bind(addresses)?)
    }

    /// Takes over a listener of std's.
    ///
    /// # Errors
    /// The reasons of [`attach`](Dispatcher::attach).
    pub fn from_std(port: &Dispatcher, listener: std::net::TcpListener) -> io::Result<Self> {
        let socket = Attached::new(&port.inner, listener.into()).map_err(|(error, _)| error)?;
        Ok(Self { socket })
    }

    /// Accepts one connection. Several accepts may wait at once.
    ///
    /// Dropping the future cancels it; a connection that came in at that moment is closed.
    pub fn accept(&self) -> Accept {
        let payload = Accepting {
            slot: Box::new(AcceptSlot::new()),
            listener: self.socket.clone(),
        };
        // SAFETY: the payload owns the slot, which is boxed, and keeps the listener open.
        let operation = unsafe {
            Operation::start(self.socket.inner(), payload, |payload| Submission::Accept {
                listener: payload.listener.handle(),
                slot: NonNull::from(&mut *payload.slot),
            })
        };
        Accept { operation }
    }

    /// The address it listens at.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        address(self.socket.object().local_addr())
    }
}

struct Accepting {
    slot: Box<AcceptSlot>,
    listener: Arc<Attached<Socket>>,
}

/// An accept in flight: resolves to the connection and its peer's address.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, net::{TcpListener, TcpStream}};
/// let port = Dispatcher::new()?;
/// let listener = TcpListener::bind(&port, "127.0.0.1:0")?;
/// let accept = listener.accept();
/// let client = port.block_on(TcpStream::connect(&port, listener.local_addr()?))??;
/// let (server, peer) = port.block_on(accept)??;
/// assert_eq!(peer, client.local_addr()?);
/// # drop(server);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "futures do nothing unless they are awaited"]
pub struct Accept {
    operation: Operation<Accepting>,
}

impl Accept {
    /// Asks for cancellation; the future resolves all the same.
    pub fn cancel(&self) {
        self.operation.cancel();
    }
}

impl Future for Accept {
    type Output = io::Result<(TcpStream, SocketAddr)>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.operation)
            .poll(context)
            .map(|(result, payload)| {
                result?.result()?;
                let mut payload = payload.ok_or(io::ErrorKind::Other)?;
                let (stream, peer) = payload.slot.take().ok_or(io::ErrorKind::NotConnected)?;
                let inner = payload.listener.inner();
                let socket = Attached::new(inner, stream.into()).map_err(|(error, _)| error)?;
                Ok((TcpStream { socket }, peer))
            })
    }
}

fn stream_socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )
}
