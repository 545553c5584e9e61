//! The port as a descriptor for other event loops: D1 on Linux.
// UNSAFETY: asks the system whether a descriptor is readable.
#![expect(unsafe_code)]

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_lite::future::{block_on, poll_once};

use crate::{
    harness::{Test, port, spawn, tick},
    support::{
        Token, assert_closed, fail, join, note, panic_of, pause, rounds, seen, sleepers, spin_until,
    },
};

pub const TESTS: &[Test] = tests![
    d01_pollable_is_readable_while_an_entry_waits,
    d01_pollable_stays_readable_until_the_last_entry,
    d01_pollable_is_readable_when_asked_for_late,
    d01_pollable_is_readable_when_a_timer_is_due,
    d01_pollable_is_readable_when_an_older_timer_is_due,
    d01_pollable_is_quiet_again_when_a_timer_is_gone,
    d01_pollable_is_left_alone_by_a_timer_that_nobody_waits_for,
    d01_pollable_is_one_descriptor,
    d01_pollable_hears_posts_of_other_threads,
    d01_pollable_hears_a_post_that_meets_a_poll,
    d01_pollable_waits_beside_blocked_dispatchers,
    d01_pollable_survives_a_panic,
    d01_pollable_is_refused_after_closing,
];

fn poll(fd: BorrowedFd<'_>, timeout_ms: i32) -> bool {
    let mut asked = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one descriptor, which is borrowed and so open.
    let ready = unsafe { libc::poll(&raw mut asked, 1, timeout_ms) };
    assert!(ready >= 0, "{}", std::io::Error::last_os_error());
    ready == 1 && asked.revents & libc::POLLIN != 0
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    poll(fd, 0)
}

fn d01_pollable_is_readable_while_an_entry_waits() {
    let port = port();
    let fd = port.pollable().unwrap();
    assert!(!readable(fd));
    for round in 0..100 {
        match round % 2 {
            0 => port.post(1, note).unwrap(),
            _ => port.wake_one().unwrap(),
        }
        assert!(readable(fd));
        assert!(readable(fd), "looking does not change it");
        assert!(port.try_dispatch().unwrap());
        assert!(!port.try_dispatch().unwrap());
        assert!(!readable(fd));
    }
}

fn d01_pollable_is_readable_when_a_timer_is_due() {
    let port = port();
    // One timer is set before the descriptor is asked for, one after.
    let naps = [30, 10].map(|ms| port.sleep(Duration::from_millis(ms)));
    let [late, early] = naps;
    let begun = Instant::now();
    let late = port.spawn(late);
    assert!(port.try_dispatch().unwrap());
    let fd = port.pollable().unwrap();
    let early = port.spawn(early);
    for (task, least) in [(early, 10), (late, 30)] {
        while !task.is_finished() {
            assert!(poll(fd, 20_000), "the descriptor tells of the timer");
            while port.try_dispatch().unwrap() {}
        }
        assert!(begun.elapsed() >= Duration::from_millis(least));
    }
    assert!(!readable(fd));
}

fn d01_pollable_is_readable_when_an_older_timer_is_due() {
    let port = port();
    let task = port.spawn(port.sleep(Duration::from_millis(10)));
    assert!(port.try_dispatch().unwrap(), "it is asleep now");
    let fd = port.pollable().unwrap();
    while !task.is_finished() {
        assert!(poll(fd, 20_000), "the descriptor tells of the timer");
        while port.try_dispatch().unwrap() {}
    }
}

fn d01_pollable_is_quiet_again_when_a_timer_is_gone() {
    let port = port();
    let fd = port.pollable().unwrap();
    let mut nap = Box::pin(port.sleep(Duration::from_millis(10)));
    assert!(block_on(poll_once(&mut nap)).is_none());
    assert!(poll(fd, 20_000));
    drop(nap);
    assert!(!port.try_dispatch().unwrap());
    assert!(!readable(fd));
}

fn d01_pollable_is_left_alone_by_a_timer_that_nobody_waits_for() {
    let port = port();
    let fd = port.pollable().unwrap();
    // Whoever waited has gone, and is not to be told.
    assert!(!port.dispatch_timeout(Duration::from_millis(1)).unwrap());
    port.post(1, note).unwrap();
    assert!(port.dispatch_timeout(Duration::from_secs(20)).unwrap());
    assert!(!port.try_dispatch().unwrap());
    let mut nap = Box::pin(port.sleep(Duration::from_secs(3600)));
    assert!(block_on(poll_once(&mut nap)).is_none());
    assert!(!readable(fd));
}

fn d01_pollable_stays_readable_until_the_last_entry() {
    let port = port();
    let fd = port.pollable().unwrap();
    for _ in 0..10 {
        port.post(1, note).unwrap();
        port.post(2, note).unwrap();
        port.post(3, note).unwrap();
        assert!(port.try_dispatch().unwrap());
        assert!(readable(fd), "two are left");
        port.dispatch().unwrap();
        assert!(readable(fd), "one is left");
        assert!(port.dispatch_timeout(std::time::Duration::ZERO).unwrap());
        assert!(!port.try_dispatch().unwrap());
        assert!(!readable(fd));
        assert_eq!(seen(), [1, 2, 3]);
    }
}

