//! Windows' named pipes: how connections and waits for them end, and servers with Contexts.
// UNSAFETY: makes a server's end that no queue has.
#![expect(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, PipeReader, Write},
    os::windows::{
        fs::OpenOptionsExt,
        io::{FromRawHandle, OwnedHandle},
    },
    pin::pin,
    ptr,
    sync::Arc,
    time::Duration,
};

use futures_lite::future::{block_on, poll_once, zip};
use longshore::{
    ABORTED, Dispatcher, Error, Submission,
    os::windows::pipe::{ClientOptions, ServerOptions, Stream},
    pipe,
};
use windows_sys::Win32::{
    Foundation::INVALID_HANDLE_VALUE,
    Storage::FileSystem::{FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX},
    System::Pipes::{
        CreateNamedPipeW, DisconnectNamedPipe, PIPE_READMODE_MESSAGE, PIPE_TYPE_MESSAGE,
    },
};

use crate::{
    harness::{Test, port, scaled, tick},
    io::{Op, refusal},
    io_things::workers,
    pipe_named::{code, connect, connected, name},
    support::assert_closed,
};

pub const TESTS: &[Test] = tests![
    pipe_an_instance_serves_one_client_after_another_and_mixes_nothing,
    pipe_a_disconnected_client_is_told,
    pipe_a_cancelled_connect_gives_the_server_back,
    pipe_a_dropped_connect_closes_its_instance,
    pipe_a_cancelled_receive_leaves_the_message_to_the_next,
    pipe_closing_ends_connects_and_connections,
    pipe_flush_waits_until_everything_was_read,
    pipe_what_was_written_outlives_the_writing_end,
    pipe_an_empty_message_does_not_end_a_read_to_the_end,
    pipe_contexts_wait_for_clients_and_end_once,
    pipe_contexts_tell_messages_their_pieces_and_their_end,
];

/// D16: a read is outstanding whenever a client is sent away.
fn pipe_an_instance_serves_one_client_after_another_and_mixes_nothing() {
    let port = port();
    let pool = workers(&port, 1);
    let name = name();
    let mut options = ServerOptions::new();
    let mut server = options.max_instances(1).create(&port, &name).unwrap();
    for turn in 0..scaled(200) {
        let connecting = connect(server);
        let mut client = client_of_std(&name);
        let connection = block_on(connecting);
        // Every other client says something that nobody waits for any more.
        let (first, stale) = (connection.read(vec![0; 16]), connection.read(vec![0; 16]));
        client.write_all(&turn.to_ne_bytes()).unwrap();
        let (count, buffer) = block_on(first);
        assert_eq!(&buffer[..count.unwrap()], turn.to_ne_bytes());
        if turn % 2 == 0 {
            client.write_all(b"stale").unwrap();
        }
        server = connection.disconnect().unwrap();
        // What the stale read has is of its own client: its bytes, its end, or that it was sent away.
        let (count, buffer) = block_on(stale);
        match count {
            Ok(count) => assert_eq!((turn % 2, &buffer[..count]), (0, &b"stale"[..])),
            Err(error) => assert_eq!(code(&error), 233),
        }
        drop(client);
        tick();
    }
    pool.finish();
    assert_eq!(port.in_flight(), 0);
}

fn pipe_a_disconnected_client_is_told() {
    let port = port();
    let (server, client) = connected(&port, false);
    let reading = client.read(vec![7; 4]);
    let server = server.disconnect().unwrap();
    let (result, buffer) = port.block_on(reading).unwrap();
    assert_eq!((code(&result.unwrap_err()), buffer), (233, vec![7; 4]));
    let (result, _) = port.block_on(client.write("x")).unwrap();
    assert_eq!(code(&result.unwrap_err()), 233);
    drop(server);
}

fn pipe_a_cancelled_connect_gives_the_server_back() {
    let port = port();
    let name = name();
    let mut server = ServerOptions::new().create(&port, &name).unwrap();
    for _ in 0..4 {
        let connecting = server.connect();
        connecting.cancel();
        let error;
        (error, server) = port.block_on(connecting).unwrap().unwrap_err();
        assert_eq!(code(&error), ABORTED as i32);
    }
    let connecting = server.connect();
    let client = port.block_on(ClientOptions::new().open(&port, &name));
    let client = client.unwrap().unwrap();
    connecting.cancel();
    let connection = port.block_on(connecting).unwrap().unwrap();
    port.block_on(client.write("in time")).unwrap().0.unwrap();
    assert_eq!(
        port.block_on(connection.read([0; 8])).unwrap().0.unwrap(),
        7
    );
}

fn pipe_a_dropped_connect_closes_its_instance() {
    let port = port();
    let name = name();
    let server = ServerOptions::new()
        .first_instance(true)
        .create(&port, &name);
    drop(server.unwrap().connect());
    while port.in_flight() > 0 {
        port.dispatch().unwrap();
    }
    let gone = port.block_on(ClientOptions::new().open(&port, &name));
    assert_eq!(gone.unwrap().unwrap_err().kind(), ErrorKind::NotFound);
}

