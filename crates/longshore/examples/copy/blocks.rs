//! The copying itself: tasks that each carry one block at a time.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use longshore::{Dispatcher, fs::File};

use crate::{on, part::Part, refuse};

const BLOCK: u64 = 1 << 20;
/// Blocks in flight at once.
const DEPTH: u64 = 8;

pub(crate) struct Copy {
    from: File,
    to: File,
    from_path: PathBuf,
    to_path: PathBuf,
    length: u64,
    /// Where the next block begins that nobody has taken.
    next: AtomicU64,
    copied: AtomicU64,
    failed: AtomicBool,
    /// What went wrong first.
    error: Mutex<Option<io::Error>>,
}

impl Copy {
    pub(crate) async fn open(
        port: &Dispatcher,
        from: &Path,
        part: &Part,
        length: u64,
    ) -> io::Result<Self> {
        let source = File::open(port, from).await;
        let source = source.map_err(|error| on("read", from, error))?;
        let target = File::options()
            .write(true)
            .create_new(true)
            .open(port, &part.path)
            .await;
        let target = target.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => refuse(
                &part.path,
                "is there already, of a copy that runs or was killed",
            ),
            _ => on("make", &part.path, error),
        })?;
        part.was_made();
        Ok(Self {
            from: source,
            to: target,
            from_path: from.into(),
            to_path: part.path.clone(),
            length,
            next: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
        })
    }

    pub(crate) fn copied(&self) -> u64 {
        self.copied.load(Relaxed)
    }

    /// Ends the copying; the first reason is the one that is told.
    pub(crate) fn fail(&self, error: io::Error) {
        self.error().get_or_insert(error);
        self.failed.store(true, Relaxed);
    }

    fn error(&self) -> MutexGuard<'_, Option<io::Error>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies everything, and returns how much that was.
    pub(crate) async fn run(self: &Arc<Self>, port: &Dispatcher) -> io::Result<u64> {
        let count = self.length.div_ceil(BLOCK).min(DEPTH);
        let carriers: Vec<_> = (0..count)
            .map(|_| port.spawn(self.clone().carry()))
            .collect();
        for carrier in carriers {
            carrier.await?;
        }
        if let Some(error) = self.error().take() {
            return Err(error);
        }
        // A file may have more than it said, because it grows or is not what it seems.
        let (more, _) = self.from.read_at(vec![0; 1], self.length).await;
        if more.map_err(|error| on("read", &self.from_path, error))? > 0 {
            return Err(refuse(&self.from_path, "grew while it was copied"));
        }
        let synced = self.to.sync_all().await;
        synced.map_err(|error| on("write", &self.to_path, error))?;
        Ok(self.copied())
    }

    async fn carry(self: Arc<Self>) {
        let mut buffer = Vec::with_capacity(BLOCK as usize);
        while !self.failed.load(Relaxed) {
            let at = self.next.fetch_add(BLOCK, Relaxed);
            if at >= self.length {
                return;
            }
            match self.block(at, buffer).await {
                Ok(back) => buffer = back,
                Err(error) => return self.fail(error),
            }
        }
    }

    async fn block(&self, mut at: u64, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
        let end = self.length.min(at + BLOCK);
        while at < end {
            buffer.clear();
            let (count, read) = self.from.read_at(buffer, at).await;
            let count = count.map_err(|error| on("read", &self.from_path, error))?;
            if count == 0 {
                return Err(refuse(
                    &self.from_path,
                    "became shorter while it was copied",
                ));
            }
            buffer = read;
            // What grew behind the end is found later; another block's share is left to it.
            buffer.truncate((end - at) as usize);
            let (result, written) = self.to.write_all_at(buffer, at).await;
            result.map_err(|error| on("write", &self.to_path, error))?;
            buffer = written;
            at += buffer.len() as u64;
            self.copied.fetch_add(buffer.len() as u64, Relaxed);
        }
        Ok(buffer)
    }
}
