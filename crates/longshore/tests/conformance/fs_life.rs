//! `fs::File` and those who wait for it: any executor, dropped futures, closed ports, threads.

use std::{
    panic,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use longshore::{ABORTED, Dispatcher, Error, fs::File};

use crate::{
    fs::file,
    handles,
    harness::{Test, port, scaled, spawn, tick},
    io_things::{Scratch, pattern, workers},
    support::{join, passed_in_a_child, spin_until},
    threads,
};

pub const TESTS: &[Test] = tests![
    fs_an_open_needs_no_dispatching_thread,
    fs_another_executor_awaits_files_while_threads_dispatch,
    fs_tasks_of_many_files_share_the_threads,
    fs_reads_dropped_in_flight_disturb_nothing,
    fs_calls_dropped_at_once_disturb_nothing,
    fs_a_cancelled_read_says_what_happened,
    fs_a_file_dropped_before_its_operations_stays_open_for_them,
    fs_opens_meet_a_closing_port,
    fs_panicking_wakers_take_no_thread_away,
    fs_threads_are_made_for_calls_and_end_without_work,
    fs_no_handle_stays_behind,
];

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// An executor that knows nothing of ports.
pub fn elsewhere<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Dispatches until nothing is in flight.
fn settle(port: &Dispatcher) {
    while port.in_flight() > 0 {
        port.dispatch().unwrap();
    }
}

fn fs_an_open_needs_no_dispatching_thread() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(b"0123456789");
    let file = elsewhere(File::open(&port, path)).unwrap();
    assert_eq!(elsewhere(file.metadata()).unwrap().len(), 10);
    assert!(!port.try_dispatch().unwrap());
}

fn fs_another_executor_awaits_files_while_threads_dispatch() {
    let port = port();
    let dispatching = workers(&port, 2);
    let readers = (0..4).map(|seed| {
        let port = port.clone();
        spawn(move || {
            let scratch = Scratch::new();
            let path = scratch.file(b"");
            elsewhere(async {
                let file = File::create(&port, &path).await.unwrap();
                for round in 0..scaled(100) {
                    let (result, _) = file.write_all_at(pattern(seed + round, 4096), 1).await;
                    result.unwrap();
                    let file = File::open(&port, &path).await.unwrap();
                    let (result, buffer) = file.read_exact_at(vec![0; 4096], 1).await;
                    result.unwrap();
                    assert!(buffer == pattern(seed + round, 4096));
                    tick();
                }
            });
        })
    });
    join(readers.collect());
    dispatching.finish();
}

fn fs_tasks_of_many_files_share_the_threads() {
    let (scratch, port) = (Scratch::new(), port());
    let folder = scratch.file(b"").parent().unwrap().to_owned();
    let tasks: Vec<_> = (0..64)
        .map(|seed| {
            let (port, path) = (port.clone(), folder.join(seed.to_string()));
            port.clone().spawn(async move {
                let mut options = File::options();
                options.read(true).write(true).create_new(true);
                let file = options.open(&port, path).await?;
                file.write_all_at(pattern(seed, 10_000), 0).await.0?;
                file.sync_data().await?;
                let (result, buffer) = file.read_exact_at(vec![0; 10_000], 0).await;
                result.map(|()| buffer == pattern(seed, 10_000))
            })
        })
        .collect();
    let dispatching = workers(&port, 3);
    for task in tasks {
        assert!(elsewhere(task).unwrap().unwrap());
        tick();
    }
    dispatching.finish();
}

fn fs_reads_dropped_in_flight_disturb_nothing() {
    let (scratch, port) = (Scratch::new(), port());
    let contents = pattern(2, 1 << 18);
    let file = file(&port, &scratch, &contents);
    for round in 0..scaled(200) {
        for part in 0..8 {
            drop(file.read_at(vec![0; 1 << 15], part << 15));
            drop(file.write_at(contents[..1 << 15].to_vec(), 0));
        }
        let (result, buffer) = port
            .block_on(file.read_exact_at(vec![0; 1 << 18], 0))
            .unwrap();
        result.unwrap();
        assert!(buffer == contents, "round {round}");
        tick();
    }
    settle(&port);
    assert!(!port.try_dispatch().unwrap());
}

fn fs_calls_dropped_at_once_disturb_nothing() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(b"0123456789");
    let file = file(&port, &scratch, b"0123456789");
    for _ in 0..scaled(2000) {
        drop(File::open(&port, &path));
        drop(file.sync_data());
        drop(file.metadata());
    }
    assert_eq!(elsewhere(file.metadata()).unwrap().len(), 10);
}

