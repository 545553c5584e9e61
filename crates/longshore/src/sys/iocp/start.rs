//! The system calls that start operations, and what their own results say about the packet.
//!
//! After a call that owes a packet nothing of the operation is touched any more: the packet may
//! have been dispatched, and the memory freed, by the time the call returns (B1).
// UNSAFETY: hands the caller's memory to the kernel.
#![expect(unsafe_code)]

use std::{
    io,
    net::SocketAddr,
    os::windows::io::AsRawSocket,
    ptr::{self, NonNull},
};

use socket2::SockAddr;
use windows_sys::Win32::{
    Foundation::{
        ERROR_BROKEN_PIPE, ERROR_HANDLE_EOF, ERROR_INVALID_HANDLE, ERROR_IO_PENDING,
        ERROR_MORE_DATA, HANDLE,
    },
    Networking::WinSock::{
        SOCKET, WSABUF, WSAEMSGSIZE, WSAENOTSOCK, WSAGetLastError, WSARecv, WSASend,
    },
    Storage::FileSystem::{ReadFile, WriteFile},
    System::IO::OVERLAPPED,
};

use crate::{
    completion::Completion,
    error::Error,
    handle::Kind,
    overlapped::RawOverlapped,
    submission::{ACCEPT_ADDRESS, AcceptSlot, Submission, clamp},
    sys::backend::Submitted,
};

use super::{datagram, pipe, winsock};

/// Starts one operation.
///
/// # Safety
/// As for [`Backend::submit`](crate::sys::backend::Backend::submit).
pub(super) unsafe fn start(
    header: NonNull<RawOverlapped>,
    submission: &Submission<'_>,
    skips: bool,
) -> io::Result<Submitted> {
    // SAFETY: the caller's contract.
    let called = unsafe { call(header, submission)? };
    Ok(match called {
        // The call's own success, and no packet: nobody else has the header now.
        Called::Succeeded if skips => {
            // SAFETY: as just said; the header is live.
            let bytes = unsafe { RawOverlapped::bytes(header) };
            Submitted::Done(Completion::ok(bytes))
        }
        Called::Succeeded | Called::Pending => Submitted::PacketOwed,
        // With skip-on-success a warning queues nothing either (A6), but that was never seen on
        // Windows. Such handles are streams and files, which have no messages to cut short.
        Called::Warned => Submitted::PacketOwed,
        Called::AtTheEnd | Called::Before => Submitted::Done(Completion::ok(0)),
    })
}

/// What the result of a caller's own system call says of the packet.
///
/// A message too long to *send* looks like one that was cut short when it came in: the caller has
/// to tell them apart. The end of a file is the error that its packet would bring.
///
/// # Safety
/// The header was given to that call, and is live.
pub(super) unsafe fn judge(
    header: NonNull<RawOverlapped>,
    result: io::Result<()>,
    skips: bool,
) -> io::Result<Submitted> {
    let code = match &result {
        Ok(()) => None,
        Err(error) => match error.raw_os_error() {
            Some(code) => Some(code.cast_unsigned()),
            // The caller's own reason, before any system call was made.
            None => return result.map(|()| Submitted::PacketOwed),
        },
    };
    Ok(match owed_or(code, Bytes::ComeIn)? {
        Called::Succeeded if skips => {
            // SAFETY: the call's own success, and no packet: nobody else has the header now.
            let bytes = unsafe { RawOverlapped::bytes(header) };
            Submitted::Done(Completion::ok(bytes))
        }
        Called::Succeeded | Called::Pending | Called::Warned => Submitted::PacketOwed,
        Called::AtTheEnd | Called::Before => Submitted::Done(Completion {
            bytes: 0,
            error: ERROR_HANDLE_EOF,
        }),
    })
}

/// What a read from a pipe has come to: where the last writer has gone is its end (A21).
pub(super) fn finish_read(completion: Completion) -> Completion {
    match completion.error {
        ERROR_BROKEN_PIPE => Completion::ok(completion.bytes),
        _ => completion,
    }
}

/// What the call's own result said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Called {
    Succeeded,
    Pending,
    Warned,
    AtTheEnd,
    /// What was asked for had happened before, which no packet tells.
    Before,
}

