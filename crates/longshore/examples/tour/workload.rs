//! The main job: copy, echo and posts on one port, at the same time, and what came of it.

use std::{
    fs::{self, File},
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use longshore::{Backend, Dispatcher, Error};

use crate::{
    args::Options,
    copy::{self, Copy},
    echo::{Echo, EchoFacts},
    op,
    posts::{self, PostFacts},
    run::{PATIENCE, Run},
    text::{self, grouped},
};

/// The file that is copied when none is named.
const DEFAULT_LENGTH: u64 = 64 << 20;

/// What the main job has shown, for the checks and the figures.
pub(crate) struct Facts {
    pub(crate) backend: Backend,
    pub(crate) dispatches: Dispatches,
    pub(crate) posts: PostFacts,
    pub(crate) copy: CopyFacts,
    pub(crate) echo: EchoFacts,
    /// What closing the busy port said.
    pub(crate) closed: Result<(), String>,
    /// A folder for the checks' own files.
    pub(crate) folder: PathBuf,
}

/// Two ways of counting the same thing.
pub(crate) struct Dispatches {
    /// How many dispatching threads were inside callbacks of the port at one moment.
    pub(crate) met: usize,
    /// How often `dispatch` returned, by thread.
    pub(crate) by_thread: Vec<u64>,
    /// How many entries were still there when the threads had left: wakes.
    pub(crate) left_over: u64,
    /// Closures, posts, completions and wakes that ran.
    pub(crate) ran: u64,
}

pub(crate) struct CopyFacts {
    pub(crate) length: u64,
    pub(crate) copied: u64,
    /// Bytes in which file and copy differ.
    pub(crate) differ: u64,
    pub(crate) took: Option<Duration>,
}

/// Does the main job in `folder`.
pub(crate) fn run(options: &Options, folder: &Path) -> io::Result<Facts> {
    let from = match &options.file {
        Some(file) => file.clone(),
        None => make_file(folder).map_err(|error| text::during("make a file to copy", error))?,
    };
    let to = folder.join("copy");
    let port = Dispatcher::builder()
        .backend(options.backend)
        .concurrency(options.threads as u32)
        .build()?;
    let run = Arc::new(Run::new(port, 3));
    let copy = Copy::open(&run, &from, &to)?;
    let (original, copied) = (File::open(&from)?, File::open(&to)?);
    // Open files outlive their names, so nothing is left behind however the tour ends. Where a
    // name cannot go yet, the folder takes it along in the end.
    let ours = options.file.is_none().then_some(&from);
    for name in ours.into_iter().chain([&to]) {
        let _ = fs::remove_file(name);
    }
    let echo = Echo::listen(&run, options.connections)?;

    let threads = Threads::start(&run, options.threads)?;
    copy.start();
    echo.start();
    let producers = posts::start(&run, options.posts);
    let mut progress = Progress::new(&copy, &echo, options.posts);
    let outcome = run.wait(|| progress.look());
    progress.finish();

    match outcome {
        Ok(true) => {}
        // Something was lost. The checks will show what.
        Ok(false) => {
            eprintln!("tour: nothing has moved for {PATIENCE:?}, so this is where it ends")
        }
        Err(error) => {
            // Closing cancels what is in flight; then nothing has the files open any more.
            let _ = run.port.clone().close();
            threads.have_left(Duration::from_secs(5));
            return Err(error);
        }
    }
    let mut dispatches = threads.leave(&run.port)?;
    producers.into_iter().try_for_each(join)?;
    let closed = run.port.clone().close().map_err(|error| error.to_string());
    let posts = posts::facts().ok_or_else(|| io::Error::other("nothing was posted"))?;
    dispatches.ran += posts.calls as u64;
    Ok(Facts {
        backend: options.backend,
        dispatches,
        posts,
        echo: echo.facts(),
        copy: CopyFacts {
            length: copy.length(),
            copied: copy.copied(),
            differ: copy::compare(&original, &copied)
                .map_err(|error| text::during("compare file and copy", error))?,
            took: copy.took(),
        },
        closed,
        folder: folder.into(),
    })
}

fn make_file(folder: &Path) -> io::Result<PathBuf> {
    let path = folder.join("original");
    let mut file = BufWriter::new(File::create(&path)?);
    let mut block = vec![0; 1 << 20];
    for number in 0..DEFAULT_LENGTH / block.len() as u64 {
        text::fill(number, &mut block);
        file.write_all(&block)?;
    }
    file.flush()?;
    Ok(path)
}

fn join<T>(thread: JoinHandle<T>) -> io::Result<T> {
    thread
        .join()
        .map_err(|_| io::Error::other("a thread of the tour panicked"))
}

/// The dispatching threads.
struct Threads {
    threads: Vec<JoinHandle<u64>>,
    leaving: Arc<AtomicBool>,
    met: Arc<AtomicUsize>,
}

impl Threads {
    /// Starts them, behind a closure for each that returns only when all have met.
    fn start(run: &Arc<Run>, count: usize) -> io::Result<Self> {
        let (met, leaving) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let meeting = Arc::new(Barrier::new(count));
        for _ in 0..count {
            let (meeting, met) = (meeting.clone(), met.clone());
            run.port.post_fn(move || {
                meeting.wait();
                met.fetch_add(1, Ordering::Relaxed);
            })?;
        }
        let mut threads = Vec::new();
        for number in 0..count {
            let (run, leaving) = (run.clone(), leaving.clone());
            let thread = thread::Builder::new()
                .name(format!("dispatch {number}"))
                .spawn(move || serve(&run, &leaving))
                .map_err(|error| text::during("start a thread", error));
            match thread {
                Ok(thread) => threads.push(thread),
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            threads,
            leaving,
            met,
        })
    }

    /// Waits until all have left, for `limit` at most. Whether they have.
    fn have_left(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let busy = || self.threads.iter().any(|thread| !thread.is_finished());
        while busy() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        !busy()
    }

    /// Lets them go, one wake for each.
    fn leave(self, port: &Dispatcher) -> io::Result<Dispatches> {
        self.leaving.store(true, Ordering::Release);
        let mut wakes = self.threads.len();
        (0..wakes).try_for_each(|_| port.wake_one())?;
        // That was enough, unless a thread has taken two. Then another has none, and the counts
        // will tell.
        let deadline = Instant::now() + PATIENCE;
        while !self.have_left(Duration::from_secs(2)) {
            if Instant::now() > deadline {
                let message = "the dispatching threads cannot be woken";
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            port.wake_one()?;
            wakes += 1;
        }
        let threads = self.threads.into_iter();
        let by_thread = threads.map(join).collect::<io::Result<Vec<_>>>()?;
        let mut left_over = 0;
        while port.try_dispatch()? {
            left_over += 1;
        }
        let met = self.met.load(Ordering::Relaxed);
        Ok(Dispatches {
            met,
            by_thread,
            left_over,
            ran: met as u64 + op::completions() + wakes as u64,
        })
    }
}

/// One dispatching thread; returns how often `dispatch` did.
fn serve(run: &Run, leaving: &AtomicBool) -> u64 {
    let mut dispatched = 0;
    while !leaving.load(Ordering::Acquire) {
        match run.port.dispatch() {
            Ok(()) => dispatched += 1,
            // The run has failed elsewhere, and the port was closed for it.
            Err(error) if Error::of(&error) == Some(Error::Closed) => break,
            Err(error) => {
                run.fail("dispatch", &error);
                break;
            }
        }
    }
    dispatched
}

/// One line on standard error: rewritten on a terminal, else repeated now and then.
struct Progress<'a> {
    copy: &'a Copy,
    echo: &'a Echo,
    posts: usize,
    terminal: bool,
    shown: Instant,
}

impl<'a> Progress<'a> {
    fn new(copy: &'a Copy, echo: &'a Echo, posts: usize) -> Self {
        Self {
            copy,
            echo,
            posts,
            terminal: io::stderr().is_terminal(),
            shown: Instant::now(),
        }
    }

    /// Shows how far things are, if it is time to, and returns a number that grows with it.
    fn look(&mut self) -> u64 {
        let often = Duration::from_millis(if self.terminal { 100 } else { 2000 });
        if self.shown.elapsed() >= often {
            self.shown = Instant::now();
            self.show(if self.terminal { "\r" } else { "" });
        }
        posts::calls() as u64 + op::completions()
    }

    fn show(&self, before: &str) {
        let after = if self.terminal { "  " } else { "\n" };
        let copied = text::mebibytes(self.copy.copied());
        let length = text::mebibytes(self.copy.length());
        let echoed = grouped(self.echo.messages() as u64);
        let to_echo = grouped(self.echo.messages_meant() as u64);
        let posted = grouped(posts::calls() as u64);
        let to_post = grouped(self.posts as u64);
        let line = format!(
            "{before}copied {copied:.0} of {length:.0} MiB, echoed {echoed} of {to_echo}, \
             dispatched {posted} of {to_post} posts{after}"
        );
        // Nobody may be listening; that is no reason to stop.
        let _ = io::stderr().write_all(line.as_bytes());
    }

    fn finish(&self) {
        self.show(if self.terminal { "\r" } else { "" });
        if self.terminal {
            eprintln!();
        }
    }
}
