//! Wine: its programs, a prefix of our own, and the script that runs one Windows program.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::project::Project;
use crate::shell;

/// No Mono, no HTML, no menus; and no debugger: with winedbg a crashing test hangs until its
/// time-out, without it a crash is exit status 5 in two seconds.
const OVERRIDES: &str = "mscoree,mshtml=;winemenubuilder.exe,winedbg.exe=d";

/// Rust's std asks `bcryptprimitives.dll` for random bytes, which Wine older than 9 lacks.
const RANDOM_SHIM: &str = "\
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length); /* RtlGenRandom */
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length) {
    while (length > 0) {
        ULONG part = length > 0x10000000 ? 0x10000000 : (ULONG)length;
        if (!SystemFunction036(data, part)) return FALSE;
        data += part;
        length -= part;
    }
    return TRUE;
}
";

#[derive(Debug)]
pub(crate) struct Wine {
    /// `8.0`
    pub(crate) version: String,
    /// Runs one Windows program: environment, time-out, no input. Works by hand, too.
    pub(crate) runner: PathBuf,
    programs: Programs,
    prefix: PathBuf,
    lock: PathBuf,
    runtime: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Programs {
    loader: PathBuf,
    server: PathBuf,
}

/// The loader itself where the distribution hides it behind a wrapper (Debian's prints a hint
/// about 32-bit support on each start), else what is on the search path.
pub(crate) fn find_programs() -> Option<Programs> {
    let known = Path::new("/usr/lib/wine/wine64");
    let loader = Some(known.to_owned()).filter(|path| path.is_file());
    let loader = loader
        .or_else(packaged_loader)
        .or_else(|| shell::which("wine64"));
    let loader = loader.or_else(|| shell::which("wine"))?;
    let beside = |name: &str| Some(loader.with_file_name(name)).filter(|path| path.is_file());
    let server = beside("wineserver64").or_else(|| beside("wineserver"));
    let server = server.or_else(|| shell::which("wineserver"))?;
    Some(Programs { loader, server })
}

fn packaged_loader() -> Option<PathBuf> {
    let files = shell::capture(Command::new("dpkg").args(["-L", "wine64"])).ok()?;
    let loader = files
        .lines()
        .find(|file| file.contains("/lib/") && file.ends_with("/wine64"))?;
    Some(PathBuf::from(loader)).filter(|path| path.is_file())
}

pub(crate) fn ensure(project: &Project) -> Result<Wine> {
    let programs = find_programs().context("Wine is not installed")?;
    let banner = shell::capture(Command::new(&programs.loader).arg("--version"))?;
    let version = banner.trim().trim_start_matches("wine-");
    let version = version
        .split([' ', '-'])
        .next()
        .unwrap_or(version)
        .to_owned();
    let wine = Wine {
        version,
        runner: project.work("wine-runner"),
        programs,
        prefix: project.work("wineprefix"),
        lock: project.work("wine.lock"),
        runtime: project.work("runtime"),
    };
    wine.ensure_prefix(project, banner.trim())?;
    wine.write_runner()?;
    Ok(wine)
}

impl Wine {
    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("WINEPREFIX", self.prefix.display().to_string()),
            ("WINESERVER", self.programs.server.display().to_string()),
            ("WINEDLLOVERRIDES", OVERRIDES.to_owned()),
            ("XDG_RUNTIME_DIR", self.runtime.display().to_string()),
        ]
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.envs(self.environment()).env("WINEDEBUG", "-all");
        command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
        // Whatever Wine leaves running must not hold on to the pipe that somebody reads us by.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn ensure_prefix(&self, project: &Project, banner: &str) -> Result<()> {
        let stamp = project.work("wineprefix.stamp");
        let wanted = format!("{banner}\n{RANDOM_SHIM}");
        if fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
            return Ok(());
        }
        eprintln!("setup: making a Wine prefix for {banner}, about 15 s");
        if self.prefix.exists() {
            self.server("-k").ok();
            fs::remove_dir_all(&self.prefix)?;
        }
        fs::create_dir_all(&self.prefix)?;
        fs::create_dir_all(&self.runtime)?;
        let status = self
            .command(&self.programs.loader)
            .args(["wineboot", "-i"])
            .status()?;
        // wineboot returns before its children have written the registry.
        self.server("-w")?;
        let system32 = self.prefix.join("drive_c/windows/system32");
        if !status.success() || !system32.join("kernel32.dll").is_file() {
            bail!("wineboot made no usable prefix: {status}");
        }
        self.ensure_random(project, &system32)?;
        share_libraries(&system32)?;
        fs::write(stamp, wanted)?;
        Ok(())
    }

    fn ensure_random(&self, project: &Project, system32: &Path) -> Result<()> {
        let library = system32.join("bcryptprimitives.dll");
        if library.exists() {
            return Ok(());
        }
        let source = project.work("bcryptprimitives.c");
        fs::write(&source, RANDOM_SHIM)?;
        build_dll(&source, &library, &["-ladvapi32"])
    }

    /// A script rather than a list of variables, so that a failing test can be run by hand.
    fn write_runner(&self) -> Result<()> {
        let mut script = String::from(
            "#!/bin/sh\n# Written by `cargo xtask setup`: runs one Windows program under Wine.\n",
        );
        for (name, value) in self.environment() {
            script.push_str(&format!("export {name}={}\n", quoted(&value)));
        }
        // The lock tells `stop` that somebody still needs the server. `-o`: only flock itself
        // holds it, not a server that happens to be started from here.
        script.push_str(&format!(
            "export WINEDEBUG=\"${{WINEDEBUG:--all}}\"\n\
             unset DISPLAY WAYLAND_DISPLAY\n\
             exec flock -o -s {} timeout --foreground -k 5 \"${{LONGSHORE_WINE_TIMEOUT:-600}}\" {} \"$@\" </dev/null\n",
            quoted(&self.lock.display().to_string()),
            quoted(&self.programs.loader.display().to_string()),
        ));
        if fs::read_to_string(&self.runner).is_ok_and(|text| text == script) {
            return Ok(());
        }
        // Beside and renamed: a run that has the old script open keeps it.
        let fresh = self.runner.with_extension("new");
        fs::write(&fresh, script)?;
        make_executable(&fresh)?;
        fs::rename(fresh, &self.runner)?;
        Ok(())
    }

    fn server(&self, flag: &str) -> Result<()> {
        let status = self.command(&self.programs.server).arg(flag).status()?;
        // 1: there was no server to talk to.
        if !status.success() && status.code() != Some(1) {
            bail!("wineserver {flag}: {status}");
        }
        Ok(())
    }

    /// One server for the whole run: a program then starts in 0.03 s instead of 0.5 s. Dropping
    /// the result ends it.
    pub(crate) fn start(&self) -> Result<Session<'_>> {
        fs::create_dir_all(&self.runtime)?;
        let users = File::create(&self.lock)?;
        users.lock_shared()?;
        self.server("-p60")?;
        // The first program starts Wine's services, which inherit its output: let that be ours.
        let status = self
            .command(&self.programs.loader)
            .args(["cmd.exe", "/c", "exit 0"])
            .status()?;
        if !status.success() {
            bail!("Wine does not start: {status}");
        }
        Ok(Session { wine: self, users })
    }
}