/// # Safety
/// As for [`start`].
unsafe fn call(header: NonNull<RawOverlapped>, submission: &Submission<'_>) -> io::Result<Called> {
    let overlapped: *mut OVERLAPPED = header.as_ptr().cast();
    let handle = submission.handle();
    let raw = handle.raw();
    let file = raw as HANDLE;
    let is_pipe = handle.kind() == Kind::Pipe;
    // SAFETY, for all arms: the caller keeps header, buffer, slot and handle valid until the
    // packet, and the header has an OVERLAPPED's layout (asserted in `iocp`). The count of bytes
    // is not asked for: only the header's is right for every outcome (D14).
    match *submission {
        Submission::Read { buffer, len, .. } => {
            // SAFETY: see above; `clamp(len)` bytes are within the buffer.
            let done = unsafe { ReadFile(file, buffer, clamp(len), ptr::null_mut(), overlapped) };
            match file_error(done) {
                // An error status: no packet.
                Some(ERROR_BROKEN_PIPE) if is_pipe => Ok(Called::AtTheEnd),
                code => owed_or(code, Bytes::ComeIn),
            }
        }
        Submission::Recv { buffer, len, .. } if is_pipe => {
            // SAFETY: see above; `clamp(len)` bytes are within the buffer.
            let done = unsafe { ReadFile(file, buffer, clamp(len), ptr::null_mut(), overlapped) };
            owed_or(file_error(done), Bytes::ComeIn)
        }
        Submission::Write { buffer, len, .. } => {
            // SAFETY: see above; `clamp(len)` bytes are within the buffer.
            let done = unsafe { WriteFile(file, buffer, clamp(len), ptr::null_mut(), overlapped) };
            owed_or(file_error(done), Bytes::GoOut)
        }
        Submission::Send { buffer, len, .. } if is_pipe => {
            // SAFETY: see above; `clamp(len)` bytes are within the buffer.
            let done = unsafe { WriteFile(file, buffer, clamp(len), ptr::null_mut(), overlapped) };
            owed_or(file_error(done), Bytes::GoOut)
        }
        // SAFETY: see above.
        Submission::Recv { buffer, len, .. } => unsafe { recv(raw, buffer, len, overlapped) },
        // SAFETY: see above; a send only reads the buffer.
        Submission::Send { buffer, len, .. } => unsafe {
            send(raw, buffer.cast_mut(), len, overlapped)
        },
        Submission::RecvFrom {
            buffer, len, from, ..
        } => {
            // SAFETY: see above.
            unsafe { datagram::recv_from(raw, (buffer, len), from, overlapped) }
        }
        Submission::SendTo {
            buffer, len, to, ..
        } => {
            // SAFETY: see above.
            unsafe { datagram::send_to(raw, (buffer, len), to, overlapped) }
        }
        // SAFETY: see above.
        Submission::Accept { slot, .. } => unsafe { accept(raw, slot, overlapped) },
        // SAFETY: see above.
        Submission::ConnectPipe { .. } => unsafe { pipe::connect(raw, overlapped) },
        // Started elsewhere, see `wait`.
        Submission::Wait { .. } => Err(Error::WrongKind.into()),
        // SAFETY: see above.
        Submission::Connect { address, .. } => unsafe { connect(raw, address, overlapped) },
    }
}

/// # Safety
/// As for [`start`]: `len` bytes at `buffer`, and the header, are the kernel's until the packet.
unsafe fn recv(
    socket: SOCKET,
    buffer: *mut u8,
    len: usize,
    overlapped: *mut OVERLAPPED,
) -> io::Result<Called> {
    let buffers = WSABUF {
        len: clamp(len),
        buf: buffer,
    };
    // On the stack although the operation outlives it (D10). Winsock captures the array of buffers
    // in the call; the flags are written by the call only, and an operation that ends later shows
    // them through WSAGetOverlappedResult alone. (Wine keeps the pointer, for WSARecvMsg only.)
    let mut flags = 0;
    // SAFETY: the caller's memory as the function says; array and flags are ours for the call.
    let failed = unsafe {
        WSARecv(
            socket,
            &raw const buffers,
            1,
            ptr::null_mut(),
            &raw mut flags,
            overlapped,
            None,
        )
    };
    owed_or(socket_error(failed == 0), Bytes::ComeIn)
}

/// # Safety
/// As for [`start`]: `len` bytes at `buffer`, and the header, are the kernel's until the packet.
unsafe fn send(
    socket: SOCKET,
    buffer: *mut u8,
    len: usize,
    overlapped: *mut OVERLAPPED,
) -> io::Result<Called> {
    let buffers = WSABUF {
        len: clamp(len),
        buf: buffer,
    };
    // SAFETY: the caller's memory as the function says; Winsock captures the array in the call.
    let failed = unsafe {
        WSASend(
            socket,
            &raw const buffers,
            1,
            ptr::null_mut(),
            0,
            overlapped,
            None,
        )
    };
    owed_or(socket_error(failed == 0), Bytes::GoOut)
}