fn fs_a_cancelled_read_says_what_happened() {
    let (scratch, port) = (Scratch::new(), port());
    let contents = pattern(2, 1 << 16);
    let file = file(&port, &scratch, &contents);
    for _ in 0..scaled(500) {
        // Writes, so that what follows has to wait where it can.
        let writes: Vec<_> = (0..8).map(|_| file.write_at(contents.clone(), 0)).collect();
        let read = file.read_at(vec![0; 1 << 16], 0);
        writes.iter().for_each(|write| write.cancel());
        read.cancel();
        let aborted = ABORTED.cast_signed();
        for write in writes {
            let (result, buffer) = port.block_on(write).unwrap();
            assert!(buffer == contents);
            match result {
                Ok(count) => assert_eq!(count, 1 << 16),
                Err(error) => assert_eq!(error.raw_os_error(), Some(aborted)),
            }
        }
        let (result, buffer) = port.block_on(read).unwrap();
        match result {
            Ok(count) => assert!(count == 1 << 16 && buffer == contents),
            Err(error) => assert_eq!(error.raw_os_error(), Some(aborted)),
        }
        tick();
    }
    assert_eq!(port.in_flight(), 0);
}

fn fs_a_file_dropped_before_its_operations_stays_open_for_them() {
    let (scratch, port) = (Scratch::new(), port());
    let contents = pattern(4, 1 << 16);
    let file = file(&port, &scratch, b"");
    let write = file.write_at(contents.clone(), 0);
    let sync = file.sync_all();
    drop(file);
    let (result, _) = port.block_on(write).unwrap();
    assert_eq!(result.unwrap(), 1 << 16);
    elsewhere(sync).unwrap();
}

fn fs_opens_meet_a_closing_port() {
    let scratch = Scratch::new();
    let path = scratch.file(b"0123456789");
    for round in 0..scaled(300) {
        let port = port();
        let opens: Vec<_> = (0..8).map(|_| File::open(&port, &path)).collect();
        let awaiting = spawn(|| opens.into_iter().map(elsewhere).collect::<Vec<_>>());
        match round % 2 {
            0 => port.close().unwrap(),
            _ => drop(port),
        }
        for opened in awaiting.join().unwrap() {
            if let Err(error) = opened {
                assert_eq!(Error::of(&error), Some(Error::Closed), "{error}");
            }
        }
        tick();
    }
}

/// Panics when it is woken, and counts it.
struct Trap(Arc<AtomicUsize>);

impl Wake for Trap {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        // Without the panic hook's message.
        panic::resume_unwind(Box::new("trapped"));
    }
}

fn fs_panicking_wakers_take_no_thread_away() {
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(b"0123456789");
    let sprung = Arc::new(AtomicUsize::new(0));
    // More than there can be threads.
    while sprung.load(Ordering::SeqCst) < 12 {
        let before = sprung.load(Ordering::SeqCst);
        let trap = Waker::from(Arc::new(Trap(sprung.clone())));
        let mut open = File::open(&port, &path);
        let mut context = Context::from_waker(&trap);
        if Pin::new(&mut open).poll(&mut context).is_pending() {
            spin_until(|| sprung.load(Ordering::SeqCst) > before);
        }
        tick();
    }
    assert!(elsewhere(File::open(&port, &path)).is_ok());
}

fn fs_threads_are_made_for_calls_and_end_without_work() {
    if passed_in_a_child() {
        return;
    }
    let (scratch, port) = (Scratch::new(), port());
    let path = scratch.file(b"0123456789");
    let before = threads::count();
    let opens: Vec<_> = (0..64).map(|_| File::open(&port, &path)).collect();
    for open in opens {
        elsewhere(open).unwrap();
    }
    let made = threads::count() - before;
    assert!((1..=4).contains(&made), "{made}");
    // They leave after some seconds, on their own and also when the port is gone.
    while threads::count() > before {
        thread::yield_now();
    }
    assert!(elsewhere(File::open(&port, &path)).is_ok());
    drop(port);
    threads::until(before);
}

fn fs_no_handle_stays_behind() {
    if passed_in_a_child() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.file(&pattern(0, 1 << 16));
    let missing = path.with_file_name("missing");
    let threads = threads::count();
    let mut before = 0;
    for round in 0..5 {
        let port = port();
        for _ in 0..scaled(200) {
            let file = elsewhere(File::open(&port, &path)).unwrap();
            let read = port.block_on(file.read_at(vec![0; 1 << 16], 0)).unwrap();
            assert_eq!(read.0.unwrap(), 1 << 16);
            drop((file.read_at(vec![0; 1 << 16], 0), file.metadata()));
            drop(file);
            elsewhere(File::open(&port, &missing)).unwrap_err();
            drop(File::open(&port, &path));
            tick();
        }
        let abandoned: Vec<_> = (0..16).map(|_| File::open(&port, &path)).collect();
        match round % 2 {
            0 => port.close().unwrap(),
            _ => drop(port),
        }
        drop(abandoned);
        threads::until(threads);
        // The first round makes what stays for good.
        match round {
            0 => before = handles::count(),
            _ => spin_until(|| handles::count() <= before),
        }
    }
}
