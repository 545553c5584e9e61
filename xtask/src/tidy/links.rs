//! Relative links in the documents lead somewhere, and the README names the two commands.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::source::{relative, walk};

const COMMANDS: &[&str] = &["cargo run --release --example tour", "cargo xtask test"];

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut documents: Vec<PathBuf> = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ]
    .iter()
    .map(|name| root.join(name))
    .filter(|path| path.is_file())
    .collect();
    walk(&root.join("docs"), "md", &mut documents)?;
    let mut problems = Vec::new();
    for document in &documents {
        let text = fs::read_to_string(document)?;
        let folder = document.parent().context("a document has a folder")?;
        for (line, target) in targets(&text) {
            if !folder.join(&target).exists() {
                problems.push(format!(
                    "{}:{line}: `{target}` leads nowhere",
                    relative(root, document)
                ));
            }
        }
    }
    let readme = fs::read_to_string(root.join("README.md")).unwrap_or_default();
    problems.extend(missing_commands(&readme));
    Ok(problems)
}

fn missing_commands(readme: &str) -> impl Iterator<Item = String> {
    let missing = COMMANDS
        .iter()
        .filter(move |command| !readme.contains(**command));
    missing.map(|command| format!("README.md: does not say `{command}`"))
}

/// The files that a document links to, without those on the web and places in itself.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let line = without_code(line);
        let definition = line
            .trim_start()
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "));
        let inline = line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')').map(|(link, _)| link));
        for link in inline.chain(definition.map(|(_, link)| link)) {
            // After a blank comes a title.
            let link = link.split_whitespace().next().unwrap_or_default();
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") {
                found.push((index + 1, file.trim_matches(['<', '>']).to_owned()));
            }
        }
    }
    found
}

/// The line without what stands in backticks: `a[i](x)` is no link.
fn without_code(line: &str) -> String {
    // A link's text may itself be code, so only the content goes, and quotes never match over lines.
    line.split('`')
        .enumerate()
        .map(|(i, part)| if i % 2 == 0 { part } else { "" })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_links_are_found() {
        let text = "[a](docs/a.md#part) and [`b`](b.rs) `c[i](d)` [w](https://x.y) [h](#here)\n\
                    ```\n[no](code.md)\n```\n[ref]: other.md \"Title\"\n";
        let expected = [
            (1, "docs/a.md".into()),
            (1, "b.rs".into()),
            (5, "other.md".into()),
        ];
        assert_eq!(targets(text), expected);
    }

    #[test]
    fn a_dead_link_and_a_silent_readme_fail() {
        let root = std::env::temp_dir().join(format!("xtask-links-{}", std::process::id()));
        fs::create_dir_all(root.join("docs")).unwrap();
        fs::write(
            root.join("README.md"),
            format!("{}\n[d](docs/d.md)", COMMANDS.join("\n")),
        )
        .unwrap();
        fs::write(root.join("docs/d.md"), "[up](../README.md) [gone](gone.md)").unwrap();
        let dead = check(&root).unwrap();
        fs::write(root.join("README.md"), "").unwrap();
        let silent = check(&root).unwrap();
        fs::remove_dir_all(root).unwrap();
        assert_eq!(dead, ["docs/d.md:1: `gone.md` leads nowhere"]);
        assert_eq!(silent.len(), 1 + COMMANDS.len());
    }
}
