//! The backends' lists of test names, compared: a rule that is proved on one and not on the
//! other must stand in `tests/conformance/differences.txt` with its reason.

use std::collections::{BTreeMap, BTreeSet};

/// The names of one backend's conformance tests, skipped ones included.
pub(crate) type Names = BTreeSet<String>;

/// Every unlisted difference, stale line and malformed line.
/// With a filter only names that it lets through are judged.
pub(crate) fn compare(
    iocp: &Names,
    epoll: &Names,
    listed: &str,
    filter: Option<&str>,
) -> Vec<String> {
    let mut problems = Vec::new();
    let mut expected = BTreeMap::new();
    for (index, line) in listed.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse(line) {
            Some(key) => drop(expected.insert(key, index + 1)),
            None => problems.push(format!(
                "differences.txt:{}: not `iocp only: NAME: REASON` or `epoll only: NAME: REASON`",
                index + 1
            )),
        }
    }
    let iocp_only = iocp.difference(epoll).map(|name| ("iocp", name.as_str()));
    let epoll_only = epoll.difference(iocp).map(|name| ("epoll", name.as_str()));
    for (backend, name) in iocp_only.chain(epoll_only) {
        if expected.remove(&(backend, name)).is_none() {
            problems.push(format!(
                "{name} exists on {backend} only, and differences.txt does not say why"
            ));
        }
    }
    let judged = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    for ((backend, name), line) in expected {
        if judged(name) {
            problems.push(format!(
                "differences.txt:{line}: stale, {name} is not on {backend} only"
            ));
        }
    }
    problems
}

fn parse(line: &str) -> Option<(&str, &str)> {
    let (backend, rest) = line.split_once(" only: ")?;
    let (name, reason) = rest.split_once(": ")?;
    let known = matches!(backend, "iocp" | "epoll");
    (known && !reason.trim().is_empty()).then_some((backend, name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Names {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn listed_differences_pass() {
        let listed =
            "# why they differ\n\niocp only: b: no C ABI: elsewhere\nepoll only: c: an fd\n";
        assert!(compare(&names(&["a", "b"]), &names(&["a", "c"]), listed, None).is_empty());
    }

    #[test]
    fn unlisted_stale_and_reasonless_lines_fail() {
        let both = names(&["a"]);
        assert_eq!(compare(&names(&["a", "b"]), &both, "", None).len(), 1);
        assert_eq!(
            compare(&both, &names(&["a", "b"]), "iocp only: b: wrong side", None).len(),
            2
        );
        assert!(compare(&both, &both, "iocp only: a: once", None)[0].contains("stale"));
        assert_eq!(compare(&both, &both, "iocp only: a:", None).len(), 1);
        assert_eq!(compare(&both, &both, "uring only: a: x", None).len(), 1);
    }

    #[test]
    fn a_filter_does_not_make_lines_stale() {
        let listed = "iocp only: b: why";
        assert!(compare(&names(&["a"]), &names(&["a"]), listed, Some("a")).is_empty());
        assert_eq!(
            compare(&names(&["a"]), &names(&["a"]), listed, Some("b")).len(),
            1
        );
    }
}
