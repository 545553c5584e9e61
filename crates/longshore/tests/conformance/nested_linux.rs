//! Hosts on Linux: a loop around poll(2), and a tokio runtime.
// UNSAFETY: waits with poll(2).
#![expect(unsafe_code)]

use std::{
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixDatagram,
    },
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use longshore::{Dispatcher, net::TcpStream};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    harness::{Test, port, scaled, spawn, tick},
    io_things::pair,
    nested::Turn,
    support::{assert_closed, note, seen},
};

pub const TESTS: &[Test] = tests![
    nested_inside_a_tokio_runtime,
    nested_run_ready_inside_a_tokio_runtime,
    nested_the_descriptor_is_quiet_when_nothing_waits_and_ready_on_the_next_post,
    nested_a_tokio_runtime_is_not_woken_for_nothing,
];

/// A loop around poll(2), with events of its own: datagrams, each of which one thread receives.
pub struct Host {
    port: Dispatcher,
    own: UnixDatagram,
    sender: UnixDatagram,
}

impl Host {
    pub fn new() -> Arc<Self> {
        let (own, sender) = UnixDatagram::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        let port = port();
        Arc::new(Self { port, own, sender })
    }

    pub fn port(&self) -> &Dispatcher {
        &self.port
    }

    pub fn send(&self, word: usize) {
        self.sender.send(&word.to_ne_bytes()).unwrap();
    }

    /// Waits once, and handles what there is.
    pub fn turn(&self) -> Turn {
        self.wait(-1)
    }

    /// Whether nothing ends a wait of this length.
    pub fn is_quiet_for(&self, time: Duration) -> bool {
        !self.wait(i32::try_from(time.as_millis()).unwrap()).woken
    }

    fn wait(&self, timeout_ms: i32) -> Turn {
        let mut turn = Turn::default();
        // After closing there is none; the descriptor that was waited for says so.
        let Ok(pollable) = self.port.pollable() else {
            turn.closed = true;
            return turn;
        };
        let mut asked = [pollable, self.own.as_fd()].map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: two descriptors, both borrowed and so open.
        let ready = unsafe { libc::poll(asked.as_mut_ptr(), 2, timeout_ms) };
        assert!(ready >= 0, "{}", std::io::Error::last_os_error());
        turn.woken = ready > 0;
        if asked[0].revents != 0 {
            while let Some(dispatched) = self.try_dispatch(&mut turn)
                && dispatched
            {
                turn.entries += 1;
            }
        }
        let mut word = [0; size_of::<usize>()];
        if asked[1].revents != 0 && self.own.recv(&mut word).is_ok() {
            turn.own.push(usize::from_ne_bytes(word));
        }
        turn
    }

    fn try_dispatch(&self, turn: &mut Turn) -> Option<bool> {
        let dispatched = self.port.try_dispatch();
        turn.closed = dispatched.is_err();
        match dispatched {
            Ok(dispatched) => Some(dispatched),
            refused => {
                assert_closed(refused);
                None
            }
        }
    }
}

/// Dispatches one entry after the other.
fn one_by_one(port: &Dispatcher) {
    while port.try_dispatch().unwrap() {}
}

/// Dispatches all that is ready.
fn all_at_once(port: &Dispatcher) {
    port.run_ready().unwrap();
}

