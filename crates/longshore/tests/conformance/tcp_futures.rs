//! Who awaits a connection: any executor, one after the other, or nobody any more.

use std::{
    future::{Future, poll_fn},
    io::Write,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use futures_lite::future::block_on;
use longshore::{Dispatcher, net::TcpStream};

use crate::{
    harness::{Test, port, scaled, tick},
    io_things::{pattern, workers},
    pool::{Checked, Pool},
    support::pause,
    tcp::{listen, pair, serve},
};

pub const TESTS: &[Test] = tests![
    tcp_is_awaited_on_tokio,
    tcp_is_awaited_on_smol,
    tcp_is_awaited_on_futures_lite,
    tcp_is_awaited_on_an_executor_made_by_hand,
    tcp_a_future_may_be_polled_by_one_task_and_then_another,
    tcp_a_forgotten_future_is_harmless,
];

/// The same program, to be awaited by anybody.
async fn talk(port: Dispatcher) {
    let (listener, address) = listen(&port);
    let server = port.spawn(serve(port.clone(), listener, 1));
    let stream = TcpStream::connect(&port, address).await.unwrap();
    for i in 0..scaled(200) {
        let data = pattern(i, 1 + i * 7 % 3000);
        stream.write_all(data.clone()).await.0.unwrap();
        let mut got = Vec::new();
        while got.len() < data.len() {
            let (count, buffer) = stream.read(vec![0; 1000]).await;
            got.extend_from_slice(&buffer[..count.unwrap()]);
        }
        assert_eq!(got, data);
        if i % 50 == 0 {
            port.sleep(Duration::from_millis(1)).await.unwrap();
        }
    }
    drop(stream);
    server.await.unwrap();
}

fn tcp_is_awaited_on_tokio() {
    let port = port();
    let pool = workers(&port, 2);
    let tokio = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let local = tokio.spawn(talk(port.clone()));
    tokio.block_on(talk(port.clone()));
    tokio.block_on(local).unwrap();
    pool.finish();
}

fn tcp_is_awaited_on_smol() {
    let port = port();
    let pool = workers(&port, 2);
    let executor = smol::Executor::new();
    let other = executor.spawn(talk(port.clone()));
    smol::block_on(executor.run(async {
        talk(port.clone()).await;
        other.await;
    }));
    pool.finish();
}

fn tcp_is_awaited_on_futures_lite() {
    let port = port();
    let pool = workers(&port, 2);
    futures_lite::future::block_on(talk(port.clone()));
    let both = futures_lite::future::zip(talk(port.clone()), talk(port.clone()));
    futures_lite::future::block_on(both);
    pool.finish();
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn tcp_is_awaited_on_an_executor_made_by_hand() {
    let port = port();
    let pool = workers(&port, 2);
    let mut future = pin!(talk(port.clone()));
    loop {
        // A new waker for each poll: the last one counts.
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        if let Poll::Ready(()) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            break;
        }
        thread::park();
    }
    pool.finish();
}

fn tcp_a_future_may_be_polled_by_one_task_and_then_another() {
    let port = port();
    let pool = workers(&port, 1);
    let (stream, mut peer) = pair(&port);
    for round in 0..scaled(500) {
        let mut read = stream.read(vec![0; 1]);
        assert!(block_on(futures_lite::future::poll_once(&mut read)).is_none());
        let task = port.spawn(read);
        // While the other task takes over.
        pause(round % 50 * 20);
        peer.write_all(&[round as u8]).unwrap();
        let (count, buffer) = block_on(task).unwrap();
        assert_eq!((count.unwrap(), buffer[0]), (1, round as u8));
        tick();
    }
    pool.finish();
}

fn tcp_a_forgotten_future_is_harmless() {
    fn forget(port: &Dispatcher, stream: &TcpStream, buffer: Checked) {
        let mut read = Box::new(stream.read(buffer));
        let polled = block_on(poll_fn(|context| {
            Poll::Ready(Pin::new(&mut read).poll(context).is_ready())
        }));
        assert!(!polled);
        std::mem::forget(read);
        assert!(!port.try_dispatch().unwrap());
    }
    let port = port();
    let (stream, mut peer) = pair(&port);
    let buffers = Pool::default();
    forget(&port, &stream, buffers.take(8));
    // It is still in flight, and gets the data; its buffer is never given up.
    peer.write_all(b"x").unwrap();
    while port.in_flight() > 0 {
        port.dispatch().unwrap();
    }
    peer.write_all(b"y").unwrap();
    let (count, buffer) = port.block_on(stream.read(vec![0; 8])).unwrap();
    assert_eq!(&buffer[..count.unwrap()], b"y");
    forget(&port, &stream, buffers.take(8));
    port.close().unwrap();
    assert_eq!(buffers.verify(), 0);
}
