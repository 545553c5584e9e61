//! Few dependencies: counted on each system, what they bring along included.

use anyhow::Result;

use crate::project::Project;
use crate::shell;

/// "Under ten".
const MOST: usize = 9;
const TARGETS: &[&str] = &["x86_64-unknown-linux-gnu", "x86_64-pc-windows-msvc"];

pub(crate) fn check(project: &Project) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for target in TARGETS {
        let mut tree = project.cargo();
        tree.args([
            "tree",
            "-p",
            "longshore",
            "-e",
            "normal",
            "--prefix",
            "none",
            "--target",
            target,
        ]);
        let packages = packages(&shell::capture(&mut tree)?);
        println!("  {target}: {} ({})", packages.len(), packages.join(", "));
        problems.extend(judge(target, packages.len()));
    }
    Ok(problems)
}

fn judge(target: &str, count: usize) -> Option<String> {
    (count > MOST).then(|| format!("{count} normal dependencies on {target}, {MOST} are allowed"))
}

/// The packages in `cargo tree --prefix none`, each once, without the first, which is ours.
/// Two versions of one package count twice.
fn packages(tree: &str) -> Vec<String> {
    let mut found: Vec<_> = tree
        .lines()
        .skip(1)
        .map(|line| {
            line.split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .filter(|package| !package.is_empty())
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_counts_once_and_the_tenth_is_too_many() {
        let tree =
            "longshore v0.1.0 (/x)\nlibc v0.2.1\nsocket2 v0.6.0\nlibc v0.2.1 (*)\nlibc v0.1.0\n";
        assert_eq!(
            packages(tree),
            ["libc v0.1.0", "libc v0.2.1", "socket2 v0.6.0"]
        );
        assert_eq!(judge("x", 9), None);
        assert!(judge("x", 10).is_some());
    }
}
