//! Watching a directory: `ReadDirectoryChangesW`, one call after the other.
// UNSAFETY: lends a buffer to the system until the packet.
#![expect(unsafe_code)]

use std::{
    ffi::OsString,
    fmt,
    fs::{File, OpenOptions},
    io,
    ops::{BitOr, BitOrAssign},
    os::windows::{ffi::OsStringExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
    ptr,
};

use windows_sys::Win32::{
    Foundation::ERROR_NOTIFY_ENUM_DIR,
    Storage::FileSystem::{
        FILE_ACTION_ADDED, FILE_ACTION_MODIFIED, FILE_ACTION_REMOVED, FILE_ACTION_RENAMED_NEW_NAME,
        FILE_ACTION_RENAMED_OLD_NAME, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OVERLAPPED,
        FILE_LIST_DIRECTORY, FILE_NOTIFY_CHANGE_ATTRIBUTES, FILE_NOTIFY_CHANGE_CREATION,
        FILE_NOTIFY_CHANGE_DIR_NAME, FILE_NOTIFY_CHANGE_FILE_NAME, FILE_NOTIFY_CHANGE_LAST_ACCESS,
        FILE_NOTIFY_CHANGE_LAST_WRITE, FILE_NOTIFY_CHANGE_SECURITY, FILE_NOTIFY_CHANGE_SIZE,
        ReadDirectoryChangesW,
    },
    System::IO::OVERLAPPED,
};

#[cfg(doc)]
use crate::Error;
use crate::{IoQueue, Overlapped, Registered};

/// Which changes are told.
///
/// # Examples
/// ```
/// use longshore::os::windows::ChangeFilter;
/// let names = ChangeFilter::FILE_NAME | ChangeFilter::DIRECTORY_NAME;
/// assert!(ChangeFilter::default().contains(names));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChangeFilter(u32);

const NAMES: [(&str, ChangeFilter); 8] = [
    ("FILE_NAME", ChangeFilter::FILE_NAME),
    ("DIRECTORY_NAME", ChangeFilter::DIRECTORY_NAME),
    ("ATTRIBUTES", ChangeFilter::ATTRIBUTES),
    ("SIZE", ChangeFilter::SIZE),
    ("LAST_WRITE", ChangeFilter::LAST_WRITE),
    ("LAST_ACCESS", ChangeFilter::LAST_ACCESS),
    ("CREATION", ChangeFilter::CREATION),
    ("SECURITY", ChangeFilter::SECURITY),
];

impl ChangeFilter {
    /// A file is made, renamed or removed.
    pub const FILE_NAME: Self = Self(FILE_NOTIFY_CHANGE_FILE_NAME);
    /// A directory is made, renamed or removed.
    pub const DIRECTORY_NAME: Self = Self(FILE_NOTIFY_CHANGE_DIR_NAME);
    /// Attributes are changed.
    pub const ATTRIBUTES: Self = Self(FILE_NOTIFY_CHANGE_ATTRIBUTES);
    /// A file's size is changed; told when it reaches the disk.
    pub const SIZE: Self = Self(FILE_NOTIFY_CHANGE_SIZE);
    /// A file is written; told when that reaches the disk.
    pub const LAST_WRITE: Self = Self(FILE_NOTIFY_CHANGE_LAST_WRITE);
    /// A file is read.
    pub const LAST_ACCESS: Self = Self(FILE_NOTIFY_CHANGE_LAST_ACCESS);
    /// The time of creation is changed.
    pub const CREATION: Self = Self(FILE_NOTIFY_CHANGE_CREATION);
    /// Who may do what is changed.
    pub const SECURITY: Self = Self(FILE_NOTIFY_CHANGE_SECURITY);

    /// Whether all of `other` is in this.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl Default for ChangeFilter {
    /// Names, sizes and writes.
    fn default() -> Self {
        Self::FILE_NAME | Self::DIRECTORY_NAME | Self::SIZE | Self::LAST_WRITE
    }
}

impl BitOr for ChangeFilter {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for ChangeFilter {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

impl fmt::Debug for ChangeFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mine = NAMES.iter().filter(|(_, one)| self.contains(*one));
        f.debug_set().entries(mine.map(|(name, _)| name)).finish()
    }
}

/// What has changed.
///
/// # Examples
/// ```
/// use longshore::os::windows::ChangeKind;
/// fn is_there(kind: ChangeKind) -> Option<bool> {
///     match kind {
///         ChangeKind::Added | ChangeKind::RenamedTo | ChangeKind::Modified => Some(true),
///         ChangeKind::Removed | ChangeKind::RenamedFrom => Some(false),
///         _ => None, // look
///     }
/// }
/// assert_eq!(is_there(ChangeKind::Lost), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// It was made, or moved into the directory.
    Added,
    /// It was removed, or moved out of the directory.
    Removed,
    /// It was written, or its attributes were.
    Modified,
    /// It has a new name, which the next change tells.
    RenamedFrom,
    /// It had another name, which the change before tells.
    RenamedTo,
    /// There were more changes than the buffer holds, and they are lost: only a look at the directory
    /// itself can tell. The path is empty.
    Lost,
    /// What longshore does not know: `FILE_ACTION_…` of `winnt.h`.
    Other(u32),
}

