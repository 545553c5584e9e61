//! What sockets need beyond handles: the start-up count, functions found at run time, and the
//! finishing touches after accept and connect.
// UNSAFETY: calls Winsock, and fills in the caller's accept slot.
#![expect(unsafe_code)]

use std::{
    ffi::c_void,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::windows::io::{AsRawSocket, BorrowedSocket, RawSocket},
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, Ordering},
};

use socket2::{SockAddr, SockAddrStorage, SockRef, Socket, Type};
use windows_sys::{
    Win32::{
        Networking::WinSock::{
            LPFN_ACCEPTEX, LPFN_CONNECTEX, LPFN_GETACCEPTEXSOCKADDRS,
            SIO_GET_EXTENSION_FUNCTION_POINTER, SO_PROTOCOL_INFOW, SO_TYPE,
            SO_UPDATE_ACCEPT_CONTEXT, SO_UPDATE_CONNECT_CONTEXT, SOCK_STREAM, SOCKADDR, SOCKET,
            SOCKET_ERROR, SOL_SOCKET, WSACleanup, WSADATA, WSAEAFNOSUPPORT, WSAEINVAL, WSAENOTSOCK,
            WSAEOPNOTSUPP, WSAGetLastError, WSAID_ACCEPTEX, WSAID_CONNECTEX,
            WSAID_GETACCEPTEXSOCKADDRS, WSAIoctl, WSAPROTOCOL_INFOW, WSAStartup, XP1_IFS_HANDLES,
            getsockopt, setsockopt,
        },
        System::IO::OVERLAPPED,
    },
    core::{BOOL, GUID},
};

use crate::{
    completion::Completion,
    error::Error,
    submission::{ACCEPT_ADDRESS, AcceptSlot},
};

const VERSION_2_2: u16 = 0x0202;

/// One counted start-up of Winsock.
#[derive(Debug)]
pub(super) struct Winsock {
    started: AtomicBool,
}

