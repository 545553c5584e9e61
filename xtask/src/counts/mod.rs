//! What a post and a dispatch cost in calls to the kernel, counted in a trace of an example.
//!
//! The example brackets its sections with markers that the trace shows: writes to standard
//! error under strace, `OutputDebugStringA` in Wine's relay log.

mod relay;
mod strace;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::setup::wine::Wine;
use crate::test::parse::Outcome;

pub(crate) const EXAMPLE: &str = "count_calls";

/// The checks, by the name under which they count as tests.
pub(crate) const NAMES: &[&str] = &[
    EPOLL_POST,
    EPOLL_POST_AND_DISPATCH,
    IOCP_POST,
    IOCP_DISPATCH,
    IOCP_NO_THREAD,
];
const EPOLL_POST: &str = "counts::epoll_post_makes_no_system_call";
const EPOLL_POST_AND_DISPATCH: &str = "counts::epoll_post_and_dispatch_make_no_system_call";
const IOCP_POST: &str = "counts::iocp_post_is_one_nt_call";
const IOCP_DISPATCH: &str = "counts::iocp_dispatch_is_one_nt_call";
const IOCP_NO_THREAD: &str = "counts::iocp_creates_no_thread";

/// One section of a trace: how many operations the example made in it, and which calls.
#[derive(Debug, Default, PartialEq, Eq)]
struct Section {
    operations: usize,
    calls: BTreeMap<String, usize>,
    /// Threads created in it, by any thread. Only counted where the trace shows all threads.
    threads: usize,
}

type Sections = BTreeMap<String, Section>;

/// A marker's text: `begin post 100` or `end post 100`, after `MARK `.
#[derive(Debug, PartialEq, Eq)]
struct Marker<'a> {
    begins: bool,
    name: &'a str,
    operations: usize,
}

fn marker(text: &str) -> Option<Marker<'_>> {
    let mut words = text.strip_prefix("MARK ")?.split_whitespace();
    let begins = match words.next()? {
        "begin" => true,
        "end" => false,
        _ => return None,
    };
    let name = words.next()?;
    // `begin threads` has nothing to count by.
    let operations = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    Some(Marker {
        begins,
        name,
        operations,
    })
}

type Check = (&'static str, fn(&Sections) -> Result<String>);
type Tests = Vec<(String, Outcome)>;

pub(crate) fn epoll(example: Option<&Path>, work: &Path, filter: Option<&str>) -> Tests {
    let checks: &[Check] = &[
        (EPOLL_POST, |sections| no_calls(sections, "post")),
        (EPOLL_POST_AND_DISPATCH, |sections| {
            no_calls(sections, "post+dispatch")
        }),
    ];
    judge(checks, filter, || {
        let log = work.join("count_calls.strace");
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-s", "200", "-o"])
            .arg(&log)
            .arg(program(example)?);
        strace
            .env("LONGSHORE_BACKEND", "epoll")
            .stdout(Stdio::null());
        // The markers go to standard error: they are for the trace, not for the reader.
        run(strace.stderr(Stdio::null()), &log)?;
        strace::sections(&read(&log)?)
    })
}

pub(crate) fn iocp(
    example: Option<&Path>,
    work: &Path,
    wine: &Wine,
    filter: Option<&str>,
) -> Tests {
    let checks: &[Check] = &[
        (IOCP_POST, |sections| {
            one_call(sections, "post", &["NtSetIoCompletion"])
        }),
        (IOCP_DISPATCH, |sections| {
            one_call(
                sections,
                "dispatch",
                &["NtRemoveIoCompletionEx", "NtRemoveIoCompletion"],
            )
        }),
        (IOCP_NO_THREAD, no_threads),
    ];
    judge(checks, filter, || {
        let log = work.join("count_calls.relay");
        let mut program_under_wine = Command::new(&wine.runner);
        program_under_wine
            .arg(program(example)?)
            .env("LONGSHORE_BACKEND", "iocp");
        program_under_wine
            .env("WINEDEBUG", "+relay")
            .stdout(Stdio::null());
        run(program_under_wine.stderr(File::create(&log)?), &log)?;
        relay::sections(&read(&log)?)
    })
}

fn program(example: Option<&Path>) -> Result<&Path> {
    example.with_context(|| format!("there is no example {EXAMPLE} to count in"))
}

fn run(command: &mut Command, log: &Path) -> Result<()> {
    let status = command.stdin(Stdio::null()).status()?;
    if !status.success() {
        bail!(
            "the example failed under the trace: {status} (see {})",
            log.display()
        );
    }
    Ok(())
}

/// Lossy: a trace holds whatever bytes the program passed.
fn read(log: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(log)?).into_owned())
}

