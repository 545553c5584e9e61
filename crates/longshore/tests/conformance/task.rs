//! Tasks, and futures that a thread blocks on.

use std::{
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};

use longshore::{
    Dispatcher,
    task::{JoinError, JoinHandle},
};

use crate::{
    allocations,
    harness::{Counter, Test, port, scaled, spawn, tick},
    io_things::workers,
    support::{OnDrop, Token, join, word_of},
};

pub const TESTS: &[Test] = tests![
    task_spawned_ones_run_on_every_dispatching_thread,
    task_a_wake_up_is_one_post_and_allocates_nothing,
    task_handle_brings_the_result_wherever_it_is_awaited,
    task_cancelled_ones_end_at_their_next_wait,
    task_detached_ones_go_on,
    task_a_panic_reaches_its_handle_and_nothing_else,
    task_a_panic_while_its_values_are_dropped_reaches_its_handle,
    task_a_wake_up_after_its_dispatcher_is_gone_is_harmless,
    task_closing_cancels_those_that_wait_for_other_things,
    task_spawned_on_a_closed_port_is_cancelled,
    task_wake_ups_from_many_threads_lose_none,
    task_a_panic_in_a_result_that_nobody_takes_ends_nothing,
];

/// Pending once, and wakes itself.
pub async fn yield_now() {
    let mut is_first = true;
    poll_fn(|context| match std::mem::take(&mut is_first) {
        true => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
        false => Poll::Ready(()),
    })
    .await;
}

