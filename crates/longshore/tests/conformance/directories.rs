//! Directories that are watched for changes.
// UNSAFETY: asks for changes with system calls of the test's own.
#![expect(unsafe_code)]

use std::{
    ffi::c_void,
    fs::{self, File, OpenOptions},
    io,
    os::windows::{fs::OpenOptionsExt, io::AsRawHandle},
    path::Path,
    ptr::{self, NonNull},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use longshore::{
    ABORTED, Dispatcher, Error, IoQueue, Overlapped, RawOverlapped, dispatcher,
    os::windows::{Change, ChangeFilter, ChangeKind, DirectoryWatcher, WatchOptions},
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OVERLAPPED, FILE_LIST_DIRECTORY,
    FILE_NOTIFY_CHANGE_FILE_NAME, ReadDirectoryChangesW,
};

use crate::{
    harness::{Test, builder, scaled, spawn, tick},
    io::refusal,
    ioqueue::queue,
    support::assert_closed,
};

pub const TESTS: &[Test] = tests![
    dirs_what_is_made_renamed_and_removed_is_told,
    dirs_what_is_below_is_told_if_asked_for,
    dirs_only_what_the_filter_lets_through_is_told,
    dirs_changes_wait_until_they_are_asked_for,
    dirs_changes_that_do_not_fit_are_told_as_lost,
    dirs_a_dropped_wait_takes_no_change,
    dirs_dropping_a_watcher_ends_what_is_in_flight,
    dirs_closing_ends_the_wait_and_refuses_the_next,
    dirs_a_file_and_what_is_not_there_are_refused,
    dirs_a_call_of_the_callers_own_is_awaited_and_cancelled,
    dirs_a_call_of_the_callers_own_comes_back_through_its_context,
];

/// Names only: how a write is told is the file system's.
fn names() -> WatchOptions {
    WatchOptions::new().filter(ChangeFilter::FILE_NAME | ChangeFilter::DIRECTORY_NAME)
}

/// Collects changes until one is this.
fn until(
    port: &Dispatcher,
    watcher: &mut DirectoryWatcher,
    last: (ChangeKind, &str),
) -> Vec<Change> {
    let mut all: Vec<Change> = vec![];
    while !all.iter().any(|one| is(one, last)) {
        let changes = port.block_on(watcher.next()).unwrap().unwrap();
        assert!(!changes.is_empty());
        all.extend(changes);
    }
    all
}

fn is(change: &Change, (kind, path): (ChangeKind, &str)) -> bool {
    change.kind == kind && change.path == Path::new(path)
}

fn dirs_what_is_made_renamed_and_removed_is_told() {
    let (port, queue) = queue();
    let scratch = tempfile::tempdir().unwrap();
    let mut watcher = names().open(&queue, scratch.path()).unwrap();
    for round in 0..scaled(50) {
        let [old, new] = ["old", "new"].map(|name| format!("{name} {round} ü.txt"));
        let [from, to] = [&old, &new].map(|name| scratch.path().join(name));
        fs::write(&from, "text").unwrap();
        until(&port, &mut watcher, (ChangeKind::Added, &old));
        fs::rename(&from, &to).unwrap();
        let all = until(&port, &mut watcher, (ChangeKind::RenamedTo, &new));
        let renamed = |one: &Change| is(one, (ChangeKind::RenamedFrom, &old));
        let place = all.iter().position(renamed).expect("the old name is told");
        assert!(
            is(&all[place + 1], (ChangeKind::RenamedTo, &new)),
            "{all:?}"
        );
        fs::remove_file(&to).unwrap();
        until(&port, &mut watcher, (ChangeKind::Removed, &new));
        tick();
    }
    fs::create_dir(scratch.path().join("folder")).unwrap();
    until(&port, &mut watcher, (ChangeKind::Added, "folder"));
}

fn dirs_what_is_below_is_told_if_asked_for() {
    let (port, queue) = queue();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path();
    let mut flat = names().open(&queue, path).unwrap();
    let mut deep = names().recursive(true).open(&queue, path).unwrap();
    // Wine does not look into what was there before.
    fs::create_dir(path.join("below")).unwrap();
    until(&port, &mut deep, (ChangeKind::Added, "below"));
    fs::write(path.join("below").join("deep.txt"), "text").unwrap();
    until(&port, &mut deep, (ChangeKind::Added, "below\\deep.txt"));
    fs::write(path.join("flat.txt"), "text").unwrap();
    let all = until(&port, &mut flat, (ChangeKind::Added, "flat.txt"));
    assert!(
        all.iter().all(|one| one.path.components().count() == 1),
        "{all:?}"
    );
}

fn dirs_only_what_the_filter_lets_through_is_told() {
    let (port, queue) = queue();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path();
    let directories = WatchOptions::new().filter(ChangeFilter::DIRECTORY_NAME);
    let mut watcher = directories.open(&queue, path).unwrap();
    fs::write(path.join("file.txt"), "text").unwrap();
    fs::create_dir(path.join("folder")).unwrap();
    let all = until(&port, &mut watcher, (ChangeKind::Added, "folder"));
    assert!(
        all.iter().all(|one| one.path == Path::new("folder")),
        "{all:?}"
    );
}

fn dirs_changes_wait_until_they_are_asked_for() {
    let (port, queue) = queue();
    let scratch = tempfile::tempdir().unwrap();
    let mut watcher = names().open(&queue, scratch.path()).unwrap();
    for name in 0..20 {
        fs::write(scratch.path().join(name.to_string()), "text").unwrap();
    }
    let all = until(&port, &mut watcher, (ChangeKind::Added, "19"));
    let added = all.iter().filter(|one| one.kind == ChangeKind::Added);
    let names: Vec<_> = added
        .map(|one| one.path.to_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        (0..20).map(|name| name.to_string()).collect::<Vec<_>>()
    );
}

fn dirs_changes_that_do_not_fit_are_told_as_lost() {
    let (port, queue) = queue();
    let scratch = tempfile::tempdir().unwrap();
    let mut watcher = names()
        .buffer_bytes(1024)
        .open(&queue, scratch.path())
        .unwrap();
    // 60 names of 100 letters: 12 kB of changes.
    let long = "n".repeat(100);
    for name in 0..60 {
        fs::write(scratch.path().join(format!("{long}{name}")), "text").unwrap();
    }
    let lost = until(&port, &mut watcher, (ChangeKind::Lost, ""));
    assert!(lost.len() < 60);
    // The watching goes on.
    fs::write(scratch.path().join("last"), "text").unwrap();
    until(&port, &mut watcher, (ChangeKind::Added, "last"));
}

fn dirs_a_dropped_wait_takes_no_change() {
    let (port, queue) = queue();
    let scratch = tempfile::tempdir().unwrap();
    let mut watcher = names().open(&queue, scratch.path()).unwrap();
    for name in ["one", "two", "three"] {
        assert!(poll(&mut watcher).is_pending());
        fs::write(scratch.path().join(name), "text").unwrap();
        // It has come, and nobody asks for it.
        port.dispatch().unwrap();
        until(&port, &mut watcher, (ChangeKind::Added, name));
    }
}

fn poll(watcher: &mut DirectoryWatcher) -> Poll<io::Result<Vec<Change>>> {
    let next = std::pin::pin!(watcher.next());
    next.poll(&mut Context::from_waker(Waker::noop()))
}

fn dirs_dropping_a_watcher_ends_what_is_in_flight() {
    let (port, queue) = queue();
    let scratch = tempfile::tempdir().unwrap();
    for _ in 0..scaled(100) {
        let mut watcher = names().open(&queue, scratch.path()).unwrap();
        assert!(poll(&mut watcher).is_pending());
        assert_eq!(port.in_flight(), 1);
        drop(watcher);
        while port.in_flight() > 0 {
            port.dispatch().unwrap();
        }
        tick();
    }
    assert!(!queue.running());
    assert!(!port.try_dispatch().unwrap());
}

fn dirs_closing_ends_the_wait_and_refuses_the_next() {
    let (port, queue) = queue();
    let scratch = tempfile::tempdir().unwrap();
    let mut watcher = names().open(&queue, scratch.path()).unwrap();
    let waiting = spawn(move || {
        let ended = futures_lite::future::block_on(watcher.next());
        (ended, watcher)
    });
    port.clone().close().unwrap();
    let (ended, mut watcher) = waiting.join().unwrap();
    assert_closed(ended);
    assert_closed(futures_lite::future::block_on(watcher.next()));
    assert_eq!(
        refusal(names().open(&queue, scratch.path()).map(drop)),
        Some(Error::Closed)
    );
}

fn dirs_a_file_and_what_is_not_there_are_refused() {
    let (_port, queue) = queue();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, "no directory").unwrap();
    let error = names().open(&queue, &file).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    let error = names()
        .open(&queue, scratch.path().join("nothing"))
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

fn open(path: &Path) -> File {
    OpenOptions::new()
        .access_mode(FILE_LIST_DIRECTORY)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OVERLAPPED)
        .open(path)
        .unwrap()
}

