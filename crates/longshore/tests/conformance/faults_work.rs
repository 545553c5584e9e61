//! Threads that leave with work queued, runs that are stopped in the middle of it, and a kernel that
//! refuses a post.
// UNSAFETY: closes the port's handle, or its bell, under longshore.
#![expect(unsafe_code)]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use crate::{
    harness::{Counter, Test, port, scaled, spawn, tick},
    io::Op,
    io_things::attached_pair,
    support::{fail, join, note, passed_in_a_child, seen, sleepers, word_of},
};

pub const TESTS: &[Test] = tests![
    fault_threads_that_exit_leave_what_is_queued_to_the_others,
    fault_threads_that_exit_wake_another_for_what_they_leave,
    fault_threads_that_exit_leave_the_rest_of_their_harvest,
    fault_operations_outlive_the_threads_that_started_them,
    fault_stop_in_half_a_batch_keeps_the_rest_in_order,
    fault_stop_in_half_a_harvest_keeps_the_rest,
    fault_stop_in_half_a_strand_keeps_the_rest_in_order,
];

#[cfg(windows)]
pub const OS: &[Test] = tests![fault_a_task_whose_wake_up_is_refused_is_cancelled];
#[cfg(target_os = "linux")]
pub const OS: &[Test] = tests![fault_a_post_is_queued_although_the_bell_is_broken];

/// How often each post was dispatched.
fn tally(count: usize) -> Arc<Vec<AtomicUsize>> {
    Arc::new((0..count).map(|_| AtomicUsize::new(0)).collect())
}

fn fault_threads_that_exit_leave_what_is_queued_to_the_others() {
    let count = scaled(20_000);
    let port = port();
    let (runs, done) = (tally(count), Arc::new(Counter::new()));
    for i in 0..count {
        let (runs, done) = (runs.clone(), done.clone());
        port.post_fn(move || {
            runs[i].fetch_add(1, SeqCst);
            done.add(1);
            if i % 50 == 0 {
                fail(i);
            }
        })
        .unwrap();
    }
    let mut generation = 0;
    while done.get() < count {
        generation += 1;
        // Each takes a few and exits, some by a panic, while as many as ever are queued.
        let threads = (1..=4).map(|few| {
            let port = port.clone();
            spawn(move || {
                for _ in 0..few * generation % 97 + 1 {
                    match catch_unwind(AssertUnwindSafe(|| port.try_dispatch())) {
                        Ok(more) => assert!(more.is_ok()),
                        Err(payload) => return assert_eq!(word_of(&*payload) % 50, 0),
                    }
                }
            })
        });
        join(threads.collect());
        tick();
    }
    assert!(runs.iter().all(|count| count.load(SeqCst) == 1));
    assert!(!port.try_dispatch().unwrap());
}

/// Each sleeper takes one entry and is gone. There is nobody who would look a second time.
fn fault_threads_that_exit_wake_another_for_what_they_leave() {
    const THREADS: usize = 6;
    for round in 0..scaled(200) {
        let port = port();
        let threads = sleepers(&port, THREADS, |port| port.dispatch());
        let poster = spawn({
            let port = port.clone();
            move || {
                for word in 0..THREADS {
                    port.post(word, note).unwrap();
                    if word == round % THREADS {
                        std::thread::yield_now();
                    }
                }
            }
        });
        join(threads).into_iter().for_each(|one| one.unwrap());
        poster.join().unwrap();
        assert!(!port.try_dispatch().unwrap());
        tick();
    }
}

