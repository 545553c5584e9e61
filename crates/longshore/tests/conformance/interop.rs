//! Code that is not longshore's on the same port: C that posts, and system calls of the caller's
//! own (D2, D4, D10, D12).
// UNSAFETY: system calls on armed Contexts, and functions of a library written in C.
#![expect(unsafe_code)]

use std::{
    any::Any,
    env,
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{self, Write},
    iter,
    mem::transmute,
    os::windows::{
        ffi::OsStrExt,
        io::{AsRawHandle, AsRawSocket, FromRawHandle, OwnedHandle, RawHandle},
    },
    ptr,
    sync::Arc,
};

use longshore::{ABORTED, Dispatcher, Error, Handle, dispatcher::Context};
use windows_sys::Win32::{
    Foundation::{ERROR_IO_PENDING, ERROR_MORE_DATA, GetLastError, INVALID_HANDLE_VALUE},
    Networking::WinSock::{SOCKET, WSABUF, WSAGetLastError, WSARecv},
    Storage::FileSystem::{FILE_FLAG_OVERLAPPED, PIPE_ACCESS_INBOUND, ReadFile},
    System::{
        IO::OVERLAPPED,
        LibraryLoader::{GetProcAddress, LoadLibraryW},
        Pipes::{CreateNamedPipeW, PIPE_READMODE_MESSAGE, PIPE_TYPE_MESSAGE},
    },
};

use crate::{
    harness::{Test, port, spawn},
    io::{Op, refusal},
    io_things::{Scratch, attached_file, attached_pair, open, pattern, reset},
};

pub const TESTS: &[Test] = tests![
    d02_c_code_posts_its_own_function_to_the_handle.skip(no_library),
    d12_the_callers_own_read_comes_back_through_its_context,
    d12_the_callers_own_receive_comes_back_with_winsock_codes,
    d12_a_long_message_is_a_warning_that_keeps_its_bytes,
    d01_a_synchronous_file_is_refused,
    d04_a_context_whose_call_failed_is_disarmed_and_works_again,
    d10_the_callers_own_receive_can_be_cancelled,
    d12_a_socket_closed_under_its_receive_ends_it,
];

const LIBRARY: &str = "LONGSHORE_C_DLL";

fn no_library() -> Option<String> {
    env::var_os(LIBRARY)
        .is_none()
        .then(|| format!("{LIBRARY} does not name the library built from tests/c/poster.c"))
}

fn wide(text: &OsStr) -> Vec<u16> {
    text.encode_wide().chain(iter::once(0)).collect()
}

type Post = unsafe extern "C" fn(RawHandle, usize) -> i32;

struct Poster {
    callback: extern "C" fn() -> usize,
    post: Post,
    calls: extern "C" fn() -> i32,
    last_word: extern "C" fn() -> usize,
}

fn load(path: OsString) -> Poster {
    // SAFETY: the library does nothing when it is loaded, and is never unloaded.
    let library = unsafe { LoadLibraryW(wide(&path).as_ptr()) };
    assert!(!library.is_null(), "{}", io::Error::last_os_error());
    type Found = unsafe extern "system" fn() -> isize;
    let find = |name: &std::ffi::CStr| -> Found {
        // SAFETY: the library is loaded and the name ends with a null.
        let found = unsafe { GetProcAddress(library, name.as_ptr().cast()) };
        found.unwrap_or_else(|| panic!("{name:?} is missing"))
    };
    // SAFETY: the types are those of tests/c/poster.c.
    unsafe {
        Poster {
            callback: transmute::<Found, extern "C" fn() -> usize>(find(c"poster_callback")),
            post: transmute::<Found, Post>(find(c"poster_post")),
            calls: transmute::<Found, extern "C" fn() -> i32>(find(c"poster_calls")),
            last_word: transmute::<Found, extern "C" fn() -> usize>(find(c"poster_last_word")),
        }
    }
}