/// Wine's server is running.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    wine: &'a Wine,
    users: File,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // Another run in this folder may be using the server. Then it stays: the last one ends
        // it, or its own 60 s without a client do.
        let alone = self.users.unlock().is_ok() && self.users.try_lock().is_ok();
        if alone && let Err(error) = self.wine.server("-k") {
            eprintln!("xtask: {error:#}");
        }
    }
}

/// Wine copies its libraries into each prefix, 600 MB of them. Those that are the same, byte for
/// byte, become links.
fn share_libraries(system32: &Path) -> Result<()> {
    let roots = [
        "/usr/lib/x86_64-linux-gnu/wine/x86_64-windows",
        "/usr/lib/wine/x86_64-windows",
    ];
    let Some(installed) = roots.iter().map(Path::new).find(|folder| folder.is_dir()) else {
        return Ok(());
    };
    for entry in fs::read_dir(system32)? {
        let copy = entry?.path();
        let original = installed.join(copy.file_name().unwrap_or_default());
        if copy.is_file() && original.is_file() && fs::read(&copy)? == fs::read(&original)? {
            fs::remove_file(&copy)?;
            symlink(&original, &copy)?;
        }
    }
    Ok(())
}

/// Compiles one C file to a Windows DLL.
pub(crate) fn build_dll(source: &Path, library: &Path, more: &[&str]) -> Result<()> {
    let mut compiler = Command::new("x86_64-w64-mingw32-gcc");
    compiler
        .args(["-shared", "-O2", "-s", "-Wall", "-Werror", "-o"])
        .arg(library);
    shell::capture(compiler.arg(source).args(more)).map(drop)
}

/// The path as a Windows program sees it: Wine maps `Z:` to the root.
pub(crate) fn windows_path(path: &Path) -> String {
    format!("Z:{}", path.display().to_string().replace('/', "\\"))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

#[cfg(unix)]
fn symlink(original: &Path, link: &Path) -> Result<()> {
    Ok(std::os::unix::fs::symlink(original, link)?)
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    bail!("Wine is for other systems than Windows: here run `cargo test -p longshore`")
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> Result<()> {
    bail!("Wine is for other systems than Windows")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_translated_and_quoted() {
        assert_eq!(windows_path(Path::new("/a b/c.dll")), r"Z:\a b\c.dll");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
