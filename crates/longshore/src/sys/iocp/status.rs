//! What a status means: from the `NTSTATUS` in the header to the code a caller gets.
//!
//! `RtlNtStatusToDosError` is right for files and wrong for sockets: it turns a connection reset
//! into ERROR_NETNAME_DELETED (64), which no `io::ErrorKind` knows (A16). So sockets have a table.
//!
//! What can be told of C15: a socket closed here with a receive pending ends it with *cancelled*,
//! *handles closed* or *local disconnect*, a peer's reset with *connection reset* or *remote
//! disconnect*. As statuses they differ, and the table keeps them apart (995 and 10053 against
//! 10054); only the Win32 code 64, where both meet, has lost it, and then the peer is blamed.
// UNSAFETY: calls the system's own table of codes.
#![expect(unsafe_code)]

use windows_sys::Win32::{
    Foundation::{self as nt, NTSTATUS, RtlNtStatusToDosError},
    Networking::WinSock as wsa,
};

use crate::{completion::Completion, handle::Kind};

/// The outcome of an operation of longshore's own (`kind` known) or of a caller's own call.
pub(super) fn completion(status: NTSTATUS, bytes: u32, kind: Option<Kind>) -> Completion {
    // Success and information (0x4…: a partial message, urgent data) are no errors.
    if status >= 0 {
        return Completion::ok(bytes);
    }
    let error = match kind {
        Some(Kind::Socket) => socket_code(status),
        // The end of the file is no error to our own reads; only reads end so (A21).
        Some(Kind::File) if status == nt::STATUS_END_OF_FILE => return Completion::ok(0),
        Some(Kind::File | Kind::Pipe) if status == nt::STATUS_HANDLES_CLOSED => {
            nt::ERROR_OPERATION_ABORTED
        }
        Some(Kind::File | Kind::Pipe | Kind::Waitable) => win32_code(status),
        None => connection_code(status).unwrap_or_else(|| win32_code(status)),
    };
    Completion { bytes, error }
}

fn win32_code(status: NTSTATUS) -> u32 {
    // SAFETY: a pure function of its argument.
    unsafe { RtlNtStatusToDosError(status) }
}

fn socket_code(status: NTSTATUS) -> u32 {
    connection_code(status)
        .or_else(|| shared_code(status))
        .unwrap_or_else(|| winsock_of_win32(win32_code(status)))
}

/// Statuses that only sockets produce, whoever issued the call.
fn connection_code(status: NTSTATUS) -> Option<u32> {
    let code = match status {
        nt::STATUS_CONNECTION_RESET | nt::STATUS_REMOTE_DISCONNECT => wsa::WSAECONNRESET,
        nt::STATUS_CONNECTION_DISCONNECTED => wsa::WSAECONNRESET,
        // An answer to an earlier datagram; Winsock shows it as the peer's reset.
        nt::STATUS_PORT_UNREACHABLE => wsa::WSAECONNRESET,
        nt::STATUS_HOPLIMIT_EXCEEDED => wsa::WSAENETRESET,
        nt::STATUS_CONNECTION_REFUSED | nt::STATUS_REMOTE_NOT_LISTENING => wsa::WSAECONNREFUSED,
        nt::STATUS_CONNECTION_ABORTED | nt::STATUS_LOCAL_DISCONNECT => wsa::WSAECONNABORTED,
        nt::STATUS_GRACEFUL_DISCONNECT => wsa::WSAEDISCON,
        nt::STATUS_NETWORK_UNREACHABLE | nt::STATUS_PROTOCOL_UNREACHABLE => wsa::WSAENETUNREACH,
        nt::STATUS_HOST_UNREACHABLE => wsa::WSAEHOSTUNREACH,
        nt::STATUS_HOST_DOWN => wsa::WSAEHOSTDOWN,
        nt::STATUS_ADDRESS_ALREADY_EXISTS => wsa::WSAEADDRINUSE,
        nt::STATUS_INVALID_ADDRESS_COMPONENT => wsa::WSAEADDRNOTAVAIL,
        _ => return None,
    };
    Some(code.cast_unsigned())
}

