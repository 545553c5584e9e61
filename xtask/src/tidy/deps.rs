//! Few dependencies: counted on each system, what they bring along included.

use anyhow::Result;

use crate::project::Project;
use crate::shell;

/// "Under ten", for whoever turns no feature on.
const MOST: usize = 9;
/// What each optional feature may add to that.
const MOST_MORE: usize = 3;
const TARGETS: &[&str] = &["x86_64-unknown-linux-gnu", "x86_64-pc-windows-msvc"];
const FEATURES: &[&str] = &["tracing"];

pub(crate) fn check(project: &Project) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for target in TARGETS {
        let plain = tree(project, target, &[])?;
        println!("  {target}: {} ({})", plain.len(), plain.join(", "));
        problems.extend(judge(target, plain.len(), MOST));
        for feature in FEATURES {
            let mut more = tree(project, target, &["--features", feature])?;
            more.retain(|package| !plain.contains(package));
            println!("    {feature} adds {} ({})", more.len(), more.join(", "));
            let what = format!("{target}, added by `{feature}`");
            problems.extend(judge(&what, more.len(), MOST_MORE));
        }
    }
    Ok(problems)
}

fn tree(project: &Project, target: &str, features: &[&str]) -> Result<Vec<String>> {
    let mut tree = project.cargo();
    tree.args(["tree", "-p", "longshore", "-e", "normal"]);
    tree.args(["--prefix", "none", "--target", target]);
    tree.args(features);
    Ok(packages(&shell::capture(&mut tree)?))
}

fn judge(what: &str, count: usize, most: usize) -> Option<String> {
    (count > most).then(|| format!("{count} normal dependencies on {what}, {most} are allowed"))
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
        assert_eq!(judge("x", 9, MOST), None);
        assert!(judge("x", 10, MOST).is_some());
    }
}
