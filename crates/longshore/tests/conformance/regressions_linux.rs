//! What a review found on Linux: descriptors, record locks, file threads and forks.
// UNSAFETY: system calls that std does not have.
#![expect(unsafe_code)]

use std::{
    fs::{self, File},
    io::Write,
    mem,
    os::fd::{AsRawFd, RawFd},
};

use longshore::{ABORTED, Submission, dispatcher::Context};
use socket2::{Domain, Socket, Type};

use crate::{
    harness::{Test, port},
    io::Op,
    io_things::{Scratch, attached_file, attached_pair, fresh_socket, loopback, open, pattern},
    support::{join, note, passed_in_a_child, seen, sleepers, spin_until},
};

pub const TESTS: &[Test] = tests![
    d01_a_forked_child_leaves_its_parent_asleep,
    d01_a_write_keeps_the_record_locks_of_the_process.skip(no_write_waits),
    d06_cached_reads_after_a_write_are_done_in_the_call.skip(no_write_waits),
    d06_more_writes_are_in_flight_than_there_are_descriptors,
    d10_detach_waits_for_the_write_that_was_begun.skip(no_write_waits),
    d10_detach_gives_a_connecting_socket_its_mode_back,
];

/// Why no file thread is needed here, if none is.
fn no_write_waits() -> Option<String> {
    let file = tempfile::tempfile().unwrap();
    let byte = libc::iovec {
        iov_base: (&raw const *b"x").cast_mut().cast(),
        iov_len: 1,
    };
    // SAFETY: one vector of one byte, which is only read.
    let written =
        unsafe { libc::pwritev2(file.as_raw_fd(), &raw const byte, 1, 0, libc::RWF_NOWAIT) };
    (written == 1).then(|| "this file system never makes a write wait".into())
}

/// The threads of this process that longshore made for files.
fn file_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
    // A thread that ends meanwhile has no name.
    names
        .filter(|name| name.as_ref().is_ok_and(|name| name == "longshore-file\n"))
        .count()
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    // SAFETY: a structure of integers.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock
}

/// Whether the process holds a record lock, as another open file sees it: such a lock and one of an
/// open file description conflict even within a process (fcntl(2)).
fn is_locked(other: &File) -> bool {
    let mut lock = whole_file(libc::F_WRLCK);
    // SAFETY: the structure is ours for the call.
    let asked = unsafe { libc::fcntl(other.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    assert_eq!(asked, 0);
    lock.l_type != libc::F_UNLCK as libc::c_short
}

fn d01_a_write_keeps_the_record_locks_of_the_process() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(&pattern(0, 4096));
    // Not closed before the end: closing any descriptor of a file gives its record locks back.
    let other = File::options().read(true).write(true).open(&path).unwrap();
    let file = open(&path, File::options().read(true).write(true));
    let lock = whole_file(libc::F_WRLCK);
    // SAFETY: the structure is ours for the call.
    let locked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) };
    assert_eq!(locked, 0);
    assert!(is_locked(&other));
    port.attach(&*file).unwrap();
    let op = Op::new(512);
    for offset in [0, 4096] {
        assert_eq!(op.finish(&port, op.write(&port, &file, offset)), (512, 0));
        assert!(is_locked(&other), "after the write at {offset}");
        assert_eq!(op.finish(&port, op.read(&port, &file, offset)), (512, 0));
        assert!(is_locked(&other), "after the read at {offset}");
    }
    port.detach(&*file).unwrap();
    assert!(is_locked(&other));
    drop(port);
    assert!(is_locked(&other));
}

fn d06_more_writes_are_in_flight_than_there_are_descriptors() {
    const LIMIT: u64 = 40;
    if passed_in_a_child() {
        return;
    }
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(b"");
    let file = open(&path, File::options().read(true).write(true));
    port.attach(&*file).unwrap();
    let data: &'static [u8] = Vec::leak(pattern(1, 1 << 20));
    let limit = libc::rlimit {
        rlim_cur: LIMIT,
        rlim_max: LIMIT,
    };
    // SAFETY: the structure is ours for the call. This process has this test only.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(set, 0);
    let ops: Vec<_> = (0..5 * LIMIT).map(|_| Op::new(0)).collect();
    for op in &ops {
        // One buffer for all of them: it is only read.
        let started = op.start(&port, &file, |handle, _, _| Submission::Write {
            handle,
            offset: 0,
            buffer: data.as_ptr(),
            len: data.len(),
        });
        started.unwrap();
    }
    File::open("/dev/null").expect("the descriptors are the caller's");
    for op in &ops {
        assert_eq!(op.finish(&port, Ok(())), (data.len() as u32, 0));
    }
    assert!(fs::read(&path).unwrap() == data);
}