fn fault_threads_that_exit_leave_the_rest_of_their_harvest() {
    const PAIRS: usize = 12;
    for _ in 0..scaled(20) {
        let port = port();
        let pairs: Vec<_> = (0..PAIRS).map(|_| attached_pair(&port)).collect();
        let ops: Vec<_> = pairs
            .iter()
            .map(|(here, _)| {
                let op = Op::new(1);
                op.recv(&port, here).unwrap();
                op
            })
            .collect();
        // All at once, so that one look at the kernel finds many.
        for (_, there) in &pairs {
            std::io::Write::write_all(&mut &**there, b"x").unwrap();
        }
        for _ in 0..3 {
            let mine = port.clone();
            spawn(move || mine.dispatch()).join().unwrap().unwrap();
        }
        let threads = sleepers(&port, PAIRS - 3, |port| port.dispatch());
        join(threads).into_iter().for_each(|one| one.unwrap());
        assert!(ops.iter().all(|op| op.calls() == 1 && op.last() == (1, 0)));
        assert!(!port.try_dispatch().unwrap());
        tick();
    }
}

fn fault_operations_outlive_the_threads_that_started_them() {
    let port = port();
    let (here, there) = attached_pair(&port);
    for _ in 0..20 {
        let (op, (starter, socket)) = (Op::new(1), (port.clone(), here.clone()));
        let started = op.clone();
        // The one that starts it, and one that waited for it in vain, are gone.
        spawn(move || {
            started.recv(&starter, &socket).unwrap();
            assert!(!starter.try_dispatch().unwrap());
        })
        .join()
        .unwrap();
        std::io::Write::write_all(&mut &*there, b"x").unwrap();
        port.dispatch().unwrap();
        assert_eq!((op.calls(), op.last()), (1, (1, 0)));
        tick();
    }
}

fn fault_stop_in_half_a_batch_keeps_the_rest_in_order() {
    const BATCH: usize = 200;
    for at in [0, 1, 37, 64, 128, BATCH - 1] {
        let port = port();
        for word in 0..BATCH {
            match word == at {
                true => {
                    let remote = port.clone();
                    port.post_fn(move || {
                        note(at);
                        remote.stop().unwrap();
                        // What comes after the stop is behind what was there.
                        remote.post(BATCH, note).unwrap();
                    })
                    .unwrap();
                }
                false => port.post(word, note).unwrap(),
            }
        }
        assert_eq!(port.run().unwrap(), at as u64 + 1);
        assert_eq!(seen(), (0..=at).collect::<Vec<_>>());
        // Stopped is stopped, however it is asked.
        assert_eq!(port.run_ready().unwrap(), 0);
        assert!(!port.run_one().unwrap());
        port.restart();
        assert_eq!(port.run().unwrap(), (BATCH - at) as u64);
        assert_eq!(seen(), (at + 1..=BATCH).collect::<Vec<_>>());
        tick();
    }
}

fn fault_stop_in_half_a_harvest_keeps_the_rest() {
    const PAIRS: usize = 20;
    let port = port();
    let pairs: Vec<_> = (0..PAIRS).map(|_| attached_pair(&port)).collect();
    let ended = Arc::new(AtomicUsize::new(0));
    let remote = port.clone();
    let (count, stop_at) = (ended.clone(), 7);
    let hook = Arc::new(move |_: &Op, bytes: u32, error: u32| {
        assert_eq!((bytes, error), (1, 0));
        if count.fetch_add(1, SeqCst) + 1 == stop_at {
            remote.stop().unwrap();
        }
    });
    let ops: Vec<_> = pairs
        .iter()
        .map(|(here, _)| {
            let hook = hook.clone();
            let op = Op::hooked(1, move |op, bytes, error| hook(op, bytes, error));
            op.recv(&port, here).unwrap();
            op
        })
        .collect();
    for (_, there) in &pairs {
        std::io::Write::write_all(&mut &**there, b"x").unwrap();
    }
    assert_eq!(port.run().unwrap(), 7);
    assert_eq!(ended.load(SeqCst), 7);
    assert_eq!(port.in_flight(), PAIRS - 7);
    port.restart();
    assert_eq!(port.run().unwrap(), (PAIRS - 7) as u64);
    assert!(ops.iter().all(|op| op.calls() == 1));
}

