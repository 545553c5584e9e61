//! Runs the suite: a thread for each test, and a watchdog that names the one that hangs.

use std::{
    any::Any,
    cell::RefCell,
    env, io,
    panic::{self, AssertUnwindSafe},
    process::{self, Command, ExitCode, Output, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Failed, Trial};
use longshore::{Backend, Builder, Dispatcher};

/// A test without progress for this long has failed. Tests never wait for time to pass, so this
/// bounds a hang and decides nothing else.
const PATIENCE: Duration = Duration::from_secs(20);

/// Names the test a child process runs; see [`in_child`].
const CHILD: &str = "LONGSHORE_CHILD";

/// One test of the suite.
pub struct Test {
    name: &'static str,
    body: fn(),
    /// Why the test cannot run here, if it cannot.
    skip: fn() -> Option<String>,
}

impl Test {
    pub const fn new(name: &'static str, body: fn()) -> Self {
        Self {
            name,
            body,
            skip: || None,
        }
    }

    /// Skips the test, by name, where `reason` gives one.
    #[allow(dead_code, reason = "not every backend needs it")]
    pub const fn skip(mut self, reason: fn() -> Option<String>) -> Self {
        self.skip = reason;
        self
    }
}

/// The tests of a module, by function name. A function that is left out is dead code, which the
/// compiler reports.
macro_rules! tests {
    ($($name:ident $(. skip ($reason:expr))?),* $(,)?) => {
        &[$($crate::harness::Test::new(stringify!($name), $name)$(.skip($reason))?),*]
    };
}

pub fn main(modules: &[&'static [Test]]) -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for test in modules.iter().copied().flatten() {
        let skip = (test.skip)();
        if let Some(reason) = &skip {
            println!("skipped: {}: {reason}", test.name);
        }
        let trial = Trial::test(test.name, move || fast_or_whole(test, run(test)));
        trials.push(trial.with_ignored_flag(skip.is_some()));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// For a tool that only asks whether anything fails: the first failure ends the program.
fn fast_or_whole(test: &Test, outcome: Result<(), Failed>) -> Result<(), Failed> {
    if outcome.is_err() && env::var_os("LONGSHORE_FAIL_FAST").is_some() {
        eprintln!("first failure: {}", test.name);
        process::exit(101);
    }
    outcome
}

thread_local! {
    /// The running test's name, and its sign of life.
    static CURRENT: RefCell<Option<(&'static str, Arc<AtomicU64>)>> = const { RefCell::new(None) };
}

fn run(test: &'static Test) -> Result<(), Failed> {
    let ticks = Arc::new(AtomicU64::new(0));
    let (report, outcome) = mpsc::channel();
    let current = (test.name, ticks.clone());
    thread::Builder::new()
        .name(test.name.into())
        .spawn(move || {
            CURRENT.set(Some(current));
            let result = panic::catch_unwind(AssertUnwindSafe(test.body));
            let _ = report.send(result);
        })?;
    let mut seen = (0, Instant::now());
    loop {
        match outcome.recv_timeout(Duration::from_millis(200)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(payload)) => return Err(message(&*payload).into()),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err("the test's thread died".into());
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        let now = ticks.load(Ordering::Relaxed);
        if now != seen.0 {
            seen = (now, Instant::now());
        } else if seen.1.elapsed() > PATIENCE {
            // Its threads cannot be stopped; they are left behind, and the others go on.
            return Err(format!("no progress for {PATIENCE:?} (at tick {now})").into());
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(text), _) => (*text).into(),
        (_, Some(text)) => text.clone(),
        _ => "panicked".into(),
    }
}

/// A sign of life from a test that takes long.
#[allow(dead_code, reason = "for whoever needs it")]
pub fn tick() {
    CURRENT.with_borrow(|current| {
        if let Some((_, ticks)) = current {
            ticks.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// A thread that belongs to the running test: its ticks count.
#[allow(dead_code, reason = "for whoever needs it")]
pub fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let current = CURRENT.with_borrow(Clone::clone);
    thread::spawn(move || {
        CURRENT.set(current);
        body()
    })
}

/// The backend under test.
pub fn backend() -> Backend {
    match env::var("LONGSHORE_BACKEND") {
        Ok(name) => name
            .parse()
            .expect("LONGSHORE_BACKEND names a backend of this system"),
        Err(_) => Backend::default(),
    }
}

/// Settings with the backend under test.
pub fn builder() -> Builder {
    Dispatcher::builder().backend(backend())
}

/// A dispatcher on the backend under test.
pub fn port() -> Dispatcher {
    builder().build().expect("a port can be opened")
}

/// `count` on Linux, a tenth of it under Wine unless `LONGSHORE_FULL` is set; a tenth everywhere if
/// `LONGSHORE_QUICK` is, for tools that slow everything down.
#[allow(dead_code, reason = "for whoever needs it")]
pub fn scaled(count: usize) -> usize {
    let is_slow = cfg!(windows) && env::var_os("LONGSHORE_FULL").is_none();
    match is_slow || env::var_os("LONGSHORE_QUICK").is_some() {
        true => count / 10,
        false => count,
    }
}

/// Runs the current test again in a process of its own, for what would disturb others. `None` in
/// that process; its output in the one that started it.
///
/// ```ignore
/// if let Some(output) = in_child() {
///     assert!(output.status.success());
///     return;
/// }
/// // only in the child
/// ```
#[allow(dead_code, reason = "for whoever needs it")]
pub fn in_child() -> Option<Output> {
    in_child_with(Command::output)
}

/// [`in_child`], where `run` says how the child is started and waited for.
#[allow(dead_code, reason = "for whoever needs it")]
pub fn in_child_with<T>(run: impl FnOnce(&mut Command) -> io::Result<T>) -> Option<T> {
    let name = CURRENT.with_borrow(|current| current.as_ref().map(|current| current.0));
    let name = name.expect("on the test's own thread");
    if env::var(CHILD).is_ok_and(|child| child == name) {
        return None;
    }
    let mut command = Command::new(env::current_exe().expect("our own path"));
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        .stdin(Stdio::null());
    Some(run(&mut command).expect("the child can be started"))
}

/// A number that threads raise and wait for.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "for whoever needs it")]
pub struct Counter {
    value: Mutex<usize>,
    raised: Condvar,
}

#[allow(dead_code, reason = "for whoever needs it")]
impl Counter {
    pub const fn new() -> Self {
        Self {
            value: Mutex::new(0),
            raised: Condvar::new(),
        }
    }

    pub fn add(&self, by: usize) {
        *self.value.lock().unwrap() += by;
        self.raised.notify_all();
    }

    pub fn get(&self) -> usize {
        *self.value.lock().unwrap()
    }

    /// Waits until the number is at least `least`. The watchdog bounds it.
    pub fn wait_for(&self, least: usize) {
        let mut value = self.value.lock().unwrap();
        while *value < least {
            value = self.raised.wait(value).unwrap();
        }
    }
}
