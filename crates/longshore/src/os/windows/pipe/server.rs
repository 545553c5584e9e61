//! The serving side of a named pipe: its instances, and how each gets a client.
// UNSAFETY: starts operations whose handle their payload keeps open.
#![expect(unsafe_code)]

use std::{
    fmt, io,
    ops::Deref,
    os::windows::io::{AsHandle, BorrowedHandle},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

#[cfg(doc)]
use crate::Error;
use crate::{
    Dispatcher, Submission,
    dispatcher::Inner,
    ioqueue::{Attached, Operation},
    pipe::Line,
    sys::pipe::{
        End,
        named::{self, Instance},
    },
};

use super::Stream;

/// Which way the bytes of a named pipe go.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, os::windows::pipe::{Access, ServerOptions}};
/// let port = Dispatcher::new()?;
/// let name = format!(r"\\.\pipe\longshore-doc-access-{}", std::process::id());
/// let log = ServerOptions::new().access(Access::Inbound).create(&port, &name)?;
/// # drop(log);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Both ways.
    #[default]
    Duplex,
    /// From the clients to the server.
    Inbound,
    /// From the server to the clients.
    Outbound,
}

/// What a server's end of a named pipe is to be like. At first: bytes, both ways, as many instances as
/// there may be, none of them the first, 64 KiB, and no clients of other machines.
///
/// The name is `\\.\pipe\` and up to 247 more characters, no backslashes among them. Others may open it as
/// the system's default security for pipes allows: the same user and administrators fully, everybody else
/// for reading.
///
/// # Examples
/// One instance always waits, so that no client finds the name missing:
/// ```
/// use longshore::{Dispatcher, os::windows::pipe::{ClientOptions, Connection, Server, ServerOptions}};
/// async fn echo(client: Connection) -> std::io::Result<()> {
///     loop {
///         let (count, buffer) = client.read(Vec::with_capacity(4096)).await;
///         if count? == 0 {
///             return Ok(());
///         }
///         client.write_all(buffer).await.0?;
///     }
/// }
/// async fn serve(port: Dispatcher, mut server: Server) -> std::io::Result<()> {
///     loop {
///         let client = server.connect().await.map_err(|(error, _)| error)?;
///         server = client.another()?;
///         port.spawn(echo(client)).detach();
///     }
/// }
/// let port = Dispatcher::new()?;
/// let name = format!(r"\\.\pipe\longshore-doc-server-{}", std::process::id());
/// let server = ServerOptions::new().first_instance(true).create(&port, &name)?;
/// let serving = port.spawn(serve(port.clone(), server));
/// let client = port.block_on(ClientOptions::new().open(&port, &name))??;
/// port.block_on(client.write_all("hello"))?.0?;
/// let (count, buffer) = port.block_on(client.read(vec![0; 16]))?;
/// assert_eq!(&buffer[..count?], b"hello");
/// # drop(serving);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ServerOptions {
    instance: Instance,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerOptions {
    /// See the type.
    pub fn new() -> Self {
        Self {
            instance: Instance::new(),
        }
    }

    /// Which way the bytes go; the same for all instances of a name.
    pub fn access(&mut self, access: Access) -> &mut Self {
        self.instance.access = match access {
            Access::Duplex => named::Access::Duplex,
            Access::Inbound => named::Access::Inbound,
            Access::Outbound => named::Access::Outbound,
        };
        self
    }

    /// Whether each write is a message that is kept apart from others; the same for all instances of a
    /// name. Clients choose for themselves whether they read messages or bytes.
    pub fn messages(&mut self, messages: bool) -> &mut Self {
        self.instance.messages = messages;
        self
    }

    /// Whether there must be no other instance of this name yet. Then nobody else has the name and could
    /// get the clients that are meant for this server. (`FILE_FLAG_FIRST_PIPE_INSTANCE`)
    pub fn first_instance(&mut self, first: bool) -> &mut Self {
        self.instance.first = first;
        self
    }

    /// How many instances of this name there may be at once: 1 to 254; 255 is no limit of this pipe's. The
    /// first instance decides.
    pub fn max_instances(&mut self, most: u8) -> &mut Self {
        self.instance.max_instances = Some(most);
        self
    }

    /// How much the pipe holds, each way, before a write has to wait, in bytes. A hint.
    pub fn buffer_size(&mut self, bytes: u32) -> &mut Self {
        self.instance.buffer_size = bytes;
        self
    }

    /// Whether clients of other machines are refused: unless this is set to `false`, they are.
    /// (`PIPE_REJECT_REMOTE_CLIENTS`)
    pub fn reject_remote(&mut self, reject: bool) -> &mut Self {
        self.instance.reject_remote = reject;
        self
    }

    /// Makes an instance. Clients can open it from now on.
    ///
    /// # Errors
    /// `PermissionDenied` if it must be the first and is not, or has other settings than those that are
    /// there; `ERROR_PIPE_BUSY` (231) if there are as many as there may be; `InvalidInput` or another
    /// error if the name is none, or there may be 0 instances; [`Error::Closed`].
    pub fn create(&self, port: &Dispatcher, name: impl AsRef<Path>) -> io::Result<Server> {
        let name = name.as_ref().to_path_buf();
        let recipe = Recipe {
            inner: port.inner.clone(),
            instance: self.instance.clone(),
            name,
        };
        Server::create(recipe)
    }
}

