//! Prints what post and dispatch cost, as a multiple of a bare queue's push, pop and call.

use std::{env, process::ExitCode};

use longshore_bench::Ratios;

/// More than this on Linux, and the run fails.
const LIMIT: f64 = 2.0;

const HELP: &str = "\
Usage: ratio

Measures post + dispatch on one thread against push + pop + call on a bare lock-free queue, turn
by turn, and prints the median ratios. Exit code 1 if one exceeds 2.0 on Linux. (On Windows both
halves are system calls; there the figure has no limit.)";

fn main() -> ExitCode {
    if let Some(argument) = env::args().nth(1) {
        return match argument.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                ExitCode::SUCCESS
            }
            _ => {
                eprintln!("ratio: unexpected argument '{argument}' (try --help)");
                ExitCode::from(2)
            }
        };
    }
    match Ratios::measure() {
        Ok(ratios) => {
            println!("{ratios}");
            let too_slow = cfg!(target_os = "linux") && ratios.worst() > LIMIT;
            ExitCode::from(u8::from(too_slow))
        }
        Err(error) => {
            eprintln!("ratio: {error}");
            ExitCode::FAILURE
        }
    }
}
