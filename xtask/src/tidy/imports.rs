//! Imports run one way: a file may use its own layer and those below it. Backends never use
//! each other, and only the platform layers may ask which platform they are on.

use super::source::{Source, is_word, words};

const SRC: &str = "crates/longshore/src/";

/// From bottom to top. A module that is not here has no place yet.
const LAYERS: &[&[&str]] = &[
    &[
        "packet",
        "completion",
        "submission",
        "buf",
        "error",
        "handle",
        "overlapped",
        "sync",
        "trace",
    ],
    &["sys"],
    &["port"],
    &["dispatcher"],
    &["ioqueue", "task"],
    &["fs", "net", "pipe", "time", "process", "signal", "waitable"],
    &["os", "lib"],
];

const BACKENDS: &[&str] = &["iocp", "epoll", "uring", "sim"];

/// Files outside `sys` and `os` that may ask for the platform, and why.
const PLATFORM_EXCEPTIONS: &[(&str, &str)] = &[
    (
        "lib.rs",
        "the compile error for other systems, and what exists on one of them only",
    ),
    (
        "dispatcher.rs",
        "the exported handle is another type on each system",
    ),
    (
        "handle.rs",
        "is the portable name of the system's handle types",
    ),
    (
        "overlapped.rs",
        "a unit test of what stands in for a kernel that writes headers itself",
    ),
];

const PLATFORM_WORDS: &[&str] = &[
    "windows",
    "unix",
    "target_os",
    "target_family",
    "target_env",
];

pub(crate) fn check(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources {
        let Some(file) = source.path.strip_prefix(SRC) else {
            continue;
        };
        directions(file, source, &mut problems);
        platform(file, source, &mut problems);
    }
    // `crate::sys::{a, b}` is one mistake.
    problems.dedup();
    problems
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// `sys/iocp/queue.rs` is `["sys", "iocp", "queue"]`.
fn module_path(file: &str) -> Vec<&str> {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').collect()
}

fn directions(file: &str, source: &Source, problems: &mut Vec<String>) {
    let own = module_path(file);
    let Some(own_layer) = layer(own[0]) else {
        problems.push(format!(
            "{SRC}{file}: `{}` is in no layer (xtask/src/tidy/imports.rs)",
            own[0]
        ));
        return;
    };
    for (line, path) in paths(&own, &source.code()) {
        let Some(first) = path.first().map(String::as_str) else {
            continue;
        };
        let place = format!("{SRC}{file}:{line}");
        if first == "self" || first == "*" || first == own[0] {
            // One's own module, but for the backends, below.
        } else {
            match layer(first) {
                Some(other) if other <= own_layer => {}
                Some(_) => problems.push(format!(
                    "{place}: `{}` may not use `crate::{first}`, it is above",
                    own[0]
                )),
                // A name that lib.rs re-exports or defines. At the top that is one's own layer.
                None if own_layer + 1 == LAYERS.len() => {}
                None => problems.push(format!(
                    "{place}: name the module instead of `crate::{first}`"
                )),
            }
        }
        if let (Some(own), [sys, other, ..]) = (backend(&own), path.as_slice())
            && sys == "sys"
            && BACKENDS.contains(&other.as_str())
            && other != own
        {
            problems.push(format!(
                "{place}: the backend {own} may not use the backend {other}"
            ));
        }
    }
}

/// The backend that a file belongs to: `sys/epoll.rs`, `sys/epoll/...`, `sys/epoll_files.rs`.
fn backend<'a>(path: &[&'a str]) -> Option<&'a str> {
    let ["sys", file, ..] = path else { return None };
    BACKENDS
        .iter()
        .copied()
        .find(|backend| file.split('_').next() == Some(backend))
}

/// Every path in the code that starts at the crate's root, with its line: `crate::a::b`, each
/// branch of `crate::{a, b::c}`, and `super::` where it leads out of the module.
fn paths(own: &[&str], code: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut add = |at: usize, path: Vec<String>| {
        let line = code[..at].matches('\n').count() + 1;
        found.push((line, path));
    };
    for at in words(code, "crate") {
        if let Some(rest) = code[at + "crate".len()..].trim_start().strip_prefix("::") {
            branches(rest, &[])
                .into_iter()
                .for_each(|path| add(at, path));
        }
    }
    for at in words(code, "super") {
        // A chain is looked at once, from its first `super`.
        if code[..at].trim_end().ends_with("::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut ups = 0;
        while let Some(next) = rest
            .trim_start()
            .strip_prefix("super")
            .and_then(|rest| rest.trim_start().strip_prefix("::"))
        {
            ups += 1;
            rest = next;
        }
        let depth = own.len() + inline_depth(code, at);
        if let Some(base) = depth.checked_sub(ups)
            && ups > 0
            && base < own.len()
        {
            let prefix: Vec<_> = own[..base].iter().map(|part| (*part).to_owned()).collect();
            branches(rest, &prefix)
                .into_iter()
                .for_each(|path| add(at, path));
        }
    }
    found
}

/// How many `mod x {` of the file are open at a place.
fn inline_depth(code: &str, at: usize) -> usize {
    let mut opened = Vec::new();
    let starts: Vec<_> = words(code, "mod")
        .filter_map(|start| {
            let open = start + code[start..].find(['{', ';'])?;
            code[open..].starts_with('{').then_some(open)
        })
        .collect();
    for (place, c) in code[..at].char_indices() {
        match c {
            '{' => opened.push(starts.contains(&place)),
            '}' => drop(opened.pop()),
            _ => {}
        }
    }
    opened.into_iter().filter(|is_module| *is_module).count()
}

/// The paths that begin here: two segments are enough to know the layer and the backend.
fn branches(text: &str, prefix: &[String]) -> Vec<Vec<String>> {
    let text = text.trim_start();
    if prefix.len() >= 2 {
        return vec![prefix.to_vec()];
    }
    if let Some(group) = text.strip_prefix('{') {
        return items(group)
            .into_iter()
            .flat_map(|item| branches(item, prefix))
            .collect();
    }
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    let word = if text.starts_with('*') {
        "*"
    } else {
        &text[..end]
    };
    let mut path = prefix.to_vec();
    if word.is_empty() {
        return vec![path];
    }
    path.push(word.to_owned());
    match text[end..].trim_start().strip_prefix("::") {
        Some(rest) => branches(rest, &path),
        None => vec![path],
    }
}

/// The comma-separated parts of a group, up to its closing brace.
fn items(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
            }
            '}' => {
                items.push(&group[start..at]);
                break;
            }
            _ => {}
        }
    }
    items.retain(|item| !item.trim().is_empty());
    items
}