/// How to make another instance.
struct Recipe {
    inner: Arc<Inner>,
    instance: Instance,
    name: PathBuf,
}

/// An instance of a named pipe that has no client yet.
///
/// A fresh one lets a client in at once; one that had a client before does so when it
/// [connects](Self::connect).
///
/// Dropping it closes it; a client that opened it meanwhile finds the pipe broken.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, os::windows::pipe::{ClientOptions, Server, ServerOptions}};
/// let port = Dispatcher::new()?;
/// let name = format!(r"\\.\pipe\longshore-doc-instance-{}", std::process::id());
/// let server: Server = ServerOptions::new().create(&port, &name)?;
/// port.block_on(async {
///     let connecting = server.connect();
///     let client = ClientOptions::new().open(&port, &name).await?;
///     let connection = connecting.await.map_err(|(error, _)| error)?;
///     connection.write_all("welcome").await.0?;
///     let (count, buffer) = client.read(vec![0; 16]).await;
///     assert_eq!(&buffer[..count?], b"welcome");
///     std::io::Result::Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Server {
    line: Line,
    recipe: Arc<Recipe>,
}

impl Server {
    fn create(recipe: Recipe) -> io::Result<Self> {
        let pipe = recipe.instance.create(&recipe.name)?;
        Self::attach(pipe, Arc::new(recipe))
    }

    fn attach(pipe: std::os::windows::io::OwnedHandle, recipe: Arc<Recipe>) -> io::Result<Self> {
        let line = Attached::new(&recipe.inner, End(pipe)).map_err(|(error, _)| error)?;
        Ok(Self { line, recipe })
    }

    /// Makes one more instance, with the same settings. One that waits all the time keeps clients from
    /// finding the name missing.
    ///
    /// # Errors
    /// As for [`ServerOptions::create`].
    pub fn another(&self) -> io::Result<Self> {
        another(&self.recipe)
    }

    /// Waits for a client. It begins now, not when it is polled.
    ///
    /// A client that has opened the instance already is met at once, also if it has left again: then what
    /// it wrote can be read, and after that comes the end.
    pub fn connect(self) -> Connect {
        let inner = self.recipe.inner.clone();
        // SAFETY: the payload keeps the handle open; there is no other memory.
        let operation = unsafe {
            Operation::start(&inner, self, |server| Submission::ConnectPipe {
                pipe: server.line.handle(),
            })
        };
        Connect(operation)
    }
}