fn d06_cached_reads_after_a_write_are_done_in_the_call() {
    if passed_in_a_child() {
        return;
    }
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, &pattern(0, 4096));
    let write = Op::with(pattern(2, 512));
    assert_eq!(write.finish(&port, write.write(&port, &file, 0)), (512, 0));
    let before = file_threads();
    assert_eq!(before, 1, "the write had to wait");
    let ops: Vec<_> = (0..64).map(|_| Op::new(512)).collect();
    for op in &ops {
        op.read(&port, &file, 0).unwrap();
        // SAFETY: the record is alive, and the Context is its first part.
        let status = unsafe { Context::raw_status(op.context()) };
        assert_eq!(status, 0, "it ended in the call");
    }
    assert_eq!(file_threads(), before);
    for op in &ops {
        assert_eq!(op.finish(&port, Ok(())), (512, 0));
        assert_eq!(op.data(512), pattern(2, 512));
    }
}

fn d10_detach_waits_for_the_write_that_was_begun() {
    const LEN: usize = 64 << 20;
    let (scratch, port) = (Scratch::new(), port());
    let file = attached_file(&port, &scratch, b"");
    let op = Op::new(LEN);
    let len = || file.metadata().unwrap().len();
    op.write(&port, &file, 0).unwrap();
    // A thread is in the middle of it, and nothing that has begun is cut short.
    spin_until(|| len() > 0);
    port.detach(&*file).unwrap();
    assert_eq!(len(), LEN as u64, "no thread uses the descriptor any more");
    assert_eq!(op.finish(&port, Ok(())), (LEN as u32, 0));
}

fn is_blocking(fd: RawFd) -> bool {
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    assert_ne!(flags, -1);
    flags & libc::O_NONBLOCK == 0
}

fn d10_detach_gives_a_connecting_socket_its_mode_back() {
    // A listener whose queue is full answers nobody.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&loopback(false).into()).unwrap();
    full.listen(0).unwrap();
    let target = full.local_addr().unwrap();
    let fillers: Vec<_> = (0..16).map(|_| fresh_socket(false)).collect();
    for filler in &fillers {
        filler.set_nonblocking(true).unwrap();
        let _ = filler.connect(&target);
    }
    let port = port();
    for blocking in [true, false] {
        let socket = fresh_socket(false);
        socket.set_nonblocking(!blocking).unwrap();
        port.attach(&*socket).unwrap();
        let op = Op::new(0);
        let connect = op.connect(&port, &socket, target.as_socket().unwrap());
        connect.unwrap();
        assert!(!op.is_idle());
        port.detach(&*socket).unwrap();
        assert_eq!(is_blocking(socket.as_raw_fd()), blocking);
        assert_eq!(op.finish(&port, Ok(())), (0, ABORTED));
        assert_eq!(is_blocking(socket.as_raw_fd()), blocking);
    }
}

fn d01_a_forked_child_leaves_its_parent_asleep() {
    if passed_in_a_child() {
        return;
    }
    let port = port();
    let (here, there) = attached_pair(&port);
    let op = Op::new(4);
    op.recv(&port, &here).unwrap();
    (&*there).write_all(b"x").unwrap();
    assert_eq!(here.peek(&mut [0]).unwrap(), 1);
    // SAFETY: the child drops its copy of the port, which needs no lock that another thread may
    // have held, and leaves at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(port);
        // SAFETY: no pointers; nothing of the parent's runs at exit.
        unsafe { libc::_exit(0) };
    }
    let mut status = -1;
    // SAFETY: the status is ours for the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    // The news of the byte is still there for the parent.
    assert_eq!(op.finish(&port, Ok(())), (1, 0));
    // It sleeps while there is nothing to do (otherwise this never returns), and wakes up again.
    let asleep = sleepers(&port, 1, |port| port.dispatch().map(|()| seen()));
    port.post(7, note).unwrap();
    for words in join(asleep) {
        assert_eq!(words.unwrap(), [7]);
    }
}