fn pipe_a_cancelled_receive_leaves_the_message_to_the_next() {
    let port = port();
    let (server, client) = connected(&port, true);
    for _ in 0..scaled(100) {
        let cancelled = server.receive(vec![1; 8]);
        cancelled.cancel();
        let (result, buffer) = port.block_on(cancelled).unwrap();
        assert_eq!(code(&result.unwrap_err()), ABORTED as i32);
        assert_eq!(buffer, [1; 8]);
        drop(server.receive(vec![2; 8]));
        while port.in_flight() > 0 {
            port.dispatch().unwrap();
        }
        port.block_on(client.send("whole")).unwrap().0.unwrap();
        let (received, buffer) = port.block_on(server.receive(vec![0; 8])).unwrap();
        assert_eq!(&buffer[..received.unwrap().len], b"whole");
        tick();
    }
}

fn pipe_closing_ends_connects_and_connections() {
    let port = port();
    let (server, client) = connected(&port, true);
    let name = name();
    let waiting = ServerOptions::new().create(&port, &name).unwrap().connect();
    let (reading, receiving) = (client.read(vec![1; 4]), server.receive(vec![2; 4]));
    let first = client_of_std(&name);
    let mut opening = Box::pin(async {
        let mut options = ClientOptions::new();
        options.busy_timeout(Duration::MAX).open(&port, &name).await
    });
    // It waits for an instance, between two tries or within one.
    let polled = port.block_on(port.timeout(Duration::from_millis(5), &mut opening));
    assert!(polled.unwrap().is_err());
    port.clone().close().unwrap();
    let (result, buffer) = block_on(reading);
    assert_eq!(code(&result.unwrap_err()), ABORTED as i32);
    assert_eq!(buffer, [1; 4]);
    let (result, buffer) = block_on(receiving);
    assert_eq!(code(&result.unwrap_err()), ABORTED as i32);
    assert_eq!(buffer, [2; 4]);
    assert_closed(block_on(opening));
    if let Err((_, server)) = block_on(waiting) {
        let (error, _) = block_on(server.connect()).unwrap_err();
        assert_eq!(Error::of(&error), Some(Error::Closed));
    }
    assert_closed(block_on(client.send("late")).0);
    assert_closed(ServerOptions::new().create(&port, &name));
    assert_closed(block_on(ClientOptions::new().open(&port, &name)));
    drop(first);
}

fn pipe_flush_waits_until_everything_was_read() {
    let port = port();
    let (server, client) = connected(&port, false);
    port.block_on(server.write("to be read"))
        .unwrap()
        .0
        .unwrap();
    let mut flushing = server.flush();
    for count in [3, 3] {
        let polled = port.block_on(poll_once(&mut flushing)).unwrap();
        assert!(polled.is_none(), "not everything was read yet");
        let read = port.block_on(client.read(vec![0; count])).unwrap();
        assert_eq!(read.0.unwrap(), count);
    }
    let both = zip(flushing, client.read(vec![0; 16]));
    let (flushed, (count, _)) = port.block_on(both).unwrap();
    flushed.unwrap();
    assert_eq!(count.unwrap(), 4);
    let server = server.disconnect().unwrap();
    drop((server, client));
}

fn pipe_what_was_written_outlives_the_writing_end() {
    let port = port();
    let read_all = |reader: &Stream| {
        let (count, buffer) = port.block_on(reader.read([0; 32])).unwrap();
        assert_eq!(&buffer[..count.unwrap()], b"the last words");
        assert_eq!(port.block_on(reader.read([0; 8])).unwrap().0.unwrap(), 0);
    };
    let (server, client) = connected(&port, false);
    let written = port.block_on(server.write("the last words"));
    assert_eq!(written.unwrap().0.unwrap(), 14);
    drop(server);
    read_all(&client);
    let (server, client) = connected(&port, false);
    let written = port.block_on(client.write("the last words"));
    assert_eq!(written.unwrap().0.unwrap(), 14);
    drop(client);
    read_all(&server);
}

/// A reader that knows nothing of messages, on a pipe that has them.
fn pipe_an_empty_message_does_not_end_a_read_to_the_end() {
    let port = port();
    let name = name();
    let server = ServerOptions::new().messages(true).create(&port, &name);
    let mut options = OpenOptions::new();
    let client = options.read(true).custom_flags(FILE_FLAG_OVERLAPPED);
    let client = client.open(&name).unwrap();
    let reader = pipe::Reader::new(&port, client).map_err(|(error, _)| error);
    let (server, reader) = (server.unwrap(), reader.unwrap());
    let server = port.block_on(connect(server)).unwrap();
    let mut reading = pin!(reader.read_to_end(Vec::new()));
    for part in ["", "one ", "", "", "two "] {
        let polled = port.block_on(poll_once(&mut reading)).unwrap();
        assert!(polled.is_none());
        port.block_on(server.send(part)).unwrap().0.unwrap();
        while port.try_dispatch().unwrap() {}
    }
    drop(server);
    let (count, all) = port.block_on(reading).unwrap();
    assert_eq!((count.unwrap(), &all[..]), (8, &b"one two "[..]));
}