/// Statuses that other objects produce too, as Winsock would report them.
fn shared_code(status: NTSTATUS) -> Option<u32> {
    let code = match status {
        nt::STATUS_CANCELLED | nt::STATUS_REQUEST_ABORTED | nt::STATUS_HANDLES_CLOSED => {
            return Some(nt::ERROR_OPERATION_ABORTED);
        }
        nt::STATUS_BUFFER_OVERFLOW | nt::STATUS_INVALID_BUFFER_SIZE => wsa::WSAEMSGSIZE,
        nt::STATUS_IO_TIMEOUT | nt::STATUS_LINK_TIMEOUT => wsa::WSAETIMEDOUT,
        nt::STATUS_LINK_FAILED => wsa::WSAECONNRESET,
        nt::STATUS_TRANSACTION_ABORTED => wsa::WSAECONNABORTED,
        nt::STATUS_INVALID_CONNECTION => wsa::WSAENOTCONN,
        nt::STATUS_PIPE_DISCONNECTED => wsa::WSAESHUTDOWN,
        nt::STATUS_INVALID_HANDLE | nt::STATUS_OBJECT_TYPE_MISMATCH => wsa::WSAENOTSOCK,
        nt::STATUS_TOO_MANY_ADDRESSES | nt::STATUS_SHARING_VIOLATION => wsa::WSAEADDRINUSE,
        nt::STATUS_INVALID_ADDRESS | nt::STATUS_CONFLICTING_ADDRESSES => wsa::WSAEADDRNOTAVAIL,
        nt::STATUS_BAD_NETWORK_PATH => wsa::WSAENETUNREACH,
        nt::STATUS_NETWORK_BUSY
        | nt::STATUS_INVALID_NETWORK_RESPONSE
        | nt::STATUS_UNEXPECTED_NETWORK_ERROR => wsa::WSAENETDOWN,
        nt::STATUS_INSUFFICIENT_RESOURCES
        | nt::STATUS_NO_MEMORY
        | nt::STATUS_QUOTA_EXCEEDED
        | nt::STATUS_PAGEFILE_QUOTA
        | nt::STATUS_COMMITMENT_LIMIT
        | nt::STATUS_WORKING_SET_QUOTA
        | nt::STATUS_REMOTE_RESOURCES => wsa::WSAENOBUFS,
        nt::STATUS_ACCESS_VIOLATION | nt::STATUS_BUFFER_TOO_SMALL => wsa::WSAEFAULT,
        nt::STATUS_NOT_SUPPORTED | nt::STATUS_NOT_IMPLEMENTED => wsa::WSAEOPNOTSUPP,
        nt::STATUS_ACCESS_DENIED => wsa::WSAEACCES,
        nt::STATUS_INVALID_PARAMETER => wsa::WSAEINVAL,
        _ => return None,
    };
    Some(code.cast_unsigned())
}

