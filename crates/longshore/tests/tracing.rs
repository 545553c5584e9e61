//! The feature `tracing`: what a subscriber is told.
// UNSAFETY: re-posts a Context, submits a receive; on Windows a stranger posts, and a handle is closed.
#![expect(unsafe_code)]

use std::{
    fmt::{Debug, Write},
    net::{TcpListener, TcpStream},
    panic,
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use longshore::{Dispatcher, Handle, Submission, dispatcher::Context};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Writes down what it is told, one line for each: level, name or message, fields.
#[derive(Clone, Debug, Default)]
struct Notes {
    lines: Arc<Mutex<Vec<String>>>,
    spans: Arc<AtomicU64>,
}

struct Line {
    text: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => write!(self.text, " {value:?}").unwrap(),
            name => write!(self.fields, " {name}={value:?}").unwrap(),
        }
    }
}

impl Notes {
    fn write(&self, level: Level, what: &str, record: impl FnOnce(&mut Line)) {
        let (text, fields) = (format!("{level}{what}"), String::new());
        let mut line = Line { text, fields };
        record(&mut line);
        let mut lines = self.lines.lock().expect("no test panics in here");
        lines.push(line.text + &line.fields);
    }

    /// The one line that begins like this.
    #[track_caller]
    fn one(&self, begin: &str) -> String {
        let lines = self.lines.lock().unwrap();
        let found: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with(begin))
            .collect();
        assert_eq!(found.len(), 1, "{begin}: {lines:#?}");
        found[0].clone()
    }

    fn count(&self, begin: &str) -> usize {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line.starts_with(begin)).count()
    }
}

impl Subscriber for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "longshore"
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let what = format!(" [{}]", span.metadata().name());
        self.write(*span.metadata().level(), &what, |line| span.record(line));
        span::Id::from_u64(1 + self.spans.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        self.write(*event.metadata().level(), "", |line| event.record(line));
    }

    fn enter(&self, _: &span::Id) {
        self.lines.lock().unwrap().push("enter".into());
    }

    fn exit(&self, _: &span::Id) {
        self.lines.lock().unwrap().push("exit".into());
    }
}

/// What `body` causes to be told on this thread.
fn told(body: impl FnOnce()) -> Notes {
    let notes = Notes::default();
    tracing::subscriber::with_default(notes.clone(), body);
    notes
}

extern "C-unwind" fn nothing(_: usize) {}

extern "C-unwind" fn ended(_: usize, _: u32, _: u32) {}

/// One test at a time: `tracing` decides once for all threads whether an event is wanted, and a thread
/// that meets the event for the first time while another begins to listen may decide against it.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn trace_a_port_is_opened_and_closed() {
    let _alone = alone();
    let notes = told(|| {
        let port = Dispatcher::builder().concurrency(3).build().unwrap();
        port.close().unwrap();
    });
    let opened = notes.one("DEBUG a port was opened");
    assert!(
        opened.contains("backend=") && opened.contains("concurrency=3"),
        "{opened}"
    );
    notes.one("DEBUG [close] port=");
    let closed = notes.one("DEBUG a port was closed");
    assert!(
        closed.ends_with("operations_left=0 posts_left=0"),
        "{closed}"
    );
    // The same port, by its number.
    let port = |line: &str| {
        line.split_once("port=")
            .map(|(_, rest)| rest.split(' ').next().unwrap().to_owned())
    };
    assert_eq!(port(&opened), port(&closed));
}

#[test]
fn trace_posts_and_dispatches() {
    let _alone = alone();
    let port = Dispatcher::new().unwrap();
    let notes = told(|| {
        port.post(77, nothing).unwrap();
        assert!(port.try_dispatch().unwrap());
        assert!(!port.try_dispatch().unwrap());
    });
    let posted = notes.one("TRACE post");
    let dispatched = notes.one("TRACE [dispatch]");
    assert!(
        posted.ends_with("word=77") && dispatched.ends_with("word=77"),
        "{notes:?}"
    );
    let lines = notes.lines.lock().unwrap();
    assert_eq!(lines[2..], ["enter", "exit"]);
}

#[test]
fn trace_a_callback_that_panics_leaves_its_span() {
    let _alone = alone();
    extern "C-unwind" fn fails(_: usize) {
        panic::resume_unwind(Box::new("on purpose"));
    }
    let port = Dispatcher::new().unwrap();
    let notes = told(|| {
        port.post(1, fails).unwrap();
        let dispatch = panic::AssertUnwindSafe(|| port.try_dispatch());
        assert!(panic::catch_unwind(dispatch).is_err());
    });
    assert_eq!((notes.count("enter"), notes.count("exit")), (1, 1));
}

#[test]
fn trace_operations_and_registrations() {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let (context, mut buffer) = (Context::new(ended, 0), [0u8; 8]);
    let notes = told(|| {
        let port = Dispatcher::new().unwrap();
        port.attach(&stream).unwrap();
        assert!(port.attach(&stream).is_err());
        let receive = Submission::Recv {
            socket: Handle::from(&stream),
            buffer: buffer.as_mut_ptr(),
            len: buffer.len(),
        };
        // SAFETY: the Context, the buffer and the socket outlive the dispatch below.
        unsafe { port.submit(NonNull::from(&context), receive).unwrap() };
        assert!(port.cancel(&stream, NonNull::from(&context)).unwrap());
        port.dispatch().unwrap();
        port.detach(&stream).unwrap();
        // SAFETY: the Context is idle, and outlives the dispatch below.
        unsafe { port.repost(NonNull::from(&context), 3, 4).unwrap() };
        port.dispatch().unwrap();
    });
    assert_eq!(notes.count("DEBUG a handle was registered"), 2);
    let lines = notes.lines.lock().unwrap().join("\n");
    assert!(
        lines.contains("kind=Socket") && lines.contains("AlreadyAttached"),
        "{lines}"
    );
    notes.one("DEBUG a handle was forgotten");
    let begun = notes.one("TRACE an operation begins");
    assert!(begun.contains("Issued"), "{begun}");
    let cancelled = format!("error={}", longshore::ABORTED);
    assert!(
        lines.contains(&cancelled) && lines.contains("bytes=3 error=4"),
        "{lines}"
    );
    assert_eq!(notes.count("TRACE an operation has ended"), 2);
}

