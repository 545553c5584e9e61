//! Hosts on Windows: a loop that takes the packets from a port of its own.
// UNSAFETY: waits for the port with a system call.
#![expect(unsafe_code)]

use std::{
    os::windows::io::{AsRawHandle, OwnedHandle},
    sync::{Arc, Mutex},
    task::{Context, Waker},
    time::{Duration, Instant},
};

use longshore::{Dispatcher, Packet};
use windows_sys::Win32::System::IO::{GetQueuedCompletionStatusEx, OVERLAPPED_ENTRY};

use crate::{
    adopt::{on_loan, raw_port},
    exported::post_raw,
    harness::{Test, port, scaled, spawn, tick},
    io::Op,
    io_things::attached_pair,
    nested::Turn,
    support::{
        assert_closed, fail, join, note, panic_of, passed_in_a_child, seen, sleepers, word_of,
    },
};

pub const TESTS: &[Test] = tests![
    nested_a_foreign_packet_comes_back_and_is_not_counted,
    nested_a_packet_is_dispatched_once,
    nested_a_packet_taken_before_closing_is_dispatched_after_it,
    nested_a_packet_in_a_hosts_hand_keeps_a_run_going_until_it_is_dispatched,
    nested_a_panic_passes_through_and_the_port_goes_on,
    nested_a_host_may_close_without_waiting_for_itself,
    nested_a_host_that_never_begins_a_wait_serves_timers_too,
    nested_the_exported_port_is_taken_from_as_well,
    nested_a_wait_says_how_long_it_may_last,
    nested_a_host_that_leaves_leaves_its_timer_to_another,
    nested_a_host_that_stays_away_is_told_of_at_closing,
];

/// The key of the host's own packets.
const OWN: usize = 0x0001_0001;

/// A loop around `GetQueuedCompletionStatusEx` on a port that was lent to longshore.
pub struct Host {
    dispatcher: Dispatcher,
    /// Closed after the dispatcher.
    port: OwnedHandle,
}

impl Host {
    pub fn new() -> Arc<Self> {
        let port = raw_port();
        let dispatcher = on_loan(&port);
        Arc::new(Self { dispatcher, port })
    }

    pub fn port(&self) -> &Dispatcher {
        &self.dispatcher
    }

    pub fn send(&self, word: usize) {
        post_raw(self.port.as_raw_handle(), (OWN, word, 0));
    }

    /// Waits once, and handles what there is.
    pub fn turn(&self) -> Turn {
        self.wait(u32::MAX)
    }

    /// Whether nothing ends a wait of this length.
    pub fn is_quiet_for(&self, time: Duration) -> bool {
        !self.wait(u32::try_from(time.as_millis()).unwrap()).woken
    }

    fn wait(&self, longest_ms: u32) -> Turn {
        let mut turn = Turn::default();
        let taken = match self.dispatcher.begin_wait() {
            Ok(wait) => take(&self.dispatcher, longest_ms.min(wait.timeout_ms())),
            closed => {
                assert_closed(closed.map(drop));
                turn.closed = true;
                return turn;
            }
        };
        turn.woken = !taken.is_empty();
        for packet in taken {
            match self.dispatcher.dispatch_packet(packet) {
                true => turn.entries += 1,
                false => {
                    assert_eq!(packet.key, OWN);
                    turn.own.push(packet.overlapped);
                }
            }
        }
        turn
    }
}

/// Up to 8 packets, taken behind longshore's back.
pub fn take(port: &Dispatcher, timeout_ms: u32) -> Vec<Packet> {
    let (mut entries, mut count) = ([OVERLAPPED_ENTRY::default(); 8], 0);
    // SAFETY: the port is open; entries and count are ours for the call.
    let taken = unsafe {
        GetQueuedCompletionStatusEx(
            port.as_raw_handle(),
            entries.as_mut_ptr(),
            8,
            &raw mut count,
            timeout_ms,
            0,
        )
    };
    let count = if taken == 0 { 0 } else { count as usize };
    let packet = |entry: &OVERLAPPED_ENTRY| Packet {
        key: entry.lpCompletionKey,
        overlapped: entry.lpOverlapped.addr(),
        bytes: entry.dwNumberOfBytesTransferred,
    };
    entries[..count].iter().map(packet).collect()
}

