//! Windows' named pipes: servers, clients, messages.

use std::{
    io::{self, ErrorKind},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use futures_lite::future::{block_on, poll_once};
use longshore::{
    Dispatcher, Error,
    os::windows::pipe::{
        Access, ClientOptions, Connection, Received, Server, ServerOptions, Stream,
    },
};

use crate::{
    harness::{Test, port, scaled, tick},
    io_things::{pattern, under_wine, workers},
};

pub const TESTS: &[Test] = tests![
    pipe_several_instances_echo_at_once,
    pipe_a_client_that_comes_before_the_connect_is_met,
    pipe_a_client_that_has_left_again_leaves_its_bytes,
    pipe_a_busy_client_waits_and_gets_in,
    pipe_a_client_that_gets_no_instance_says_so,
    pipe_messages_keep_their_boundaries,
    pipe_a_message_too_long_for_the_buffer_comes_in_pieces,
    pipe_empty_messages_are_no_end,
    pipe_messages_can_be_read_as_bytes,
    pipe_what_has_no_messages_neither_sends_nor_receives_them,
    pipe_bytes_go_the_way_they_may,
    pipe_only_one_instance_is_the_first
        .skip(|| under_wine("it makes further instances all the same")),
    pipe_there_are_no_more_instances_than_there_may_be,
    pipe_a_server_that_refuses_remote_clients_serves_local_ones,
];

/// A name of the test's own.
pub fn name() -> String {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let (process, number) = (std::process::id(), NAMES.fetch_add(1, SeqCst));
    format!(r"\\.\pipe\longshore-test-{process}-{number}")
}

pub fn connect(server: Server) -> impl Future<Output = Connection> {
    let connecting = server.connect();
    async { connecting.await.map_err(|(error, _)| error).unwrap() }
}

pub fn code(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or_default()
}

/// A server's end and a client's.
pub fn connected(port: &Dispatcher, messages: bool) -> (Connection, Stream) {
    let name = name();
    let server = ServerOptions::new().messages(messages).create(port, &name);
    let mut options = ClientOptions::new();
    let client = port.block_on(options.messages(messages).open(port, &name));
    let server = port.block_on(connect(server.unwrap())).unwrap();
    (server, client.unwrap().unwrap())
}

async fn echo(client: Connection) -> usize {
    let mut echoed = 0;
    loop {
        let (count, buffer) = client.read(Vec::with_capacity(512)).await;
        match count.unwrap() {
            0 => return echoed,
            count => echoed += count,
        }
        client.write_all(buffer).await.0.unwrap();
    }
}

/// Eight instances serve 32 clients, which find the pipe busy.
fn pipe_several_instances_echo_at_once() {
    let port = port();
    let pool = workers(&port, 2);
    let name = name();
    let mut options = ServerOptions::new();
    options.max_instances(8).first_instance(true);
    let first = options.create(&port, &name).unwrap();
    let mut servers: Vec<_> = (1..8).map(|_| first.another().unwrap()).collect();
    assert_eq!(code(&first.another().unwrap_err()), 231, "there are eight");
    servers.push(first);
    let serving: Vec<_> = servers
        .into_iter()
        .map(|mut server| {
            port.spawn(async move {
                let mut echoed = 0;
                for _ in 0..4 {
                    // Any client, as many as there are for each.
                    let client = connect(server).await;
                    loop {
                        let (count, buffer) = client.read(Vec::with_capacity(512)).await;
                        match count.unwrap() {
                            0 => break,
                            count => echoed += count,
                        }
                        client.write_all(buffer).await.0.unwrap();
                    }
                    server = client.disconnect().unwrap();
                }
                echoed
            })
        })
        .collect();
    let rounds = scaled(200);
    let clients: Vec<_> = (0..32)
        .map(|number| {
            let (port, name) = (port.clone(), name.clone());
            port.clone().spawn(async move {
                let mut options = ClientOptions::new();
                options.busy_timeout(Duration::MAX);
                let client = options.open(&port, &name).await.unwrap();
                let mut sent = 0;
                for round in 0..rounds {
                    let bytes = pattern(number + round, 1 + round * 7 % 900);
                    sent += bytes.len();
                    client.write_all(bytes.clone()).await.0.unwrap();
                    let mut got = Vec::new();
                    while got.len() < bytes.len() {
                        let (count, buffer) = client.read(Vec::with_capacity(900)).await;
                        assert!(count.unwrap() > 0);
                        got.extend(buffer);
                    }
                    assert_eq!(got, bytes);
                }
                sent
            })
        })
        .collect();
    let count = |task| {
        tick();
        block_on::<Result<usize, _>>(task).unwrap()
    };
    let sent: usize = clients.into_iter().map(count).sum();
    let echoed: usize = serving.into_iter().map(count).sum();
    assert_eq!(echoed, sent);
    pool.finish();
    assert_eq!(port.in_flight(), 0);
}

fn pipe_a_client_that_comes_before_the_connect_is_met() {
    let port = port();
    let name = name();
    let mut server = ServerOptions::new().create(&port, &name).unwrap();
    for is_early in [true, false, true, false] {
        let mut connecting = None;
        if !is_early {
            connecting = Some(server.connect());
            let polled = port.block_on(poll_once(connecting.as_mut().unwrap()));
            assert!(polled.unwrap().is_none(), "there is nobody yet");
            server = ServerOptions::new().create(&port, &name).unwrap();
        }
        let client = port.block_on(ClientOptions::new().open(&port, &name));
        let client = client.unwrap().unwrap();
        let (connection, next) = match connecting {
            Some(connecting) => {
                let connection = port.block_on(connecting).unwrap().unwrap();
                (connection, server)
            }
            None => {
                let next = server.another().unwrap();
                (port.block_on(connect(server)).unwrap(), next)
            }
        };
        server = next;
        port.block_on(client.write("hi")).unwrap().0.unwrap();
        assert_eq!(
            port.block_on(connection.read([0; 4])).unwrap().0.unwrap(),
            2
        );
        assert!(
            !port.try_dispatch().unwrap(),
            "one completion for each connect"
        );
    }
    assert_eq!(port.in_flight(), 0);
}

fn pipe_a_client_that_has_left_again_leaves_its_bytes() {
    let port = port();
    let name = name();
    for bytes in ["left behind", ""] {
        // It lets clients in from the moment when it is made.
        let server = ServerOptions::new().create(&port, &name).unwrap();
        let client = port.block_on(ClientOptions::new().open(&port, &name));
        let client = client.unwrap().unwrap();
        port.block_on(client.write(bytes)).unwrap().0.unwrap();
        drop(client);
        let connection = port.block_on(connect(server)).unwrap();
        if !bytes.is_empty() {
            let (count, buffer) = port.block_on(connection.read([0; 16])).unwrap();
            assert_eq!(&buffer[..count.unwrap()], bytes.as_bytes());
        }
        assert_eq!(
            port.block_on(connection.read([0; 4])).unwrap().0.unwrap(),
            0
        );
        // The instance is as good as new.
        let connecting = connect(connection.disconnect().unwrap());
        let client = port.block_on(ClientOptions::new().open(&port, &name));
        let connection = port.block_on(connecting).unwrap();
        drop(client);
        assert_eq!(
            port.block_on(connection.read([0; 4])).unwrap().0.unwrap(),
            0
        );
    }
}

fn pipe_a_busy_client_waits_and_gets_in() {
    let port = port();
    let name = name();
    let mut options = ServerOptions::new();
    let server = options.max_instances(1).create(&port, &name).unwrap();
    let first = port.block_on(ClientOptions::new().open(&port, &name));
    let connection = port.block_on(connect(server)).unwrap();
    let mut opening = std::pin::pin!(async {
        let mut options = ClientOptions::new();
        options.busy_timeout(Duration::MAX).open(&port, &name).await
    });
    // Dispatches until the port's timer has run for it, so that it was refused at least twice.
    for _ in 0..2 {
        let pause = port.sleep(Duration::from_millis(10));
        let polled = port.block_on(futures_lite::future::or(
            async {
                pause.await.unwrap();
                true
            },
            async {
                let _ = (&mut opening).await;
                false
            },
        ));
        assert!(polled.unwrap(), "there is no instance for it");
    }
    drop(first);
    let server = connection.disconnect().unwrap();
    let connecting = connect(server);
    let second = port.block_on(opening).unwrap().unwrap();
    let connection = port.block_on(connecting).unwrap();
    port.block_on(second.write("in")).unwrap().0.unwrap();
    assert_eq!(
        port.block_on(connection.read([0; 4])).unwrap().0.unwrap(),
        2
    );
}

fn pipe_a_client_that_gets_no_instance_says_so() {
    let port = port();
    let name = name();
    let nobody = port.block_on(ClientOptions::new().open(&port, &name));
    assert_eq!(nobody.unwrap().unwrap_err().kind(), ErrorKind::NotFound);
    let mut options = ServerOptions::new();
    let _server = options.max_instances(1).create(&port, &name).unwrap();
    let _first = port
        .block_on(ClientOptions::new().open(&port, &name))
        .unwrap();
    for limit_ms in [0, 5] {
        let mut options = ClientOptions::new();
        options.busy_timeout(Duration::from_millis(limit_ms));
        let begun = std::time::Instant::now();
        let busy = port.block_on(options.open(&port, &name)).unwrap();
        assert_eq!(code(&busy.unwrap_err()), 231);
        assert!(
            begun.elapsed() >= Duration::from_millis(limit_ms),
            "not early"
        );
    }
    let folder = tempfile::NamedTempFile::new().unwrap();
    let no_pipe = port.block_on(ClientOptions::new().open(&port, folder.path()));
    assert_eq!(
        Error::of(&no_pipe.unwrap().unwrap_err()),
        Some(Error::WrongKind)
    );
    let wrong = ServerOptions::new().create(&port, r"C:\no pipe");
    assert!(wrong.is_err());
    let zero = ServerOptions::new().create(&port, "\\\\.\\pipe\\a\0b");
    assert_eq!(zero.unwrap_err().kind(), ErrorKind::InvalidInput);
}

fn pipe_messages_keep_their_boundaries() {
    let port = port();
    let (server, client) = connected(&port, true);
    port.block_on(async {
        for (from, to) in [(&client, &*server), (&*server, &client)] {
            // At hand when they are received, and awaited.
            for message in ["one", "three", "two"] {
                from.send(message).await.0.unwrap();
            }
            for message in ["one", "three", "two"] {
                let (received, buffer) = to.receive(vec![0; 64]).await;
                let len = message.len();
                assert_eq!(received.unwrap(), Received { len, more: false });
                assert_eq!(&buffer[..len], message.as_bytes());
            }
            let waiting = to.receive(vec![0; 64]);
            assert_eq!(
                from.write("late").await.0.unwrap(),
                4,
                "a write is a message"
            );
            from.write("later").await.0.unwrap();
            assert_eq!(waiting.await.0.unwrap().len, 4);
            assert_eq!(to.read(vec![0; 64]).await.0.unwrap(), 5, "a read reads one");
        }
    })
    .unwrap();
    drop(client);
    let (result, _) = port.block_on(server.receive(vec![0; 4])).unwrap();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert!(!port.try_dispatch().unwrap());
}

fn pipe_a_message_too_long_for_the_buffer_comes_in_pieces() {
    let port = port();
    let (server, client) = connected(&port, true);
    let message = pattern(4, 10_000);
    port.block_on(async {
        for is_waiting in [true, false] {
            let waiting = is_waiting.then(|| server.receive(vec![0; 4096]));
            client.send(message.clone()).await.0.unwrap();
            client.send("next").await.0.unwrap();
            let mut got = Vec::<u8>::new();
            let mut waiting = Some(waiting.unwrap_or_else(|| server.receive(vec![0; 4096])));
            while let Some(receive) = waiting.take() {
                let (received, buffer) = receive.await;
                let Received { len, more } = received.unwrap();
                assert_eq!(more, got.len() + len < message.len());
                got.extend(&buffer[..len]);
                waiting = more.then(|| server.receive(vec![0; 4096]));
            }
            assert!(got == message);
            assert_eq!(server.receive(vec![0; 4096]).await.0.unwrap().len, 4);
            // By bytes nothing is lost either.
            client.send("12345").await.0.unwrap();
            assert_eq!(server.read(vec![0; 3]).await.0.unwrap(), 3);
            assert_eq!(server.read(vec![0; 3]).await.0.unwrap(), 2);
        }
    })
    .unwrap();
    assert!(!port.try_dispatch().unwrap(), "one completion for each");
    assert_eq!(port.in_flight(), 0);
}

fn pipe_empty_messages_are_no_end() {
    let port = port();
    let (server, client) = connected(&port, true);
    port.block_on(async {
        let waiting = server.receive(vec![0; 4]);
        let (count, buffer) = client.send("").await;
        assert_eq!((count.unwrap(), buffer), (0, ""));
        let nothing = Received {
            len: 0,
            more: false,
        };
        assert_eq!(waiting.await.0.unwrap(), nothing);
        client.send("").await.0.unwrap();
        client.send("x").await.0.unwrap();
        assert_eq!(server.receive(vec![0; 4]).await.0.unwrap(), nothing);
        assert_eq!(server.receive(vec![0; 4]).await.0.unwrap().len, 1);
    })
    .unwrap();
}

fn pipe_messages_can_be_read_as_bytes() {
    let port = port();
    let name = name();
    let server = ServerOptions::new().messages(true).create(&port, &name);
    let client = port.block_on(ClientOptions::new().open(&port, &name));
    let (server, client) = (server.unwrap(), client.unwrap().unwrap());
    port.block_on(async {
        let server = connect(server).await;
        server.send("abc").await.0.unwrap();
        server.send("def").await.0.unwrap();
        let (mut got, mut buffer) = (Vec::<u8>::new(), vec![0; 4]);
        while got.len() < 6 {
            let count;
            (count, buffer) = client.read(buffer).await;
            got.extend(&buffer[..count.unwrap()]);
        }
        assert_eq!(got, b"abcdef");
    })
    .unwrap();
}

fn pipe_what_has_no_messages_neither_sends_nor_receives_them() {
    let port = port();
    let (server, client) = connected(&port, false);
    let (result, buffer) = port.block_on(client.send("x")).unwrap();
    assert_eq!(Error::of(&result.unwrap_err()), Some(Error::WrongKind));
    assert_eq!(buffer, "x");
    let (result, _) = port.block_on(server.receive(vec![0; 4])).unwrap();
    assert_eq!(Error::of(&result.unwrap_err()), Some(Error::WrongKind));
    let name = name();
    let _bytes = ServerOptions::new().create(&port, &name).unwrap();
    let mut options = ClientOptions::new();
    let refused = port.block_on(options.messages(true).open(&port, &name));
    assert_eq!(code(&refused.unwrap().unwrap_err()), 87);
}

fn pipe_bytes_go_the_way_they_may() {
    let port = port();
    for (access, messages) in [
        (Access::Inbound, false),
        (Access::Outbound, false),
        (Access::Inbound, true),
        (Access::Outbound, true),
    ] {
        let name = name();
        let mut options = ServerOptions::new();
        let server = options.access(access).messages(messages);
        let server = server.create(&port, &name).unwrap();
        let refused = port.block_on(ClientOptions::new().open(&port, &name));
        let refused = refused.unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        let inbound = access == Access::Inbound;
        let mut options = ClientOptions::new();
        options
            .read(!inbound)
            .write(inbound)
            .messages(messages && !inbound);
        let client = port.block_on(options.open(&port, &name)).unwrap().unwrap();
        let server = port.block_on(connect(server)).unwrap();
        let (from, to) = match inbound {
            true => (&client, &*server),
            false => (&*server, &client),
        };
        port.block_on(async {
            from.write("so").await.0.unwrap();
            assert_eq!(to.read([0; 4]).await.0.unwrap(), 2);
            if messages {
                from.send("").await.0.unwrap();
                assert_eq!(to.receive([0; 4]).await.0.unwrap().len, 0);
            }
            assert!(to.write("not so").await.0.is_err());
            assert!(from.read([0; 4]).await.0.is_err());
        })
        .unwrap();
    }
}

fn pipe_only_one_instance_is_the_first() {
    let port = port();
    let name = name();
    let mut options = ServerOptions::new();
    options.first_instance(true);
    let first = options.create(&port, &name).unwrap();
    let refused = options.create(&port, &name).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    let another = first.another().unwrap();
    drop((first, another));
    options.create(&port, &name).unwrap();
}

fn pipe_there_are_no_more_instances_than_there_may_be() {
    let port = port();
    let name = name();
    let mut options = ServerOptions::new();
    options.max_instances(2);
    let first = options.create(&port, &name).unwrap();
    let second = first.another().unwrap();
    assert_eq!(code(&first.another().unwrap_err()), 231);
    drop(second);
    first.another().unwrap();
    let none = ServerOptions::new()
        .max_instances(0)
        .create(&port, name.clone() + "0");
    assert_eq!(none.unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// That the flag is set by default is seen in `sys/pipe/named.rs`; no call tells it of a pipe.
fn pipe_a_server_that_refuses_remote_clients_serves_local_ones() {
    let port = port();
    for reject in [true, false] {
        let name = name();
        let mut options = ServerOptions::new();
        let server = options.reject_remote(reject).create(&port, &name).unwrap();
        let client = port.block_on(ClientOptions::new().open(&port, &name));
        let server = port.block_on(connect(server)).unwrap();
        let serving = port.spawn(echo(server));
        let client = client.unwrap().unwrap();
        port.block_on(client.write("local")).unwrap().0.unwrap();
        assert_eq!(port.block_on(client.read([0; 8])).unwrap().0.unwrap(), 5);
        drop(client);
        assert_eq!(port.block_on(serving).unwrap().unwrap(), 5);
    }
}
