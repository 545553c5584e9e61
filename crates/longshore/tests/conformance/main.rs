//! The contract, proved: one suite, the same names on every backend.
//!
//! `LONGSHORE_BACKEND` names the backend (default: the preferred one of this system). A name
//! begins with the rule it is about. A test that cannot run somewhere is skipped by name and with
//! its reason, or listed in `differences.txt` when it exists on one backend only.

#![allow(unreachable_pub, reason = "a test program has no public interface")]

#[macro_use]
mod harness;

#[cfg(windows)]
mod adopt;
mod allocations;
mod callbacks;
mod closing;
mod closing_races;
#[cfg(windows)]
mod directories;
#[cfg(windows)]
mod exported;
mod faults;
mod faults_io;
mod faults_leaks;
mod faults_time;
mod faults_work;
#[cfg(windows)]
mod foreign;
mod fs;
mod fs_life;
#[cfg(target_os = "linux")]
mod fs_waiting;
mod handles;
#[cfg(windows)]
mod interop;
mod interruptions;
mod io;
mod io_cancel;
mod io_errors;
mod io_file;
mod io_races;
mod io_tcp;
mod io_things;
mod io_threads;
mod ioqueue;
mod ioqueue_ends;
#[cfg(target_os = "linux")]
mod ioqueue_linux;
mod ioqueue_runs;
#[cfg(windows)]
mod ioqueue_windows;
#[cfg(windows)]
mod jobs;
mod nested;
#[cfg(target_os = "linux")]
mod nested_linux;
#[cfg(windows)]
mod nested_windows;
mod pipe;
mod pipe_children;
mod pipe_contexts;
#[cfg(target_os = "linux")]
mod pipe_linux;
#[cfg(windows)]
mod pipe_named;
#[cfg(windows)]
mod pipe_named_ends;
#[cfg(target_os = "linux")]
mod pollable;
mod pool;
mod posting;
mod process;
mod races;
mod regressions;
#[cfg(target_os = "linux")]
mod regressions_linux;
#[cfg(windows)]
mod regressions_windows;
mod repost;
mod resources;
mod running;
mod running_work;
mod sharing;
mod signals;
#[cfg(target_os = "linux")]
mod stale;
mod stats;
mod strands;
mod support;
mod task;
mod task_block_on;
mod tcp;
mod tcp_buffers;
mod tcp_cancel;
mod tcp_futures;
mod threads;
mod time;
mod udp;
mod udp_contexts;
mod waiting;

fn main() -> std::process::ExitCode {
    harness::main(&[
        posting::TESTS,
        waiting::TESTS,
        running::TESTS,
        running_work::TESTS,
        strands::TESTS,
        stats::TESTS,
        callbacks::TESTS,
        repost::TESTS,
        sharing::TESTS,
        interruptions::TESTS,
        closing::TESTS,
        closing_races::TESTS,
        faults::TESTS,
        faults_work::TESTS,
        faults_time::TESTS,
        io_file::TESTS,
        io_tcp::TESTS,
        io_cancel::TESTS,
        io_errors::TESTS,
        io_races::TESTS,
        io_threads::TESTS,
        fs::TESTS,
        fs_life::TESTS,
        task::TESTS,
        task_block_on::TESTS,
        time::TESTS,
        process::TESTS,
        pipe::TESTS,
        pipe_contexts::TESTS,
        pipe_children::TESTS,
        #[cfg(target_os = "linux")]
        pipe_linux::TESTS,
        #[cfg(windows)]
        pipe_named::TESTS,
        #[cfg(windows)]
        pipe_named_ends::TESTS,
        signals::TESTS,
        tcp::TESTS,
        tcp_buffers::TESTS,
        tcp_futures::TESTS,
        tcp_cancel::TESTS,
        udp::TESTS,
        udp_contexts::TESTS,
        faults_io::TESTS,
        faults_leaks::TESTS,
        ioqueue::TESTS,
        ioqueue_ends::TESTS,
        ioqueue_runs::TESTS,
        #[cfg(target_os = "linux")]
        ioqueue_linux::TESTS,
        #[cfg(windows)]
        ioqueue_windows::TESTS,
        nested::TESTS,
        #[cfg(target_os = "linux")]
        nested_linux::TESTS,
        #[cfg(windows)]
        nested_windows::TESTS,
        regressions::TESTS,
        #[cfg(windows)]
        adopt::TESTS,
        #[cfg(windows)]
        directories::TESTS,
        #[cfg(windows)]
        jobs::TESTS,
        #[cfg(windows)]
        exported::TESTS,
        faults_work::OS,
        #[cfg(windows)]
        regressions_windows::TESTS,
        #[cfg(windows)]
        foreign::TESTS,
        #[cfg(windows)]
        interop::TESTS,
        #[cfg(target_os = "linux")]
        pollable::TESTS,
        #[cfg(target_os = "linux")]
        faults_io::LINUX,
        #[cfg(target_os = "linux")]
        regressions_linux::TESTS,
        #[cfg(target_os = "linux")]
        stale::TESTS,
        #[cfg(target_os = "linux")]
        fs_waiting::TESTS,
    ])
}