/// For statuses the tables do not know: what Win32 calls them, in Winsock's words where it has
/// some. The rest stays as it is, which tells more than "invalid argument".
fn winsock_of_win32(code: u32) -> u32 {
    let winsock = match code {
        nt::ERROR_NETNAME_DELETED | nt::ERROR_CONNECTION_INVALID => wsa::WSAECONNRESET,
        nt::ERROR_CONNECTION_REFUSED => wsa::WSAECONNREFUSED,
        nt::ERROR_CONNECTION_ABORTED => wsa::WSAECONNABORTED,
        nt::ERROR_NETWORK_UNREACHABLE | nt::ERROR_PROTOCOL_UNREACHABLE => wsa::WSAENETUNREACH,
        nt::ERROR_HOST_UNREACHABLE => wsa::WSAEHOSTUNREACH,
        nt::ERROR_PORT_UNREACHABLE => wsa::WSAECONNRESET,
        nt::ERROR_GRACEFUL_DISCONNECT => wsa::WSAEDISCON,
        nt::ERROR_SEM_TIMEOUT => wsa::WSAETIMEDOUT,
        nt::ERROR_NO_SYSTEM_RESOURCES | nt::ERROR_NOT_ENOUGH_MEMORY => wsa::WSAENOBUFS,
        code => return code,
    };
    winsock.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: NTSTATUS, kind: Option<Kind>) -> u32 {
        completion(status, 3, kind).error
    }

    #[test]
    fn d12_sockets_get_winsock_codes() {
        for (status, code) in [
            (nt::STATUS_CONNECTION_RESET, 10054),
            (nt::STATUS_REMOTE_DISCONNECT, 10054),
            (nt::STATUS_CONNECTION_REFUSED, 10061),
            (nt::STATUS_CONNECTION_ABORTED, 10053),
            (nt::STATUS_LOCAL_DISCONNECT, 10053),
            (nt::STATUS_IO_TIMEOUT, 10060),
            (nt::STATUS_NETWORK_UNREACHABLE, 10051),
            (nt::STATUS_HOST_UNREACHABLE, 10065),
            (nt::STATUS_ADDRESS_ALREADY_EXISTS, 10048),
            (nt::STATUS_INSUFFICIENT_RESOURCES, 10055),
            (nt::STATUS_INVALID_CONNECTION, 10057),
            (nt::STATUS_BUFFER_OVERFLOW, 10040),
            (nt::STATUS_CANCELLED, 995),
            (nt::STATUS_HANDLES_CLOSED, 995),
            (nt::STATUS_NETWORK_NAME_DELETED, 10054),
        ] {
            let got = error(status, Some(Kind::Socket));
            assert_eq!(got, code, "NTSTATUS {status:#x}");
        }
    }

    #[test]
    fn d12_win32_codes_become_winsock_codes_where_they_have_one() {
        for (win32, code) in [
            (64, 10054),
            (1225, 10061),
            (1236, 10053),
            (1231, 10051),
            (1232, 10065),
            (1233, 10051),
            (1234, 10054),
            (121, 10060),
            (5023, 5023),
        ] {
            assert_eq!(winsock_of_win32(win32), code, "Win32 {win32}");
        }
    }

    #[test]
    fn d12_files_get_win32_codes_and_their_end_is_no_error() {
        let file = Some(Kind::File);
        assert_eq!(
            completion(nt::STATUS_END_OF_FILE, 0, file),
            Completion::ok(0)
        );
        assert_eq!(error(nt::STATUS_BUFFER_OVERFLOW, file), 234);
        assert_eq!(error(nt::STATUS_CANCELLED, file), 995);
        assert_eq!(error(nt::STATUS_HANDLES_CLOSED, file), 995);
        assert_eq!(error(nt::STATUS_PIPE_BROKEN, file), 109);
        assert_eq!(error(nt::STATUS_ACCESS_DENIED, file), 5);
    }

    #[test]
    fn d12_the_callers_own_calls_get_what_the_system_says() {
        assert_eq!(error(nt::STATUS_END_OF_FILE, None), 38);
        assert_eq!(error(nt::STATUS_BUFFER_OVERFLOW, None), 234);
        assert_eq!(error(nt::STATUS_CANCELLED, None), 995);
        assert_eq!(error(nt::STATUS_CONNECTION_RESET, None), 10054);
        assert_eq!(error(nt::STATUS_CONNECTION_REFUSED, None), 10061);
    }

    #[test]
    fn d12_bytes_survive_an_error_and_information_is_success() {
        let truncated = completion(nt::STATUS_BUFFER_OVERFLOW, 3, Some(Kind::Socket));
        assert_eq!((truncated.bytes, truncated.error), (3, 10040));
        let partial = completion(nt::STATUS_RECEIVE_PARTIAL, 3, Some(Kind::Socket));
        assert_eq!(partial, Completion::ok(3));
    }
}
