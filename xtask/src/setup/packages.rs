//! The Debian packages: Wine, the mingw compiler, strace; the clients for `cargo xtask clients`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::wine;
use crate::shell;

struct Need {
    name: &'static str,
    /// Looking for the programs themselves also accepts those that came by other means.
    present: fn() -> bool,
    packages: &'static [&'static str],
}

const NEEDED: &[Need] = &[
    Need {
        name: "Wine",
        present: || wine::find_programs().is_some(),
        packages: &["wine", "wine64"],
    },
    Need {
        name: "the mingw C compiler",
        present: || shell::which("x86_64-w64-mingw32-gcc").is_some(),
        packages: &["gcc-mingw-w64-x86-64"],
    },
    Need {
        name: "strace",
        present: || shell::which("strace").is_some(),
        packages: &["strace"],
    },
];

/// The TCP clients of other people.
const CLIENTS: &[Need] = &[
    Need {
        name: "socat",
        present: || shell::which("socat").is_some(),
        packages: &["socat"],
    },
    Need {
        name: "OpenBSD's netcat",
        present: || netcat().is_some(),
        packages: &["netcat-openbsd"],
    },
];

/// The netcat that can half-close (`-N`), whatever it is called here.
pub(crate) fn netcat() -> Option<PathBuf> {
    let mut found = ["nc.openbsd", "nc"].into_iter().filter_map(shell::which);
    found.find(|program| {
        let help = Command::new(program).arg("-h").output();
        help.is_ok_and(|help| {
            let text = [help.stdout, help.stderr].concat();
            String::from_utf8_lossy(&text).contains("OpenBSD netcat")
        })
    })
}

pub(super) fn ensure() -> Result<()> {
    install_missing(NEEDED)
}

pub(super) fn ensure_clients() -> Result<()> {
    install_missing(CLIENTS)
}

fn install_missing(needed: &[Need]) -> Result<()> {
    let missing: Vec<_> = needed.iter().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|need| need.name).collect();
    let packages: Vec<_> = missing
        .iter()
        .flat_map(|need| need.packages)
        .copied()
        .collect();
    eprintln!(
        "setup: {} missing, installing {}",
        names.join(", "),
        packages.join(" ")
    );
    install(&packages).with_context(|| {
        format!(
            "{} needed: please install the packages {}",
            names.join(", "),
            packages.join(" ")
        )
    })?;
    if let Some(need) = missing.into_iter().find(|need| !(need.present)()) {
        bail!(
            "{} is still missing after the packages were installed",
            need.name
        );
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    if shell::which("apt-get").is_none() {
        bail!("this machine has no apt-get");
    }
    // Fresh images come without package lists. An unreachable extra source is no reason to
    // give up: whether the packages can be had is decided by the installation.
    if let Err(error) = shell::run(apt_get()?.arg("update")) {
        eprintln!("setup: going on although {error:#}");
    }
    let mut command = apt_get()?;
    command
        .args(["install", "-y", "--no-install-recommends"])
        .args(packages);
    if shell::run(&mut command).is_err() {
        eprintln!("setup: once more, mirrors do hiccup");
        shell::run(&mut command)?;
    }
    Ok(())
}

/// `apt-get` as root, or by a sudo that asks no question.
fn apt_get() -> Result<Command> {
    let root = shell::capture(Command::new("id").arg("-u"))?.trim() == "0";
    let mut command = Command::new(if root { "env" } else { "sudo" });
    if !root {
        shell::capture(Command::new("sudo").args(["-n", "true"]))
            .context("neither root nor a sudo without a password")?;
        command.args(["-n", "env"]);
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]);
    Ok(command)
}