/// One change in a watched directory.
///
/// # Examples
/// ```
/// use longshore::os::windows::{Change, ChangeKind};
/// fn names(changes: &[Change]) -> Vec<String> {
///     let removed = changes.iter().filter(|change| change.kind == ChangeKind::Removed);
///     removed.map(|change| change.path.display().to_string()).collect()
/// }
/// assert_eq!(names(&Change::read_all(&[])), [""; 0]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Change {
    /// What has changed.
    pub kind: ChangeKind,
    /// Of what, seen from the watched directory. It may be a short (8.3) name.
    pub path: PathBuf,
}

impl Change {
    /// What `ReadDirectoryChangesW` has written, for calls of one's own: through
    /// [`IoQueue::submit_with`](crate::IoQueue::submit_with), or a Context that was
    /// [armed](crate::Dispatcher::arm). `written` is as much of the buffer as the completion says.
    ///
    /// Nothing written means that the changes did not fit: one [`Lost`](ChangeKind::Lost). A record
    /// that is not whole is cut, and the last one.
    ///
    /// # Examples
    /// ```
    /// use longshore::os::windows::{Change, ChangeKind};
    /// // No further record, FILE_ACTION_REMOVED, 4 bytes of name.
    /// let words = [0u32, 2, 4].map(u32::to_ne_bytes).concat();
    /// let changes = Change::read_all(&[&words[..], b"h\0i\0"].concat());
    /// assert_eq!((changes.len(), changes[0].kind), (1, ChangeKind::Removed));
    /// assert_eq!(changes[0].path.to_str(), Some("hi"));
    /// assert_eq!(Change::read_all(&[])[0].kind, ChangeKind::Lost);
    /// ```
    pub fn read_all(written: &[u8]) -> Vec<Self> {
        let changes = records(written);
        match changes.is_empty() {
            true => lost(),
            false => changes,
        }
    }
}

/// How a directory is watched.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, IoQueue, os::windows::{ChangeFilter, WatchOptions}};
/// let folder = tempfile::tempdir()?;
/// let queue = IoQueue::new(&Dispatcher::new()?);
/// let watcher = WatchOptions::new()
///     .recursive(true)
///     .filter(ChangeFilter::FILE_NAME | ChangeFilter::LAST_WRITE)
///     .buffer_bytes(64 << 10)
///     .open(&queue, folder.path())?;
/// # drop(watcher);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `open` is called"]
pub struct WatchOptions {
    recursive: bool,
    filter: ChangeFilter,
    buffer_bytes: usize,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl WatchOptions {
    /// The directory itself, the default [`ChangeFilter`], and a buffer of 16 KiB.
    pub fn new() -> Self {
        Self {
            recursive: false,
            filter: ChangeFilter::default(),
            buffer_bytes: 16 << 10,
        }
    }

    /// Whether everything below the directory is watched as well.
    pub fn recursive(mut self, recursive: bool) -> Self {
        self.recursive = recursive;
        self
    }

    /// Which changes are told.
    pub fn filter(mut self, filter: ChangeFilter) -> Self {
        self.filter = filter;
        self
    }

    /// How many bytes of changes (12 and the name in UTF-16, for each) can wait to be asked for before
    /// they are [`Lost`](ChangeKind::Lost). The system keeps as many in non-paged memory. Rounded up to
    /// a multiple of 4; at least 1 KiB and at most 1 GiB. A directory on a network takes 64 KiB at most.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes.clamp(1 << 10, 1 << 30);
        self
    }