/// Dispatches whenever the port is readable, for ever; counts how often that was.
async fn drive(port: &Dispatcher, wakeups: &AtomicUsize, dispatch: fn(&Dispatcher)) {
    let pollable = port.pollable().unwrap();
    // SAFETY: the port, which is borrowed, keeps its descriptor open.
    let fd = unsafe { AsyncFd::register_with_interest(pollable, Interest::READABLE) }.unwrap();
    loop {
        let mut ready = fd.readable().await.unwrap();
        wakeups.fetch_add(1, Ordering::SeqCst);
        dispatch(port);
        ready.clear_ready();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap()
}

fn nested_inside_a_tokio_runtime() {
    share_a_runtime(one_by_one);
}

fn nested_run_ready_inside_a_tokio_runtime() {
    share_a_runtime(all_at_once);
}

/// Posts, I/O and timers of the port's, beside I/O of tokio's own.
fn share_a_runtime(dispatch: fn(&Dispatcher)) {
    let (port, each) = (port(), scaled(5000));
    let (here, there) = pair();
    let [here, there] = [here, there].map(|stream| Arc::into_inner(stream).unwrap());
    // One end is longshore's, the other tokio's.
    let here = TcpStream::from_std(&port, here).unwrap();
    there.set_nonblocking(true).unwrap();
    let poster = spawn({
        let port = port.clone();
        move || (0..each).for_each(|word| port.post(word, note).unwrap())
    });
    let naps = port.spawn({
        let port = port.clone();
        async move {
            for _ in 0..30 {
                port.sleep(Duration::from_micros(500)).await.unwrap();
            }
        }
    });
    let echo = port.spawn(async move {
        loop {
            let (count, mut buffer) = here.read(vec![0; 64]).await;
            match count.unwrap() {
                0 => return,
                count => buffer.truncate(count),
            }
            here.write_all(buffer).await.0.unwrap();
        }
    });
    let wakeups = AtomicUsize::new(0);
    runtime().block_on(async {
        let asking = tokio::spawn(async move {
            let peer = tokio::net::TcpStream::from_std(there).unwrap();
            for round in 0..each / 10 {
                let (sent, mut got) = ([round as u8; 16], [0; 16]);
                let mut done = 0;
                while done < 16 {
                    peer.writable().await.unwrap();
                    done += peer.try_write(&sent[done..]).unwrap_or(0);
                }
                done = 0;
                while done < 16 {
                    peer.readable().await.unwrap();
                    done += peer.try_read(&mut got[done..]).unwrap_or(0);
                }
                assert_eq!(got, sent);
                tick();
            }
        });
        let work = async {
            asking.await.unwrap();
            naps.await.unwrap();
            echo.await.unwrap();
        };
        let for_ever = async {
            drive(&port, &wakeups, dispatch).await;
        };
        futures_lite::future::or(work, for_ever).await;
    });
    poster.join().unwrap();
    while port.try_dispatch().unwrap() {}
    assert_eq!(seen(), (0..each).collect::<Vec<_>>());
    // An answer is two operations and two runs of a task, a nap a timer and a run.
    let causes = each + each / 10 * 4 + 60;
    let wakeups = wakeups.into_inner();
    assert!(wakeups <= causes, "{wakeups} wake-ups, {causes} causes");
}

fn nested_the_descriptor_is_quiet_when_nothing_waits_and_ready_on_the_next_post() {
    let host = Host::new();
    let port = host.port();
    for word in 0..scaled(2000) {
        assert!(host.is_quiet_for(Duration::ZERO), "round {word}");
        port.post(word, note).unwrap();
        // Without a limit: a post that does not make it ready is a hang.
        assert_eq!(host.turn().entries, 1);
        assert_eq!(seen(), [word]);
        tick();
    }
    // The same by edges, which come once: tokio is told of each post, and of nothing else.
    runtime().block_on(async {
        let pollable = port.pollable().unwrap();
        // SAFETY: the port keeps its descriptor open.
        let fd = unsafe { AsyncFd::register_with_interest(pollable, Interest::READABLE) }.unwrap();
        // What registering itself may have told.
        while let Some(ready) = futures_lite::future::poll_once(fd.readable()).await {
            one_by_one(port);
            ready.unwrap().clear_ready();
            tokio::task::yield_now().await;
        }
        for word in 0..scaled(2000) {
            port.post(word, note).unwrap();
            let mut ready = fd.readable().await.unwrap();
            one_by_one(port);
            assert_eq!(seen(), [word]);
            ready.clear_ready();
            tokio::task::yield_now().await;
            let again = futures_lite::future::poll_once(fd.readable()).await;
            assert!(again.is_none(), "round {word}");
            tick();
        }
    });
}

fn nested_a_tokio_runtime_is_not_woken_for_nothing() {
    let port = port();
    let napping = port.spawn(port.sleep(Duration::from_secs(3600)));
    let wakeups = AtomicUsize::new(0);
    runtime().block_on(async {
        let turns = async {
            // As many chances as the runtime has turns to wake us.
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
            port.post(3, note).unwrap();
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
        };
        let for_ever = async {
            drive(&port, &wakeups, one_by_one).await;
        };
        futures_lite::future::or(turns, for_ever).await;
    });
    assert_eq!(seen(), [3]);
    // For the task's first run, its timer, and the post; each may be told twice.
    let wakeups = wakeups.into_inner();
    assert!((1..=6).contains(&wakeups), "{wakeups} wake-ups");
    assert!(!napping.is_finished());
}
