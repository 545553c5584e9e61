//! Two sides of a comparison, measured turn by turn.

use std::{io, time::Duration};

/// The median over the rounds of `above`'s time as a multiple of `below`'s in the same round, so that
/// whatever else the machine does hits both. `rounds` is odd: there is a middle one.
pub(crate) fn median_ratio(
    rounds: usize,
    mut below: impl FnMut() -> io::Result<Duration>,
    mut above: impl FnMut() -> io::Result<Duration>,
) -> io::Result<f64> {
    // Caches and branch predictors, and threads that were never asleep.
    below()?;
    above()?;
    let mut ratios = vec![0.0; rounds];
    for (round, ratio) in ratios.iter_mut().enumerate() {
        // Who goes first changes, so that neither always meets the other's traces.
        let (below, above) = if round % 2 == 0 {
            let below = below()?;
            (below, above()?)
        } else {
            let above = above()?;
            (below()?, above)
        };
        *ratio = above.as_secs_f64() / below.as_secs_f64();
    }
    ratios.sort_by(f64::total_cmp);
    Ok(ratios[rounds / 2])
}