/// Something to wait for that is nobody's I/O.
#[derive(Default)]
pub struct Gate {
    open: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Gate {
    pub fn open(&self) {
        self.open.store(true, SeqCst);
        let waker = self.waker.lock().unwrap().take();
        waker.into_iter().for_each(Waker::wake);
    }

    pub async fn passed(&self) {
        poll_fn(|context| {
            *self.waker.lock().unwrap() = Some(context.waker().clone());
            match self.open.load(SeqCst) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    pub fn has_waker(&self) -> bool {
        self.waker.lock().unwrap().is_some()
    }
}

fn run_ready(port: &Dispatcher) -> usize {
    (0..).take_while(|_| port.try_dispatch().unwrap()).count()
}

fn task_spawned_ones_run_on_every_dispatching_thread() {
    const THREADS: usize = 4;
    let port = port();
    let pool = workers(&port, THREADS);
    // Each task holds its thread until all threads have one.
    let here = Arc::new(Counter::new());
    let tasks: Vec<_> = (0..THREADS)
        .map(|i| {
            let here = here.clone();
            port.spawn(async move {
                here.add(1);
                here.wait_for(THREADS);
                yield_now().await;
                (i, std::thread::current().id())
            })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(port.block_on(task).unwrap().unwrap().0, i);
    }
    let many: Vec<_> = (0..scaled(10_000))
        .map(|i| {
            port.spawn(async move {
                yield_now().await;
                i
            })
        })
        .collect();
    for (i, task) in many.into_iter().enumerate() {
        assert_eq!(futures_lite::future::block_on(task).unwrap(), i);
        tick();
    }
    pool.finish();
}

fn task_a_wake_up_is_one_post_and_allocates_nothing() {
    const ROUNDS: usize = 100;
    let port = port();
    let waker = Arc::new(Mutex::new(None::<Waker>));
    let task = port.spawn({
        let waker = waker.clone();
        async move {
            for round in 0..=ROUNDS {
                let mut polls = 0;
                poll_fn(|context| {
                    *waker.lock().unwrap() = Some(context.waker().clone());
                    polls += 1;
                    match polls > 1 {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    }
                })
                .await;
                assert_eq!(polls, 2, "in round {round}");
            }
        }
    });
    assert!(port.try_dispatch().unwrap());
    assert!(!port.try_dispatch().unwrap());
    let mut wake_ups = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let waker = waker.lock().unwrap().take().unwrap();
        let before = allocations::on_this_thread();
        waker.wake_by_ref();
        // It is queued, so there is nothing more to say.
        waker.wake_by_ref();
        waker.wake();
        wake_ups.push(allocations::on_this_thread() - before);
        assert!(port.try_dispatch().unwrap());
        assert!(!port.try_dispatch().unwrap(), "one entry for a wake-up");
    }
    // A block of the queue is amortised: 31 entries.
    let allocated = wake_ups.iter().sum::<usize>();
    assert!(allocated <= ROUNDS / 31 + 1, "{wake_ups:?}");
    assert!(wake_ups.iter().filter(|&&made| made == 0).count() >= ROUNDS - ROUNDS / 31 - 1);
    drop(task);
}

fn task_handle_brings_the_result_wherever_it_is_awaited() {
    let (port, other) = (port(), port());
    let pool = workers(&port, 1);
    let task = || port.spawn(async { "result".to_owned() });
    assert_eq!(port.block_on(task()).unwrap().unwrap(), "result");
    assert_eq!(other.block_on(task()).unwrap().unwrap(), "result");
    assert_eq!(futures_lite::future::block_on(task()).unwrap(), "result");
    let (first, second) = (task(), task());
    let sum = port.spawn(async move { first.await.unwrap() + &second.await.unwrap() });
    let sum = futures_lite::future::block_on(sum).unwrap();
    assert_eq!(sum, "resultresult");
    pool.finish();
}

fn task_cancelled_ones_end_at_their_next_wait() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let port = port();
    let waiting = |token: Token| async move {
        let _token = token;
        pending::<()>().await;
    };
    // Never run, waiting, ended.
    let task = port.spawn(waiting(Token::new(&dropped)));
    assert!(port.block_on(task.cancel()).unwrap().is_none());
    assert_eq!(dropped.load(SeqCst), 1);
    let task = port.spawn(waiting(Token::new(&dropped)));
    run_ready(&port);
    assert!(!task.is_finished());
    assert!(port.block_on(task.cancel()).unwrap().is_none());
    assert_eq!(dropped.load(SeqCst), 2);
    let task = port.spawn(async { 5 });
    run_ready(&port);
    assert!(task.is_finished());
    assert_eq!(port.block_on(task.cancel()).unwrap(), Some(5));
    let task = port.spawn(async { panic_any(9) });
    run_ready(&port);
    assert!(port.block_on(task.cancel()).unwrap().is_none());
    assert_eq!(run_ready(&port), 0);
}

pub fn panic_any(word: usize) {
    std::panic::resume_unwind(Box::new(word));
}

fn task_detached_ones_go_on() {
    let (port, done) = (port(), Arc::new(Counter::new()));
    let detach: [fn(JoinHandle<()>); 2] = [JoinHandle::detach, drop];
    for (round, detach) in detach.into_iter().enumerate() {
        let gate = Arc::new(Gate::default());
        let (here, done_there) = (gate.clone(), done.clone());
        detach(port.spawn(async move {
            here.passed().await;
            done_there.add(1);
        }));
        run_ready(&port);
        assert_eq!(done.get(), round);
        gate.open();
        assert_eq!(run_ready(&port), 1);
        assert_eq!(done.get(), round + 1);
    }
}

fn task_a_panic_reaches_its_handle_and_nothing_else() {
    let port = port();
    let tasks: Vec<_> = (0..10)
        .map(|i| {
            port.spawn(async move {
                yield_now().await;
                if i == 4 {
                    panic_any(i);
                }
                i
            })
        })
        .collect();
    // Not out of the dispatch.
    assert_eq!(run_ready(&port), 20);
    for (i, task) in tasks.into_iter().enumerate() {
        match (i, port.block_on(task).unwrap()) {
            (4, Err(JoinError::Panicked(payload))) => assert_eq!(word_of(&*payload), 4),
            (_, ended) => assert_eq!(ended.unwrap(), i),
        }
    }
    // Nobody asks for this one.
    port.spawn(async { panic_any(1) }).detach();
    assert_eq!(run_ready(&port), 1);
}

fn task_a_panic_while_its_values_are_dropped_reaches_its_handle() {
    let port = port();
    let bomb = OnDrop(|| panic_any(3));
    let task = port.spawn(async move {
        let bomb = bomb;
        poll_fn(|_| Poll::Ready(())).await;
        std::mem::forget(bomb);
    });
    assert!(port.block_on(task).unwrap().is_ok());
    let mut polls = 0;
    let bomb = OnDrop(|| panic_any(7));
    let task = port.spawn(poll_fn(move |_| {
        let _held = &bomb;
        polls += 1;
        Poll::Ready(polls)
    }));
    assert_eq!(run_ready(&port), 1, "not out of the dispatch");
    match port.block_on(task).unwrap() {
        Err(JoinError::Panicked(payload)) => assert_eq!(word_of(&*payload), 7),
        ended => panic!("{ended:?}"),
    }
}

fn task_a_wake_up_after_its_dispatcher_is_gone_is_harmless() {
    let dropped = Arc::new(AtomicUsize::new(0));
    for round in 0..scaled(200) {
        let gate = Arc::new(Gate::default());
        let port = port();
        let task = port.spawn({
            let (gate, token) = (gate.clone(), Token::new(&dropped));
            async move {
                let _token = token;
                gate.passed().await;
            }
        });
        run_ready(&port);
        assert!(gate.has_waker());
        // Late, and in the middle of it.
        let closer = spawn(move || drop(port));
        if round % 2 == 0 {
            closer.join().unwrap();
            gate.open();
        } else {
            gate.open();
            closer.join().unwrap();
        }
        let ended = futures_lite::future::block_on(task);
        assert!(matches!(ended, Err(JoinError::Cancelled)), "{ended:?}");
        assert_eq!(dropped.load(SeqCst), round + 1);
    }
}

fn task_closing_cancels_those_that_wait_for_other_things() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let (port, gate) = (port(), Arc::new(Gate::default()));
    let wait = |token: Token, gate: Arc<Gate>| async move {
        let _token = token;
        gate.passed().await;
    };
    // Somebody else has the waker, so only closing can end it.
    let task = port.spawn(wait(Token::new(&dropped), gate.clone()));
    let detached = Arc::new(Gate::default());
    port.spawn(wait(Token::new(&dropped), detached.clone()))
        .detach();
    run_ready(&port);
    drop(port);
    assert_eq!(dropped.load(SeqCst), 2);
    let ended = futures_lite::future::block_on(task);
    assert!(matches!(ended, Err(JoinError::Cancelled)), "{ended:?}");
}

fn task_spawned_on_a_closed_port_is_cancelled() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let port = port();
    port.clone().close().unwrap();
    let token = Token::new(&dropped);
    let task = port.spawn(async move { drop(token) });
    assert_eq!(dropped.load(SeqCst), 1);
    let ended = futures_lite::future::block_on(task);
    assert!(matches!(ended, Err(JoinError::Cancelled)), "{ended:?}");
}

fn task_wake_ups_from_many_threads_lose_none() {
    const WAKERS: usize = 3;
    let port = port();
    let pool = workers(&port, 2);
    let rounds = scaled(20_000);
    let (sent, waker) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Mutex::new(None::<Waker>)),
    );
    let task = port.spawn({
        let (sent, waker) = (sent.clone(), waker.clone());
        poll_fn(move |context| {
            *waker.lock().unwrap() = Some(context.waker().clone());
            match sent.load(SeqCst) == WAKERS * rounds {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
    });
    let threads = (0..WAKERS).map(|_| {
        let (sent, waker) = (sent.clone(), waker.clone());
        spawn(move || {
            for _ in 0..rounds {
                sent.fetch_add(1, SeqCst);
                let waker = waker.lock().unwrap().clone();
                waker.into_iter().for_each(Waker::wake);
            }
        })
    });
    join(threads.collect());
    // After the last wake-up it sees them all, or it was never woken again.
    let mut task = pin!(task);
    let ended = futures_lite::future::block_on(poll_fn(|context: &mut Context<'_>| {
        task.as_mut().poll(context)
    }));
    ended.unwrap();
    pool.finish();
}

fn task_a_panic_in_a_result_that_nobody_takes_ends_nothing() {
    struct Boom;
    impl Drop for Boom {
        fn drop(&mut self) {
            panic!("while it is dropped");
        }
    }
    let port = port();
    port.spawn(async { Boom }).detach();
    port.dispatch().unwrap();
    let held = Boom;
    let waiting = port.spawn(async move {
        let _held = held;
        std::future::pending::<()>().await;
    });
    port.dispatch().unwrap();
    assert!(port.block_on(waiting.cancel()).unwrap().is_none());
}
