//! Unsafe by permit: a file that needs it says why, is on the list, and explains each use.

use super::source::{Line, Source, is_word, words};

/// Below this many lines upwards nobody would still see the comment.
const REACH: usize = 40;

/// `permits` is the text of `docs/unsafe-permits.txt`: on each line a path. The reason stands in the
/// file itself, where a reader needs it.
pub(crate) fn check(sources: &[Source], permits: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let permitted: Vec<&str> = permits
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    for source in sources {
        let uses = uses(source);
        let listed = permitted.iter().position(|path| *path == source.path);
        match (uses.is_empty(), listed) {
            (true, None) => continue,
            (true, Some(_)) => {
                problems.push(format!(
                    "{}: stale in docs/unsafe-permits.txt, it uses no unsafe",
                    source.path
                ));
                continue;
            }
            (false, None) => problems.push(format!(
                "{}: uses unsafe without being in docs/unsafe-permits.txt",
                source.path
            )),
            (false, Some(_)) => {}
        }
        header(source, &mut problems);
        for (line, kind) in uses {
            if !explained(source, line, &kind) {
                problems.push(format!(
                    "{}:{}: {} without a SAFETY comment",
                    source.path,
                    line + 1,
                    kind.name()
                ));
            }
        }
    }
    let unknown = permitted
        .iter()
        .filter(|path| !sources.iter().any(|source| source.path == **path));
    problems.extend(
        unknown
            .map(|path| format!("{path}: in docs/unsafe-permits.txt, but there is no such file")),
    );
    problems
}

/// `// UNSAFETY: why` before the first item, and the attribute that lets unsafe in.
fn header(source: &Source, problems: &mut Vec<String>) {
    let top = source.lines.iter().take_while(|line| {
        let code = line.code.trim();
        code.is_empty() || !code.starts_with(|c: char| c.is_alphabetic()) && !code.starts_with("#[")
    });
    let reason = |line: &Line| {
        line.comment
            .split("UNSAFETY:")
            .nth(1)
            .is_some_and(|why| !why.trim().is_empty())
    };
    if !top.into_iter().any(reason) {
        problems.push(format!("{}: no `// UNSAFETY: why` at its top", source.path));
    }
    let code: String = source.code().split_whitespace().collect();
    // `#![cfg_attr(windows, expect(unsafe_code))]` lets it in as well.
    let attribute = code.split("#![").skip(1).any(|rest| {
        let attribute = rest.split(']').next().unwrap_or_default();
        (attribute.contains("expect(") || attribute.contains("allow("))
            && words(attribute, "unsafe_code").next().is_some()
    });
    if !attribute {
        problems.push(format!("{}: no `#![expect(unsafe_code)]`", source.path));
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Block,
    Impl,
    Function,
    /// A trait's function: its contract stands at the trait.
    Implementation,
    Trait,
    Foreign,
    Attribute,
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Block => "an unsafe block",
            Self::Impl => "an unsafe impl",
            Self::Function | Self::Implementation => "an unsafe fn",
            Self::Trait => "an unsafe trait",
            Self::Foreign => "a foreign block",
            Self::Attribute => "an unsafe attribute",
        }
    }
}

/// Where the file uses the word, and for what. Types of function pointers promise nothing and
/// are left out.
fn uses(source: &Source) -> Vec<(usize, Kind)> {
    let code = source.code();
    let kind = |at: usize| {
        let mut rest = code[at + "unsafe".len()..].trim_start();
        let mut foreign = false;
        if let Some(after) = rest.strip_prefix("extern") {
            foreign = true;
            // The ABI's name is emptied, its quotes are not.
            let after = after.trim_start();
            rest = after
                .strip_prefix('"')
                .and_then(|name| name.split_once('"'))
                .map_or(after, |(_, rest)| rest);
            rest = rest.trim_start();
        }
        let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
        match word {
            "impl" => Some(Kind::Impl),
            "trait" | "auto" => Some(Kind::Trait),
            "fn" => rest[2..]
                .trim_start()
                .starts_with(is_word)
                .then_some(Kind::Function),
            _ if rest.starts_with('{') => Some(if foreign { Kind::Foreign } else { Kind::Block }),
            _ if rest.starts_with('(') => Some(Kind::Attribute),
            // Declarations in a foreign block, whose own comment covers them.
            _ => None,
        }
    };
    let line = |at: usize| code[..at].matches('\n').count();
    words(&code, "unsafe")
        .filter_map(|at| match kind(at)? {
            Kind::Function if in_trait_impl(&code[..at]) => Some((line(at), Kind::Implementation)),
            kind => Some((line(at), kind)),
        })
        .collect()
}

