//! Prints what one receive costs while many others are pending, as a multiple of what it costs alone.
// UNSAFETY: lends Contexts and buffers to operations.
#![expect(unsafe_code)]

use std::{
    env, io,
    net::{TcpListener, TcpStream},
    process::ExitCode,
    ptr::NonNull,
    time::{Duration, Instant},
};

use longshore::{Dispatcher, Handle, Submission, dispatcher::Context};

const HELP: &str = "\
Usage: pending

Measures, on one port and one thread, a receive that is submitted, served and dispatched, and one that
is submitted, cancelled and dispatched, while 0, 1,000, 10,000 and 100,000 other receives are pending on
up to 1,000 connections. Prints the medians as multiples of those with 0 pending, taken in the same
run, round by round. There is no limit: the exit code is 1 only if it cannot be measured.";

/// How many operations are pending meanwhile.
const CROWDS: [usize; 4] = [0, 1_000, 10_000, 100_000];
/// Connections that the pending operations are spread over, at most.
const SOCKETS: usize = 1_000;
/// Odd, so that there is a middle one.
const ROUNDS: usize = 201;
/// Operations in one measurement.
const OPERATIONS: usize = 50;

extern "C-unwind" fn ended(_word: usize, _bytes: u32, _error: u32) {}

fn main() -> ExitCode {
    if let Some(argument) = env::args().nth(1) {
        return match argument.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                ExitCode::SUCCESS
            }
            _ => {
                eprintln!("pending: unexpected argument '{argument}' (try --help)");
                ExitCode::from(2)
            }
        };
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pending: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A port with so many receives pending, and one more connection to measure on.
struct Crowd {
    port: Dispatcher,
    ours: TcpStream,
    theirs: TcpStream,
    _others: Vec<(TcpStream, TcpStream)>,
}

/// A connection, and its other end.
fn pair(listener: &TcpListener) -> io::Result<(TcpStream, TcpStream)> {
    let theirs = TcpStream::connect(listener.local_addr()?)?;
    theirs.set_nodelay(true)?;
    Ok((listener.accept()?.0, theirs))
}

fn submit(port: &Dispatcher, stream: &TcpStream, context: &'static Context) -> io::Result<()> {
    // Kept for good: a benchmark may leak what the system still writes to.
    let buffer: &'static mut [u8] = Box::leak(Box::new([0; 8]));
    receive(port, stream, context, buffer)
}

fn receive(
    port: &Dispatcher,
    stream: &TcpStream,
    context: &'static Context,
    buffer: &mut [u8],
) -> io::Result<()> {
    let (buffer, len) = (buffer.as_mut_ptr(), buffer.len());
    let socket = Handle::from(stream);
    let submission = Submission::Recv {
        socket,
        buffer,
        len,
    };
    // SAFETY: the Context is never freed, the buffer stays until the packet was dispatched (the one
    // that is measured) or for good, and streams are closed after their port.
    unsafe { port.submit(NonNull::from(context), submission) }
}

impl Crowd {
    fn new(count: usize) -> io::Result<Self> {
        let port = Dispatcher::new()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (ours, theirs) = pair(&listener)?;
        port.attach(&ours)?;
        let others: Vec<_> = (0..count.min(SOCKETS))
            .map(|_| pair(&listener))
            .collect::<io::Result<_>>()?;
        for (stream, _) in &others {
            port.attach(stream)?;
        }
        for index in 0..count {
            let context = Box::leak(Box::new(Context::new(ended, 0)));
            submit(&port, &others[index % SOCKETS].0, context)?;
        }
        Ok(Self {
            port,
            ours,
            theirs,
            _others: others,
        })
    }

    /// Receives that are served.
    fn served(&self, context: &'static Context) -> io::Result<Duration> {
        let mut buffer = [0; 8];
        let begun = Instant::now();
        for _ in 0..OPERATIONS {
            receive(&self.port, &self.ours, context, &mut buffer)?;
            io::Write::write_all(&mut &self.theirs, b"x")?;
            self.port.dispatch()?;
        }
        Ok(begun.elapsed())
    }

    /// Receives that are cancelled.
    fn cancelled(&self, context: &'static Context) -> io::Result<Duration> {
        let mut buffer = [0; 8];
        let begun = Instant::now();
        for _ in 0..OPERATIONS {
            receive(&self.port, &self.ours, context, &mut buffer)?;
            self.port.cancel(&self.ours, NonNull::from(context))?;
            self.port.dispatch()?;
        }
        Ok(begun.elapsed())
    }
}

fn measure() -> io::Result<()> {
    let crowds = CROWDS
        .iter()
        .map(|&count| Crowd::new(count))
        .collect::<io::Result<Vec<_>>>()?;
    let context: &'static Context = Box::leak(Box::new(Context::new(ended, 0)));
    for (what, one) in [
        ("submit + receive + dispatch", Crowd::served as Measure),
        ("submit + cancel + dispatch", Crowd::cancelled),
    ] {
        let mut ratios = vec![Vec::with_capacity(ROUNDS); CROWDS.len()];
        for _ in 0..ROUNDS {
            let alone = one(&crowds[0], context)?.as_secs_f64();
            for (crowd, ratios) in crowds.iter().zip(&mut ratios) {
                ratios.push(one(crowd, context)?.as_secs_f64() / alone);
            }
        }
        for (count, ratios) in CROWDS.iter().zip(&mut ratios) {
            ratios.sort_by(f64::total_cmp);
            let ratio = ratios[ROUNDS / 2];
            println!("{what}, {count} others pending: {ratio:.2}x");
        }
    }
    Ok(())
}

type Measure = fn(&Crowd, &'static Context) -> io::Result<Duration>;
