//! What is meant to be finished later, and what was meant to be taken out again.

use super::source::{Source, words};

const MACROS: &[&str] = &["todo", "unimplemented", "dbg"];
const NOTES: &[&str] = &["TODO", "FIXME"];

pub(crate) fn check(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources {
        for (index, line) in source.lines.iter().enumerate() {
            let place = format!("{}:{}", source.path, index + 1);
            for name in MACROS {
                let called = |at: usize| line.code[at + name.len()..].starts_with('!');
                if words(&line.code, name).any(called) {
                    problems.push(format!("{place}: `{name}!`"));
                }
            }
            for note in NOTES {
                if words(&line.comment, note).next().is_some() {
                    problems.push(format!("{place}: a note `{note}`"));
                }
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> usize {
        check(&[Source::parse("a.rs", text)]).len()
    }

    #[test]
    fn leftovers_fail_and_mere_words_do_not() {
        assert_eq!(count("fn f() { todo!() }"), 1);
        assert_eq!(count("let x = dbg!(y); unimplemented!(\"z\")"), 2);
        assert_eq!(count("// FIXME: this\n/* TODO */"), 2);
        assert_eq!(
            count("let todo = \"todo!() TODO\"; // what is left to do, dbg!"),
            0
        );
    }
}