    /// Opens a directory and begins to watch it. The call may wait for the file system.
    ///
    /// # Errors
    /// The operating system's; `NotADirectory`; those of [`IoQueue::register`].
    pub fn open(self, queue: &IoQueue, path: impl AsRef<Path>) -> io::Result<DirectoryWatcher> {
        let directory = OpenOptions::new()
            .access_mode(FILE_LIST_DIRECTORY)
            .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OVERLAPPED)
            .open(path)?;
        if !directory.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let directory = queue.register(directory).map_err(|(error, _)| error)?;
        let mut watcher = DirectoryWatcher {
            queue: queue.clone(),
            directory,
            options: self,
            buffer: None,
            running: None,
        };
        watcher.start()?;
        Ok(watcher)
    }
}

/// Words, because the system wants the buffer aligned as its structure is.
type Buffer = Box<[u32]>;

/// A directory that is watched for changes.
///
/// Changes are collected by the system from the moment it is opened on, also while nobody asks, up to the
/// [buffer's](WatchOptions::buffer_bytes) size. How one change is told is the file system's: a
/// new file may be "added" and "modified", or either.
///
/// An operation is in flight for as long as it lives, which counts as work: a
/// [`run`](crate::Dispatcher::run) goes on until it is dropped.
///
/// Dropping it ends the watching; the buffer lives until the system has let go of it. It keeps its port
/// open, as the queue does.
///
/// # Examples
/// ```
/// use longshore::{Dispatcher, IoQueue, os::windows::{ChangeKind, WatchOptions}};
/// let folder = tempfile::tempdir()?;
/// let port = Dispatcher::new()?;
/// let queue = IoQueue::new(&port);
/// let mut watcher = WatchOptions::new().recursive(true).open(&queue, folder.path())?;
/// std::fs::write(folder.path().join("new.txt"), "text")?;
/// let changes = port.block_on(watcher.next())??;
/// for change in &changes {
///     match change.kind {
///         ChangeKind::Lost => println!("look at everything again"),
///         kind => println!("{kind:?}: {}", change.path.display()),
///     }
/// }
/// assert_eq!(changes[0].path.to_str(), Some("new.txt"));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct DirectoryWatcher {
    queue: IoQueue,
    /// The block of the call that is in flight, which keeps the buffer.
    running: Option<Overlapped>,
    directory: Registered<File>,
    options: WatchOptions,
    /// While no call is in flight.
    buffer: Option<Buffer>,
}

impl DirectoryWatcher {
    /// The next changes, as soon as there are any; at least one. A future that is dropped has
    /// taken none.
    ///
    /// # Errors
    /// The operating system's, such as `ERROR_ACCESS_DENIED` when the directory itself was removed;
    /// [`Error::Closed`]. The next call tries again.
    pub async fn next(&mut self) -> io::Result<Vec<Change>> {
        if self.running.is_none() {
            self.start()?;
        }
        let Some(overlapped) = &self.running else {
            return Err(io::ErrorKind::Other.into());
        };
        let result = self.queue.wait(&self.directory, overlapped).await;
        let buffer = overlapped.take_kept::<Buffer>().map(|buffer| *buffer);
        self.running = None;
        let changes = match (result, &buffer) {
            (Ok(bytes), Some(buffer)) => Change::read_all(view(buffer, bytes)),
            (Ok(_), None) => lost(),
            (Err(error), _) if is_overflow(&error) => lost(),
            (Err(error), _) => {
                self.buffer = buffer;
                return Err(error);
            }
        };
        self.buffer = buffer;
        // At once, so that less has to wait in the system. An error comes up in the next call.
        let _ = self.start();
        Ok(changes)
    }

    /// Asks the system for the next changes.
    fn start(&mut self) -> io::Result<()> {
        let words = self.options.buffer_bytes.div_ceil(4);
        let buffer = self.buffer.take();
        let mut buffer = buffer.unwrap_or_else(|| vec![0; words].into());
        let (address, bytes) = (buffer.as_mut_ptr(), (buffer.len() * 4) as u32);
        let overlapped = Overlapped::keeping(buffer);
        let (recursive, filter) = (self.options.recursive.into(), self.options.filter.0);
        // SAFETY: one call with the header on the handle; the block keeps the buffer, whose address
        // does not change, until the packet.
        unsafe {
            self.queue
                .submit_with(&self.directory, &overlapped, |directory, header| {
                    let header: *mut OVERLAPPED = header.cast();
                    let done = ReadDirectoryChangesW(
                        directory,
                        address.cast(),
                        bytes,
                        recursive,
                        filter,
                        ptr::null_mut(),
                        header,
                        None,
                    );
                    match done {
                        0 => Err(io::Error::last_os_error()),
                        _ => Ok(()),
                    }
                })?;
        }
        self.running = Some(overlapped);
        Ok(())
    }
}