/// Traces once, if any of the checks is wanted, and prints each as a test with its figures.
fn judge(
    checks: &[Check],
    filter: Option<&str>,
    trace: impl FnOnce() -> Result<Sections>,
) -> Tests {
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    let checks: Vec<_> = checks.iter().filter(|(name, _)| wanted(name)).collect();
    if checks.is_empty() {
        return Vec::new();
    }
    let sections = trace();
    let one = |(name, check): &&Check| {
        let result = match &sections {
            Ok(sections) => check(sections),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        let (word, text, outcome) = match result {
            Ok(text) => ("ok", text, Outcome::Passed),
            Err(error) => ("FAILED", format!("{error:#}"), Outcome::Failed),
        };
        println!("test {name} ... {word}\n  counted: {text}");
        ((*name).to_owned(), outcome)
    };
    checks.iter().map(one).collect()
}

fn section<'a>(sections: &'a Sections, name: &str) -> Result<&'a Section> {
    sections
        .get(name)
        .with_context(|| format!("the trace has no section `{name}`"))
}

fn measured<'a>(sections: &'a Sections, name: &str) -> Result<(&'a Section, String)> {
    let section = section(sections, name)?;
    ensure!(
        section.operations > 0,
        "the section `{name}` made no operation"
    );
    let calls: Vec<_> = section
        .calls
        .iter()
        .map(|(call, count)| format!("{count} {call}"))
        .collect();
    let calls = if calls.is_empty() {
        "no call".to_owned()
    } else {
        calls.join(", ")
    };
    Ok((
        section,
        format!("{} operations ({name}): {calls}", section.operations),
    ))
}

fn no_calls(sections: &Sections, name: &str) -> Result<String> {
    let (section, text) = measured(sections, name)?;
    ensure!(section.calls.is_empty(), "{text}, expected none");
    Ok(text)
}

/// Exactly one call for each operation, all to the same one of `allowed`, and no other.
fn one_call(sections: &Sections, name: &str, allowed: &[&str]) -> Result<String> {
    let (section, text) = measured(sections, name)?;
    let exact = section.calls.len() == 1
        && allowed
            .iter()
            .any(|call| section.calls.get(*call) == Some(&section.operations));
    ensure!(
        exact,
        "{text}, expected {} {} and nothing else",
        section.operations,
        allowed.join(" or ")
    );
    Ok(text)
}

fn no_threads(sections: &Sections) -> Result<String> {
    let section = section(sections, "threads")?;
    ensure!(
        section.threads == 0,
        "{} threads were created",
        section.threads
    );
    Ok("0 threads created".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_section(name: &str, operations: usize, calls: &[(&str, usize)]) -> Sections {
        let calls = calls
            .iter()
            .map(|(call, count)| ((*call).to_owned(), *count))
            .collect();
        Sections::from([(
            name.to_owned(),
            Section {
                operations,
                calls,
                threads: 0,
            },
        )])
    }

    #[test]
    fn each_check_fails_on_one_call_too_many_or_too_few() {
        assert!(no_calls(&one_section("post", 9, &[]), "post").is_ok());
        assert!(no_calls(&one_section("post", 9, &[("futex", 1)]), "post").is_err());
        assert!(no_calls(&one_section("post", 0, &[]), "post").is_err());
        assert!(no_calls(&Sections::new(), "post").is_err());
        let exact =
            |calls| one_call(&one_section("post", 9, calls), "post", &["NtA", "NtB"]).is_ok();
        assert!(exact(&[("NtA", 9)]) && exact(&[("NtB", 9)]));
        assert!(!exact(&[("NtA", 8)]) && !exact(&[("NtA", 9), ("NtC", 1)]) && !exact(&[]));
        let mut sections = one_section("threads", 0, &[]);
        assert!(no_threads(&sections).is_ok());
        sections.get_mut("threads").unwrap().threads = 1;
        assert!(no_threads(&sections).is_err() && no_threads(&Sections::new()).is_err());
    }

    #[test]
    fn a_trace_that_cannot_be_made_fails_each_check() {
        let checks: &[Check] = &[(IOCP_POST, |_| Ok("fine".into()))];
        let failed = vec![(IOCP_POST.to_owned(), Outcome::Failed)];
        assert_eq!(judge(checks, None, || bail!("no strace")), failed);
        assert_eq!(
            judge(checks, Some("something else"), || bail!("not run")),
            []
        );
    }

    #[test]
    fn markers() {
        let expected = Marker {
            begins: true,
            name: "post",
            operations: 100,
        };
        assert_eq!(marker("MARK begin post 100"), Some(expected));
        let expected = Marker {
            begins: false,
            name: "threads",
            operations: 0,
        };
        assert_eq!(marker("MARK end threads"), Some(expected));
        assert_eq!(marker("MARK of zorro"), None);
    }
}
