//! The bar.

use std::{
    io::{self, IsTerminal, Write},
    time::Instant,
};

const WIDTH: u64 = 40;

pub(crate) struct Bar {
    length: u64,
    begun: Instant,
    is_seen: bool,
}

impl Bar {
    pub(crate) fn new(length: u64) -> Self {
        Self {
            length,
            begun: Instant::now(),
            is_seen: io::stderr().is_terminal(),
        }
    }

    pub(crate) fn show(&mut self, copied: u64) {
        if !self.is_seen {
            return;
        }
        let of = |whole: u64| match self.length {
            0 => whole,
            length => (u128::from(copied) * u128::from(whole) / u128::from(length)) as u64,
        };
        let done = "#".repeat(of(WIDTH) as usize);
        let left = "-".repeat((WIDTH - of(WIDTH)) as usize);
        let percent = of(100);
        let mib = copied as f64 / f64::from(1 << 20);
        let rate = mib / self.begun.elapsed().as_secs_f64();
        let mut out = io::stderr().lock();
        // A terminal that went away stops no copy.
        let _ = write!(out, "\r[{done}{left}] {percent:3} % {rate:7.0} MiB/s ");
        let _ = out.flush();
    }

    pub(crate) fn end(&mut self) {
        if self.is_seen {
            let _ = writeln!(io::stderr());
        }
    }
}