fn platform(file: &str, source: &Source, problems: &mut Vec<String>) {
    let free = ["sys", "os"].contains(&module_path(file)[0]);
    if free
        || PLATFORM_EXCEPTIONS
            .iter()
            .any(|(exception, _)| *exception == file)
    {
        return;
    }
    let code = source.code();
    for name in ["cfg", "cfg_attr"] {
        for at in words(&code, name) {
            let rest = code[at + name.len()..].trim_start_matches('!').trim_start();
            let Some(condition) = rest.strip_prefix('(') else {
                continue;
            };
            let (condition, effect) = parts(name, condition);
            // To silence a lint on one system changes nothing that runs there.
            if effect.starts_with("expect(") || effect.starts_with("allow(") {
                continue;
            }
            if PLATFORM_WORDS
                .iter()
                .any(|word| words(condition, word).next().is_some())
            {
                let line = code[..at].matches('\n').count() + 1;
                problems.push(format!(
                    "{SRC}{file}:{line}: only sys and os may ask for the platform"
                ));
            }
        }
    }
}

/// All of `cfg(...)`; of `cfg_attr(condition, effect)` the one and the other.
fn parts<'a>(name: &str, text: &'a str) -> (&'a str, &'a str) {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => return (&text[..at], ""),
            ')' => depth -= 1,
            ',' if depth == 0 && name == "cfg_attr" => {
                return (&text[..at], text[at + 1..].trim_start());
            }
            _ => {}
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(file: &str, text: &str) -> Vec<String> {
        check(&[Source::parse(&format!("{SRC}{file}"), text)])
    }

    fn passes(file: &str, text: &str) {
        assert_eq!(problems(file, text), [""; 0], "{file}: {text}");
    }

    fn fails(file: &str, text: &str) {
        assert_eq!(problems(file, text).len(), 1, "{file}: {text}");
    }

    #[test]
    fn downwards_and_sideways_is_fine() {
        passes(
            "port.rs",
            "use crate::sys::Backend; use crate::{packet::Packet, port};",
        );
        passes(
            "dispatcher/run.rs",
            "use super::entry::Entry; use crate::dispatcher::Builder;",
        );
        passes(
            "dispatcher/run.rs",
            "mod tests { use super::*; use super::super::close; }",
        );
        passes("os/linux.rs", "use crate::Dispatcher;");
        passes(
            "sys/epoll.rs",
            "// crate::port is above\nuse crate::sys::backend;",
        );
        passes(
            "sys/iocp/queue.rs",
            "use crate::sys::iocp::start; use super::attached;",
        );
    }

    #[test]
    fn upwards_fails_however_it_is_written() {
        fails("sys/epoll.rs", "use crate::port::Port;");
        fails("sys.rs", "fn f(x: crate::dispatcher::Entry) {}");
        fails(
            "packet.rs",
            "use crate::{completion::Completion, sys::{self, Backend}};",
        );
        fails("packet.rs", "use super::port;");
        fails("packet.rs", "mod tests { use super::super::port::Port; }");
        fails("sys/epoll.rs", "use super::super::port;");
        fails("port.rs", "use crate::Dispatcher;");
        fails("port.rs", "use crate::{\n    dispatcher,\n};");
    }

    #[test]
    fn backends_do_not_know_each_other() {
        fails("sys/epoll.rs", "use crate::sys::iocp::Queue;");
        fails("sys/epoll.rs", "use super::iocp::Queue;");
        fails("sys/iocp/start.rs", "use crate::sys::{backend, epoll};");
        fails("sys/iocp/start.rs", "use super::super::epoll::x;");
    }

    #[test]
    fn a_module_without_a_layer_fails() {
        fails("surprise.rs", "");
    }

    #[test]
    fn the_platform_is_asked_for_in_few_places() {
        passes("sys.rs", "#[cfg(windows)] mod iocp;");
        passes("handle.rs", "#[cfg(unix)] use x;");
        passes(
            "port.rs",
            "#[cfg(test)] #[cfg(target_pointer_width = \"64\")] mod tests {}",
        );
        passes("port.rs", "// #[cfg(windows)]");
        passes(
            "port.rs",
            "#[cfg_attr(\n    windows,\n    expect(dead_code, reason = \"x\")\n)]\nfn f() {}",
        );
        fails("port.rs", "#[cfg(all(test, windows))] mod tests {}");
        fails("port.rs", "if cfg!(target_os = \"linux\") {}");
        fails("port.rs", "#[cfg_attr(not(unix), path = \"x.rs\")] mod f;");
        fails("port.rs", "#[cfg(not(\n    windows\n))] fn f() {}");
    }
}
