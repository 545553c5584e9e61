//! Signals. Each test is a process of its own, where it may raise what it likes: on Windows one with a
//! console of its own, whose events are real ones.
// UNSAFETY: submits a wait.
#![expect(unsafe_code)]

#[cfg(target_os = "linux")]
#[path = "signals/linux.rs"]
mod os;
#[cfg(windows)]
#[path = "signals/windows.rs"]
mod os;

use std::{
    cell::Cell,
    io::{BufRead, BufReader, Read},
    process::{Command, Output, Stdio},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use futures_lite::future::{block_on, poll_once};
use longshore::{
    Error, Handle, Submission,
    dispatcher::Context,
    signal::{self, Listener, Signal, Signals},
};

use crate::{
    harness::{Counter, Test, in_child_with, port, scaled, tick},
    resources::handles,
    support::{assert_closed, assert_passed, join, sleepers},
};

pub const TESTS: &[Test] = tests![
    signal_every_listener_hears_each,
    signal_between_two_waits_is_kept,
    signal_equal_ones_are_told_as_often_as_they_came,
    signal_a_dropped_listener_is_forgotten,
    signal_a_dropped_wait_loses_nothing,
    signal_closing_the_port_ends_the_wait,
    signal_contexts_are_told_again_and_again,
    signal_each_calls_a_function_on_a_dispatching_thread,
    signal_wakes_a_port_whose_threads_all_sleep,
    signal_ctrl_c_listens_from_the_call_on,
    signal_what_cannot_be_heard_is_refused,
    signal_a_refused_listener_leaves_the_default,
    signal_listeners_come_and_go_while_signals_come,
    signal_without_a_listener_the_default_is_as_documented,
    signal_from_another_process_ends_a_program_in_order,
];

/// Runs the test in a process of its own. `false` in that process.
fn passed_on_its_own() -> bool {
    let child = in_child_with(|command| os::with_console(command).output());
    child.inspect(assert_passed).is_some()
}

/// The two that a test can raise.
const FIRST: Signal = os::FIRST;
const SECOND: Signal = os::SECOND;

fn signal_every_listener_hears_each() {
    if passed_on_its_own() {
        return;
    }
    let (port, other) = (port(), port());
    let mut listeners = [
        Signals::new(&port, [FIRST]).unwrap(),
        Signals::new(&port, [SECOND, FIRST]).unwrap(),
        Signals::new(&other, [FIRST, FIRST]).unwrap(),
    ];
    let bare = Listener::new([SECOND]).unwrap();
    for _ in 0..3 {
        os::raise(FIRST);
        let [one, two, three] = &mut listeners;
        assert_eq!(port.block_on(one.wait()).unwrap().unwrap(), FIRST);
        assert_eq!(port.block_on(two.wait()).unwrap().unwrap(), FIRST);
        assert_eq!(other.block_on(three.wait()).unwrap().unwrap(), FIRST);
        assert_eq!(bare.take(), None);
        assert!(listeners.iter_mut().all(|one| one.take().is_none()));
    }
}

fn signal_between_two_waits_is_kept() {
    if passed_on_its_own() {
        return;
    }
    let port = port();
    let mut signals = Signals::new(&port, [FIRST, SECOND]).unwrap();
    for _ in 0..scaled(100) {
        os::raise(FIRST);
        assert_eq!(port.block_on(signals.wait()).unwrap().unwrap(), FIRST);
        // Nobody waits while this one comes.
        os::raise(SECOND);
        assert_eq!(port.block_on(signals.wait()).unwrap().unwrap(), SECOND);
        tick();
    }
}

fn signal_equal_ones_are_told_as_often_as_they_came() {
    if passed_on_its_own() {
        return;
    }
    let port = port();
    let mut signals = Signals::new(&port, [FIRST, SECOND]).unwrap();
    // (Under Wine, Ctrl-C is a Linux signal, of which two may become one.)
    for signal in [SECOND, FIRST, SECOND, SECOND] {
        os::raise(signal);
    }
    let mut told = [0, 0];
    for _ in 0..4 {
        let signal = port.block_on(signals.wait()).unwrap().unwrap();
        told[usize::from(signal == SECOND)] += 1;
    }
    assert_eq!(told, [1, 3]);
    assert_eq!(signals.take(), None);
}

fn signal_a_dropped_listener_is_forgotten() {
    if passed_on_its_own() {
        return;
    }
    let port = port();
    let mut stays = Signals::new(&port, [FIRST]).unwrap();
    let mut round = || {
        let mut goes = Signals::new(&port, [FIRST, SECOND]).unwrap();
        let mut wait = Box::pin(goes.wait());
        assert!(port.block_on(poll_once(&mut wait)).unwrap().is_none());
        drop(wait);
        drop(goes);
        // What was cancelled leaves with its packet.
        while port.try_dispatch().unwrap() {}
        os::raise(FIRST);
        assert_eq!(port.block_on(stays.wait()).unwrap().unwrap(), FIRST);
        tick();
    };
    round();
    let before = handles();
    (0..20).for_each(|_| round());
    // The system's threads that brought the events may take a moment to go.
    while handles() > before {
        thread::yield_now();
    }
}

fn signal_a_dropped_wait_loses_nothing() {
    if passed_on_its_own() {
        return;
    }
    let port = port();
    let mut signals = Signals::new(&port, [FIRST]).unwrap();
    for _ in 0..20 {
        let mut wait = Box::pin(signals.wait());
        assert!(port.block_on(poll_once(&mut wait)).unwrap().is_none());
        os::raise(FIRST);
        drop(wait);
        assert_eq!(port.block_on(signals.wait()).unwrap().unwrap(), FIRST);
        tick();
    }
}

fn signal_closing_the_port_ends_the_wait() {
    if passed_on_its_own() {
        return;
    }
    let port = port();
    let mut signals = Signals::new(&port, [FIRST]).unwrap();
    let each = signal::each(&port, [FIRST], |_| unreachable!()).unwrap();
    let mut wait = Box::pin(signals.wait());
    assert!(port.block_on(poll_once(&mut wait)).unwrap().is_none());
    let closer = port.clone();
    let closing = thread::spawn(move || closer.close().unwrap());
    assert_closed(block_on(wait));
    closing.join().unwrap();
    assert!(block_on(each).is_err(), "it was cancelled");
    assert_closed(block_on(signals.wait()));
    assert_closed(Signals::new(&port, [FIRST]).map(drop));
    assert_closed(block_on(signal::ctrl_c(&port)));
    // What came is told even so.
    os::raise(FIRST);
    while signals.take().is_none() {
        thread::yield_now();
    }
}

thread_local! {
    static CAME: Cell<usize> = const { Cell::new(0) };
}

extern "C-unwind" fn came(word: usize, bytes: u32, error: u32) {
    assert_eq!((bytes, error), (0, 0));
    CAME.set(CAME.get() + word);
}

fn signal_contexts_are_told_again_and_again() {
    if passed_on_its_own() {
        return;
    }
    let port = port();
    let listener = Listener::new([FIRST, SECOND]).unwrap();
    let object = Handle::waitable(&listener);
    port.attach(object).unwrap();
    let context = Context::new(came, 1);
    let wait = || {
        let object = Handle::waitable(&listener);
        // SAFETY: context and listener outlive the dispatch that follows each submission.
        unsafe { port.submit(NonNull::from(&context), Submission::Wait { object }) }.unwrap();
    };
    // A wait may end for what was taken in the moment it came, so each may need two.
    let next = || loop {
        let before = CAME.get();
        wait();
        port.dispatch().unwrap();
        assert_eq!(CAME.get(), before + 1);
        if let Some(signal) = listener.take() {
            return signal;
        }
    };
    for _ in 0..10 {
        os::raise(FIRST);
        assert_eq!(next(), FIRST);
        // It stays signalled while one is left.
        os::raise(SECOND);
        os::raise(FIRST);
        let mut taken = [next(), next()];
        taken.sort_by_key(|&signal| signal == FIRST);
        assert_eq!(taken, [SECOND, FIRST]);
        assert_eq!(listener.take(), None);
        assert!(!port.try_dispatch().unwrap());
        tick();
    }
    port.detach(object).unwrap();
}

fn signal_each_calls_a_function_on_a_dispatching_thread() {
    if passed_on_its_own() {
        return;
    }
    let port = port();
    let (told, teller) = (mpsc::channel(), thread::current().id());
    let (sender, told) = told;
    let each = signal::each(&port, [FIRST, SECOND], move |signal| {
        assert_eq!(thread::current().id(), teller);
        sender.send(signal).unwrap();
    });
    let each = each.unwrap();
    for signal in [FIRST, SECOND, FIRST] {
        os::raise(signal);
        let came = loop {
            match told.try_recv() {
                Ok(came) => break came,
                Err(_) => port.dispatch().unwrap(),
            }
        };
        assert_eq!(came, signal);
    }
    assert!(port.block_on(each.cancel()).unwrap().is_none());
    assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    // It was all the work there was.
    port.run().unwrap();
}

fn signal_wakes_a_port_whose_threads_all_sleep() {
    if passed_on_its_own() {
        return;
    }
    let port = port();
    let (mut signals, told) = (
        Signals::new(&port, [FIRST]).unwrap(),
        Arc::new(Counter::new()),
    );
    let count = told.clone();
    let task = port.spawn(async move {
        loop {
            signals.wait().await.unwrap();
            count.add(1);
        }
    });
    let threads = sleepers(&port, 3, |port| port.run());
    for round in 1..=20 {
        os::send(FIRST);
        told.wait_for(round);
        tick();
    }
    block_on(task.cancel());
    join(threads).into_iter().for_each(|ran| _ = ran.unwrap());
    assert_eq!(told.get(), 20);
}

fn signal_ctrl_c_listens_from_the_call_on() {
    if passed_on_its_own() {
        return;
    }
    let port = port();
    let (first, second) = (signal::ctrl_c(&port), signal::ctrl_c(&port));
    // Nobody has polled them, and it ends neither the process nor anybody's patience.
    os::raise(Signal::INTERRUPT);
    let task = port.spawn(first);
    port.block_on(second).unwrap().unwrap();
    port.block_on(task).unwrap().unwrap().unwrap();
}

fn signal_what_cannot_be_heard_is_refused() {
    if passed_on_its_own() {
        return;
    }
    let port = port();
    // 9 is SIGKILL, and no event of a console's.
    for number in [9, 0x7777, -1] {
        let never = Signal::from_raw(number);
        let refused = Listener::new([FIRST, never]).unwrap_err();
        assert_eq!(Error::of(&refused), Some(Error::NoSuchSignal), "{never}");
        let refused = Signals::new(&port, [never]).unwrap_err();
        assert_eq!(Error::of(&refused), Some(Error::NoSuchSignal), "{never}");
    }
    let mut nothing = Signals::new(&port, []).unwrap();
    assert_eq!(nothing.take(), None);
    assert!(!FIRST.to_string().contains("signal"), "it has a name");
    assert_eq!(Signal::from_raw(0x7777).to_string(), "signal 30583");
}

/// Those of the list that could be heard were not touched either.
fn signal_a_refused_listener_leaves_the_default() {
    let child = in_child_with(|command| os::with_console(command).output());
    if let Some(child) = child {
        return assert_ended_by_default(&child);
    }
    let closed = port();
    closed.clone().close().unwrap();
    for number in [9, 0x7777, 1000, 0, -1] {
        let wanted = [os::ASKS_TO_END, Signal::from_raw(number)];
        match Listener::new(wanted) {
            Err(refused) => assert_eq!(Error::of(&refused), Some(Error::NoSuchSignal)),
            // 0 is Ctrl-C on Windows.
            Ok(heard) => assert!(cfg!(windows) && number == 0, "{heard:?}"),
        }
    }
    assert_closed(Signals::new(&closed, [os::ASKS_TO_END]).map(drop));
    raise_for_the_default(os::ASKS_TO_END);
}

/// Said by a child that has done its part, when all that is left is to be ended.
const ENDS: &str = "the default is to end this process";

/// Nobody listens to it, so the process does not come back from here; the test fails if it does.
fn raise_for_the_default(signal: Signal) {
    println!("{ENDS}");
    os::raise(signal);
    os::stay_if_it_is_to_end_us();
    panic!("{signal} did not end the process");
}

/// The child came as far as [`raise_for_the_default`], and no further.
fn assert_ended_by_default(child: &Output) {
    let [said, errors] = [&child.stdout, &child.stderr].map(|text| String::from_utf8_lossy(text));
    // The test program's last words, whether a test passed or failed.
    let went_on = said.contains("test result") || errors.contains("panicked");
    let ended = said.contains(ENDS) && !went_on && os::was_ended_by_default(child.status);
    assert!(ended, "{}\n{said}\n{errors}", child.status);
}

fn signal_listeners_come_and_go_while_signals_come() {
    if passed_on_its_own() {
        return;
    }
    let rounds = scaled(1000);
    let port = port();
    let mut stays = Signals::new(&port, [FIRST]).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let heard = Arc::new(AtomicUsize::new(0));
    let comers: Vec<_> = (0..2)
        .map(|_| {
            let (done, heard) = (done.clone(), heard.clone());
            thread::spawn(move || {
                while !done.load(SeqCst) {
                    let goes = Listener::new([SECOND, FIRST]).unwrap();
                    thread::yield_now();
                    while goes.take().is_some() {
                        heard.fetch_add(1, SeqCst);
                    }
                }
            })
        })
        .collect();
    for _ in 0..rounds {
        os::raise(FIRST);
        assert_eq!(port.block_on(stays.wait()).unwrap().unwrap(), FIRST);
        tick();
    }
    done.store(true, SeqCst);
    join(comers);
    assert_eq!(stays.take(), None);
    assert!(heard.load(SeqCst) <= 2 * rounds);
}

fn signal_without_a_listener_the_default_is_as_documented() {
    let child = in_child_with(|command| os::with_console(command).output());
    if let Some(child) = child {
        return match cfg!(windows) {
            true => assert_ended_by_default(&child),
            false => assert_passed(&child),
        };
    }
    let (stays, goes) = (Listener::new([FIRST]), Listener::new([FIRST, SECOND]));
    drop(goes);
    os::raise(FIRST);
    let stays = stays.unwrap();
    while stays.take().is_none() {
        thread::yield_now();
    }
    drop(stays);
    match cfg!(windows) {
        true => raise_for_the_default(FIRST),
        false => os::raise(FIRST),
    }
}

/// Not in the middle of the process' life: asked from outside, while it waits.
fn signal_from_another_process_ends_a_program_in_order() {
    if passed_on_its_own() {
        return;
    }
    if std::env::var_os(INNER).is_some() {
        return be_told();
    }
    // Some come to everybody at the console, and are not to end the one that sends them.
    let _survives = Listener::new(os::FROM_OUTSIDE.iter().copied()).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let name = "signal_from_another_process_ends_a_program_in_order";
    child.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    child.env(INNER, "1").stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    // Not whole lines: the test program's own words may stand before ours.
    let mut until = |sign: &str| {
        let mut line = String::new();
        while !line.contains(sign) {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "no {sign}");
        }
    };
    until("listening");
    for signal in os::FROM_OUTSIDE {
        os::send_to(&child, *signal);
        until(&format!("told: {signal}"));
    }
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
    assert!(rest.contains("1 passed"), "{rest}");
}

const INNER: &str = "LONGSHORE_SIGNALLED";

/// A program that ends when it was told everything it waits for.
fn be_told() {
    let port = port();
    let mut signals = Signals::new(&port, os::FROM_OUTSIDE.iter().copied()).unwrap();
    println!("listening");
    for _ in os::FROM_OUTSIDE {
        let limited = port.timeout(Duration::from_secs(15), Box::pin(signals.wait()));
        let told = port.block_on(limited).unwrap().expect("it comes");
        println!("told: {}", told.unwrap());
    }
    drop(signals);
    port.close().unwrap();
}
