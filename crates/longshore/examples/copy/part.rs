//! The copy while it is not complete.

use std::{
    cell::Cell,
    fs::{self, Permissions},
    io,
    path::{Path, PathBuf},
};

use crate::{on, refuse};

/// A file that is removed with its owner, unless it was finished.
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    is_ours: Cell<bool>,
}

impl Part {
    pub(crate) fn beside(target: &Path) -> Self {
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        Self {
            path: path.into(),
            is_ours: Cell::new(false),
        }
    }

    /// It was made: from now on it is to be removed.
    pub(crate) fn was_made(&self) {
        self.is_ours.set(true);
    }

    /// Verifies the length, and gives it the target's name.
    pub(crate) fn finish(
        self,
        target: &Path,
        length: u64,
        permissions: Permissions,
    ) -> io::Result<()> {
        let read = |error| on("verify", &self.path, error);
        let written = fs::metadata(&self.path).map_err(read)?.len();
        if written != length {
            let reason = format!("has {written} bytes instead of {length}");
            return Err(refuse(&self.path, &reason));
        }
        let write = |error| on("write", target, error);
        fs::set_permissions(&self.path, permissions).map_err(write)?;
        fs::rename(&self.path, target).map_err(write)?;
        self.is_ours.set(false);
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.is_ours.get()
            && let Err(error) = fs::remove_file(&self.path)
        {
            let path = self.path.display();
            eprintln!("copy: half a copy is left behind as '{path}': {error}");
        }
    }
}
