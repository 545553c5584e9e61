//! strace's log: each line is `PID call(arguments) = result`, or part of one.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::{Section, Sections, marker};

/// Counts the calls that a section's own thread makes between its markers.
pub(super) fn sections(log: &str) -> Result<Sections> {
    let mut sections = Sections::new();
    let mut open: BTreeMap<&str, (String, Section)> = BTreeMap::new();
    for line in log.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        if let Some(text) = marked(call)
            && let Some(marker) = marker(text)
        {
            if marker.begins {
                let section = Section {
                    operations: marker.operations,
                    ..Section::default()
                };
                open.insert(thread, (marker.name.to_owned(), section));
            } else {
                match open.remove(thread) {
                    Some((name, section)) if name == marker.name => {
                        drop(sections.insert(name, section))
                    }
                    _ => bail!("the section `{}` ends without having begun", marker.name),
                }
            }
        } else if let Some((_, section)) = open.get_mut(thread)
            && let Some(name) = name(call)
        {
            *section.calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    if let Some((name, _)) = open.into_values().next() {
        bail!("the section `{name}` never ends");
    }
    Ok(sections)
}

/// The text of a marker: `write(2, "MARK begin post 100\n", 20) = 20`.
fn marked(call: &str) -> Option<&str> {
    let text = call.strip_prefix("write(2, \"")?;
    Some(
        text.split("\\n")
            .next()
            .unwrap_or(text)
            .split('"')
            .next()
            .unwrap_or(text),
    )
}

/// The call that begins on this line. Its second half (`<... futex resumed>`), signals and
/// exits are no calls.
fn name(call: &str) -> Option<&str> {
    let (name, _) = call.split_once('(')?;
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(word)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"
10 write(2, "MARK begin post 100\n", 20 <unfinished ...>
11 futex(0x7f, FUTEX_WAIT, 2, NULL) = 0
10 <... write resumed>)              = 20
10 --- SIGALRM {si_signo=SIGALRM} ---
10 write(2, "MARK end post 100\n", 18) = 18
10 getpid() = 10
10 write(2, "MARK begin post+dispatch 7\n", 24) = 24
10 futex(0x7f, FUTEX_WAKE_PRIVATE, 1 <unfinished ...>
10 <... futex resumed>) = 1
10 write(4, "\1", 8) = 8
10 write(4, "\1", 8) = 8
10 write(2, "MARK end post+dispatch 7\n", 24) = 24
"#;

    #[test]
    fn only_the_threads_own_calls_count_and_each_once() {
        let sections = sections(LOG).unwrap();
        assert_eq!(
            sections["post"],
            Section {
                operations: 100,
                ..Section::default()
            }
        );
        let both = &sections["post+dispatch"];
        assert_eq!(both.operations, 7);
        assert_eq!(
            both.calls,
            BTreeMap::from([("futex".into(), 1), ("write".into(), 2)])
        );
    }

    #[test]
    fn a_broken_trace_is_an_error() {
        let cut = LOG.split("10 write(2, \"MARK end post+").next().unwrap();
        assert!(sections(cut).is_err());
        assert!(sections("1 write(2, \"MARK end post 1\\n\", 9) = 9").is_err());
    }
}
