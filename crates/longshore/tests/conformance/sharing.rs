//! One port, many threads, and none of its own: D1, and how a port is opened.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use longshore::{Backend, Dispatcher, Error};

use crate::{
    harness::{Counter, Test, backend, builder, port, tick},
    support::{join, note, passed_in_a_child, rounds, seen, sleepers},
    threads,
};

pub const TESTS: &[Test] = tests![
    d01_a_dispatcher_is_send_and_sync,
    d01_many_threads_do_everything_on_one_port,
    d01_global_is_one_object,
    d01_no_thread_runs_in_the_background,
    d01_a_backend_is_chosen_by_name,
    d01_a_backend_of_another_system_is_refused,
    d01_a_hundred_ports_are_strangers_to_each_other,
];

fn d01_a_dispatcher_is_send_and_sync() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    let port = port();
    shared(&port);
    // Borrowed by scoped threads, not cloned.
    thread::scope(|scope| {
        scope.spawn(|| port.post(1, note).unwrap());
        scope.spawn(|| {
            port.dispatch().unwrap();
            assert_eq!(seen(), [1]);
        });
    });
}

fn d01_many_threads_do_everything_on_one_port() {
    const THREADS: usize = 6;
    let each = rounds(6000);
    let (port, ran) = (port(), Arc::new(AtomicUsize::new(0)));
    let (count, entered) = (ran.clone(), Arc::new(Counter::new()));
    let threads = sleepers(&port, THREADS, move |port| {
        let mut entries = 0;
        for _ in 0..each {
            let count = count.clone();
            port.post_fn(move || _ = count.fetch_add(1, Ordering::Relaxed))
                .unwrap();
            port.wake_one().unwrap();
            port.dispatch().unwrap();
            entries += 1 + usize::from(port.try_dispatch().unwrap());
            tick();
        }
        entered.add(1);
        entries
    });
    let mut entries: usize = join(threads).into_iter().sum();
    while port.try_dispatch().unwrap() {
        entries += 1;
    }
    assert_eq!(ran.load(Ordering::Relaxed), THREADS * each);
    assert_eq!(entries, 2 * THREADS * each, "a closure and a wake each");
}

fn d01_global_is_one_object() {
    let here: &'static Dispatcher = Dispatcher::global().unwrap();
    let address = std::ptr::from_ref(here).addr();
    let threads: Vec<_> = (0..4)
        .map(|_| thread::spawn(|| std::ptr::from_ref(Dispatcher::global().unwrap()).addr()))
        .collect();
    assert!(join(threads).into_iter().all(|there| there == address));
    assert_eq!(here.backend(), Backend::default());
    Dispatcher::global().unwrap().post(1, note).unwrap();
    here.dispatch().unwrap();
    assert_eq!(seen(), [1]);
}

fn d01_no_thread_runs_in_the_background() {
    if passed_in_a_child() {
        return;
    }
    // Whatever a first port brings up would stay.
    let first = threads::count();
    let port = port();
    for word in 0..1000 {
        port.post(word, note).unwrap();
        port.wake_one().unwrap();
    }
    assert_eq!(threads::count(), first);
    while port.try_dispatch().unwrap() {}
    assert!(
        !port
            .dispatch_timeout(std::time::Duration::from_millis(1))
            .unwrap()
    );
    assert_eq!(threads::count(), first);
    let waiting = sleepers(&port, 2, |port| port.dispatch());
    assert_eq!(threads::count(), first + 2);
    port.wake_one().unwrap();
    port.wake_one().unwrap();
    join(waiting).into_iter().for_each(|result| result.unwrap());
    port.post_fn(|| unreachable!("dropped, not run")).unwrap();
    port.close().unwrap();
    threads::until(first);
}

fn d01_a_backend_is_chosen_by_name() {
    for &offered in Backend::available() {
        assert_eq!(offered.to_string().parse(), Ok(offered));
    }
    assert!(Backend::available().contains(&backend()));
    assert_eq!(port().backend(), backend());
    for unknown in ["", "kqueue", "IOCP", "epoll ", "iocp,epoll"] {
        assert_eq!(unknown.parse::<Backend>(), Err(Error::NoSuchBackend));
    }
}

fn d01_a_backend_of_another_system_is_refused() {
    for other in [Backend::Iocp, Backend::Epoll] {
        if Backend::available().contains(&other) {
            continue;
        }
        let refused = builder().backend(other).build().unwrap_err();
        assert_eq!(Error::of(&refused), Some(Error::NoSuchBackend));
        assert_eq!(refused.kind(), std::io::ErrorKind::Unsupported);
        assert_eq!(
            other.to_string().parse::<Backend>(),
            Err(Error::NoSuchBackend)
        );
    }
}

fn d01_a_hundred_ports_are_strangers_to_each_other() {
    let ports: Vec<_> = (0..100).map(|_| port()).collect();
    for (word, port) in ports.iter().enumerate() {
        port.post(word, note).unwrap();
    }
    for (word, port) in ports.iter().enumerate().rev() {
        assert!(port.try_dispatch().unwrap());
        assert!(!port.try_dispatch().unwrap());
        assert_eq!(seen(), [word]);
    }
}