fn fault_stop_in_half_a_strand_keeps_the_rest_in_order() {
    const HANDLERS: usize = 50;
    let port = port();
    let (strand, order) = (port.strand(), Arc::new(Mutex::new(Vec::new())));
    for i in 0..HANDLERS {
        let (order, remote) = (order.clone(), port.clone());
        strand
            .post_fn(move || {
                order.lock().unwrap().push(i);
                if i % 10 == 9 {
                    remote.stop().unwrap();
                }
            })
            .unwrap();
    }
    for part in 1..=HANDLERS / 10 {
        let threads = (0..3).map(|_| {
            let port = port.clone();
            spawn(move || port.run().unwrap())
        });
        join(threads.collect());
        let so_far = order.lock().unwrap().clone();
        // A run that had taken the next turn before the stop ends it.
        assert!(
            (10 * part..10 * part + 2).contains(&so_far.len()),
            "{so_far:?}"
        );
        assert_eq!(so_far, (0..so_far.len()).collect::<Vec<_>>());
        port.restart();
        tick();
    }
    assert_eq!(order.lock().unwrap().len(), HANDLERS);
}

/// The kernel is asked for a post only to ring a bell, whose failure leaves the entry where it is; memory
/// for the queue's next block is the process', and running out of that ends it, as everywhere in Rust.
/// So a post cannot be refused, except by a port that is closed.
#[cfg(target_os = "linux")]
fn fault_a_post_is_queued_although_the_bell_is_broken() {
    if passed_in_a_child() {
        return;
    }
    let port = port();
    let mut broken = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        let target = std::fs::read_link(&path).unwrap_or_default();
        if target == std::path::Path::new("anon_inode:[eventfd]") {
            let fd = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            // SAFETY: closed under the library on purpose; nobody gets its number again.
            broken += unsafe { libc::close(fd) } + 1;
        }
    }
    assert_eq!(broken, 1);
    // One sleeps, so the post does ring, in vain; whoever looks finds the entry.
    let asleep = sleepers(&port, 1, |port| {
        port.dispatch_timeout(std::time::Duration::from_millis(300))
    });
    for word in 0..100 {
        port.post(word, note).unwrap();
    }
    let mut here = 0;
    while port.try_dispatch().unwrap() {
        here += 1;
    }
    let there = join(asleep)
        .into_iter()
        .filter(|one| *one.as_ref().unwrap())
        .count();
    assert_eq!(here + there, 100);
    assert_eq!(port.stats().posted, 100);
    std::mem::forget(port);
}

#[cfg(windows)]
fn fault_a_task_whose_wake_up_is_refused_is_cancelled() {
    use std::os::windows::io::AsRawHandle;

    use longshore::task::JoinError;
    use windows_sys::Win32::Foundation::CloseHandle;

    if passed_in_a_child() {
        return;
    }
    let port = port();
    let dropped = Arc::new(AtomicUsize::new(0));
    let token = crate::support::Token::new(&dropped);
    let (sender, receiver) = std::sync::mpsc::channel::<std::task::Waker>();
    let task = port.spawn(async move {
        let _token = token;
        std::future::poll_fn(|context| {
            sender.send(context.waker().clone()).unwrap();
            std::task::Poll::<()>::Pending
        })
        .await;
    });
    port.dispatch().unwrap();
    let waker = receiver.recv().unwrap();
    // SAFETY: closed under longshore on purpose, in a process where nobody gets the value again.
    assert_ne!(unsafe { CloseHandle(port.as_raw_handle()) }, 0);
    waker.wake();
    assert_eq!(dropped.load(SeqCst), 1, "what it owned is freed");
    let ended = futures_lite::future::block_on(task);
    assert!(matches!(ended, Err(JoinError::Cancelled)));
    // Neither is a new one kept for ever.
    let task = port.spawn(async {});
    let ended = futures_lite::future::block_on(task);
    assert!(matches!(ended, Err(JoinError::Cancelled)));
    std::mem::forget(port);
}