/// A server's end as a type that is used as a pipe.
fn raw_server(port: &Dispatcher, name: &str) -> Arc<PipeReader> {
    let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
    let (open, mode) = (
        PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED,
        PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE,
    );
    // SAFETY: the name ends with a zero and lives across the call.
    let raw = unsafe { CreateNamedPipeW(name.as_ptr(), open, mode, 2, 4096, 4096, 0, ptr::null()) };
    assert_ne!(raw, INVALID_HANDLE_VALUE);
    // SAFETY: made just now.
    let server = PipeReader::from(unsafe { OwnedHandle::from_raw_handle(raw) });
    port.attach(&server).unwrap();
    Arc::new(server)
}

fn wait_for_client(op: &Op, port: &Dispatcher, server: &Arc<PipeReader>) -> std::io::Result<()> {
    op.start(port, server, |pipe, _, _| Submission::ConnectPipe { pipe })
}

fn disconnect(server: &PipeReader) {
    use std::os::windows::io::AsRawHandle;
    // SAFETY: no pointers.
    assert_ne!(unsafe { DisconnectNamedPipe(server.as_raw_handle()) }, 0);
}

fn client_of_std(name: &str) -> File {
    let client = OpenOptions::new().read(true).write(true).open(name);
    client.unwrap()
}

fn pipe_contexts_wait_for_clients_and_end_once() {
    let port = port();
    let name = name();
    let op = Op::new(8);
    for turn in 0..8 {
        let server = raw_server(&port, &name);
        let started = match turn % 4 {
            // Nobody is there, then somebody comes.
            0 => {
                wait_for_client(&op, &port, &server).unwrap();
                assert!(!port.try_dispatch().unwrap());
                drop(client_of_std(&name));
                Ok(())
            }
            // Somebody is there already, and stays; or has left again.
            1 => {
                let here = client_of_std(&name);
                let started = wait_for_client(&op, &port, &server);
                assert_eq!(op.finish(&port, started), (0, 0));
                let again = wait_for_client(&op, &port, &server);
                drop(here);
                again
            }
            2 => {
                drop(client_of_std(&name));
                wait_for_client(&op, &port, &server)
            }
            _ => {
                wait_for_client(&op, &port, &server).unwrap();
                assert!(op.cancel(&port, &server).unwrap());
                assert_eq!(op.finish(&port, Ok(())), (0, ABORTED));
                drop(client_of_std(&name));
                wait_for_client(&op, &port, &server)
            }
        };
        assert_eq!(op.finish(&port, started), (0, 0));
        assert!(!port.try_dispatch().unwrap(), "one entry for each");
        // The next one.
        disconnect(&server);
        wait_for_client(&op, &port, &server).unwrap();
        drop(client_of_std(&name));
        assert_eq!(op.finish(&port, Ok(())), (0, 0));
        assert!(!port.try_dispatch().unwrap(), "one entry for each");
        disconnect(&server);
        wait_for_client(&op, &port, &server).unwrap();
        port.detach(&*server).unwrap();
        assert_eq!(op.finish(&port, Ok(())), (0, ABORTED));
        let refused = refusal(wait_for_client(&op, &port, &server));
        assert_eq!(refused, Some(Error::NotAttached));
    }
    assert_eq!(op.calls(), 28);
}

fn pipe_contexts_tell_messages_their_pieces_and_their_end() {
    const MORE: u32 = 234;
    let port = port();
    let name = name();
    let server = raw_server(&port, &name);
    let mut client = client_of_std(&name);
    let (op, early) = (Op::new(4), Op::new(4));
    let connect = wait_for_client(&op, &port, &server);
    assert_eq!(op.finish(&port, connect), (0, 0));
    early.recv(&port, &server).unwrap();
    client.write_all(b"longer").unwrap();
    client.write_all(b"two").unwrap();
    assert_eq!(early.finish(&port, Ok(())), (4, MORE));
    assert_eq!(early.data(4), b"long");
    for (bytes, error) in [(2, 0), (3, 0)] {
        let started = op.recv(&port, &server);
        assert_eq!(op.finish(&port, started), (bytes, error));
    }
    // At hand already: the call fails with a warning, and its packet comes.
    client.write_all(b"12345678").unwrap();
    for end in [(4, MORE), (4, 0)] {
        let started = op.recv(&port, &server);
        assert_eq!(op.finish(&port, started), end);
    }
    let sent = op.send(&port, &server, 0);
    assert_eq!(op.finish(&port, sent), (0, 0));
    drop(client);
    let started = op.recv(&port, &server);
    assert_eq!(
        op.finish(&port, started),
        (0, 109),
        "the end of messages is told apart"
    );
    assert!(!port.try_dispatch().unwrap());
}
