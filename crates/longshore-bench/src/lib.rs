//! longshore beside its bare references, measured in one run.
//!
//! Each comparison is a module: what the port does, the least that any library would need for the
//! same, and the ratio of the two.

use std::{fmt, io};

pub mod burst;
pub mod handoff;
pub mod round_trip;
mod rounds;

/// Every comparison, as multiples of the bare references' time.
#[derive(Clone, Copy, Debug)]
pub struct Ratios {
    bursts: [f64; burst::BURSTS.len()],
    handoffs: [f64; handoff::DISPATCHERS.len()],
    round_trip: f64,
}

impl Ratios {
    /// Measures for about half a minute.
    ///
    /// # Errors
    /// Those of opening, posting to and dispatching from a port.
    pub fn measure() -> io::Result<Self> {
        Ok(Self {
            bursts: burst::ratios()?,
            handoffs: handoff::ratios()?,
            round_trip: round_trip::ratio()?,
        })
    }

    /// The larger one of post + dispatch on one thread.
    pub fn worst_burst(&self) -> f64 {
        self.bursts.into_iter().fold(0.0, f64::max)
    }
}

impl fmt::Display for Ratios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("post+dispatch / bare queue:")?;
        list(f, "burst", &burst::BURSTS, &self.bursts)?;
        f.write_str("\none producer / bare queue with a futex:")?;
        list(f, "dispatchers", &handoff::DISPATCHERS, &self.handoffs)?;
        write!(
            f,
            "\nwake-up round trip / two futexes: {:.2}x",
            self.round_trip
        )
    }
}

fn list(f: &mut fmt::Formatter<'_>, of: &str, cases: &[usize], ratios: &[f64]) -> fmt::Result {
    for (i, (case, ratio)) in cases.iter().zip(ratios).enumerate() {
        let separator = if i == 0 { "" } else { "," };
        write!(f, "{separator} {of} {case}: {ratio:.2}x")?;
    }
    Ok(())
}
