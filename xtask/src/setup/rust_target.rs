//! The standard library for the Windows targets: from rustup, or built from Debian's `rust-src`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::sysroot;
use crate::project::Project;
use crate::shell;

/// Built, linked with mingw, and run under Wine.
pub(crate) const GNU: &str = "x86_64-pc-windows-gnu";
/// The ABI that most users have. Only checked: that needs no linker.
pub(crate) const MSVC: &str = "x86_64-pc-windows-msvc";

/// The targets that can be compiled for, each with a sysroot of our own if rustup gave none.
#[derive(Debug)]
pub(crate) struct Targets {
    sysroots: Vec<(&'static str, Option<PathBuf>)>,
}

pub(crate) fn ensure(project: &Project) -> Result<Targets> {
    let sysroots = [GNU, MSVC]
        .into_iter()
        .map(|target| {
            let sysroot = ensure_one(project, target)
                .with_context(|| format!("no standard library for {target}"))?;
            Ok((target, sysroot))
        })
        .collect::<Result<_>>()?;
    Ok(Targets { sysroots })
}

/// `None`: the toolchain has the target itself.
fn ensure_one(project: &Project, target: &str) -> Result<Option<PathBuf>> {
    // For testing the fallback, and for machines where rustup would only wait for a time-out.
    if std::env::var_os("LONGSHORE_NO_RUSTUP").is_none_or(|value| value.is_empty()) {
        if toolchain_has(target)? || rustup_add(target) {
            return Ok(None);
        }
        eprintln!("setup: rustup cannot give {target}, building it from Debian's rust-src");
    }
    sysroot::ensure(project, target).map(Some)
}

fn toolchain_has(target: &str) -> Result<bool> {
    let print = ["--print", "target-libdir", "--target", target];
    let folder = shell::capture(Command::new("rustc").args(print))?;
    Ok(has_std(Path::new(folder.trim())))
}

pub(super) fn has_std(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

fn rustup_add(target: &str) -> bool {
    if shell::which("rustup").is_none() {
        return false;
    }
    // Twice: its downloads are known to fail now and then.
    (0..2).any(|_| shell::run(Command::new("rustup").args(["target", "add", target])).is_ok())
}

impl Targets {
    pub(crate) fn describe(&self) -> String {
        let one = |(target, sysroot): &(&str, Option<PathBuf>)| match sysroot {
            None => (*target).to_owned(),
            Some(_) => format!("{target} (from Debian's rust-src)"),
        };
        self.sysroots.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// Lets a cargo call compile for `target`, with more flags for rustc and rustdoc if wanted.
    /// Per target and by environment, so that build scripts, the host's files and the user's
    /// own cargo calls are left as they are.
    pub(crate) fn apply(&self, cargo: &mut Command, target: &str, flags: &str) {
        let sysroot = self.sysroots.iter().find(|(name, _)| *name == target);
        let sysroot = sysroot.and_then(|(_, sysroot)| sysroot.as_ref());
        // Encoded flags would allow blanks in the path, but they exist only for all targets at once.
        let mut all = sysroot
            .map(|path| format!("--sysroot {}", path.display()))
            .unwrap_or_default();
        if !flags.is_empty() {
            all = format!("{all} {flags}");
        }
        if !all.is_empty() {
            cargo.env(variable(target, "RUSTFLAGS"), all.trim());
            cargo.env(variable(target, "RUSTDOCFLAGS"), all.trim());
        }
    }
}

/// The name of cargo's per-target variable, `CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER`.
pub(crate) fn variable(target: &str, name: &str) -> String {
    format!(
        "CARGO_TARGET_{}_{name}",
        target.to_uppercase().replace('-', "_")
    )
}
