//! A file that does not fit a reader's head is two files.

use super::source::Source;

const LONGEST: usize = 500;

pub(crate) fn check(sources: &[Source]) -> Vec<String> {
    let lengths = sources.iter().map(|source| (source, source.lines.len()));
    lengths
        .filter(|(_, lines)| *lines > LONGEST)
        .map(|(source, lines)| format!("{}: {lines} lines, {LONGEST} are allowed", source.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_too_many_fails() {
        let file = |lines| [Source::parse("a.rs", &"x\n".repeat(lines))];
        assert!(check(&file(LONGEST)).is_empty());
        assert_eq!(check(&file(LONGEST + 1)).len(), 1);
        let unended = [Source::parse(
            "a.rs",
            &"x\n".repeat(LONGEST).trim_end().replace('\n', "\n\n"),
        )];
        assert_eq!(check(&unended).len(), 1);
    }
}
