//! Numbers, errors and pseudo-random bytes.

use std::{io, time::Duration};

/// `1,000,000`
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `12.3 us`, in the unit that fits.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        ..1e-6 => format!("{:.0} ns", seconds * 1e9),
        ..1e-3 => format!("{:.1} us", seconds * 1e6),
        ..1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The error, with what was tried; its kind stays.
pub(crate) fn during(attempt: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {attempt}: {error}"))
}

/// Fills the buffer from a generator (SplitMix64) that begins at `seed`.
pub(crate) fn fill(seed: u64, buffer: &mut [u8]) {
    let mut state = seed;
    for chunk in buffer.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        chunk.copy_from_slice(&z.to_le_bytes()[..chunk.len()]);
    }
}

/// How many bytes differ; bytes that only one side has count.
pub(crate) fn differences(left: &[u8], right: &[u8]) -> u64 {
    // The common case is one comparison of memory.
    if left == right {
        return 0;
    }
    let differ = left.iter().zip(right).filter(|(l, r)| l != r).count();
    (differ + left.len().abs_diff(right.len())) as u64
}