fn d01_pollable_is_readable_when_asked_for_late() {
    let port = port();
    port.post(1, note).unwrap();
    let fd = port.pollable().unwrap();
    assert!(readable(fd));
    port.dispatch().unwrap();
    assert!(!port.try_dispatch().unwrap());
    assert!(!readable(fd));
}

fn d01_pollable_is_one_descriptor() {
    let port = port();
    let fd = port.pollable().unwrap().as_raw_fd();
    let threads = sleepers(&port, 4, |port| port.pollable().unwrap().as_raw_fd());
    assert_eq!(join(threads), [fd; 4]);
    // First asked for by several threads at once.
    let port = crate::harness::port();
    let fds = join(sleepers(&port, 4, |port| {
        port.pollable().unwrap().as_raw_fd()
    }));
    assert!(fds.iter().all(|&fd| fd == fds[0]));
}

fn d01_pollable_hears_posts_of_other_threads() {
    const POSTERS: usize = 3;
    let each = rounds(20_000);
    let port = port();
    let fd = port.pollable().unwrap();
    let posters: Vec<_> = (0..POSTERS)
        .map(|poster| {
            let port = port.clone();
            spawn(move || {
                let words = poster * each..(poster + 1) * each;
                words.for_each(|word| port.post(word, note).unwrap());
            })
        })
        .collect();
    let mut words = Vec::new();
    while words.len() < POSTERS * each {
        // Without a limit: a post that does not make it readable is a hang.
        assert!(poll(fd, -1));
        while port.try_dispatch().unwrap() {}
        words.append(&mut seen());
        tick();
    }
    join(posters);
    assert!(!port.try_dispatch().unwrap());
    assert!(!readable(fd));
    words.sort_unstable();
    assert_eq!(words, (0..POSTERS * each).collect::<Vec<_>>());
}

fn d01_pollable_hears_a_post_that_meets_a_poll() {
    const ROUNDS: usize = 100_000;
    let (port, step) = (port(), Arc::new(AtomicUsize::new(0)));
    let fd = port.pollable().unwrap();
    let (remote, start) = (port.clone(), step.clone());
    let posting = spawn(move || {
        for round in 0..ROUNDS {
            // The other thread is about to poll; each round the post comes a little later.
            spin_until(|| start.load(Ordering::SeqCst) == round + 1);
            pause(round % 128);
            remote.wake_one().unwrap();
        }
    });
    for _ in 0..ROUNDS {
        step.fetch_add(1, Ordering::SeqCst);
        while !port.try_dispatch().unwrap() {
            // It may be readable once too often, for a post that was taken already; but for this
            // one it becomes readable, or we hang.
            assert!(poll(fd, -1));
        }
        tick();
    }
    posting.join().unwrap();
    assert!(!port.try_dispatch().unwrap());
    assert!(!readable(fd), "every post is over");
}

fn d01_pollable_waits_beside_blocked_dispatchers() {
    let port = port();
    let fd = port.pollable().unwrap();
    for word in 0..rounds(300) {
        let blocked = sleepers(&port, 1, |port| {
            port.dispatch().unwrap();
            seen()
        });
        // One for the sleeper; the other for whoever waits for the descriptor.
        port.post(word, note).unwrap();
        port.post(word, note).unwrap();
        assert_eq!(join(blocked), [[word]]);
        assert!(poll(fd, -1));
        assert!(port.try_dispatch().unwrap());
        assert_eq!(seen(), [word]);
        assert!(!port.try_dispatch().unwrap());
        assert!(!readable(fd));
        tick();
    }
}

fn d01_pollable_survives_a_panic() {
    let port = port();
    let fd = port.pollable().unwrap();
    let dropped = Arc::default();
    let token = Token::new(&dropped);
    port.post(1, fail).unwrap();
    port.post_fn(move || drop(token)).unwrap();
    panic_of(|| port.try_dispatch());
    assert!(readable(fd), "one is left");
    assert!(port.try_dispatch().unwrap());
    assert!(!port.try_dispatch().unwrap());
    assert!(!readable(fd));
}

fn d01_pollable_is_refused_after_closing() {
    for asked_before in [false, true] {
        let port = port();
        if asked_before {
            port.pollable().unwrap();
        }
        port.clone().close().unwrap();
        assert_closed(port.pollable());
    }
    // A loop that waits for the descriptor is told: it becomes readable, and `try_dispatch` fails.
    let port = port();
    let fd = port.pollable().unwrap();
    port.clone().close().unwrap();
    assert!(readable(fd));
    assert_closed(port.try_dispatch());
}
