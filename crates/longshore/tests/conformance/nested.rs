//! A port driven by a host's own loop: poll(2) on Linux, a completion port's wait on Windows.
//!
//! What a host is, is the system's: see `nested_linux` and `nested_windows`.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Wake, Waker},
    time::Duration,
};

use longshore::{Dispatcher, net::TcpStream, process::Child};

#[cfg(target_os = "linux")]
use crate::nested_linux::Host;
#[cfg(windows)]
use crate::nested_windows::Host;
use crate::{
    harness::{Counter, Test, scaled, spawn, tick},
    io::Op,
    io_things::{attached_pair, pair, workers},
    process::child,
    support::{Seat, join, note, pause, seen, sleepers, spin_until},
};

pub const TESTS: &[Test] = tests![
    nested_posts_io_and_timers_beside_the_hosts_own_events,
    nested_two_host_threads_share_a_port,
    nested_blocked_dispatchers_go_on_beside_a_host,
    nested_a_host_is_not_woken_for_nothing,
    nested_a_timer_that_is_set_meanwhile_ends_the_hosts_wait,
    nested_a_run_ends_although_a_host_took_its_last_operation,
    nested_closing_releases_a_host_that_waits,
];

/// What one wait of a host has brought.
#[derive(Debug, Default)]
pub struct Turn {
    /// Its own events, in order.
    pub own: Vec<usize>,
    /// Entries of the port's; on Windows, its housekeeping as well.
    pub entries: usize,
    pub closed: bool,
    /// It ended because of something, and not because the time was up.
    pub woken: bool,
}

/// Tells the host's threads to go home, one after the other.
const QUIT: usize = usize::MAX;

/// One message to and fro.
async fn ping_pong(port: Dispatcher, rounds: usize) {
    let (here, there) = pair();
    let streams = [here, there].map(|stream| {
        let stream = Arc::into_inner(stream).unwrap();
        TcpStream::from_std(&port, stream).unwrap()
    });
    for round in 0..rounds {
        let (from, to) = (&streams[round % 2], &streams[(round + 1) % 2]);
        let sent = vec![round as u8; 32];
        from.write_all(sent.clone()).await.0.unwrap();
        let (count, got) = to.read(vec![0; 64]).await;
        assert_eq!(got[..count.unwrap()], sent);
    }
}

async fn naps(port: Dispatcher, count: usize) {
    for nap in 0..count {
        let nap = Duration::from_micros(nap as u64 % 3 * 700);
        port.sleep(nap).await.unwrap();
    }
}

async fn exit_of_a_child(port: Dispatcher) {
    let mut child = Child::spawn(&port, &mut child(3)).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(3));
}

fn nested_posts_io_and_timers_beside_the_hosts_own_events() {
    let (host, each, timers) = (Host::new(), scaled(2000), 50);
    let port = host.port().clone();
    let tasks = [
        port.spawn(ping_pong(port.clone(), each)),
        port.spawn(naps(port.clone(), timers)),
        port.spawn(exit_of_a_child(port.clone())),
    ];
    let poster = spawn(move || {
        for word in 0..each {
            port.post(word, note).unwrap();
        }
    });
    let owner = spawn({
        let host = host.clone();
        move || (0..each).for_each(|word| host.send(word))
    });
    let (mut own, mut words, mut turns, mut entries) = (vec![], vec![], 0, 0);
    while own.len() < each || words.len() < each || tasks.iter().any(|task| !task.is_finished()) {
        let turn = host.turn();
        own.extend(turn.own);
        words.append(&mut seen());
        entries += turn.entries;
        turns += 1;
        tick();
    }
    join(vec![poster, owner]);
    let all: Vec<_> = (0..each).collect();
    assert_eq!((&own, &words), (&all, &all));
    // Each wake-up has a cause: an entry, an event of the host's, a timer.
    let causes = entries + own.len() + timers;
    assert!(turns <= 2 * causes + 16, "{turns} turns, {causes} causes");
    while !host.is_quiet_for(Duration::ZERO) {}
    assert_eq!(seen(), []);
}

/// Posts, I/O and timers, taken by so many threads of the host's and so many in `run`.
fn share(hosts: usize, runners: usize) {
    let (host, each) = (Host::new(), scaled(5000));
    let port = host.port().clone();
    let (words, done) = (
        Arc::<Mutex<Vec<usize>>>::default(),
        Arc::new(Counter::new()),
    );
    let pool = workers(&port, runners);
    let loops: Vec<_> = (0..hosts)
        .map(|_| {
            let host = host.clone();
            spawn(move || {
                let mut own = Vec::new();
                while own.last() != Some(&QUIT) {
                    own.extend(host.turn().own);
                    tick();
                }
                // For the next thread.
                host.send(QUIT);
                own
            })
        })
        .collect();
    for task in 0..4 {
        let (port, done) = (port.clone(), done.clone());
        let inner = port.clone();
        let task = port.spawn(async move {
            match task {
                0 => naps(inner, 30).await,
                1 => exit_of_a_child(inner).await,
                _ => ping_pong(inner, each / 10).await,
            }
            done.add(1);
        });
        task.detach();
    }
    for word in 0..each {
        let (words, done) = (words.clone(), done.clone());
        let post = move || {
            words.lock().unwrap().push(word);
            done.add(1);
        };
        port.post_fn(post).map_err(|refused| refused.error).unwrap();
        if word % 10 == 0 {
            host.send(word);
        }
    }
    done.wait_for(each + 4);
    host.send(QUIT);
    let mut own: Vec<_> = join(loops).concat();
    pool.finish();
    own.retain(|&word| word != QUIT);
    own.sort_unstable();
    let sent: Vec<_> = (0..each).step_by(10).collect();
    assert_eq!(own, sent);
    let mut words = words.lock().unwrap();
    words.sort_unstable();
    assert_eq!(*words, (0..each).collect::<Vec<_>>());
    assert_eq!(port.foreign_packets(), 0);
}

