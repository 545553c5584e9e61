//! Prints what posting, dispatching and waking cost, as multiples of bare queues and futexes.

use std::{env, process::ExitCode};

use longshore_bench::Ratios;

/// If post + dispatch exceed this on Linux, the run fails.
const LIMIT: f64 = 2.0;

const HELP: &str = "\
Usage: ratio

Measures three things on a port, turn by turn with the least that does the same, and prints the
median ratios: post + dispatch on one thread beside push + pop + call on a lock-free queue; one
producer and one or two dispatchers beside that queue with a futex; and a wake-up there and back
beside two futexes. Exit code 1 if the first exceeds 2.0 on Linux. (On Windows each post and each
dispatch is a system call; there no figure has a limit.)";

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
            let too_slow = cfg!(target_os = "linux") && ratios.worst_burst() > LIMIT;
            ExitCode::from(u8::from(too_slow))
        }
        Err(error) => {
            eprintln!("ratio: {error}");
            ExitCode::FAILURE
        }
    }
}