fn d02_c_code_posts_its_own_function_to_the_handle() {
    let poster = load(env::var_os(LIBRARY).unwrap());
    let port = port();
    let handle = port.as_raw_handle();
    // SAFETY: the port is open; the library only posts to it.
    let post = |word| assert_ne!(unsafe { (poster.post)(handle, word) }, 0);
    post(1);
    port.dispatch().unwrap();
    assert_eq!((poster.calls)(), 0, "nobody vouched for it");
    assert_eq!(port.foreign_packets(), 1);

    let address = ptr::with_exposed_provenance::<()>((poster.callback)());
    // SAFETY: the library's function has this signature, takes any word and stays loaded.
    let callback = unsafe {
        let callback = transmute::<*const (), unsafe extern "C-unwind" fn(usize)>(address);
        port.register_callback(callback)
    };
    for (calls, word) in [(1, 7), (2, 0), (3, usize::MAX)] {
        post(word);
        port.dispatch().unwrap();
        assert_eq!(((poster.calls)(), (poster.last_word)()), (calls, word));
    }
    // And Rust posts what C brought.
    port.post(9, callback).unwrap();
    port.dispatch().unwrap();
    assert_eq!(((poster.calls)(), (poster.last_word)()), (4, 9));
    assert_eq!(port.foreign_packets(), 1);
    assert!(port.unregister_callback(callback));
    post(1);
    port.dispatch().unwrap();
    assert_eq!(((poster.calls)(), port.foreign_packets()), (4, 2));
}

/// Arms the operation's Context and makes a `call` of the caller's own with it, which returns its
/// error code or 0. What owes no packet is disarmed.
fn own(
    port: &Dispatcher,
    op: &Op,
    kept: Box<dyn Any + Send>,
    call: impl FnOnce(*mut OVERLAPPED, *mut u8, u32) -> u32,
) -> io::Result<()> {
    op.lend(kept, |context| {
        // SAFETY: the record keeps the Context in place until its packet.
        unsafe { port.arm(context)? };
        // SAFETY: the Context is live.
        let overlapped = unsafe { Context::overlapped_ptr(context) };
        let (buffer, len) = op.buffer();
        match call(overlapped.as_ptr().cast(), buffer, len as u32) {
            0 | ERROR_IO_PENDING | ERROR_MORE_DATA => Ok(()),
            code => {
                // SAFETY: the call failed with an error: no packet will come.
                assert!(unsafe { port.disarm(context) });
                Err(io::Error::from_raw_os_error(code.cast_signed()))
            }
        }
    })
}

fn own_read(port: &Dispatcher, op: &Op, file: &Arc<File>, offset: u32) -> io::Result<()> {
    own(
        port,
        op,
        Box::new(file.clone()),
        |overlapped, buffer, len| {
            // SAFETY: the operation keeps file, buffer and OVERLAPPED until the packet.
            unsafe {
                (*overlapped).Anonymous.Anonymous.Offset = offset;
                let handle = file.as_raw_handle();
                match ReadFile(handle, buffer, len, ptr::null_mut(), overlapped) {
                    0 => GetLastError(),
                    _ => 0,
                }
            }
        },
    )
}

fn own_recv<T>(port: &Dispatcher, op: &Op, socket: &Arc<T>) -> io::Result<()>
where
    T: AsRawSocket + Send + Sync + 'static,
{
    own(
        port,
        op,
        Box::new(socket.clone()),
        |overlapped, buf, len| {
            let (buffers, mut flags) = (WSABUF { len, buf }, 0);
            // SAFETY: as above; the array of buffers and the flags are used in the call only.
            unsafe {
                let raw = socket.as_raw_socket() as SOCKET;
                let sent = ptr::null_mut();
                match WSARecv(raw, &buffers, 1, sent, &mut flags, overlapped, None) {
                    0 => 0,
                    _ => WSAGetLastError().cast_unsigned(),
                }
            }
        },
    )
}

/// The raw status of an operation that has ended.
fn status(op: &Op) -> u32 {
    // SAFETY: the Context is live.
    unsafe { Context::raw_status(op.context()) }
}