const WORDS: usize = 256;

/// One call for names; its own result.
///
/// # Safety
/// The header and `WORDS` words at the buffer are the system's until the packet.
unsafe fn ask(
    directory: *mut c_void,
    header: *mut RawOverlapped,
    buffer: *mut u32,
) -> io::Result<()> {
    // SAFETY: the caller lends the header and the buffer.
    let done = unsafe {
        let (buffer, header) = (buffer.cast(), header.cast());
        let (bytes, filter) = (WORDS as u32 * 4, FILE_NOTIFY_CHANGE_FILE_NAME);
        let nothing = ptr::null_mut();
        ReadDirectoryChangesW(directory, buffer, bytes, 0, filter, nothing, header, None)
    };
    match done {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn as_bytes(words: &[u32], count: usize) -> Vec<u8> {
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
    bytes.take(count).collect()
}

fn dirs_a_call_of_the_callers_own_is_awaited_and_cancelled() {
    let (port, queue) = queue();
    let scratch = tempfile::tempdir().unwrap();
    let directory = queue.register(open(scratch.path()));
    let directory = directory.map_err(|(error, _)| error).unwrap();
    // The call says "success" of what is pending: the port must not be skipped then.
    assert!(!queue.skips_on_success(&directory));
    let start = || {
        let mut buffer = vec![0u32; WORDS];
        let address = buffer.as_mut_ptr();
        let overlapped = Overlapped::keeping(buffer);
        // SAFETY: the block keeps the buffer; one call with the header.
        unsafe {
            let call = |directory, header| ask(directory, header, address);
            queue.submit_with(&directory, &overlapped, call).unwrap();
        }
        overlapped
    };
    let overlapped = start();
    assert!(overlapped.is_in_flight());
    fs::write(scratch.path().join("mine"), "text").unwrap();
    let count = port
        .block_on(queue.wait(&directory, &overlapped))
        .unwrap()
        .unwrap();
    let buffer = overlapped.take_kept::<Vec<u32>>().unwrap();
    let changes = Change::read_all(&as_bytes(&buffer, count));
    assert!(is(&changes[0], (ChangeKind::Added, "mine")), "{changes:?}");

    // Whatever came in between has been told by now; nothing else changes.
    let overlapped = start();
    let wait = queue.wait(&directory, &overlapped);
    wait.cancel();
    let error = port.block_on(wait).unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(ABORTED.cast_signed()));
    assert_eq!(port.in_flight(), 0);
}

/// A Context and the buffer that goes with it.
#[repr(C)]
struct Watch {
    context: dispatcher::Context,
    buffer: [u32; WORDS],
}

extern "C-unwind" fn ended(word: usize, bytes: u32, error: u32) {
    RESULTS.with_borrow_mut(|all| all.push((word, bytes, error)));
}

thread_local! {
    static RESULTS: std::cell::RefCell<Vec<(usize, u32, u32)>> = const { std::cell::RefCell::new(vec![]) };
}

fn dirs_a_call_of_the_callers_own_comes_back_through_its_context() {
    let port = builder().build().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let directory = Arc::new(open(scratch.path()));
    port.attach(&*directory).unwrap();
    let mut watch = Box::new(Watch {
        context: dispatcher::Context::new(ended, 6),
        buffer: [0; WORDS],
    });
    let watch = &raw mut *watch;
    // SAFETY: the Watch lives until both packets were dispatched; it is looked at in between only.
    unsafe {
        let context = NonNull::new_unchecked(&raw mut (*watch).context);
        let start = || {
            port.arm(context).unwrap();
            let header = dispatcher::Context::overlapped_ptr(context).as_ptr();
            let buffer = (&raw mut (*watch).buffer).cast();
            ask(directory.as_raw_handle(), header, buffer).unwrap();
        };
        start();
        fs::write(scratch.path().join("mine"), "text").unwrap();
        port.dispatch().unwrap();
        let [(6, bytes, 0)] = RESULTS.take()[..] else {
            panic!("one result")
        };
        let changes = Change::read_all(&as_bytes(&(*watch).buffer, bytes as usize));
        assert!(is(&changes[0], (ChangeKind::Added, "mine")), "{changes:?}");
        start();
        assert!(port.cancel(&*directory, context).unwrap());
        port.dispatch().unwrap();
        assert_eq!(RESULTS.take(), [(6, 0, ABORTED)]);
    }
    assert_eq!(port.in_flight(), 0);
    drop(IoQueue::new(&port));
}