fn another(recipe: &Arc<Recipe>) -> io::Result<Server> {
    let instance = Instance {
        first: false,
        ..recipe.instance.clone()
    };
    Server::attach(instance.create(&recipe.name)?, recipe.clone())
}

/// A server that waits for its client: resolves to the connection, or to an error and the server.
///
/// Dropping it cancels the wait and closes the instance. To keep that, [`cancel`](Self::cancel) it and await
/// it. Polling needs no particular thread or executor, but somebody has to dispatch.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, os::windows::pipe::{Connect, ServerOptions}};
/// let port = Dispatcher::new()?;
/// let name = format!(r"\\.\pipe\longshore-doc-connect-{}", std::process::id());
/// let connecting: Connect = ServerOptions::new().create(&port, &name)?.connect();
/// connecting.cancel();
/// let (error, server) = port.block_on(connecting)?.unwrap_err();
/// assert_eq!(error.raw_os_error(), Some(longshore::ABORTED as i32));
/// let _connecting = server.connect();
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "a server whose connect is dropped is closed"]
pub struct Connect(Operation<Server>);

impl Connect {
    /// Asks for cancellation. The future resolves all the same: to the connection if there was a client
    /// first, else to the abort error (see [`ABORTED`](crate::ABORTED)) and the server.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl Future for Connect {
    type Output = Result<Connection, (io::Error, Server)>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|(result, server)| {
            let server = server.expect("a connect is polled after it was ready");
            match result.and_then(|completion| completion.result()) {
                Ok(_) => Ok(Connection {
                    stream: Stream::new(server.line.clone()),
                    server,
                }),
                Err(error) => Err((error, server)),
            }
        })
    }
}

/// A server's instance with its client; a [`Stream`] otherwise.
///
/// Dropping it closes the instance; what was written stays in the pipe until the client has read it.
///
/// # Examples
/// An instance that serves one client after the other:
/// ```
/// use longshore::{Dispatcher, os::windows::pipe::{ClientOptions, Connection, ServerOptions}};
/// let port = Dispatcher::new()?;
/// let name = format!(r"\\.\pipe\longshore-doc-connection-{}", std::process::id());
/// let mut server = ServerOptions::new().max_instances(1).create(&port, &name)?;
/// port.block_on(async {
///     for greeting in ["hello", "again"] {
///         let connecting = server.connect();
///         let client = ClientOptions::new().open(&port, &name).await?;
///         let connection: Connection = connecting.await.map_err(|(error, _)| error)?;
///         client.write_all(greeting).await.0?;
///         let (count, buffer) = connection.read(vec![0; 16]).await;
///         assert_eq!(&buffer[..count?], greeting.as_bytes());
///         server = connection.disconnect()?;
///     }
///     std::io::Result::Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Connection {
    stream: Stream,
    server: Server,
}

impl Connection {
    /// Sends the client away, so that the instance can have another one.
    ///
    /// What the client has not read yet is lost; [`flush`](Stream::flush) first where that matters.
    /// Operations in flight end, with `ERROR_PIPE_NOT_CONNECTED` (233) or what they had come to, and none of
    /// them touches what belongs to the next client.
    ///
    /// # Errors
    /// The operating system's; the instance is closed then.
    pub fn disconnect(self) -> io::Result<Server> {
        named::disconnect(&self.stream)?;
        Ok(self.server)
    }

    /// See [`Server::another`].
    ///
    /// # Errors
    /// As there.
    pub fn another(&self) -> io::Result<Server> {
        self.server.another()
    }
}

impl Deref for Connection {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl AsHandle for Server {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.line.object().0.as_handle()
    }
}

impl AsHandle for Connection {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.server.as_handle()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut server = f.debug_struct("Server");
        server.field("name", &self.recipe.name);
        server.finish_non_exhaustive()
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").finish_non_exhaustive()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut connection = f.debug_struct("Connection");
        connection.field("name", &self.server.recipe.name);
        connection.finish_non_exhaustive()
    }
}
