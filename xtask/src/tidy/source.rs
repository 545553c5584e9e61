//! Rust files for checks that read text: found, and split into code and comments.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One line, taken apart. Columns are kept: what belongs to the other part is blank.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Without comments, and with strings and characters emptied.
    pub(crate) code: String,
    /// Only the comments, markers included.
    pub(crate) comment: String,
}

#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    pub(crate) lines: Vec<Line>,
}

impl Source {
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            lines: split(text),
        }
    }

    /// The code in one piece, for what may span lines.
    pub(crate) fn code(&self) -> String {
        let mut code = String::new();
        for line in &self.lines {
            code.push_str(&line.code);
            code.push('\n');
        }
        code
    }
}

/// Every `.rs` file in these folders, in a fixed order.
pub(crate) fn rust_files(root: &Path, folders: &[&str]) -> Result<Vec<Source>> {
    let mut paths = Vec::new();
    for folder in folders {
        walk(&root.join(folder), "rs", &mut paths)?;
    }
    paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Ok(Source::parse(&relative(root, path), &text))
        })
        .collect()
}

pub(crate) fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
        .replace('\\', "/")
}

/// All files with this extension below a folder that may not exist.
pub(crate) fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            if entry.file_name() != "target" {
                walk(&path, extension, found)?;
            }
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    Ok(())
}

/// Whether a character can be part of a name.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands in `text` as a whole word, in bytes.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| {
            let before = text[..*at].chars().next_back();
            let after = text[at + word.len()..].chars().next();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        })
}

enum State {
    Code,
    LineComment,
    /// Rust's block comments nest.
    BlockComment(usize),
    String,
    /// Ends at a quote and this many `#`.
    RawString(usize),
}

fn split(text: &str) -> Vec<Line> {
    let mut splitter = Splitter {
        rest: text.chars().collect(),
        at: 0,
        state: State::Code,
        line: Line::default(),
        lines: Vec::new(),
    };
    while splitter.at < splitter.rest.len() {
        splitter.step();
    }
    if !splitter.line.code.is_empty() {
        splitter.end_line();
    }
    splitter.lines
}

struct Splitter {
    rest: Vec<char>,
    at: usize,
    state: State,
    line: Line,
    lines: Vec<Line>,
}

impl Splitter {
    fn step(&mut self) {
        let c = self.rest[self.at];
        if c == '\n' {
            if matches!(self.state, State::LineComment) {
                self.state = State::Code;
            }
            self.at += 1;
            self.end_line();
            return;
        }
        match self.state {
            State::Code => self.code(c),
            State::LineComment => self.comment(1),
            State::BlockComment(depth) => self.block_comment(depth),
            State::String => self.string(c),
            State::RawString(hashes) => self.raw_string(c, hashes),
        }
    }

    fn end_line(&mut self) {
        self.lines.push(std::mem::take(&mut self.line));
    }

    fn sees(&self, text: &str) -> bool {
        text.chars()
            .enumerate()
            .all(|(i, c)| self.rest.get(self.at + i) == Some(&c))
    }

    fn take(&mut self, count: usize, to_code: bool, to_comment: bool) {
        for _ in 0..count {
            let Some(c) = self.rest.get(self.at).copied().filter(|c| *c != '\n') else {
                return;
            };
            self.line.code.push(if to_code { c } else { ' ' });
            self.line.comment.push(if to_comment { c } else { ' ' });
            self.at += 1;
        }
    }

    fn keep(&mut self, count: usize) {
        self.take(count, true, false);
    }

    fn blank(&mut self, count: usize) {
        self.take(count, false, false);
    }

    fn comment(&mut self, count: usize) {
        self.take(count, false, true);
    }

    fn code(&mut self, c: char) {
        let after_word = self.at > 0 && is_word(self.rest[self.at - 1]);
        if self.sees("//") {
            self.state = State::LineComment;
            self.comment(2);
        } else if self.sees("/*") {
            self.state = State::BlockComment(1);
            self.comment(2);
        } else if c == '"' {
            self.state = State::String;
            self.keep(1);
        } else if !after_word && let Some((prefix, hashes)) = self.raw_start() {
            self.state = State::RawString(hashes);
            self.keep(prefix + hashes + 1);
        } else if c == '\'' {
            let length = self.character();
            self.keep(1);
            self.blank(length);
        } else {
            self.keep(1);
        }
    }

    /// `r"`, `br#"`, `cr##"`: the prefix's length and the number of `#`.
    fn raw_start(&self) -> Option<(usize, usize)> {
        let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
            self.sees(prefix) && matches!(self.rest.get(self.at + prefix.len()), Some('"' | '#'))
        })?;
        let after = self.at + prefix.len();
        let hashes = self.rest[after..].iter().take_while(|c| **c == '#').count();
        (self.rest.get(after + hashes) == Some(&'"')).then_some((prefix.len(), hashes))
    }

    /// How much follows the opening quote, if this is a character and not a lifetime.
    fn character(&self) -> usize {
        let rest = &self.rest[self.at + 1..];
        match rest {
            ['\\', _, ..] => {
                2 + rest[2..]
                    .iter()
                    .position(|c| *c == '\'')
                    .map_or(0, |end| end + 1)
            }
            [_, '\'', ..] => 2,
            _ => 0,
        }
    }

    fn block_comment(&mut self, depth: usize) {
        if self.sees("/*") {
            self.state = State::BlockComment(depth + 1);
            self.comment(2);
        } else if self.sees("*/") {
            self.state = if depth == 1 {
                State::Code
            } else {
                State::BlockComment(depth - 1)
            };
            self.comment(2);
        } else {
            self.comment(1);
        }
    }

    fn string(&mut self, c: char) {
        match c {
            '\\' => self.blank(2),
            '"' => {
                self.state = State::Code;
                self.keep(1);
            }
            _ => self.blank(1),
        }
    }

    fn raw_string(&mut self, c: char, hashes: usize) {
        if c == '"' && self.sees(&format!("\"{}", "#".repeat(hashes))) {
            self.state = State::Code;
            self.keep(hashes + 1);
        } else {
            self.blank(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Source::parse("x.rs", text).code().trim_end().to_owned()
    }

    #[test]
    fn strings_and_comments_are_no_code() {
        assert_eq!(code("a /* b /* c */ d */ e // f"), "a                   e");
        assert_eq!(code(r#"f("unsafe \" {")"#), r#"f("           ")"#);
        assert_eq!(code("r#\"x\" unsafe\"# y"), "r#\"         \"# y");
        assert_eq!(code("let q = '\"'; unsafe"), "let q = '  ; unsafe");
        assert_eq!(
            code(r"let q = '\''; b'\u{7f}' fn f<'a>()"),
            "let q = '   ; b'        fn f<'a>()"
        );
        assert_eq!(
            code("\"two\nunsafe lines\" end"),
            "\"   \n            \" end"
        );
    }

    #[test]
    fn comments_are_kept_beside() {
        let source = Source::parse("x.rs", "code(); // SAFETY: why\n/// doc\n");
        assert_eq!(source.lines[0].comment.trim(), "// SAFETY: why");
        assert_eq!(source.lines[1].comment.trim(), "/// doc");
        assert_eq!(source.lines.len(), 2);
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(
            words("unsafe_code unsafe(x)", "unsafe").collect::<Vec<_>>(),
            [12]
        );
    }
}
