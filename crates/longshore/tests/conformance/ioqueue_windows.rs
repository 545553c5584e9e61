//! Q2 where the caller makes the overlapped call.
// UNSAFETY: makes overlapped calls on buffers that the operations' blocks own.
#![expect(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io, ptr,
    sync::Arc,
};

use longshore::{Error, IoQueue, Overlapped, RawOverlapped, Registered};
use windows_sys::Win32::{
    Foundation::{ERROR_HANDLE_EOF, ERROR_INVALID_PARAMETER},
    Storage::FileSystem::ReadFile,
    System::IO::OVERLAPPED,
};

use crate::{
    harness::Test,
    io::refusal,
    io_things::{Scratch, open},
    ioqueue::{block, bytes, poll_once, queue},
};

pub const TESTS: &[Test] = tests![
    q02_a_call_of_the_callers_own_is_awaited,
    q02_a_call_that_fails_leaves_nothing_in_flight,
    q02_an_armed_block_is_awaited_or_disarmed,
];

fn file(queue: &IoQueue, scratch: &Scratch) -> Registered<File> {
    let path = scratch.file(b"contents of a file");
    let file = Arc::into_inner(open(&path, OpenOptions::new().read(true))).unwrap();
    queue.register(file).map_err(|(error, _)| error).unwrap()
}

/// The call's own result.
///
/// # Safety
/// Header and 8 bytes at the buffer are the system's until the packet.
unsafe fn read(
    handle: *mut std::ffi::c_void,
    header: *mut RawOverlapped,
    buffer: *mut u8,
) -> io::Result<()> {
    let overlapped: *mut OVERLAPPED = header.cast();
    // SAFETY: the caller lends the header and 8 bytes at the buffer.
    match unsafe { ReadFile(handle, buffer, 8, ptr::null_mut(), overlapped) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn q02_a_call_of_the_callers_own_is_awaited() {
    let (port, queue) = queue();
    let scratch = Scratch::new();
    let file = file(&queue, &scratch);
    let (overlapped, buffer) = block(8);
    for (offset, expected) in [(0, "contents"), (9, "of a fil"), (16, "le")] {
        overlapped.set_offset(offset);
        // SAFETY: the block keeps the buffer; the call is one read with the header.
        unsafe {
            let call = |handle, header| read(handle, header, buffer);
            queue.submit_with(&file, &overlapped, call).unwrap();
        }
        let count = port.block_on(queue.wait(&file, &overlapped)).unwrap();
        assert_eq!(count.unwrap(), expected.len());
    }
    overlapped.set_offset(100);
    // SAFETY: as above.
    unsafe {
        let call = |handle, header| read(handle, header, buffer);
        queue.submit_with(&file, &overlapped, call).unwrap();
    }
    let end = port.block_on(queue.wait(&file, &overlapped)).unwrap();
    let code = end.unwrap_err().raw_os_error();
    assert_eq!(code, Some(ERROR_HANDLE_EOF.cast_signed()));
    assert_eq!(&bytes(&overlapped)[..2], b"le");
}

fn q02_a_call_that_fails_leaves_nothing_in_flight() {
    let (port, queue) = queue();
    let scratch = Scratch::new();
    let file = file(&queue, &scratch);
    let overlapped = Overlapped::new();
    let code = ERROR_INVALID_PARAMETER.cast_signed();
    // SAFETY: no call is made.
    let refused = unsafe {
        queue.submit_with(&file, &overlapped, |_, _| {
            Err(io::Error::from_raw_os_error(code))
        })
    };
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(code));
    assert!(!overlapped.is_in_flight());
    assert_eq!(port.in_flight(), 0);
    let wait = port.block_on(queue.wait(&file, &overlapped)).unwrap();
    assert_eq!(refusal(wait), Some(Error::NotInFlight));
}

fn q02_an_armed_block_is_awaited_or_disarmed() {
    use std::os::windows::io::AsRawHandle;
    let (port, queue) = queue();
    let scratch = Scratch::new();
    let file = file(&queue, &scratch);
    let (overlapped, buffer) = block(8);
    // SAFETY: no call is made.
    unsafe {
        queue.arm(&file, &overlapped).unwrap();
        assert!(overlapped.is_in_flight());
        let mut wait = queue.wait(&file, &overlapped);
        assert!(poll_once(&mut wait).is_pending());
        assert!(queue.running());
        assert!(queue.disarm(&overlapped));
        assert!(!queue.running());
        let ended = port.block_on(wait).unwrap();
        assert_eq!(refusal(ended), Some(Error::NotInFlight));
        assert!(!queue.disarm(&overlapped));
    }
    // SAFETY: the block keeps the buffer; one read with the header.
    let owed = unsafe {
        queue.arm(&file, &overlapped).unwrap();
        let result = read(file.as_raw_handle(), overlapped.as_ptr(), buffer);
        let owed = result.is_err() || !queue.skips_on_success(&file);
        if !owed {
            assert!(queue.disarm(&overlapped));
        }
        owed
    };
    if owed {
        let count = port.block_on(queue.wait(&file, &overlapped)).unwrap();
        assert_eq!(count.unwrap(), 8);
    }
    assert_eq!(bytes(&overlapped), b"contents");
}
