//! Windows: the port's kernel handle, its raw packets, and APCs.
// UNSAFETY: calls system functions on the port's handle, and re-posts a Context.
#![expect(unsafe_code)]

use std::{
    fs::OpenOptions,
    io,
    os::windows::{
        fs::OpenOptionsExt,
        io::{AsHandle, AsRawHandle},
    },
    ptr::{self, NonNull},
    sync::atomic::{AtomicUsize, Ordering},
    thread::JoinHandle,
};

use longshore::{
    Dispatcher,
    dispatcher::{Context, OnCallback},
};
use windows_sys::Win32::{
    Foundation::{ERROR_OPERATION_ABORTED, GetHandleInformation},
    Storage::FileSystem::FILE_FLAG_OVERLAPPED,
    System::{
        IO::{GetQueuedCompletionStatus, PostQueuedCompletionStatus},
        Threading::{QueueUserAPC, SleepEx},
    },
};

use crate::rules::{Check, probe};

/// The error code of a cancelled operation.
pub(crate) const ABORTED: u32 = ERROR_OPERATION_ABORTED;
pub(crate) const OVERLAPPED: usize = size_of::<windows_sys::Win32::System::IO::OVERLAPPED>();
/// What can disturb a thread that waits.
pub(crate) const INTERRUPTION: &str = "APC";

pub(crate) fn overlapped(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(FILE_FLAG_OVERLAPPED)
}

/// D1: the handle is a kernel handle like any other.
pub(crate) fn exported(port: &Dispatcher) -> io::Result<Check> {
    let handle = port.as_raw_handle();
    let mut flags = 0;
    // SAFETY: writes one word of ours; the handle is open while `port` lives.
    let known = unsafe { GetHandleInformation(handle, &raw mut flags) } != 0;
    let duplicate = port.as_handle().try_clone_to_owned();
    Ok(Check::default().saw(
        known && duplicate.is_ok(),
        format!(
            "exported handle: GetHandleInformation knows it: {known}, it can be duplicated: {}",
            duplicate.is_ok()
        ),
    ))
}

/// A packet as the kernel has it.
#[derive(Clone, Copy)]
struct Raw {
    bytes: u32,
    key: usize,
    overlapped: usize,
}

/// Takes a packet that is there, past longshore.
fn take(port: &Dispatcher) -> io::Result<Raw> {
    let (mut bytes, mut key, mut overlapped) = (0, 0, ptr::null_mut());
    // SAFETY: three words of ours to write to; the handle is open while `port` lives.
    let taken = unsafe {
        GetQueuedCompletionStatus(
            port.as_raw_handle(),
            &raw mut bytes,
            &raw mut key,
            &raw mut overlapped,
            0,
        )
    };
    match taken {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(Raw {
            bytes,
            key,
            overlapped: overlapped.addr(),
        }),
    }
}

/// Puts a packet on the port, past longshore, as C code with the handle would.
fn put(port: &Dispatcher, raw: Raw) -> io::Result<()> {
    let overlapped = ptr::with_exposed_provenance(raw.overlapped);
    // SAFETY: the kernel carries the words and follows none of them.
    match unsafe {
        PostQueuedCompletionStatus(port.as_raw_handle(), raw.bytes, raw.key, overlapped)
    } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// D2: the bits in the kernel's packet, read and put back with plain system calls.
pub(crate) fn words(port: Dispatcher) -> io::Result<Check> {
    const WORD: usize = 0x5eed;
    let callback: OnCallback = probe::note;
    port.post(WORD, callback)?;
    let post = take(&port)?;
    put(&port, post)?;
    port.dispatch()?;
    let seen = probe::seen();

    let context = Box::new(Context::new(probe::note_event, WORD));
    let address = (&raw const *context).addr();
    // SAFETY: the Context is dispatched below, or leaked.
    unsafe { port.repost(NonNull::from(&*context), 7, 0)? };
    let event = take(&port).and_then(|event| put(&port, event).map(|()| event));
    let Ok(event) = event else {
        // The port still expects its packet.
        Box::leak(context);
        return Ok(Check::failed(
            "the packet of a Context could not be taken and put back",
        ));
    };
    port.dispatch()?;
    let events = probe::events();

    let is_callback = post.key == callback as usize;
    let is_context = event.overlapped == address;
    Ok(Check::default()
        .saw(
            is_callback && post.overlapped == WORD && seen == [WORD],
            format!(
                "GetQueuedCompletionStatus saw key {}, overlapped {:#x}; put back raw, dispatch \
                 called it with {seen:x?}",
                probe::name(is_callback, "the callback's address", post.key),
                post.overlapped,
            ),
        )
        .saw(
            event.key == 0 && is_context && events == [(WORD, 7, 0)],
            format!(
                "a completion: key {}, overlapped {}; put back raw, its on_event got {events:x?}",
                event.key,
                probe::name(is_context, "the Context's address", event.overlapped),
            ),
        ))
}

static APCS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: an APC's signature; it asks nothing of its caller.
extern "system" fn on_apc(_word: usize) {
    APCS.fetch_add(1, Ordering::Relaxed);
}

/// D9: queues an APC to the thread, which would end an alertable wait.
pub(crate) fn interrupt<T>(thread: &JoinHandle<T>) -> io::Result<()> {
    // SAFETY: the thread's handle is open until it is joined; the APC only adds to an atomic.
    match unsafe { QueueUserAPC(Some(on_apc), thread.as_raw_handle(), 0) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// How many interruptions have reached the calling thread, which alone was interrupted.
pub(crate) fn interruptions() -> usize {
    // SAFETY: an alertable wait of no length; it runs the APCs that are queued to this thread.
    unsafe { SleepEx(0, 1) };
    APCS.load(Ordering::Relaxed)
}
