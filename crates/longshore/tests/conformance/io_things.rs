//! What tests do I/O on: files and connections that both systems can attach; and the threads that
//! dispatch it.

use std::{
    fs::{File, OpenOptions},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
};

use longshore::{Dispatcher, dispatcher::WorkGuard};
use socket2::{Domain, SockRef, Socket, Type};

use crate::harness::spawn;

/// The reason to skip a test where Wine differs from Windows.
pub fn under_wine(reason: &str) -> Option<String> {
    let version = std::env::var("LONGSHORE_WINE_VERSION").ok()?;
    cfg!(windows).then(|| format!("Wine {version}: {reason}"))
}

/// A folder that goes away with the test.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A file with these contents, not opened.
    pub fn file(&self, contents: &[u8]) -> PathBuf {
        let path = self.0.path().join("file");
        std::fs::write(&path, contents).unwrap();
        path
    }
}

/// Opens a file so that this system can do overlapped I/O on it.
pub fn open(path: &PathBuf, options: &mut OpenOptions) -> Arc<File> {
    #[cfg(windows)]
    {
        use std::os::windows::fs::OpenOptionsExt;
        options.custom_flags(windows_sys::Win32::Storage::FileSystem::FILE_FLAG_OVERLAPPED);
    }
    Arc::new(options.open(path).unwrap())
}

/// A file for reading and writing, attached.
pub fn attached_file(port: &Dispatcher, scratch: &Scratch, contents: &[u8]) -> Arc<File> {
    let path = scratch.file(contents);
    let file = open(&path, OpenOptions::new().read(true).write(true));
    port.attach(&*file).unwrap();
    file
}

pub fn loopback(v6: bool) -> SocketAddr {
    match v6 {
        true => (Ipv6Addr::LOCALHOST, 0).into(),
        false => (Ipv4Addr::LOCALHOST, 0).into(),
    }
}

pub fn listener(v6: bool) -> Arc<TcpListener> {
    Arc::new(TcpListener::bind(loopback(v6)).unwrap())
}

/// A socket to connect.
pub fn fresh_socket(v6: bool) -> Arc<Socket> {
    let domain = Domain::for_address(loopback(v6));
    Arc::new(Socket::new(domain, Type::STREAM, None).unwrap())
}

/// Both ends of one connection, made by std.
pub fn pair() -> (Arc<TcpStream>, Arc<TcpStream>) {
    pair_through(&listener(false))
}

pub fn pair_through(listener: &TcpListener) -> (Arc<TcpStream>, Arc<TcpStream>) {
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (there, _) = listener.accept().unwrap();
    here.set_nodelay(true).unwrap();
    there.set_nodelay(true).unwrap();
    (Arc::new(here), Arc::new(there))
}

/// [`pair`], the first end attached.
pub fn attached_pair(port: &Dispatcher) -> (Arc<TcpStream>, Arc<TcpStream>) {
    let (here, there) = pair();
    port.attach(&*here).unwrap();
    (here, there)
}

/// Closes a connection with a reset.
pub fn reset(stream: Arc<TcpStream>) {
    let stream = Arc::into_inner(stream).expect("nobody else uses it");
    SockRef::from(&stream)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
}

/// Threads inside `run`.
pub struct Workers {
    port: Dispatcher,
    threads: Vec<JoinHandle<()>>,
    _work: WorkGuard,
}

pub fn workers(port: &Dispatcher, count: usize) -> Workers {
    let worker = |_| {
        let port = port.clone();
        spawn(move || assert!(port.run().is_ok()))
    };
    Workers {
        port: port.clone(),
        _work: port.work_guard(),
        threads: (0..count).map(worker).collect(),
    }
}

impl Workers {
    pub fn finish(self) {
        self.port.stop().unwrap();
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.port.restart();
    }
}

/// Bytes that differ from block to block.
pub fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((seed * 31 + i) % 251) as u8).collect()
}
