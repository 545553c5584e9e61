//! The tables, for a terminal or a file.

use std::{
    env,
    io::{self, Write},
};

use longshore::Backend;

use crate::{
    figures::Figures,
    rules::{Check, Row},
    text::grouped,
    workload::Facts,
};

/// Widths of the columns `what was tried` and `what was seen`.
const TRIED: usize = 34;
const SEEN: usize = 52;

/// How much may be coloured.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    pub(crate) fn for_output(terminal: bool) -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colour: terminal && !refused,
        }
    }

    fn red(self, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[31m{text}\x1b[0m"),
            false => text.into(),
        }
    }
}

pub(crate) fn heading(out: &mut impl Write, facts: &Facts) -> io::Result<()> {
    let threads = facts.dispatches.by_thread.len();
    let dispatched: u64 = facts.dispatches.by_thread.iter().sum();
    writeln!(
        out,
        "\n{threads} threads dispatched {} entries from one port on {}\n",
        grouped(dispatched),
        facts.backend
    )
}

pub(crate) fn rules(
    out: &mut impl Write,
    style: Style,
    backend: Backend,
    rows: &[Row],
) -> io::Result<()> {
    let backend = backend.to_string();
    let line = |out: &mut _, id: &str, on: &str, verdict: &str, tried: &str, seen: &str| {
        print_line(out, [id, on, verdict, tried], seen)
    };
    line(
        out,
        "rule",
        "backend",
        "",
        "what was tried",
        "what was seen",
    )?;
    line(
        out,
        "----",
        "-------",
        "",
        &"-".repeat(TRIED),
        &"-".repeat(SEEN),
    )?;
    for row in rows {
        let tried = wrap(row.tried, TRIED);
        let seen = observations(&row.check, style);
        let verdict = if row.check.holds() { "ok" } else { "FAILED" };
        for i in 0..tried.len().max(seen.len()) {
            let tried = tried.get(i).map_or("", String::as_str);
            let seen = seen.get(i).map_or("", String::as_str);
            match i {
                0 => {
                    let verdict = paint(style, row.check.holds(), &format!("{verdict:<6}"));
                    line(out, row.id, &backend, &verdict, tried, seen)?;
                }
                _ => line(out, "", "", "", tried, seen)?,
            }
        }
    }
    Ok(())
}

fn print_line(out: &mut impl Write, columns: [&str; 4], seen: &str) -> io::Result<()> {
    let [id, backend, verdict, tried] = columns;
    let text = format!("{id:<4}  {backend:<7}  {verdict:<6}  {tried:<TRIED$}  {seen}");
    writeln!(out, "{}", text.trim_end())
}

/// Marks the second and further lines of an observation.
const INDENT: &str = "   ";

/// Each observation on lines of its own, those that should have been otherwise in red.
fn observations(check: &Check, style: Style) -> Vec<String> {
    let lines = check.observations().iter().flat_map(|observation| {
        let marked = match observation.holds {
            true => observation.text.clone(),
            false => format!("NOT AS IT SHOULD BE: {}", observation.text),
        };
        let lines = wrap(&marked, SEEN - INDENT.len()).into_iter().enumerate();
        lines.map(|(i, line)| {
            let indent = if i == 0 { "" } else { INDENT };
            format!("{indent}{}", paint(style, observation.holds, &line))
        })
    });
    lines.collect()
}

fn paint(style: Style, holds: bool, text: &str) -> String {
    match holds {
        true => text.into(),
        false => style.red(text),
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

pub(crate) fn figures(out: &mut impl Write, figures: &Figures) -> io::Result<()> {
    writeln!(
        out,
        "\n{:<38}  {:>15}  {:>10}  {:>22}",
        "throughput, all at once", "amount", "time", "rate"
    )?;
    for figure in &figures.throughput {
        writeln!(
            out,
            "{:<38}  {:>15}  {:>10}  {:>22}",
            figure.what, figure.amount, figure.time, figure.rate
        )?;
    }
    writeln!(
        out,
        "\n{:<38}  {:>15}  {:>10}  {:>22}",
        "latency", "samples", "median", "99 of 100 are below"
    )?;
    for figure in &figures.latency {
        writeln!(
            out,
            "{:<38}  {:>15}  {:>10}  {:>22}",
            figure.what, figure.samples, figure.median, figure.p99
        )?;
    }
    Ok(())
}

/// The last line. Whether something failed.
pub(crate) fn verdict(out: &mut impl Write, style: Style, rows: &[Row]) -> io::Result<bool> {
    let failed: Vec<_> = rows
        .iter()
        .filter(|row| !row.check.holds())
        .map(|row| row.id)
        .collect();
    let held = rows.len() - failed.len();
    writeln!(out, "\n{held} of {} rules held", rows.len())?;
    if !failed.is_empty() {
        writeln!(
            out,
            "{}",
            style.red(&format!("failed: {}", failed.join(", ")))
        )?;
    }
    Ok(!failed.is_empty())
}
