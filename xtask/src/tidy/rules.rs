//! The rule map, `docs/iocp-rules.md`: every rule known to have bitten others has a test of
//! ours, or the reason why it cannot happen; and the tests it names exist.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, is_word, words};

/// Sections of the map, and how many rules each has.
const SECTIONS: &[(char, usize)] = &[
    ('A', 25),
    ('B', 21),
    ('C', 24),
    ('D', 19),
    ('E', 6),
    ('F', 12),
];

/// Fewer words than this explain nothing.
const SHORTEST_REASON: usize = 5;

/// The names of all functions in these files, for `check` to look tests up in.
pub(crate) fn functions<'a>(sources: impl IntoIterator<Item = &'a Source>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources {
        for line in &source.lines {
            for at in words(&line.code, "fn") {
                let rest = line.code[at + 2..].trim_start();
                names.insert(rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())].to_owned());
            }
        }
    }
    names
}

pub(crate) fn check(map: &str, functions: &BTreeSet<String>, counts: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut rows = BTreeMap::new();
    for (index, line) in map.lines().enumerate() {
        let Some((id, cells)) = row(line) else {
            continue;
        };
        let place = format!("docs/iocp-rules.md:{} ({id})", index + 1);
        if rows.insert(id.to_owned(), ()).is_some() {
            problems.push(format!("{place}: a second row for the same rule"));
        }
        judge(&place, &cells, functions, counts, &mut problems);
    }
    for (section, count) in SECTIONS {
        let ids = (1..=*count).map(|number| format!("{section}{number}"));
        let missing = ids.filter(|id| !rows.contains_key(id));
        problems.extend(missing.map(|id| format!("docs/iocp-rules.md: no row for {id}")));
    }
    problems
}

/// `| A1 | ... | ... |`: the id and the other cells.
fn row(line: &str) -> Option<(&str, Vec<&str>)> {
    let mut cells = line
        .trim()
        .strip_prefix('|')?
        .trim_end_matches('|')
        .split('|')
        .map(str::trim);
    let id = cells.next()?.trim_matches(['*', '`', ' ']);
    let number = id.strip_prefix(|c| SECTIONS.iter().any(|(section, _)| *section == c))?;
    number.parse::<usize>().ok()?;
    Some((id, cells.collect()))
}

/// The last cell has to name tests that exist, or to give a reason in words.
fn judge(
    place: &str,
    cells: &[&str],
    functions: &BTreeSet<String>,
    counts: &[&str],
    problems: &mut Vec<String>,
) {
    let mut tests = 0;
    for name in cells
        .iter()
        .flat_map(|cell| quoted(cell))
        .filter(|name| looks_like_test(name))
    {
        let function = name.rsplit("::").next().unwrap_or(name);
        let exists = if name.starts_with("counts::") {
            counts.contains(&name)
        } else {
            functions.contains(function)
        };
        // Counted even if it is missing: one finding for one mistake.
        tests += 1;
        if !exists {
            problems.push(format!("{place}: there is no test `{name}`"));
        }
    }
    let reason = cells.last().copied().unwrap_or_default();
    let length = reason
        .split_whitespace()
        .filter(|word| word.contains(char::is_alphabetic))
        .count();
    if tests == 0 && length < SHORTEST_REASON {
        problems.push(format!("{place}: neither a test nor a reason"));
    }
}

/// What stands in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// What the names of tests begin with when they are about no rule of the contract.
const SUBJECTS: &[&str] = &[
    "adopt", "dirs", "fault", "fs", "job", "loom", "nested", "pipe", "process", "signal", "strand",
    "task", "tcp", "time", "trace", "udp", "wait",
];

/// `d06_takes_one`, `tcp_reads`, `regressions::...`, `counts::...`.
fn looks_like_test(name: &str) -> bool {
    let plain = name.chars().all(|c| is_word(c) || c == ':');
    if name.starts_with("regressions::") || name.starts_with("counts::") {
        return plain;
    }
    let last = name.rsplit("::").next().unwrap_or(name);
    let Some((rule, rest)) = last.split_once('_') else {
        return false;
    };
    // Three words at least, so that a function that is merely mentioned is none.
    if SUBJECTS.contains(&rule) && rest.contains('_') {
        return plain;
    }
    let Some(number) = rule.strip_prefix(['a', 'b', 'c', 'd', 'f', 'q']) else {
        return false;
    };
    plain && !rest.is_empty() && !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: &[&str] = &["counts::posts"];

    /// A complete map in which the row of A1 is the given one.
    fn problems(first: &str) -> Vec<String> {
        let mut map = format!("# Rules\n\n| id | rule | test |\n|---|---|---|\n{first}\n");
        for (section, count) in SECTIONS {
            for number in (1..=*count).filter(|number| (*section, *number) != ('A', 1)) {
                map.push_str(&format!(
                    "| {section}{number} | x | this cannot happen here, because |\n"
                ));
            }
        }
        let source = Source::parse(
            "t.rs",
            "fn a01_real() {}\nfn tcp_is_real() {}\n// fn a01_comment()\nfn issue_7() {}",
        );
        check(&map, &functions([&source]), COUNTS)
    }

    #[test]
    fn tests_and_reasons_pass() {
        let good = [
            "| A1 | late packets | `a01_real` |",
            "| A1 | late | `conformance::a01_real`, `regressions::issue_7` |",
            "| A1 | late | `counts::posts` |",
            "| A1 | late | `tcp_is_real` |",
            "| **A1** | late | cannot happen: no skip mode is ever set |",
        ];
        for row in good {
            assert_eq!(problems(row), [""; 0], "{row}");
        }
    }

    #[test]
    fn gaps_fail() {
        let bad = [
            ("", "no row for A1"),
            ("| A1 | late | `a01_gone` |", "no test `a01_gone`"),
            ("| A1 | late | `a01_comment` |", "no test"),
            ("| A1 | late | `regressions::issue_8` |", "no test"),
            ("| A1 | late | `counts::dispatches` |", "no test"),
            ("| A1 | a long rule in many words | see there |", "neither"),
            ("| A1 | late | `Overlapped` |", "neither"),
            (
                "| A1 | x | `a01_real` |\n| A1 | x | `a01_real` |",
                "second row",
            ),
        ];
        for (row, expected) in bad {
            let found = problems(row);
            assert!(
                found.len() == 1 && found[0].contains(expected),
                "{row}: {found:?}"
            );
        }
    }
}