fn d12_the_callers_own_read_comes_back_through_its_context() {
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &pattern(0, 100));
    let op = Op::new(16);
    assert_eq!(op.finish(&port, own_read(&port, &op, &file, 50)), (16, 0));
    assert_eq!(op.data(16), pattern(0, 100)[50..66]);
    assert_eq!((op.calls(), status(&op)), (1, 0));
    // The end of the file is what the system says of it, in a packet or at once.
    let (bytes, error) = op.finish(&port, own_read(&port, &op, &file, 100));
    assert_eq!((bytes, error), (0, 38), "ERROR_HANDLE_EOF");
    assert!(!port.try_dispatch().unwrap());
    // longshore's own reads of the same file go on.
    assert_eq!(op.finish(&port, op.read(&port, &file, 100)), (0, 0));
    assert_eq!(port.foreign_packets(), 0);
}

fn d12_the_callers_own_receive_comes_back_with_winsock_codes() {
    let port = port();
    let (here, there) = attached_pair(&port);
    let op = Op::new(16);
    own_recv(&port, &op, &here).unwrap();
    assert_eq!(status(&op), 0x103, "STATUS_PENDING");
    assert_eq!(
        refusal(own_recv(&port, &op, &here)),
        Some(Error::ContextInFlight)
    );
    assert_eq!(refusal(op.recv(&port, &here)), Some(Error::ContextInFlight));
    (&*there).write_all(b"hello").unwrap();
    assert_eq!(op.finish(&port, Ok(())), (5, 0));
    assert_eq!((op.data(5), op.calls()), (b"hello".to_vec(), 1));
    own_recv(&port, &op, &here).unwrap();
    reset(there);
    let (bytes, error) = op.finish(&port, Ok(()));
    assert_eq!((bytes, error), (0, 10054));
    assert_eq!(
        status(&op) >> 30,
        3,
        "an error's NTSTATUS, {:#x}",
        status(&op)
    );
}

/// A message pipe: its overlapped reading end, and the writing one.
fn message_pipe() -> (Arc<OwnedHandle>, File) {
    let name = format!(r"\\.\pipe\longshore-{}", std::process::id());
    // SAFETY: the name ends with a null and nothing else is pointed to.
    let server = unsafe {
        let server = CreateNamedPipeW(
            wide(name.as_ref()).as_ptr(),
            PIPE_ACCESS_INBOUND | FILE_FLAG_OVERLAPPED,
            PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE,
            1,
            1 << 16,
            1 << 16,
            0,
            ptr::null(),
        );
        assert_ne!(
            server,
            INVALID_HANDLE_VALUE,
            "{}",
            io::Error::last_os_error()
        );
        OwnedHandle::from_raw_handle(server)
    };
    let client = OpenOptions::new().write(true).open(name).unwrap();
    (Arc::new(server), client)
}

fn d12_a_long_message_is_a_warning_that_keeps_its_bytes() {
    let port = port();
    let (server, mut client) = message_pipe();
    port.attach(Handle::file(&*server)).unwrap();
    let op = Op::new(4096);
    let read = || {
        own(
            &port,
            &op,
            Box::new(server.clone()),
            |overlapped, buffer, len| {
                // SAFETY: the operation keeps pipe, buffer and OVERLAPPED until the packet.
                unsafe {
                    let handle = server.as_raw_handle();
                    match ReadFile(handle, buffer, len, ptr::null_mut(), overlapped) {
                        0 => GetLastError(),
                        _ => 0,
                    }
                }
            },
        )
    };
    let message = pattern(1, 10_000);
    let parts = [(4096, 234), (4096, 234), (1808, 0)];
    for is_pending in [false, true] {
        // The call itself says ERROR_MORE_DATA, or the packet does.
        let first = is_pending.then(|| read().unwrap());
        client.write_all(&message).unwrap();
        let mut received = Vec::new();
        for (i, part) in parts.into_iter().enumerate() {
            let started = if i == 0 && first.is_some() {
                Ok(())
            } else {
                read()
            };
            assert_eq!(
                op.finish(&port, started),
                part,
                "pending {is_pending}, part {i}"
            );
            let warned = status(&op) == 0x8000_0005;
            assert_eq!(warned, part.1 == 234, "STATUS_BUFFER_OVERFLOW");
            received.extend(op.data(part.0 as usize));
            assert!(!port.try_dispatch().unwrap(), "one packet for each read");
        }
        assert!(received == message);
    }
    assert_eq!((op.calls(), port.foreign_packets()), (6, 0));
}

