//! A public type without an example is one that its user has to guess at.

use super::source::Source;

const SRC: &str = "crates/longshore/src/";
const ITEMS: &[&str] = &[
    "pub struct ",
    "pub enum ",
    "pub union ",
    "pub trait ",
    "pub unsafe trait ",
];

pub(crate) fn check(sources: &[Source]) -> Vec<String> {
    let ours = sources.iter().filter(|source| source.path.starts_with(SRC));
    ours.flat_map(|source| {
        let items = (0..source.lines.len()).filter(|&at| is_item(&source.lines[at].code));
        let lacking = items.filter(|&at| !has_example(source, at));
        lacking.map(|at| {
            let item = source.lines[at].code.trim().trim_end_matches('{').trim();
            format!("{}:{}: `{item}` has no example", source.path, at + 1)
        })
    })
    .collect()
}

fn is_item(code: &str) -> bool {
    ITEMS.iter().any(|item| code.trim_start().starts_with(item))
}

/// Whether the documentation above line `at` has the heading, and code below it.
fn has_example(source: &Source, at: usize) -> bool {
    let above = source.lines[..at].iter().rev();
    // Documentation and attributes, up to the blank line or code before them.
    let mut fenced = false;
    for line in above.take_while(|line| is_doc_or_attribute(&line.code, &line.comment)) {
        let text = line.comment.trim_start().trim_start_matches('/').trim();
        fenced |= text.starts_with("```");
        if text == "# Examples" {
            return fenced;
        }
    }
    false
}

fn is_doc_or_attribute(code: &str, comment: &str) -> bool {
    let code = code.trim();
    let is_blank = code.is_empty() && comment.trim().is_empty();
    // An attribute may span lines; what ends another item does not look like its parts.
    !is_blank && !code.ends_with(['}', ';'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> usize {
        check(&[Source::parse("crates/longshore/src/a.rs", text)]).len()
    }

    #[test]
    fn a_type_without_an_example_fails() {
        let good = "/// A thing.\n///\n/// # Examples\n/// ```\n/// ```\n#[derive(Debug)]\n";
        assert_eq!(count(&format!("{good}pub struct A;\n")), 0);
        assert_eq!(count("/// A thing.\npub struct A;\n"), 1);
        assert_eq!(count("/// # Examples\n/// See B.\npub enum A {}\n"), 1);
        assert_eq!(count("/// Ours.\npub(crate) struct A;\n"), 0);
        // The example of the type before is not this one's.
        assert_eq!(count(&format!("{good}pub struct A;\npub struct B;\n")), 1);
    }
}