fn packet(key: usize, overlapped: usize, bytes: u32) -> Packet {
    Packet {
        key,
        overlapped,
        bytes,
    }
}

fn nested_a_foreign_packet_comes_back_and_is_not_counted() {
    let hooked = Arc::new(Mutex::new(0));
    let hook = hooked.clone();
    let port = crate::harness::builder()
        .on_foreign(move |_| *hook.lock().unwrap() += 1)
        .build()
        .unwrap();
    let idle = Op::new(4);
    let address = idle.context().as_ptr().addr();
    let strange = [
        packet(0, 0, 0),
        packet(0, 8, 1),
        packet(0, address, 4),
        packet(usize::MAX, 0, 0),
        packet(usize::MAX, 1, 2),
        packet(note as *const () as usize, 3, 0),
        packet(1, usize::MAX, u32::MAX),
    ];
    for packet in strange {
        assert!(!port.dispatch_packet(packet), "{packet:?}");
    }
    assert_eq!((port.foreign_packets(), *hooked.lock().unwrap()), (0, 0));
    assert_eq!((seen(), idle.calls()), (vec![], 0));
    assert!(!port.try_dispatch().unwrap());
}

fn nested_a_packet_is_dispatched_once() {
    let port = port();
    port.post(3, note).unwrap();
    let taken = take(&port, 0);
    assert_eq!(taken.len(), 1);
    assert!(port.dispatch_packet(taken[0]));
    assert!(!port.dispatch_packet(taken[0]), "a copy is foreign");
    assert_eq!(seen(), [3]);
    // An operation that goes on is not ended by a packet that says so.
    let (here, there) = attached_pair(&port);
    let op = Op::new(4);
    op.recv(&port, &here).unwrap();
    let address = op.context().as_ptr().addr();
    assert!(!port.dispatch_packet(packet(0, address, 4)));
    assert_eq!(op.calls(), 0);
    std::io::Write::write_all(&mut &*there, b"data").unwrap();
    let taken = take(&port, u32::MAX);
    assert_eq!(taken, [packet(0, address, 4)]);
    assert!(port.dispatch_packet(taken[0]));
    assert!(!port.dispatch_packet(taken[0]));
    assert_eq!(op.calls(), 1);
}

fn nested_a_packet_taken_before_closing_is_dispatched_after_it() {
    for _ in 0..scaled(50) {
        let host = Host::new();
        let (here, there) = attached_pair(host.port());
        let op = Op::new(4);
        op.recv(host.port(), &here).unwrap();
        host.port().post(5, note).unwrap();
        std::io::Write::write_all(&mut &*there, b"data").unwrap();
        let mut taken = Vec::new();
        while taken.len() < 2 {
            taken.extend(take(host.port(), u32::MAX));
        }
        let closing = spawn({
            let port = host.port().clone();
            move || port.close()
        });
        // The closing thread waits for both.
        while host.port().begin_wait().is_ok() {
            std::thread::yield_now();
        }
        for packet in taken {
            assert!(host.port().dispatch_packet(packet));
        }
        closing.join().unwrap().unwrap();
        assert_eq!((seen(), op.calls()), (vec![5], 1));
        tick();
    }
}

fn nested_a_packet_in_a_hosts_hand_keeps_a_run_going_until_it_is_dispatched() {
    for _ in 0..scaled(50) {
        let port = port();
        let (here, there) = attached_pair(&port);
        let op = Op::new(1);
        op.recv(&port, &here).unwrap();
        std::io::Write::write_all(&mut &*there, b"x").unwrap();
        let taken = take(&port, u32::MAX);
        let running = sleepers(&port, 1, |port| port.run().unwrap());
        assert!(!running[0].is_finished());
        assert!(port.dispatch_packet(taken[0]));
        assert_eq!((join(running), op.calls()), (vec![0], 1));
        tick();
    }
}

