//! Closing: D10.

use std::{
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use longshore::{Error, dispatcher::CloseError};

use crate::{
    harness::{Counter, Test, port, tick},
    support::{
        OnDrop, Token, assert_closed, fail, join, note, panic_of, rounds, seen, sleepers, word_of,
    },
};

pub const TESTS: &[Test] = tests![
    d10_closing_releases_every_blocked_dispatcher,
    d10_every_function_is_refused_after_closing,
    d10_closing_twice_is_an_error_and_changes_nothing,
    d10_drop_frees_a_thousand_undelivered_closures_and_runs_none,
    d10_close_frees_a_thousand_undelivered_closures_and_runs_none,
    d10_close_with_hands_over_each_raw_post_once,
    d10_a_clone_that_is_dropped_closes_nothing,
    d10_a_clone_may_be_dropped_within_a_callback,
    d10_a_callback_may_close_the_port,
    d10_a_closure_may_own_its_port,
    d10_what_an_undelivered_closure_does_when_dropped_is_not_locked_out,
    d10_a_callback_that_runs_is_not_interrupted,
    d10_a_panic_while_closing_is_passed_on_when_all_else_is_done,
    d10_a_panic_while_closing_does_not_meet_another_panic,
    d10_a_panic_in_the_hook_is_passed_on_when_all_else_is_done,
    d10_two_ports_are_closed_while_a_third_goes_on,
];

const LONG: Duration = Duration::from_secs(3600);

fn d10_closing_releases_every_blocked_dispatcher() {
    for round in 0..rounds(200) {
        let port = port();
        let mut blocked = sleepers(&port, 2, |port| port.dispatch());
        blocked.extend(sleepers(&port, 1, |port| {
            port.dispatch_timeout(LONG).map(|_| ())
        }));
        blocked.extend(sleepers(&port, 1, |port| {
            port.dispatch_deadline(Instant::now() + LONG).map(|_| ())
        }));
        blocked.extend(sleepers(&port, 1, |port| {
            port.dispatch_timeout(Duration::MAX).map(|_| ())
        }));
        // The last clone here; the blocked threads have theirs.
        match round % 2 {
            0 => port.close().unwrap(),
            _ => port.clone().close().unwrap(),
        }
        join(blocked).into_iter().for_each(assert_closed);
        tick();
    }
}

fn is_closed(result: Result<(), CloseError>) {
    let error = result.unwrap_err();
    assert_eq!(error.failures().len(), 1, "{error}");
    let found = Error::of(error.failures()[0].error());
    assert_eq!(found, Some(Error::Closed));
}

fn d10_every_function_is_refused_after_closing() {
    let port = port();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    port.post(1, note).unwrap();
    port.clone().close().unwrap();
    for _ in 0..2 {
        assert_closed(port.post(1, note));
        assert_closed(port.post_fn(|| note(2)).map_err(|refused| refused.error));
        assert_closed(port.wake_one());
        assert_closed(port.dispatch());
        assert_closed(port.try_dispatch());
        assert_closed(port.dispatch_timeout(Duration::ZERO));
        assert_closed(port.dispatch_timeout(Duration::from_millis(1)));
        assert_closed(port.dispatch_timeout(Duration::MAX));
        assert_closed(port.dispatch_deadline(Instant::now()));
        assert_closed(port.run());
        assert_closed(port.stop());
        assert_closed(port.attach(&listener));
        assert_closed(port.cancel_all(&listener));
        is_closed(port.clone().close());
        is_closed(
            port.clone()
                .close_with(|_| unreachable!("there is nothing left")),
        );
    }
    assert_eq!(seen(), [], "nothing ran");
    assert_eq!(port.in_flight(), 0);
    drop(port);
}

fn d10_closing_twice_is_an_error_and_changes_nothing() {
    let port = port();
    let dropped = Arc::new(AtomicUsize::new(0));
    let token = Token::new(&dropped);
    port.post_fn(move || drop(token)).unwrap();
    port.clone().close().unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    is_closed(port.clone().close());
    is_closed(port.close());
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

/// A port with a thousand undelivered closures, and how many were dropped and ran.
fn with_a_thousand() -> (longshore::Dispatcher, Arc<AtomicUsize>, Arc<Counter>) {
    let (port, dropped, ran) = (port(), Arc::default(), Arc::new(Counter::new()));
    for _ in 0..1000 {
        let (token, ran) = (Token::new(&dropped), ran.clone());
        port.post_fn(move || {
            ran.add(1);
            drop(token);
        })
        .unwrap();
    }
    (port, dropped, ran)
}

fn d10_drop_frees_a_thousand_undelivered_closures_and_runs_none() {
    let (port, dropped, ran) = with_a_thousand();
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    drop(port);
    assert_eq!((dropped.load(Ordering::SeqCst), ran.get()), (1000, 0));
}

fn d10_close_frees_a_thousand_undelivered_closures_and_runs_none() {
    let (port, dropped, ran) = with_a_thousand();
    port.clone().close().unwrap();
    assert_eq!((dropped.load(Ordering::SeqCst), ran.get()), (1000, 0));
    drop(port);
    assert_eq!((dropped.load(Ordering::SeqCst), ran.get()), (1000, 0));
}

fn d10_close_with_hands_over_each_raw_post_once() {
    let port = port();
    let work = port.work_guard();
    let runners = sleepers(&port, 1, |port| port.run());
    while !runners[0].is_finished() {
        // Leaves stop tokens behind, some of them surplus.
        port.stop().unwrap();
    }
    join(runners)[0].as_ref().unwrap();
    drop(work);
    let dropped = Arc::default();
    for word in 0..100 {
        let callback = if word % 2 == 0 { note } else { fail };
        port.post(word, callback).unwrap();
        port.wake_one().unwrap();
        let token = Token::new(&dropped);
        port.post_fn(move || drop(token)).unwrap();
    }
    let mut handed = Vec::new();
    let closed = port.close_with(|entry| handed.push((entry.callback as usize, entry.context)));
    closed.unwrap();
    handed.sort_unstable_by_key(|entry| entry.1);
    let callback = |word| {
        if word % 2 == 0 {
            note as *const () as usize
        } else {
            fail as *const () as usize
        }
    };
    let posted: Vec<_> = (0..100).map(|word| (callback(word), word)).collect();
    assert_eq!(handed, posted, "neither a wake nor a closure nor a token");
    assert_eq!(dropped.load(Ordering::SeqCst), 100);
    assert_eq!(seen(), [], "and none was called");
}

fn d10_a_clone_that_is_dropped_closes_nothing() {
    let port = port();
    port.post(1, note).unwrap();
    drop(port.clone());
    port.dispatch().unwrap();
    assert_eq!(seen(), [1]);
}

fn d10_a_clone_may_be_dropped_within_a_callback() {
    let port = port();
    let clone = port.clone();
    port.post_fn(move || drop(clone)).unwrap();
    port.post(2, note).unwrap();
    port.dispatch().unwrap();
    port.dispatch().unwrap();
    assert_eq!(seen(), [2]);
    // The last clone of one port is dropped within a callback of another.
    let (other, dropped) = (crate::harness::port(), Arc::default());
    let token = Token::new(&dropped);
    other.post_fn(move || drop(token)).unwrap();
    port.post_fn(move || drop(other)).unwrap();
    port.dispatch().unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

fn d10_a_callback_may_close_the_port() {
    for _ in 0..rounds(100) {
        let port = port();
        let blocked = sleepers(&port, 2, |port| {
            let mut dispatched = 0;
            while port
                .dispatch()
                .map_err(|error| assert_closed::<()>(Err(error)))
                .is_ok()
            {
                dispatched += 1;
            }
            dispatched
        });
        let clone = port.clone();
        port.post_fn(move || clone.close().unwrap()).unwrap();
        assert_eq!(join(blocked).into_iter().sum::<i32>(), 1);
        assert_closed(port.dispatch());
        tick();
    }
}

fn d10_a_closure_may_own_its_port() {
    let port = port();
    let (clone, dropped) = (port.clone(), Arc::default());
    let token = Token::new(&dropped);
    port.post_fn(move || drop((clone, token))).unwrap();
    port.close().unwrap();
    assert_eq!(
        dropped.load(Ordering::SeqCst),
        1,
        "closing breaks the circle"
    );
}

fn d10_what_an_undelivered_closure_does_when_dropped_is_not_locked_out() {
    let port = port();
    let asked = Arc::new(Mutex::new(None));
    let (clone, answer) = (port.clone(), asked.clone());
    let on_drop = OnDrop(move || *answer.lock().unwrap() = Some(clone.post(3, note)));
    port.post_fn(move || drop(on_drop)).unwrap();
    port.close().unwrap();
    let answer = asked.lock().unwrap().take();
    assert_closed(answer.expect("it was dropped"));
    assert_eq!(seen(), []);
}

fn d10_a_callback_that_runs_is_not_interrupted() {
    let port = port();
    let (entered, go_on) = (Arc::new(Counter::new()), Arc::new(Counter::new()));
    let (signal, wait) = (entered.clone(), go_on.clone());
    port.post_fn(move || {
        signal.add(1);
        wait.wait_for(1);
        note(6);
    })
    .unwrap();
    let busy = sleepers(&port, 1, |port| {
        let first = port.dispatch();
        (first, port.dispatch(), seen())
    });
    entered.wait_for(1);
    port.close().unwrap();
    go_on.add(1);
    for (first, second, seen) in join(busy) {
        first.unwrap();
        assert_closed(second);
        assert_eq!(seen, [6]);
    }
}

fn d10_a_panic_while_closing_is_passed_on_when_all_else_is_done() {
    for by_drop in [false, true] {
        let port = port();
        let (before, after) = (Arc::default(), Arc::default());
        let token = Token::new(&before);
        port.post_fn(move || drop(token)).unwrap();
        for word in 1..=2 {
            let bad = OnDrop(move || fail(word));
            port.post_fn(move || drop(bad)).unwrap();
        }
        let token = Token::new(&after);
        port.post_fn(move || drop(token)).unwrap();
        let survivor = port.clone();
        let payload = match by_drop {
            true => {
                drop(survivor);
                panic_of(|| drop(port))
            }
            false => {
                let payload = panic_of(|| port.close());
                assert_closed(survivor.dispatch());
                payload
            }
        };
        assert_eq!(word_of(&*payload), 1, "the first one");
        assert_eq!(before.load(Ordering::SeqCst), 1);
        assert_eq!(after.load(Ordering::SeqCst), 1);
    }
}

fn d10_a_panic_while_closing_does_not_meet_another_panic() {
    let port = port();
    let bad = OnDrop(|| fail(2));
    port.post_fn(move || drop(bad)).unwrap();
    // The port is dropped by the first panic; a second one would end the process.
    let payload = panic_of(|| {
        let _port = port;
        fail(1);
    });
    assert_eq!(word_of(&*payload), 1);
}

fn d10_a_panic_in_the_hook_is_passed_on_when_all_else_is_done() {
    let port = port();
    for word in 0..10 {
        port.post(word, note).unwrap();
    }
    let mut handed = Vec::new();
    let payload = panic_of(|| {
        port.clone().close_with(|entry| {
            handed.push(entry.context);
            if entry.context % 4 == 1 {
                fail(entry.context);
            }
        })
    });
    assert_eq!(word_of(&*payload), 1, "the first one");
    assert_eq!(handed, (0..10).collect::<Vec<_>>());
    assert_closed(port.dispatch());
}

fn d10_two_ports_are_closed_while_a_third_goes_on() {
    let (first, second, third) = (port(), port(), port());
    let (first_blocked, second_blocked) = (
        sleepers(&first, 1, |port| port.dispatch()),
        sleepers(&second, 1, |port| port.dispatch()),
    );
    let third_blocked = sleepers(&third, 1, |port| {
        (0..3)
            .map(|_| port.dispatch().map(|()| seen()))
            .collect::<Vec<_>>()
    });
    third.post(1, note).unwrap();
    first.close().unwrap();
    join(first_blocked).into_iter().for_each(assert_closed);
    third.post(2, note).unwrap();
    second.wake_one().unwrap();
    join(second_blocked)
        .into_iter()
        .for_each(|result| result.unwrap());
    second.close().unwrap();
    third.post(3, note).unwrap();
    for results in join(third_blocked) {
        let seen: Vec<_> = results
            .into_iter()
            .flat_map(|result| result.unwrap())
            .collect();
        assert_eq!(seen, [1, 2, 3]);
    }
}