#[test]
fn trace_a_task_that_panics() {
    let _alone = alone();
    let port = Dispatcher::new().unwrap();
    let notes = told(|| {
        for payload in ["words", ""] {
            let task = port.spawn(async move {
                match payload {
                    "" => panic::resume_unwind(Box::new(1)),
                    words => panic::resume_unwind(Box::new(words.to_owned())),
                }
            });
            let ended: Result<(), _> = port.block_on(task).unwrap();
            assert!(ended.is_err());
        }
        port.block_on(port.spawn(async {})).unwrap().unwrap();
    });
    assert_eq!(notes.count("WARN a task panicked"), 2);
    let lines = notes.lines.lock().unwrap().join("\n");
    assert!(
        lines.contains("panic=\"words\"") && lines.contains("not a message"),
        "{lines}"
    );
}

/// Whether the test has passed in a process of its own; `false` in that process.
fn passed_on_its_own(name: &str) -> bool {
    const CHILD: &str = "LONGSHORE_TRACING_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return false;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", name, "--test-threads=1"]);
    let output = child.env(CHILD, "1").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    true
}

/// A port whose object is closed under it. In a process of its own, because of the number that is freed.
#[test]
fn trace_what_the_kernel_refuses() {
    let _alone = alone();
    if passed_on_its_own("trace_what_the_kernel_refuses") {
        return;
    }
    let port = Dispatcher::new().unwrap();
    os::break_it(&port);
    let notes = told(|| {
        assert!(port.try_dispatch().is_err());
        drop(port);
    });
    let lines = notes.lines.lock().unwrap().join("\n");
    assert!(lines.contains("ERROR the kernel refused"), "{lines}");
    assert!(lines.contains("call=\"wait\""), "{lines}");
    assert!(notes.count("WARN closing met a failure") > 0, "{lines}");
}

/// A strand's next turn is posted again and again, until the port is closed.
#[cfg(windows)]
#[test]
fn trace_a_back_off() {
    let _alone = alone();
    if passed_on_its_own("trace_a_back_off") {
        return;
    }
    let port = Dispatcher::new().unwrap();
    let (strand, broken) = (port.strand(), port.clone());
    strand.post_fn(move || os::break_it(&broken)).unwrap();
    strand
        .post_fn(|| unreachable!("its turn cannot be posted"))
        .unwrap();
    let notes = Notes::default();
    let closer = std::thread::spawn({
        let (notes, port) = (notes.clone(), port.clone());
        move || {
            let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while notes.count("WARN backing off") == 0 && std::time::Instant::now() < limit {
                std::thread::yield_now();
            }
            // What fails when a broken port is closed is not the matter here.
            let _ = port.close();
        }
    });
    tracing::subscriber::with_default(notes.clone(), || port.dispatch()).unwrap();
    closer.join().unwrap();
    assert!(notes.count("WARN backing off") > 0);
    assert!(notes.count("ERROR the kernel refused") > 0);
}

#[cfg(windows)]
#[test]
fn trace_a_foreign_packet() {
    let _alone = alone();
    let port = Dispatcher::new().unwrap();
    os::post_as_a_stranger(&port);
    let notes = told(|| assert!(port.try_dispatch().unwrap()));
    let foreign = notes.one("WARN a foreign packet");
    assert!(
        foreign.ends_with("key=12345 overlapped=678 bytes=9"),
        "{foreign}"
    );
}

#[cfg(target_os = "linux")]
mod os {
    use std::{fs, path::Path};

    use super::Dispatcher;

    /// Closes the epoll set: there is one in this process.
    pub(super) fn break_it(_port: &Dispatcher) {
        for entry in fs::read_dir("/proc/self/fd").unwrap() {
            let path = entry.unwrap().path();
            if fs::read_link(&path).is_ok_and(|to| to == Path::new("anon_inode:[eventpoll]")) {
                let fd = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
                // SAFETY: closed under the library on purpose; nothing is opened afterwards.
                assert_eq!(unsafe { libc::close(fd) }, 0);
                return;
            }
        }
        unreachable!("there is no epoll set");
    }
}

#[cfg(windows)]
mod os {
    use std::{os::windows::io::AsRawHandle, ptr};

    use windows_sys::Win32::{Foundation::CloseHandle, System::IO::PostQueuedCompletionStatus};

    use super::Dispatcher;

    pub(super) fn break_it(port: &Dispatcher) {
        // SAFETY: closed under the library on purpose; nothing is opened afterwards.
        assert_ne!(unsafe { CloseHandle(port.as_raw_handle()) }, 0);
    }

    pub(super) fn post_as_a_stranger(port: &Dispatcher) {
        let word = ptr::without_provenance_mut(678);
        // SAFETY: the port is open, and does not follow what it does not know.
        let posted = unsafe { PostQueuedCompletionStatus(port.as_raw_handle(), 9, 12345, word) };
        assert_ne!(posted, 0);
    }
}
