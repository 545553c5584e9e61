//! Posts and dispatches between markers that a trace of system calls shows: `count_calls [N]`.
//!
//! Under strace a marker is one `write` to standard error; in Wine's relay log it is an
//! `OutputDebugStringA`. Everything that is needed once is done before the first marker, so that
//! what a trace shows between two of them belongs to the N operations alone. `cargo xtask test`
//! reads the traces.
// UNSAFETY: the marker on Windows is a call to the system.
#![cfg_attr(windows, expect(unsafe_code))]

use std::{env, hint::black_box, io, process::ExitCode};

use longshore::{Backend, Dispatcher};

const HELP: &str = "\
Usage: count_calls [N]

Posts and dispatches N callbacks (default 1000) on one thread, between markers for strace or
Wine's relay log: `MARK begin post N` … `MARK end post N`, and so for `dispatch` (of those posts)
and `post+dispatch` (in turn). On Windows `threads` brackets the port's whole life.";

fn main() -> ExitCode {
    let operations = match env::args().nth(1).as_deref() {
        None => 1000,
        Some("--help") => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Some(number) => match number.parse() {
            Ok(number) => number,
            Err(_) => {
                eprintln!("count_calls: '{number}' is not a number of operations");
                return ExitCode::from(2);
            }
        },
    };
    match count(operations) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("count_calls: {error}");
            ExitCode::FAILURE
        }
    }
}

extern "C-unwind" fn callback(word: usize) {
    black_box(word);
}

fn count(operations: usize) -> io::Result<()> {
    let backend = match env::var("LONGSHORE_BACKEND") {
        Ok(name) => name.parse()?,
        Err(_) => Backend::default(),
    };
    // Whether a port makes threads is asked of its whole life, on Windows. strace's sections, one
    // for each thread, are not nested.
    match cfg!(windows) {
        true => bracket("threads", operations, || sections(backend, operations)),
        false => sections(backend, operations),
    }
}

fn sections(backend: Backend, operations: usize) -> io::Result<()> {
    let port = Dispatcher::builder().backend(backend).build()?;
    let _keeps_the_heap_up = warm_up(&port, operations)?;
    bracket("post", operations, || post(&port, operations))?;
    bracket("dispatch", operations, || dispatch(&port, operations))?;
    bracket("post+dispatch", operations, || alternate(&port, operations))?;
    Ok(port.close()?)
}

fn post(port: &Dispatcher, operations: usize) -> io::Result<()> {
    (0..operations).try_for_each(|word| port.post(word, callback))
}

fn dispatch(port: &Dispatcher, operations: usize) -> io::Result<()> {
    (0..operations).try_for_each(|_| port.dispatch())
}

fn alternate(port: &Dispatcher, operations: usize) -> io::Result<()> {
    (0..operations).try_for_each(|word| {
        port.post(word, callback)?;
        port.dispatch()
    })
}

/// Does all of it once. The queue's blocks come from the heap, which grows here and stays grown:
/// the memory that is returned lies above them, so that the heap has no free end to give back.
fn warm_up(port: &Dispatcher, operations: usize) -> io::Result<Vec<u8>> {
    alternate(port, operations)?;
    post(port, operations)?;
    let lid = vec![1; 64 * 1024];
    dispatch(port, operations)?;
    post(port, operations)?;
    dispatch(port, operations)?;
    Ok(lid)
}

/// Runs `section` between its markers, which are made before the first is shown.
fn bracket(
    name: &str,
    operations: usize,
    section: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let begin = marker("begin", name, operations);
    let end = marker("end", name, operations);
    show(&begin)?;
    let done = section();
    show(&end)?;
    done
}

#[cfg(unix)]
fn marker(edge: &str, name: &str, operations: usize) -> String {
    format!("MARK {edge} {name} {operations}\n")
}

/// Standard error has no buffer: one call.
#[cfg(unix)]
fn show(marker: &str) -> io::Result<()> {
    io::Write::write_all(&mut io::stderr(), marker.as_bytes())
}

#[cfg(windows)]
fn marker(edge: &str, name: &str, operations: usize) -> String {
    format!("MARK {edge} {name} {operations}\0")
}

#[cfg(windows)]
fn show(marker: &str) -> io::Result<()> {
    use windows_sys::Win32::System::Diagnostics::Debug::OutputDebugStringA;
    // SAFETY: the string ends with a NUL (`marker`) and is only read.
    unsafe { OutputDebugStringA(marker.as_ptr()) };
    Ok(())
}