fn nested_two_host_threads_share_a_port() {
    share(2, 0);
}

fn nested_blocked_dispatchers_go_on_beside_a_host() {
    // Threads in `run` take the host's packets too, on Windows, so those do not count here.
    let host = Host::new();
    let port = host.port().clone();
    let each = scaled(5000);
    let taken = Arc::new(Counter::new());
    let pool = workers(&port, 2);
    let looping = spawn({
        let (host, taken) = (host.clone(), taken.clone());
        move || {
            let mut entries = 0;
            while taken.get() < each + 2 {
                entries += host.turn().entries;
                tick();
            }
            entries
        }
    });
    for rounds in [each / 20, each / 10] {
        let (inner, taken) = (port.clone(), taken.clone());
        let task = port.spawn(async move {
            ping_pong(inner.clone(), rounds).await;
            naps(inner, 20).await;
            taken.add(1);
        });
        task.detach();
    }
    for _ in 0..each {
        let taken = taken.clone();
        let post = move || taken.add(1);
        port.post_fn(post).map_err(|refused| refused.error).unwrap();
    }
    taken.wait_for(each + 2);
    pool.finish();
    // The host may be asleep, without anything left to wait for.
    port.wake_one().unwrap();
    looping.join().unwrap();
    assert_eq!(taken.get(), each + 2);
    assert_eq!(port.foreign_packets(), 0);
}

fn nested_a_host_is_not_woken_for_nothing() {
    let host = Host::new();
    let port = host.port().clone();
    let (here, _there) = pair();
    let here = TcpStream::from_std(&port, Arc::into_inner(here).unwrap()).unwrap();
    let receiving = port.spawn(async move { here.read(vec![0; 8]).await.0.is_ok() });
    let napping = port.spawn(port.sleep(Duration::from_secs(3600)));
    // The tasks begin.
    while !host.is_quiet_for(Duration::ZERO) {}
    for _ in 0..3 {
        // A pending receive and a timer that is far away are no reasons.
        assert!(host.is_quiet_for(Duration::from_millis(20)));
    }
    port.post(5, note).unwrap();
    assert_eq!(host.turn().entries, 1);
    assert_eq!(seen(), [5]);
    while !host.is_quiet_for(Duration::ZERO) {}
    assert!(host.is_quiet_for(Duration::from_millis(20)));
    assert!(!receiving.is_finished() && !napping.is_finished());
}

/// A thread of the host's that takes turns for as long as it is told to; returns when it waits.
fn waiting(
    host: &Arc<Host>,
    go_on: impl Fn(&Turn) -> bool + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let (tell, told) = std::sync::mpsc::channel();
    let looping = spawn({
        let host = host.clone();
        move || {
            tell.send(Seat::here()).unwrap();
            while go_on(&host.turn()) {}
        }
    });
    let seat = told.recv().unwrap();
    // On Windows a host that waits counts as asleep.
    spin_until(|| cfg!(not(windows)) || host.port().stats().sleeping > 0);
    seat.until_asleep();
    looping
}

struct Tell(Counter);

impl Wake for Tell {
    fn wake(self: Arc<Self>) {
        self.0.add(1);
    }
}

fn nested_a_timer_that_is_set_meanwhile_ends_the_hosts_wait() {
    let host = Host::new();
    let port = host.port().clone();
    for round in 0..scaled(100) {
        let told = Arc::new(Tell(Counter::new()));
        let waiting = waiting(&host, {
            let told = told.clone();
            move |turn| {
                assert!(!turn.closed);
                told.0.get() == 0
            }
        });
        let waker = Waker::from(told);
        // Far, then near: the wait that was begun for the one has to end for the other.
        let mut sleeps = [3_600_000, round as u64 % 4].map(|ms| {
            let sleep = port.sleep(Duration::from_millis(ms));
            Box::pin(sleep)
        });
        for sleep in &mut sleeps {
            let polled = sleep.as_mut().poll(&mut Context::from_waker(&waker));
            if polled.is_ready() {
                waker.wake_by_ref();
                host.send(0);
            }
        }
        waiting.join().unwrap();
        tick();
    }
}

fn nested_a_run_ends_although_a_host_took_its_last_operation() {
    for round in 0..scaled(200) {
        let host = Host::new();
        let port = host.port();
        let (here, there) = attached_pair(port);
        let op = Op::hooked(1, move |_, _, _| pause(round % 64 * 100));
        op.recv(port, &here).unwrap();
        // Who waits first is served first by some systems, and last by others.
        let hosting = |host| waiting(host, |turn| !turn.own.contains(&QUIT));
        let first = (round % 2 == 0).then(|| hosting(&host));
        let running = sleepers(port, 1, |port| port.run().unwrap());
        let hosting = first.unwrap_or_else(|| hosting(&host));
        std::io::Write::write_all(&mut &*there, b"x").unwrap();
        let taken = join(running)[0];
        host.send(QUIT);
        hosting.join().unwrap();
        assert_eq!(op.calls(), 1);
        assert!(taken <= 1);
        tick();
    }
}

fn nested_closing_releases_a_host_that_waits() {
    for _ in 0..scaled(50) {
        let host = Host::new();
        let waiting = waiting(&host, |turn| !turn.closed);
        host.port().clone().close().unwrap();
        waiting.join().unwrap();
        tick();
    }
}