/// Whether the innermost block that is open at the end of `code` is an `impl Trait for Type`.
fn in_trait_impl(code: &str) -> bool {
    let mut closed = 0;
    for (at, c) in code.char_indices().rev() {
        match c {
            '}' => closed += 1,
            '{' if closed > 0 => closed -= 1,
            '{' => {
                let header = code[..at]
                    .rsplit([';', '{', '}'])
                    .next()
                    .unwrap_or_default();
                let is = |word| words(header, word).next().is_some();
                return is("impl") && is("for");
            }
            _ => {}
        }
    }
    false
}

/// A comment on the line, above it, or above the statement that the line belongs to.
/// (Clippy's `undocumented_unsafe_blocks` is stricter about blocks; this sees all the rest.)
fn explained(source: &Source, line: usize, kind: &Kind) -> bool {
    let explains = |line: &Line| {
        let comment = &line.comment;
        comment.contains("SAFETY:")
            || (matches!(kind, Kind::Function | Kind::Trait) && comment.contains("# Safety"))
    };
    if *kind == Kind::Implementation || explains(&source.lines[line]) {
        return true;
    }
    for above in source.lines[..line].iter().rev().take(REACH) {
        let code = above.code.trim();
        if code.is_empty() && above.comment.trim().is_empty() {
            return false;
        }
        // Another statement ends, or a block begins: what stands above explains that one.
        let boundary = code.ends_with([';', '{', '}']) && !code.starts_with('#');
        if boundary {
            return false;
        }
        if explains(above) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: &str = "//! Doc.\n// UNSAFETY: talks to the kernel.\n#![expect(unsafe_code)]\n\n";

    fn problems(body: &str) -> Vec<String> {
        check(&[Source::parse("a.rs", &format!("{TOP}{body}"))], "a.rs\n")
    }

    fn passes(body: &str) {
        assert_eq!(problems(body), [""; 0], "{body}");
    }

    fn fails(body: &str) {
        assert_eq!(problems(body).len(), 1, "{body}");
    }

    #[test]
    fn explained_uses_pass() {
        passes("// SAFETY: fine\nunsafe { f() };");
        passes("unsafe { f() }; // SAFETY: fine");
        passes("impl Backend for X {\n    fn a() {}\n    unsafe fn f() {}\n}");
        passes("// SAFETY: fine\nlet a =\n    g(b,\n    unsafe { f() });");
        passes("// SAFETY: fine,\n// and long.\n#[inline]\nunsafe impl Send for X {}");
        passes("/// Does.\n/// # Safety\n/// Be careful.\npub unsafe extern \"C\" fn f() {}");
        passes(
            "// SAFETY: as declared\nunsafe extern \"C\" {\n    unsafe fn g();\n}"
                .replace("    unsafe fn g();\n", "")
                .as_str(),
        );
        passes(
            "type F = unsafe extern \"C\" fn(usize); // SAFETY: x\n// SAFETY: y\nunsafe { f() };",
        );
    }

    #[test]
    fn the_attribute_may_depend_on_the_platform() {
        let body = "// SAFETY: fine\nunsafe { f() };";
        for attribute in [
            "#![cfg_attr(windows, expect(unsafe_code))]",
            "#![allow(unsafe_code, reason = \"x]\")]",
        ] {
            let text = format!("// UNSAFETY: why\n{attribute}\n{body}");
            assert_eq!(check(&[Source::parse("a.rs", &text)], "a.rs"), [""; 0]);
        }
        let text = format!("// UNSAFETY: why\n#![deny(unsafe_code)]\n{body}");
        assert_eq!(check(&[Source::parse("a.rs", &text)], "a.rs").len(), 1);
    }

    #[test]
    fn unexplained_uses_fail() {
        fails("unsafe { f() };");
        fails("// SAFETY: fine\nunsafe { f() };\nunsafe { g() };");
        fails("// SAFETY: of the other\n\nunsafe impl Send for X {}");
        fails("/// Does.\npub unsafe fn f() {}");
        fails("impl X {\n    fn a() {}\n    unsafe fn f() {}\n}");
        fails("let text = \"// SAFETY: in a string\"; unsafe { f() };");
        fails("#[unsafe(no_mangle)]\nfn f() {}");
        fails("// SAFETY: the outer\nfn f() {\n    unsafe { g() }\n}");
    }

    #[test]
    fn a_file_needs_its_header_and_its_permit() {
        let body = "// SAFETY: fine\nunsafe { f() };";
        let bare = [Source::parse("a.rs", body)];
        assert_eq!(check(&bare, "a.rs").len(), 2);
        let good = [Source::parse("a.rs", &format!("{TOP}{body}"))];
        assert_eq!(check(&good, "# nobody").len(), 1);
        assert_eq!(check(&good, "a.rs").len(), 0);
        assert_eq!(check(&good, "a.rs\nb.rs").len(), 1, "a file that is gone");
        let safe = [Source::parse("a.rs", "// unsafe\nlet x = \"unsafe\";")];
        assert_eq!(check(&safe, "").len(), 0);
        assert_eq!(
            check(&safe, "a.rs").len(),
            1,
            "a file that needs it no more"
        );
    }
}
