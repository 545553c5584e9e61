//! Job objects, whose messages come through the port.

use std::{
    collections::HashSet,
    os::windows::io::AsRawHandle,
    process::{Child, ChildStdin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use longshore::{
    Dispatcher, Error, Packet,
    os::windows::{Job, JobCallback, JobEvents, JobMessage, JobMessageKind},
};
use windows_sys::Win32::Foundation::ERROR_INVALID_PARAMETER;

use crate::{
    adopt::{on_loan, raw_port},
    exported::post_raw,
    harness::{Test, builder, port, scaled, spawn, tick},
    io::refusal,
    io_things::under_wine,
    nested_windows::take,
    process::child,
    support::{assert_closed, panic_of, word_of},
};

pub const TESTS: &[Test] = tests![
    job_processes_that_come_and_go_are_told,
    job_what_a_process_starts_is_told_too,
    job_messages_call_a_function,
    job_messages_wait_until_they_are_asked_for,
    job_a_dropped_wait_takes_no_message,
    job_many_jobs_on_one_port_are_told_apart,
    job_a_panic_passes_through_and_the_port_goes_on,
    job_closing_keeps_what_was_sent_and_refuses_the_next,
    job_closing_calls_the_function_for_what_was_sent,
    job_closing_survives_a_waker_that_panics,
    job_closing_survives_a_function_that_panics,
    job_messages_of_a_job_that_was_given_back_are_foreign,
    job_a_forged_message_is_followed_nowhere,
    job_a_second_port_is_refused_and_the_job_comes_back,
    job_messages_come_through_a_hosts_loop,
    job_closing_parts_a_job_from_a_port_that_goes_on.skip(no_parting),
];

fn no_parting() -> Option<String> {
    under_wine("a job cannot be parted from its port")
}

/// A process that waits for its input to end.
fn waiting() -> (Child, Option<ChildStdin>) {
    let mut child = child(3).spawn().unwrap();
    let stdin = child.stdin.take();
    (child, stdin)
}

fn events(port: &Dispatcher) -> JobEvents {
    JobEvents::new(port, Job::new().unwrap())
        .map_err(|(error, _)| error)
        .unwrap()
}

fn next(port: &Dispatcher, events: &mut JobEvents) -> (JobMessageKind, Option<u32>) {
    let message = port.block_on(events.next()).unwrap().unwrap();
    (message.kind, message.process_id)
}

/// Messages up to the last process's, in any order but the last.
fn until_zero(port: &Dispatcher, events: &mut JobEvents) -> Vec<(JobMessageKind, Option<u32>)> {
    let mut all = vec![];
    while all.last() != Some(&(JobMessageKind::ActiveProcessZero, None)) {
        all.push(next(port, events));
    }
    all
}

fn job_processes_that_come_and_go_are_told() {
    let port = port();
    let mut events = events(&port);
    let (mut child, stdin) = waiting();
    events.job().assign(&child).unwrap();
    let id = Some(child.id());
    assert_eq!(next(&port, &mut events), (JobMessageKind::NewProcess, id));
    drop(stdin);
    let all = until_zero(&port, &mut events);
    let zero = (JobMessageKind::ActiveProcessZero, None);
    assert_eq!(all, [(JobMessageKind::ExitProcess, id), zero]);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(events.try_next().is_none());
    assert_eq!(port.foreign_packets(), 0);
}

fn job_what_a_process_starts_is_told_too() {
    let port = port();
    let mut events = events(&port);
    // The outer one starts the inner one once it is in the job.
    let mut outer = std::process::Command::new("cmd")
        .args(["/c", "set /p x= & cmd /c exit 4"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    events.job().assign(&outer).unwrap();
    drop(outer.stdin.take());
    let all = until_zero(&port, &mut events);
    assert_eq!(outer.wait().unwrap().code(), Some(4));
    let of = |kind| {
        let mut ids: Vec<_> = all.iter().filter(|one| one.0 == kind).collect();
        ids.sort_unstable_by_key(|one| one.1);
        ids.into_iter().map(|one| one.1).collect::<Vec<_>>()
    };
    let started = of(JobMessageKind::NewProcess);
    assert!(
        started.len() >= 2 && started.contains(&Some(outer.id())),
        "{all:?}"
    );
    assert_eq!(started, of(JobMessageKind::ExitProcess));
}

static TOLD: Mutex<Vec<(usize, JobMessageKind, u32)>> = Mutex::new(Vec::new());

extern "C-unwind" fn told(context: usize, message: u32, process_id: u32) {
    let mut told = TOLD.lock().unwrap();
    told.push((context, message.into(), process_id));
}

/// The messages that came with this word.
fn told_to(context: usize) -> Vec<(JobMessageKind, u32)> {
    let told = TOLD.lock().unwrap();
    let mine = told.iter().filter(|one| one.0 == context);
    mine.map(|one| (one.1, one.2)).collect()
}

fn job_messages_call_a_function() {
    let port = port();
    let job = Job::new().unwrap();
    let job = JobCallback::new(&port, job, 0xf00d, told).map_err(|(error, _)| error);
    let job = job.unwrap();
    let (mut child, stdin) = waiting();
    job.job().assign(&child).unwrap();
    // Each message is one entry.
    port.dispatch().unwrap();
    let mine = || told_to(0xf00d);
    let id = child.id();
    assert_eq!(mine(), [(JobMessageKind::NewProcess, id)]);
    drop(stdin);
    port.dispatch().unwrap();
    port.dispatch().unwrap();
    let last = [
        (JobMessageKind::ExitProcess, id),
        (JobMessageKind::ActiveProcessZero, 0),
    ];
    assert_eq!(mine()[1..], last);
    assert!(!port.try_dispatch().unwrap());
    child.wait().unwrap();
}

fn job_messages_wait_until_they_are_asked_for() {
    let port = port();
    let mut events = events(&port);
    for _ in 0..scaled(30) {
        let (mut child, stdin) = waiting();
        events.job().assign(&child).unwrap();
        drop(stdin);
        child.wait().unwrap();
        let kinds = [
            JobMessageKind::NewProcess,
            JobMessageKind::ExitProcess,
            JobMessageKind::ActiveProcessZero,
        ];
        for _ in kinds {
            port.dispatch().unwrap();
        }
        let told: Vec<_> = std::iter::from_fn(|| events.try_next()).collect();
        assert_eq!(told.iter().map(|one| one.kind).collect::<Vec<_>>(), kinds);
        tick();
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(events: &mut JobEvents, waker: &Waker) -> Poll<std::io::Result<JobMessage>> {
    let next = std::pin::pin!(events.next());
    next.poll(&mut Context::from_waker(waker))
}

fn job_a_dropped_wait_takes_no_message() {
    let port = port();
    let mut events = events(&port);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    // Each future is dropped when it was polled once.
    assert!(poll(&mut events, &waker).is_pending());
    let (mut child, _stdin) = waiting();
    events.job().assign(&child).unwrap();
    assert!(poll(&mut events, &waker).is_pending());
    port.dispatch().unwrap();
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    let id = Some(child.id());
    assert_eq!(next(&port, &mut events), (JobMessageKind::NewProcess, id));
    assert!(poll(&mut events, &waker).is_pending());
    events.job().terminate(9).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

fn job_many_jobs_on_one_port_are_told_apart() {
    let port = port();
    let jobs: Vec<_> = (0..4)
        .map(|number| {
            let mut events = events(&port);
            let (child, stdin) = waiting();
            events.job().assign(&child).unwrap();
            let id = child.id();
            let task = port.spawn(async move {
                // In whatever order two threads have dispatched them.
                let mut all = HashSet::new();
                while all.len() < 3 {
                    let message = events.next().await.unwrap();
                    assert!([Some(id), None].contains(&message.process_id), "{number}");
                    assert!(all.insert(message.kind), "{message:?} came twice");
                }
                all.contains(&JobMessageKind::ExitProcess)
            });
            (task, child, stdin)
        })
        .collect();
    let pool = crate::io_things::workers(&port, 2);
    for (task, mut child, stdin) in jobs.into_iter().rev() {
        drop(stdin);
        child.wait().unwrap();
        assert!(futures_lite::future::block_on(task).unwrap());
    }
    pool.finish();
    assert_eq!(port.foreign_packets(), 0);
}

extern "C-unwind" fn failing(context: usize, _message: u32, _process_id: u32) {
    std::panic::resume_unwind(Box::new(context));
}

fn job_a_panic_passes_through_and_the_port_goes_on() {
    let port = port();
    let job = JobCallback::new(&port, Job::new().unwrap(), 8, failing);
    let job = job.map_err(|(error, _)| error).unwrap();
    let (mut child, stdin) = waiting();
    job.job().assign(&child).unwrap();
    let panic = panic_of(|| port.dispatch());
    assert_eq!(word_of(&*panic), 8);
    drop(stdin);
    child.wait().unwrap();
    panic_of(|| port.dispatch());
    panic_of(|| port.dispatch());
    assert!(!port.try_dispatch().unwrap());
    port.close().unwrap();
}

fn job_closing_keeps_what_was_sent_and_refuses_the_next() {
    let port = port();
    let mut events = events(&port);
    let waiter = spawn({
        let mut other = self::events(&port);
        move || futures_lite::future::block_on(other.next())
    });
    let (mut child, stdin) = waiting();
    events.job().assign(&child).unwrap();
    drop(stdin);
    child.wait().unwrap();
    // The messages are queued when the process has ended, and nobody has dispatched them.
    port.clone().close().unwrap();
    assert_closed(waiter.join().unwrap());
    let mut told = vec![];
    loop {
        match futures_lite::future::block_on(events.next()) {
            Ok(message) => told.push(message.kind),
            closed => {
                assert_closed(closed);
                break;
            }
        }
    }
    assert_eq!(told[0], JobMessageKind::NewProcess);
    assert!(told.contains(&JobMessageKind::ExitProcess), "{told:?}");
    let refused = JobEvents::new(&port, Job::new().unwrap()).map_err(|(error, _)| error);
    assert_eq!(refusal(refused.map(drop)), Some(Error::Closed));
}

fn job_closing_calls_the_function_for_what_was_sent() {
    let port = port();
    let job = JobCallback::new(&port, Job::new().unwrap(), 0xc105e, told);
    let job = job.map_err(|(error, _)| error).unwrap();
    let (mut child, stdin) = waiting();
    job.job().assign(&child).unwrap();
    drop(stdin);
    child.wait().unwrap();
    assert_eq!(told_to(0xc105e), []);
    port.clone().close().unwrap();
    let told = told_to(0xc105e);
    assert!(
        told.contains(&(JobMessageKind::NewProcess, child.id())),
        "{told:?}"
    );
    assert!(
        told.contains(&(JobMessageKind::ExitProcess, child.id())),
        "{told:?}"
    );
    assert_closed(port.try_dispatch());
}

struct Fails;

impl Wake for Fails {
    fn wake(self: Arc<Self>) {
        std::panic::resume_unwind(Box::new(4usize));
    }
}

fn job_closing_survives_a_waker_that_panics() {
    let port = port();
    let [mut first, mut second] = [events(&port), events(&port)];
    let waker = Waker::from(Arc::new(Fails));
    for events in [&mut first, &mut second] {
        assert!(poll(events, &waker).is_pending());
    }
    let panic = panic_of(|| port.clone().close());
    assert_eq!(word_of(&*panic), 4);
    // Everything else was done all the same.
    for events in [&mut first, &mut second] {
        assert_closed(futures_lite::future::block_on(events.next()));
    }
    assert_closed(port.close().map_err(std::io::Error::from));
}

/// On a port of the test's own, so that its handle can be posted to.
fn watched() -> (Dispatcher, Arc<Mutex<Vec<Packet>>>) {
    let foreign = Arc::<Mutex<Vec<Packet>>>::default();
    let seen = foreign.clone();
    let hook = move |packet: Packet| seen.lock().unwrap().push(packet);
    (builder().on_foreign(hook).build().unwrap(), foreign)
}

static FAILED: AtomicUsize = AtomicUsize::new(0);

extern "C-unwind" fn failing_each_time(context: usize, _message: u32, _process_id: u32) {
    let count = FAILED.fetch_add(1, Ordering::SeqCst);
    std::panic::resume_unwind(Box::new(context + count));
}

fn job_closing_survives_a_function_that_panics() {
    let port = port();
    let job = JobCallback::new(&port, Job::new().unwrap(), 20, failing_each_time);
    let job = job.map_err(|(error, _)| error).unwrap();
    let (mut child, stdin) = waiting();
    job.job().assign(&child).unwrap();
    drop(stdin);
    child.wait().unwrap();
    let panic = panic_of(|| port.clone().close());
    assert_eq!(word_of(&*panic), 20, "the first");
    assert!(FAILED.load(Ordering::SeqCst) > 1, "the others were told");
    assert_closed(port.try_dispatch());
}

fn job_messages_of_a_job_that_was_given_back_are_foreign() {
    let (port, foreign) = watched();
    for is_callback in [false, true] {
        let job = Job::new().unwrap();
        let (mut child, stdin) = waiting();
        // One message is queued when the association ends.
        let job = match is_callback {
            false => {
                let events = JobEvents::new(&port, job).map_err(|(error, _)| error);
                let events = events.unwrap();
                events.job().assign(&child).unwrap();
                events.into_job()
            }
            true => {
                let job = JobCallback::new(&port, job, 8, failing);
                let job = job.map_err(|(error, _)| error).unwrap();
                job.job().assign(&child).unwrap();
                job.into_job()
            }
        };
        port.dispatch().unwrap();
        let packet = foreign.lock().unwrap().pop().unwrap();
        assert_eq!(packet.overlapped, child.id() as usize);
        // The process is still in it.
        job.terminate(2).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(2));
        drop(stdin);
        while port.try_dispatch().unwrap() {}
        foreign.lock().unwrap().clear();
    }
}

fn job_a_forged_message_is_followed_nowhere() {
    let port = port();
    // What anybody can see who takes a packet: the key.
    let mut events = events(&port);
    let (mut child, stdin) = waiting();
    events.job().assign(&child).unwrap();
    let (key, id, message) = crate::exported::take_raw(&port);
    assert_eq!(id, child.id() as usize);
    for word in [0, 1, usize::MAX, id] {
        post_raw(port.as_raw_handle(), (key, word, 0xdead));
    }
    post_raw(port.as_raw_handle(), (key, id, message));
    let ids = [None, Some(1), None, Some(child.id())];
    for expected in ids {
        let forged = next(&port, &mut events);
        assert_eq!(forged, (JobMessageKind::Other(0xdead), expected));
    }
    let real = next(&port, &mut events);
    assert_eq!(real, (JobMessageKind::NewProcess, Some(child.id())));
    drop((events, stdin));
    // From now on the key is nobody's.
    post_raw(port.as_raw_handle(), (key, id, message));
    let before = port.foreign_packets();
    while port.try_dispatch().unwrap() {}
    assert!(port.foreign_packets() > before);
    child.wait().unwrap();
}

fn job_a_second_port_is_refused_and_the_job_comes_back() {
    let [port, other] = [port(), port()];
    let events = events(&port);
    let twin = events.job();
    let twin = std::os::windows::io::AsHandle::as_handle(twin);
    let twin = Job::from(twin.try_clone_to_owned().unwrap());
    let (error, twin) = JobEvents::new(&other, twin).map(drop).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(ERROR_INVALID_PARAMETER.cast_signed())
    );
    let (mut child, _stdin) = waiting();
    // It is the same job, and its messages come to the first port.
    twin.assign(&child).unwrap();
    port.dispatch().unwrap();
    assert!(!other.try_dispatch().unwrap());
    twin.terminate(1).unwrap();
    child.wait().unwrap();
    // Something else than a job.
    let event = Job::from(std::os::windows::io::OwnedHandle::from(
        std::fs::File::open(std::env::current_exe().unwrap()).unwrap(),
    ));
    let (error, _) = JobEvents::new(&other, event).map(drop).unwrap_err();
    assert!(error.raw_os_error().is_some(), "{error}");
    assert_eq!((port.foreign_packets(), other.foreign_packets()), (0, 0));
}

fn job_messages_come_through_a_hosts_loop() {
    let raw = raw_port();
    let port = on_loan(&raw);
    let mut events = events(&port);
    let (mut child, stdin) = waiting();
    events.job().assign(&child).unwrap();
    drop(stdin);
    let mut told = vec![];
    while told.last() != Some(&JobMessageKind::ActiveProcessZero) {
        for packet in take(&port, u32::MAX) {
            assert!(port.dispatch_packet(packet));
            told.extend(events.try_next().map(|message| message.kind));
        }
    }
    child.wait().unwrap();
    assert_eq!(told.len(), 3);
    drop(events);
    port.close().unwrap();
}

fn job_closing_parts_a_job_from_a_port_that_goes_on() {
    let raw = raw_port();
    let port = on_loan(&raw);
    let events = events(&port);
    let (mut child, stdin) = waiting();
    events.job().assign(&child).unwrap();
    post_raw(raw.as_raw_handle(), (3, 4, 5));
    port.clone().close().unwrap();
    // The job lives, and its process ends.
    drop(stdin);
    child.wait().unwrap();
    let own = Packet {
        key: 3,
        overlapped: 4,
        bytes: 5,
    };
    assert_eq!(take(&port, 0), [own]);
}
