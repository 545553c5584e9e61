//! The contract, proved: one suite, the same names on every backend.
//!
//! `LONGSHORE_BACKEND` names the backend (default: the preferred one of this system). A name
//! begins with the rule it is about. A test that cannot run somewhere is skipped by name and with
//! its reason, or listed in `differences.txt` when it exists on one backend only.

#![allow(unreachable_pub, reason = "a test program has no public interface")]

#[macro_use]
mod harness;

mod posting;

fn main() -> std::process::ExitCode {
    harness::main(&[posting::TESTS])
}