impl fmt::Debug for DirectoryWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryWatcher")
            .field("directory", &self.directory)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

fn is_overflow(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ERROR_NOTIFY_ENUM_DIR.cast_signed())
}

fn lost() -> Vec<Change> {
    vec![Change {
        kind: ChangeKind::Lost,
        path: PathBuf::new(),
    }]
}

/// The bytes that the system has written.
fn view(buffer: &[u32], bytes: usize) -> &[u8] {
    // SAFETY: words may be looked at as bytes.
    let (_, all, _) = unsafe { buffer.align_to::<u8>() };
    &all[..bytes.min(all.len())]
}

/// Reads `FILE_NOTIFY_INFORMATION`s: the distance to the next or 0, the action, the length of the
/// name in bytes, and the name in UTF-16.
fn records(written: &[u8]) -> Vec<Change> {
    const HEAD: usize = 12;
    let (mut rest, mut changes) = (written, Vec::new());
    while let Some((head, name)) = rest.split_at_checked(HEAD) {
        let word = |at: usize| {
            let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            u32::from_ne_bytes(bytes)
        };
        let (distance, action, length) = (word(0) as usize, word(4), word(8) as usize);
        let units = name[..length.min(name.len())].chunks_exact(2);
        let name: Vec<u16> = units
            .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]))
            .collect();
        changes.push(Change {
            kind: kind(action),
            path: OsString::from_wide(&name).into(),
        });
        match distance {
            // The next one never begins inside this one's head, so this ends.
            ..HEAD => break,
            _ => rest = rest.get(distance..).unwrap_or_default(),
        }
    }
    changes
}

fn kind(action: u32) -> ChangeKind {
    match action {
        FILE_ACTION_ADDED => ChangeKind::Added,
        FILE_ACTION_REMOVED => ChangeKind::Removed,
        FILE_ACTION_MODIFIED => ChangeKind::Modified,
        FILE_ACTION_RENAMED_OLD_NAME => ChangeKind::RenamedFrom,
        FILE_ACTION_RENAMED_NEW_NAME => ChangeKind::RenamedTo,
        other => ChangeKind::Other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(distance: u32, action: u32, name: &str) -> Vec<u8> {
        let units: Vec<u16> = name.encode_utf16().collect();
        let words = [distance, action, units.len() as u32 * 2];
        let mut bytes = words.map(u32::to_ne_bytes).concat();
        bytes.extend(units.iter().flat_map(|unit| unit.to_ne_bytes()));
        bytes.resize(bytes.len().next_multiple_of(4), 0xde);
        bytes
    }

    #[test]
    fn dirs_records_of_the_system_are_read() {
        let mut bytes = record(20, 1, "odd");
        bytes.extend(record(20, 3, "even"));
        bytes.extend(record(0, 5, "ü"));
        let expected = [
            (ChangeKind::Added, "odd"),
            (ChangeKind::Modified, "even"),
            (ChangeKind::RenamedTo, "ü"),
        ];
        let expected = expected.map(|(kind, path)| Change {
            kind,
            path: path.into(),
        });
        assert_eq!(Change::read_all(&bytes), expected);
    }

    #[test]
    fn dirs_a_record_that_leaves_the_buffer_is_cut() {
        for (distance, length) in [(u32::MAX, 4), (8, u32::MAX), (4096, 6), (3, 4), (12, 3)] {
            let mut bytes = record(distance, 1, "name");
            bytes[8..12].copy_from_slice(&u32::to_ne_bytes(length));
            let read = Change::read_all(&bytes);
            assert!((1..=2).contains(&read.len()), "{read:?}");
        }
        assert_eq!(Change::read_all(&[0; 11]), lost());
        assert_eq!(view(&[1, 2], usize::MAX).len(), 8);
    }
}