/// # Safety
/// As for [`start`]: the slot and the header are the kernel's until the packet.
unsafe fn accept(
    listener: SOCKET,
    slot: NonNull<AcceptSlot>,
    overlapped: *mut OVERLAPPED,
) -> io::Result<Called> {
    let accept_ex = winsock::accept_ex(listener)?;
    let fresh = winsock::socket_like(listener)?;
    let accepted = fresh.as_raw_socket() as SOCKET;
    let slot = slot.as_ptr();
    // SAFETY: nothing is in flight yet, so the slot is ours alone. Only places inside it are
    // touched: no reference to the slot exists while the kernel writes the addresses.
    let addresses = unsafe {
        (*slot).peer = None;
        (*slot).socket = Some(fresh);
        &raw mut (*slot).addresses
    };
    // Written by the call only, never after it returned "pending".
    let mut received = 0;
    let room = ACCEPT_ADDRESS as u32;
    // SAFETY: both sockets are open, the slot has room for two addresses, no data is asked for,
    // and slot and header stay valid until the packet.
    let done = unsafe {
        accept_ex(
            listener,
            accepted,
            addresses.cast(),
            0,
            room,
            room,
            &raw mut received,
            overlapped,
        )
    };
    let called = owed_or(socket_error(done != 0), Bytes::GoOut);
    if called.is_err() {
        // SAFETY: nothing was started, so the slot is still ours. The fresh socket is closed.
        unsafe { (*slot).socket = None };
    }
    called
}

/// # Safety
/// As for [`start`]: the header is the kernel's until the packet.
unsafe fn connect(
    socket: SOCKET,
    address: SocketAddr,
    overlapped: *mut OVERLAPPED,
) -> io::Result<Called> {
    let connect_ex = winsock::connect_ex(socket)?;
    winsock::bind_to_any(socket, address)?;
    let address = SockAddr::from(address);
    let mut sent = 0;
    // SAFETY: the address is copied in the call, there is no data to send, and the header stays
    // valid until the packet.
    let done = unsafe {
        connect_ex(
            socket,
            address.as_ptr().cast(),
            address.len(),
            ptr::null(),
            0,
            &raw mut sent,
            overlapped,
        )
    };
    owed_or(socket_error(done != 0), Bytes::GoOut)
}

/// The code of a Win32 call that says FALSE; `None` for success.
pub(super) fn file_error(done: i32) -> Option<u32> {
    let failed = done == 0;
    // Asked for at once, before anything else can overwrite it.
    failed.then(|| {
        let code = io::Error::last_os_error().raw_os_error();
        code.unwrap_or_default().cast_unsigned()
    })
}

/// The code of a Winsock call that has failed; `None` for success.
pub(super) fn socket_error(done: bool) -> Option<u32> {
    // SAFETY: reads the calling thread's last error.
    (!done).then(|| unsafe { WSAGetLastError() }.cast_unsigned())
}

/// Which way an operation moves bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bytes {
    ComeIn,
    GoOut,
}

/// Whether a packet follows, told by the call's result alone.
///
/// Success owes one as "pending" does, unless the handle skips it. So do the two faces of
/// `STATUS_BUFFER_OVERFLOW`, a warning: a message longer than the buffer it comes into, from a pipe
/// and from a socket. A message too long to *send* is refused, and owes nothing.
pub(super) fn owed_or(code: Option<u32>, bytes: Bytes) -> io::Result<Called> {
    const TOO_LONG: u32 = WSAEMSGSIZE.cast_unsigned();
    const NO_SOCKET: u32 = WSAENOTSOCK.cast_unsigned();
    match (code, bytes) {
        (None, _) => Ok(Called::Succeeded),
        (Some(ERROR_IO_PENDING), _) => Ok(Called::Pending),
        (Some(ERROR_MORE_DATA | TOO_LONG), Bytes::ComeIn) => Ok(Called::Warned),
        // An error status (A21): no packet. Where the end is found later, a packet brings it.
        (Some(ERROR_HANDLE_EOF), Bytes::ComeIn) => Ok(Called::AtTheEnd),
        (Some(ERROR_INVALID_HANDLE | NO_SOCKET), _) => Err(Error::BadHandle.into()),
        (Some(code), _) => Err(io::Error::from_raw_os_error(code.cast_signed())),
    }
}