impl Winsock {
    pub(super) fn start() -> io::Result<Self> {
        let mut data = WSADATA::default();
        // SAFETY: the structure is ours for the call.
        match unsafe { WSAStartup(VERSION_2_2, &raw mut data) } {
            0 => Ok(Self {
                started: AtomicBool::new(true),
            }),
            // This one returns its error, because there is no Winsock yet to keep it.
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    /// Gives the start-up back; once, however often it is called.
    pub(super) fn stop(&self) -> io::Result<()> {
        if !self.started.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        // SAFETY: pairs with the start-up of `start`: the flag lets one call through.
        match unsafe { WSACleanup() } {
            0 => Ok(()),
            _ => Err(last_error()),
        }
    }

    /// Keeps Winsock up for ever.
    pub(super) fn forget(&self) {
        self.started.store(false, Ordering::SeqCst);
    }
}

impl Drop for Winsock {
    fn drop(&mut self) {
        // Only a port that failed to open comes here with Winsock up; it has another error to tell.
        let _ = self.stop();
    }
}

fn last_error() -> io::Error {
    // SAFETY: reads the calling thread's last error.
    io::Error::from_raw_os_error(unsafe { WSAGetLastError() })
}

type AcceptEx = unsafe extern "system" fn(
    SOCKET,
    SOCKET,
    *mut c_void,
    u32,
    u32,
    u32,
    *mut u32,
    *mut OVERLAPPED,
) -> BOOL;

type ConnectEx = unsafe extern "system" fn(
    SOCKET,
    *const SOCKADDR,
    i32,
    *const c_void,
    u32,
    *mut u32,
    *mut OVERLAPPED,
) -> BOOL;

pub(super) fn accept_ex(socket: SOCKET) -> io::Result<AcceptEx> {
    // SAFETY: the type is the one Winsock's headers give for this id.
    let function: LPFN_ACCEPTEX = unsafe { extension(socket, &WSAID_ACCEPTEX) }?;
    function.ok_or_else(unsupported)
}

pub(super) fn connect_ex(socket: SOCKET) -> io::Result<ConnectEx> {
    // SAFETY: the type is the one Winsock's headers give for this id.
    let function: LPFN_CONNECTEX = unsafe { extension(socket, &WSAID_CONNECTEX) }?;
    function.ok_or_else(unsupported)
}

/// Asks the socket's own provider for one of its functions. They are not cached: providers differ
/// from socket to socket (D1), and each answers this in user mode, without a system call.
///
/// # Safety
/// `P` is the nullable function pointer type that belongs to `which`.
unsafe fn extension<P: Default>(socket: SOCKET, which: &GUID) -> io::Result<P> {
    let mut function = P::default();
    let mut written = 0;
    // SAFETY: input and output are ours for the call, which is not overlapped, and the output is
    // a pointer of the type that goes with the id, says the caller.
    let failed = unsafe {
        WSAIoctl(
            socket,
            SIO_GET_EXTENSION_FUNCTION_POINTER,
            ptr::from_ref(which).cast(),
            size_of::<GUID>() as u32,
            (&raw mut function).cast(),
            size_of::<P>() as u32,
            &raw mut written,
            ptr::null_mut(),
            None,
        )
    };
    match failed {
        SOCKET_ERROR => Err(named(last_error())),
        _ => Ok(function),
    }
}

/// A closed socket gets longshore's own name for it.
fn named(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(WSAENOTSOCK) => Error::BadHandle.into(),
        _ => error,
    }
}

fn unsupported() -> io::Error {
    io::Error::from_raw_os_error(WSAEOPNOTSUPP)
}

/// # Safety
/// The socket stays open while the borrow is used.
unsafe fn borrow<'a>(socket: SOCKET) -> BorrowedSocket<'a> {
    // SAFETY: passed on. The value was attached, and `attach` refuses the invalid one.
    unsafe { BorrowedSocket::borrow_raw(socket as RawSocket) }
}

/// A fresh overlapped, non-inheritable (C23) stream socket of the listener's family (D2).
pub(super) fn socket_like(listener: SOCKET) -> io::Result<Socket> {
    // SAFETY: the submission's handle is open, says `submit`'s contract.
    let listener = unsafe { borrow(listener) };
    let address = SockRef::from(&listener).local_addr().map_err(named)?;
    let family = address.domain();
    Socket::new(family, Type::STREAM, None)
}

/// `ConnectEx` wants a bound socket (D5).
pub(super) fn bind_to_any(socket: SOCKET, target: SocketAddr) -> io::Result<()> {
    // SAFETY: the submission's handle is open, says `submit`'s contract.
    let socket = unsafe { borrow(socket) };
    let any = match target {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    match SockRef::from(&socket).bind(&any.into()) {
        // Bound before, which is fine.
        Err(error) if error.raw_os_error() == Some(WSAEINVAL) => Ok(()),
        bound => bound,
    }
}

/// Sets a socket option without looking at its type. Returns the code, or 0.
fn set_option(socket: SOCKET, option: i32, value: &[u8]) -> u32 {
    // SAFETY: the value is ours for the call; the socket is checked by the system.
    let failed = unsafe {
        setsockopt(
            socket,
            SOL_SOCKET,
            option,
            value.as_ptr(),
            value.len() as i32,
        )
    };
    match failed {
        SOCKET_ERROR => last_error()
            .raw_os_error()
            .unwrap_or_default()
            .cast_unsigned(),
        _ => 0,
    }
}

/// Makes the connected socket a full member of its connection.
pub(super) fn finish_connect(socket: usize, completion: Completion) -> Completion {
    let error = match completion.error {
        0 => set_option(socket, SO_UPDATE_CONNECT_CONTEXT, &[]),
        error => error,
    };
    Completion {
        error,
        ..completion
    }
}

/// Completes an accepted socket, or closes it when the accept failed. Each failure is that of one
/// connection (D4): the listener is as good as before.
///
/// # Safety
/// The slot is valid and the kernel is done with it.
pub(super) unsafe fn finish_accept(
    listener: usize,
    mut slot: NonNull<AcceptSlot>,
    completion: Completion,
) -> Completion {
    // SAFETY: the kernel is done with the slot and its owner waits for our outcome.
    let slot = unsafe { slot.as_mut() };
    let error = match (completion.error, &slot.socket) {
        (0, Some(accepted)) => adopt(listener, accepted, &slot.addresses),
        (0, None) => Err(WSAENOTSOCK.cast_unsigned()),
        (error, _) => Err(error),
    };
    match error {
        Ok(peer) => {
            slot.peer = Some(peer);
            completion
        }
        Err(error) => {
            slot.socket = None;
            Completion {
                error,
                ..completion
            }
        }
    }
}

/// Gives the accepted socket the listener's properties (D3) and finds its peer's address.
fn adopt(
    listener: usize,
    accepted: &Socket,
    addresses: &[u8; 2 * ACCEPT_ADDRESS],
) -> Result<SocketAddr, u32> {
    let code = set_option(
        accepted.as_raw_socket() as SOCKET,
        SO_UPDATE_ACCEPT_CONTEXT,
        &listener.to_ne_bytes(),
    );
    if code != 0 {
        return Err(code);
    }
    // What the kernel wrote when the client came is right even if the client has gone again, when
    // `getpeername` fails.
    let peer = match remote_address(accepted, addresses) {
        Ok(peer) => Ok(peer),
        Err(_) => accepted.peer_addr(),
    };
    let code = |error: io::Error| error.raw_os_error().unwrap_or(WSAEAFNOSUPPORT);
    peer.map_err(|error| code(error).cast_unsigned())?
        .as_socket()
        .ok_or(WSAEAFNOSUPPORT.cast_unsigned())
}

/// Reads the peer's address from the buffer that `AcceptEx` filled.
fn remote_address(accepted: &Socket, addresses: &[u8; 2 * ACCEPT_ADDRESS]) -> io::Result<SockAddr> {
    let socket = accepted.as_raw_socket() as SOCKET;
    // SAFETY: the type is the one Winsock's headers give for this id.
    let read: LPFN_GETACCEPTEXSOCKADDRS =
        unsafe { extension(socket, &WSAID_GETACCEPTEXSOCKADDRS) }?;
    let read = read.ok_or_else(unsupported)?;
    let room = ACCEPT_ADDRESS as u32;
    let (mut local, mut local_len) = (ptr::null_mut(), 0);
    let (mut remote, mut remote_len) = (ptr::null_mut::<SOCKADDR>(), 0);
    // SAFETY: the buffer was filled by AcceptEx with the same three lengths; the outputs are ours
    // and point into it.
    unsafe {
        read(
            addresses.as_ptr().cast(),
            0,
            room,
            room,
            &raw mut local,
            &raw mut local_len,
            &raw mut remote,
            &raw mut remote_len,
        );
    }
    let len = usize::try_from(remote_len).unwrap_or_default();
    if remote.is_null() || !(size_of::<SOCKADDR>()..=size_of::<SockAddrStorage>()).contains(&len) {
        return Err(unsupported());
    }
    let fill = |storage: *mut SockAddrStorage, storage_len: *mut i32| {
        // SAFETY: `len` bytes at `remote` are the address just parsed, and fit the storage.
        unsafe {
            remote
                .cast::<u8>()
                .copy_to_nonoverlapping(storage.cast(), len);
            storage_len.write(remote_len);
        }
        Ok(())
    };
    // SAFETY: `fill` writes a whole address and its length.
    let ((), address) = unsafe { SockAddr::try_init(fill) }?;
    Ok(address)
}

/// Whether a socket keeps messages apart. What is no socket does not.
pub(super) fn is_datagram(socket: SOCKET) -> bool {
    let mut sort = 0i32;
    let mut len = size_of_val(&sort) as i32;
    let room = (&raw mut sort).cast();
    // SAFETY: the option is an int, and so is the room for it, which is ours for the call.
    let failed = unsafe { getsockopt(socket, SOL_SOCKET, SO_TYPE, room, &raw mut len) };
    failed == 0 && sort != SOCK_STREAM
}

/// Whether a socket is a stream of a provider that hands out real file handles.
pub(super) fn is_plain_stream(socket: SOCKET) -> bool {
    let mut info = WSAPROTOCOL_INFOW::default();
    let mut len = size_of::<WSAPROTOCOL_INFOW>() as i32;
    // SAFETY: the option fills this structure, which is ours for the call.
    let failed = unsafe {
        getsockopt(
            socket,
            SOL_SOCKET,
            SO_PROTOCOL_INFOW,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    failed == 0 && info.iSocketType == SOCK_STREAM && info.dwServiceFlags1 & XP1_IFS_HANDLES != 0
}
