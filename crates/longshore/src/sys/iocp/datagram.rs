//! Datagrams: one call, one message, with an address on it.
//!
//! The address, its length and the flags are in the caller's slot and live until the packet (D10):
//! the kernel writes the sender's address and its length when the datagram comes, not when the call
//! returns. Whether the receiver's address is captured in the call is not documented, and Wine reads
//! it later, when a send had to wait.
// UNSAFETY: hands the caller's memory to Winsock.
#![expect(unsafe_code)]

use std::{
    io,
    ptr::{self, NonNull},
};

use windows_sys::Win32::{
    Networking::WinSock::{
        SIO_UDP_CONNRESET, SIO_UDP_NETRESET, SOCKET, WSABUF, WSAIoctl, WSARecvFrom, WSASendTo,
    },
    System::IO::OVERLAPPED,
};

use super::start::{Bytes, Called, owed_or, socket_error};
use crate::submission::{AddressSlot, clamp};

/// # Safety
/// As for [`start`](super::start::start): `len` bytes at `buffer`, the slot and the header are the
/// kernel's until the packet.
pub(super) unsafe fn recv_from(
    socket: SOCKET,
    (buffer, len): (*mut u8, usize),
    from: NonNull<AddressSlot>,
    overlapped: *mut OVERLAPPED,
) -> io::Result<Called> {
    let buffers = WSABUF {
        len: clamp(len),
        buf: buffer,
    };
    let slot = from.as_ptr();
    // SAFETY: nothing is in flight yet, so the slot is ours alone. From here on only places inside
    // it are named: no reference to it exists while the kernel writes.
    let (address, room, flags) = unsafe {
        (*slot).clear();
        (
            &raw mut (*slot).storage,
            &raw mut (*slot).len,
            &raw mut (*slot).flags,
        )
    };
    // SAFETY: the caller's memory as the function says; Winsock captures the array of buffers in
    // the call. The count is not asked for: only the header's is right for every outcome (D14).
    let failed = unsafe {
        WSARecvFrom(
            socket,
            &raw const buffers,
            1,
            ptr::null_mut(),
            flags,
            address.cast(),
            room,
            overlapped,
            None,
        )
    };
    owed_or(socket_error(failed == 0), Bytes::ComeIn)
}

/// # Safety
/// As for [`recv_from`]; buffer and slot are only read.
pub(super) unsafe fn send_to(
    socket: SOCKET,
    (buffer, len): (*const u8, usize),
    to: NonNull<AddressSlot>,
    overlapped: *mut OVERLAPPED,
) -> io::Result<Called> {
    let buffers = WSABUF {
        len: clamp(len),
        buf: buffer.cast_mut(),
    };
    let slot = to.as_ptr();
    // SAFETY: the slot is valid, and nobody writes to it until the packet.
    let (address, address_len) = unsafe { (&raw const (*slot).storage, (*slot).len) };
    // SAFETY: the caller's memory as the function says; Winsock captures the array in the call.
    let failed = unsafe {
        WSASendTo(
            socket,
            &raw const buffers,
            1,
            ptr::null_mut(),
            0,
            address.cast(),
            address_len,
            overlapped,
            None,
        )
    };
    owed_or(socket_error(failed == 0), Bytes::GoOut)
}

/// Keeps answers to earlier datagrams ("nobody listens there", "its time to live ran out") away from
/// receives, which would fail with them although datagrams of others are waiting (D9).
pub(super) fn ignore_unreachable(socket: SOCKET) {
    for mode in [SIO_UDP_CONNRESET, SIO_UDP_NETRESET] {
        let report: i32 = 0;
        let mut written = 0;
        // A provider that does not know the mode has nothing to report.
        // SAFETY: input and output are ours for the call, which is not overlapped.
        let _ = unsafe {
            WSAIoctl(
                socket,
                mode,
                (&raw const report).cast(),
                size_of_val(&report) as u32,
                ptr::null_mut(),
                0,
                &raw mut written,
                ptr::null_mut(),
                None,
            )
        };
    }
}