fn nested_a_panic_passes_through_and_the_port_goes_on() {
    let port = port();
    port.post(1, fail).unwrap();
    port.post(2, note).unwrap();
    let taken = take(&port, 0);
    assert_eq!(taken.len(), 2);
    let panic = panic_of(|| port.dispatch_packet(taken[0]));
    assert_eq!(word_of(&*panic), 1);
    assert!(port.dispatch_packet(taken[1]));
    assert_eq!(seen(), [2]);
    port.close().unwrap();
}

fn nested_a_host_may_close_without_waiting_for_itself() {
    let host = Host::new();
    let port = host.port().clone();
    host.port()
        .post_fn(move || port.close().unwrap())
        .map_err(|refused| refused.error)
        .unwrap();
    let begun = Instant::now();
    assert_eq!(host.turn().entries, 1);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(host.turn().closed);
    host.send(7);
    assert_eq!(take(host.port(), 0), [packet(OWN, 7, 0)]);
}

fn nested_a_host_that_never_begins_a_wait_serves_timers_too() {
    let port = port();
    let naps = port.spawn({
        let port = port.clone();
        async move {
            for _ in 0..20 {
                port.sleep(Duration::from_millis(1)).await.unwrap();
            }
        }
    });
    while !naps.is_finished() {
        for packet in take(&port, u32::MAX) {
            assert!(port.dispatch_packet(packet));
        }
    }
}

fn nested_the_exported_port_is_taken_from_as_well() {
    let port = port();
    for word in 0..100 {
        port.post(word, note).unwrap();
    }
    let mut count = 0;
    while count < 100 {
        for packet in take(&port, 0) {
            assert!(port.dispatch_packet(packet));
            count += 1;
        }
        count += usize::from(count < 100 && port.try_dispatch().unwrap());
    }
    assert_eq!(seen(), (0..100).collect::<Vec<_>>());
}

fn nested_a_wait_says_how_long_it_may_last() {
    let port = port();
    let wait = port.begin_wait().unwrap();
    assert_eq!((wait.deadline(), wait.timeout_ms()), (None, u32::MAX));
    drop(wait);
    let far = port.spawn(port.sleep(Duration::from_secs(1000)));
    let due = port.spawn(port.sleep(Duration::from_millis(1)));
    while port.try_dispatch().unwrap() {}
    loop {
        let wait = port.begin_wait().unwrap();
        let left = wait.timeout_ms();
        drop(wait);
        while port.try_dispatch().unwrap() {}
        if due.is_finished() {
            break;
        }
        assert!(left <= 1);
    }
    let left = port.begin_wait().unwrap().timeout_ms();
    assert!((900_000..=1_000_000).contains(&left), "{left}");
    assert!(!far.is_finished());
    port.clone().close().unwrap();
    assert_closed(port.begin_wait().map(drop));
}

fn nested_a_host_that_leaves_leaves_its_timer_to_another() {
    let port = port();
    let first = port.begin_wait().unwrap();
    let mut sleep = Box::pin(port.sleep(Duration::from_secs(1000)));
    let polled = sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    let mut told = take(&port, 0);
    assert_eq!(told.len(), 1, "who waits without a deadline hears of it");
    // That was taken by somebody else, who keeps the deadline and goes away.
    let second = port.begin_wait().unwrap();
    assert!(second.deadline().is_some());
    drop(second);
    told.extend(take(&port, 0));
    assert_eq!(told.len(), 2, "who still waits hears of it again");
    drop(first);
    for packet in told {
        assert!(port.dispatch_packet(packet));
    }
    assert_eq!(take(&port, 0), []);
}

fn nested_a_host_that_stays_away_is_told_of_at_closing() {
    if passed_in_a_child() {
        return;
    }
    let port = port();
    let wait = port.begin_wait().unwrap();
    let begun = Instant::now();
    let error = port.clone().close().unwrap_err();
    assert!(begun.elapsed() >= Duration::from_secs(4));
    let attempts: Vec<_> = error.failures().iter().map(|one| one.attempt()).collect();
    assert_eq!(attempts, ["release the waiting threads"]);
    drop(wait);
}