fn d04_a_context_whose_call_failed_is_disarmed_and_works_again() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(&pattern(0, 100));
    let deaf = open(&path, OpenOptions::new().write(true));
    let file = open(&path, OpenOptions::new().read(true));
    port.attach(&*deaf).unwrap();
    port.attach(&*file).unwrap();
    let op = Op::new(16);
    let refused = own_read(&port, &op, &deaf, 0).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(5), "ERROR_ACCESS_DENIED");
    assert_eq!((port.in_flight(), op.calls()), (0, 0));
    assert!(!port.try_dispatch().unwrap());
    assert_eq!(op.finish(&port, own_read(&port, &op, &file, 90)), (10, 0));
    assert_eq!(op.finish(&port, op.read(&port, &file, 0)), (16, 0));
    assert_eq!(port.foreign_packets(), 0);
}

fn d10_the_callers_own_receive_can_be_cancelled() {
    let port = port();
    let (here, there) = attached_pair(&port);
    let op = Op::new(16);
    own_recv(&port, &op, &here).unwrap();
    assert_eq!(
        port.cancel_all(&*here).unwrap(),
        0,
        "not longshore's to cancel"
    );
    assert!(op.cancel(&port, &here).unwrap());
    assert_eq!(op.finish(&port, Ok(())), (0, ABORTED));
    // Closing the dispatcher cancels it, too.
    own_recv(&port, &op, &here).unwrap();
    port.close().unwrap();
    assert_eq!((op.calls(), op.last()), (2, (0, ABORTED)));
    drop(there);
}

fn d12_a_socket_closed_under_its_receive_ends_it() {
    let port = port();
    let (here, _there) = attached_pair(&port);
    let op = Op::new(16);
    let raw = here.as_raw_socket();
    // Lent without the socket, which is closed too early on purpose.
    op.lend(Box::new(()), |context| {
        let (buffer, len) = op.buffer();
        let recv = longshore::Submission::Recv {
            socket: Handle::from(&*here),
            buffer,
            len,
        };
        // SAFETY: the record keeps Context and buffer. The socket does not stay open, which on
        // Windows ends the operation with a packet.
        unsafe { port.submit(context, recv) }
    })
    .unwrap();
    let closer = spawn(move || drop(Arc::into_inner(here).expect("the only one")));
    let (bytes, error) = op.finish(&port, Ok(()));
    closer.join().unwrap();
    // Closed here, not reset by the peer.
    assert!(
        bytes == 0 && matches!(error, 995 | 10053),
        "socket {raw}: {error}"
    );
    assert_eq!(op.calls(), 1);
    assert!(!port.try_dispatch().unwrap());
}

fn d01_a_synchronous_file_is_refused() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(&pattern(0, 100));
    let file = File::open(&path).unwrap();
    assert_eq!(refusal(port.attach(&file)), Some(Error::NotOverlapped));
    // It is as good as before, and so is the port.
    let mut first = [0; 4];
    io::Read::read_exact(&mut &file, &mut first).unwrap();
    assert_eq!(first, pattern(0, 100)[..4]);
    let file = open(&path, OpenOptions::new().read(true));
    port.attach(&*file).unwrap();
    let op = Op::new(16);
    assert_eq!(op.finish(&port, op.read(&port, &file, 0)), (16, 0));
}
