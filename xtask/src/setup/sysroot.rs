//! Where rustup cannot give a target: std built once from Debian's `rust-src` package.
//!
//! The package carries the source of exactly one rustc version, and Debian's suites carry
//! several versions. The machine's own package sources and its toolchain stay untouched: the
//! lists live in a private folder, the result is a sysroot under `target/xtask/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::rust_target::has_std;
use crate::project::Project;
use crate::shell;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const SUITES: &[&str] = &["trixie", "trixie-backports", "forky", "sid"];

/// The sysroot for `target`; made if it is not there or belongs to another rustc.
pub(super) fn ensure(project: &Project, target: &str) -> Result<PathBuf> {
    let rustc = shell::capture(Command::new("rustc").arg("-vV"))?;
    let sysroot = project.work("sysroot");
    let stamp = sysroot.join(format!("{target}.stamp"));
    if fs::read_to_string(&stamp).is_ok_and(|text| text == rustc) {
        return Ok(sysroot);
    }
    let version = rustc
        .lines()
        .find_map(|line| line.strip_prefix("release: "))
        .context("rustc -vV names no release")?;
    let source = rust_source(project, version)?;
    let library = sysroot.join("lib/rustlib").join(target).join("lib");
    build_std(project, target, &source, &library)?;
    fs::write(stamp, &rustc)?;
    Ok(sysroot)
}

/// The unpacked `library` folder of exactly this version.
fn rust_source(project: &Project, version: &str) -> Result<PathBuf> {
    let folder = project.work("rust-src");
    let library = folder.join(format!("usr/src/rustc-{version}/library"));
    if library.join("std/Cargo.toml").is_file() {
        return Ok(library);
    }
    let apt = Apt::new(project.work("apt"))?;
    eprintln!(
        "setup: looking for rust-src {version} in Debian's {}",
        SUITES.join(", ")
    );
    shell::capture(apt.command("apt-get").args(["-q", "update"]))?;
    let listing = shell::capture(apt.command("apt-cache").args(["madison", "rust-src"]))?;
    let Some(package) = matching(&listing, version) else {
        bail!(
            "no rust-src package of version {version}; Debian has:\n{}",
            listing.trim_end()
        );
    };
    let mut download = apt.command("apt-get");
    download
        .current_dir(&apt.folder)
        .args(["-q", "download", &format!("rust-src={package}")]);
    shell::run(&mut download)?;
    let archive = find(&apt.folder, "rust-src_", ".deb")?;
    let _ = fs::remove_dir_all(&folder);
    shell::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&archive)
            .arg(&folder),
    )?;
    fs::remove_file(archive)?;
    if !library.join("std/Cargo.toml").is_file() {
        bail!("the rust-src package has no {}", library.display());
    }
    Ok(library)
}

/// The package version whose upstream part is `version`, out of `apt-cache madison`'s table.
fn matching<'a>(listing: &'a str, version: &str) -> Option<&'a str> {
    listing
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find(|package| {
            package
                .strip_prefix(version)
                .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
        })
}

/// apt with folders of its own and Debian's suites as its only sources.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: PathBuf) -> Result<Self> {
        if shell::which("apt-get").is_none() || !Path::new(KEYRING).is_file() {
            bail!("this needs apt-get and {KEYRING} (package debian-archive-keyring)");
        }
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let source = |suite: &&str| {
            format!("deb [signed-by={KEYRING}] http://deb.debian.org/debian {suite} main\n")
        };
        fs::write(
            folder.join("sources.list"),
            SUITES.iter().map(source).collect::<String>(),
        )?;
        // What is installed does not matter here, and an empty list is quicker to read.
        fs::write(folder.join("status"), "")?;
        Ok(Self { folder })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut option = |name: &str, value: &str| {
            command.arg("-o").arg(format!("{name}={value}"));
        };
        let path = |name: &str| self.folder.join(name).display().to_string();
        option("Dir::Etc::SourceList", &path("sources.list"));
        option("Dir::Etc::SourceParts", "/dev/null");
        option("Dir::State", &path("state"));
        option("Dir::State::Lists", &path("state/lists"));
        option("Dir::State::Status", &path("status"));
        option("Dir::Cache", &path("cache"));
        // The folder may be one that apt's own unprivileged user cannot enter.
        option("APT::Sandbox::User", "root");
        command
    }
}

/// Builds std in an empty crate and gathers its libraries in `into`.
fn build_std(project: &Project, target: &str, source: &Path, into: &Path) -> Result<()> {
    let folder = project.work("build-std");
    fs::create_dir_all(folder.join("src"))?;
    fs::write(folder.join("src/lib.rs"), "")?;
    let manifest = "[package]\nname = \"nothing\"\nedition = \"2024\"\n[workspace]\n";
    fs::write(folder.join("Cargo.toml"), manifest)?;
    let output = folder.join("target");
    let mut cargo = project.cargo();
    cargo
        .current_dir(&folder)
        .args([
            "build",
            "--release",
            "-Zbuild-std=std,panic_unwind,proc_macro,test",
        ])
        .args(["--target", target])
        // A stable compiler building its own std is what bootstrapping is.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", source)
        .env("CARGO_TARGET_DIR", &output)
        .env_remove("RUSTFLAGS");
    eprintln!("setup: building std for {target}, about a minute");
    shell::run(&mut cargo)?;
    let _ = fs::remove_dir_all(into);
    fs::create_dir_all(into)?;
    for entry in fs::read_dir(output.join(target).join("release/deps"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".rlib") && !name.starts_with("libnothing-") {
            fs::copy(entry.path(), into.join(&name))?;
        }
    }
    fs::remove_dir_all(output)?;
    if !has_std(into) {
        bail!("building std for {target} left no libstd");
    }
    Ok(())
}

fn find(folder: &Path, start: &str, end: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(start) && name.ends_with(end) {
            return Ok(entry.path());
        }
    }
    bail!("no {start}*{end} in {}", folder.display())
}

#[cfg(test)]
mod tests {
    use super::matching;

    const LISTING: &str = "\
  rust-src | 1.95.1+dfsg1-1 | http://deb.debian.org/debian sid/main amd64 Packages
  rust-src | 1.95.0+dfsg1-1~bpo13+1 | http://deb.debian.org/debian trixie-backports/main amd64 Packages
  rust-src | 1.85.0+dfsg3-1 | http://deb.debian.org/debian trixie/main amd64 Packages
";

    #[test]
    fn only_the_very_same_version_is_taken() {
        assert_eq!(matching(LISTING, "1.95.0"), Some("1.95.0+dfsg1-1~bpo13+1"));
        assert_eq!(matching(LISTING, "1.95"), None);
        assert_eq!(matching(LISTING, "1.86.0"), None);
    }
}
