//! Wine's relay log: `0024:Call module.function(arguments) ret=address`, then `0024:Ret  ...`.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::{Section, Sections, marker};

struct Open {
    name: String,
    section: Section,
    /// The marker is itself a function of several NT calls: nothing counts until it returns.
    counting: bool,
}

/// Counts the NT calls that a section's own thread makes between its markers, and the threads
/// that any thread makes. Sections may be nested: `threads` spans the others.
pub(super) fn sections(log: &str) -> Result<Sections> {
    let mut sections = Sections::new();
    let mut open: BTreeMap<&str, Vec<Open>> = BTreeMap::new();
    for line in log.lines() {
        let Some((thread, event)) = line.split_once(':') else {
            continue;
        };
        if let Some(text) = debug_string(event) {
            let Some(marker) = marker(text) else { continue };
            let stack = open.entry(thread).or_default();
            if marker.begins {
                stack.iter_mut().for_each(|outer| outer.counting = false);
                let section = Section {
                    operations: marker.operations,
                    ..Section::default()
                };
                stack.push(Open {
                    name: marker.name.to_owned(),
                    section,
                    counting: false,
                });
            } else {
                match stack.pop() {
                    Some(top) if top.name == marker.name => {
                        drop(sections.insert(top.name, top.section))
                    }
                    _ => bail!("the section `{}` ends without having begun", marker.name),
                }
                stack.iter_mut().for_each(|outer| outer.counting = false);
            }
        } else if event.starts_with("Ret  KERNEL32.OutputDebugStringA(") {
            open.entry(thread)
                .or_default()
                .iter_mut()
                .for_each(|section| section.counting = true);
        } else if let Some(call) = event.strip_prefix("Call ntdll.Nt") {
            let call = call.split('(').next().unwrap_or(call);
            count(&mut open, thread, call);
        }
    }
    if let Some(left) = open.into_values().flatten().next() {
        bail!("the section `{}` never ends", left.name);
    }
    Ok(sections)
}

fn count(open: &mut BTreeMap<&str, Vec<Open>>, thread: &str, call: &str) {
    if matches!(call, "CreateThread" | "CreateThreadEx") {
        open.values_mut()
            .flatten()
            .for_each(|open| open.section.threads += 1);
    }
    for open in open
        .get_mut(thread)
        .into_iter()
        .flatten()
        .filter(|open| open.counting)
    {
        *open.section.calls.entry(format!("Nt{call}")).or_default() += 1;
    }
}

/// The text of `Call KERNEL32.OutputDebugStringA(0036f920 "MARK begin post 100") ret=140004a9e`.
fn debug_string(event: &str) -> Option<&str> {
    let arguments = event.strip_prefix("Call KERNEL32.OutputDebugStringA(")?;
    arguments.split('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(text: &str) -> String {
        format!(
            "0024:Call KERNEL32.OutputDebugStringA(0036f920 \"MARK {text}\") ret=1\n\
             0024:Call ntdll.NtOpenSection(1) ret=2\n\
             0024:Ret  ntdll.NtOpenSection() retval=c0000034 ret=2\n\
             0024:Ret  KERNEL32.OutputDebugStringA() retval=0 ret=1\n"
        )
    }

    #[test]
    fn markers_and_other_threads_do_not_count() {
        let post = "0024:Call KERNEL32.PostQueuedCompletionStatus(1,2) ret=3\n\
                    0024:Call ntdll.NtSetIoCompletion(1,2) ret=4\n\
                    0024:Ret  ntdll.NtSetIoCompletion() retval=0 ret=4\n\
                    0028:Call ntdll.NtReadFile(1) ret=4\n";
        let log = [
            mark("begin threads"),
            mark("begin post 2"),
            post.repeat(2),
            mark("end post 2"),
            mark("end threads"),
        ];
        let found = sections(&log.concat()).unwrap();
        assert_eq!(found["post"].operations, 2);
        assert_eq!(
            found["post"].calls,
            BTreeMap::from([("NtSetIoCompletion".into(), 2)])
        );
        assert_eq!(found["threads"].threads, 0);
    }

    #[test]
    fn a_thread_made_by_any_thread_is_seen() {
        let made = "0028:Call ntdll.NtCreateThreadEx(1) ret=4\n";
        let log = [mark("begin threads").as_str(), made, &mark("end threads")].concat();
        assert_eq!(sections(&log).unwrap()["threads"].threads, 1);
    }

    #[test]
    fn a_broken_log_is_an_error() {
        assert!(sections(&mark("begin post 1")).is_err());
        assert!(sections(&mark("end post 1")).is_err());
    }
}
