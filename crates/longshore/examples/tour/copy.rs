//! Copies a file: several blocks in flight, each read and then written by one Context.
// UNSAFETY: vouches that a block's buffer is left alone while it is lent.
#![expect(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    path::Path,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use longshore::{Completion, Handle, Submission};

use crate::{
    op::{Chain, Op},
    os,
    run::{Run, lock},
    text,
};

const BLOCK: u64 = 256 * 1024;
/// Blocks in flight at once.
const DEPTH: usize = 8;

pub(crate) struct Copy {
    run: Arc<Run>,
    source: File,
    target: File,
    length: u64,
    /// Where the next block begins that nobody has taken.
    next: AtomicU64,
    copied: AtomicU64,
    blocks_busy: AtomicUsize,
    began: OnceLock<Instant>,
    took: OnceLock<Duration>,
}

impl Copy {
    pub(crate) fn open(run: &Arc<Run>, from: &Path, to: &Path) -> io::Result<Arc<Self>> {
        let mut options = OpenOptions::new();
        let source = os::overlapped(&mut options)
            .read(true)
            .open(from)
            .map_err(|error| text::during("open the file", error))?;
        let mut options = OpenOptions::new();
        let target = os::overlapped(&mut options)
            .write(true)
            .create_new(true)
            .open(to)
            .map_err(|error| text::during("make the copy", error))?;
        run.port.attach(&source)?;
        run.port.attach(&target)?;
        Ok(Arc::new(Self {
            run: run.clone(),
            length: source.metadata()?.len(),
            source,
            target,
            next: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            blocks_busy: AtomicUsize::new(0),
            began: OnceLock::new(),
            took: OnceLock::new(),
        }))
    }

    pub(crate) fn start(self: &Arc<Self>) {
        let _ = self.began.set(Instant::now());
        let blocks = self.length.div_ceil(BLOCK).min(DEPTH as u64) as usize;
        if blocks == 0 {
            return self.finish();
        }
        self.blocks_busy.store(blocks, Ordering::Relaxed);
        for _ in 0..blocks {
            let block = Block {
                copy: self.clone(),
                work: Mutex::new(Work::new()),
            };
            let op = Op::new(&self.run.port, block);
            // The first ones may have taken every block before the last one gets here.
            op.start(|block| block.take(&mut lock(&block.work)));
        }
    }

    fn finish(&self) {
        let began = self.began.get().map(Instant::elapsed).unwrap_or_default();
        let _ = self.took.set(began);
        self.run.part_done();
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    pub(crate) fn took(&self) -> Option<Duration> {
        self.took.get().copied()
    }
}

/// One Context's share: blocks, one after the other.
struct Block {
    copy: Arc<Copy>,
    work: Mutex<Work>,
}

struct Work {
    /// Lent to the kernel while an operation is in flight; nobody looks at it then.
    buffer: Vec<u8>,
    /// The part of the file that is this Context's now.
    at: u64,
    end: u64,
    step: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Reading,
    Writing { filled: usize, written: usize },
}

impl Work {
    fn new() -> Self {
        Self {
            buffer: vec![0; BLOCK as usize],
            at: 0,
            end: 0,
            step: Step::Reading,
        }
    }
}

impl Block {
    /// The next block of the file, if there is one.
    fn take(&self, work: &mut Work) -> Option<Submission<'_>> {
        work.at = self.copy.next.fetch_add(BLOCK, Ordering::Relaxed);
        work.end = (work.at + BLOCK).min(self.copy.length);
        (work.at < self.copy.length).then(|| self.read(work))
    }

    fn read(&self, work: &mut Work) -> Submission<'_> {
        work.step = Step::Reading;
        Submission::Read {
            handle: Handle::from(&self.copy.source),
            offset: work.at,
            buffer: work.buffer.as_mut_ptr(),
            len: (work.end - work.at) as usize,
        }
    }

    fn write(&self, work: &mut Work, filled: usize, written: usize) -> Submission<'_> {
        work.step = Step::Writing { filled, written };
        let rest = &work.buffer[written..filled];
        Submission::Write {
            handle: Handle::from(&self.copy.target),
            offset: work.at + written as u64,
            buffer: rest.as_ptr(),
            len: rest.len(),
        }
    }
}

// SAFETY: submissions point into `work.buffer`, which is never resized, and into nothing else;
// `work` is locked by `next` and by the start alone, and never while an operation is in flight.
unsafe impl Chain for Block {
    fn next(&self, completion: Completion) -> io::Result<Option<Submission<'_>>> {
        let moved = completion.result()? as usize;
        let work = &mut *lock(&self.work);
        match work.step {
            Step::Reading if moved == 0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            )),
            Step::Reading => Ok(Some(self.write(work, moved, 0))),
            Step::Writing { .. } if moved == 0 => Err(io::ErrorKind::WriteZero.into()),
            Step::Writing { filled, written } => {
                self.copy.copied.fetch_add(moved as u64, Ordering::Relaxed);
                let written = written + moved;
                if written < filled {
                    return Ok(Some(self.write(work, filled, written)));
                }
                work.at += filled as u64;
                match work.at < work.end {
                    true => Ok(Some(self.read(work))),
                    false => Ok(self.take(work)),
                }
            }
        }
    }

    fn ended(&self) {
        if self.copy.blocks_busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.copy.finish();
        }
    }

    fn failed(&self, error: io::Error) {
        self.copy.run.fail("copy", &error);
    }
}

/// How many bytes of the two files differ, read again by plain means.
pub(crate) fn compare(left: &File, right: &File) -> io::Result<u64> {
    let (mut here, mut there) = (Vec::new(), Vec::new());
    let mut differ = 0;
    loop {
        here.clear();
        there.clear();
        left.take(BLOCK).read_to_end(&mut here)?;
        right.take(BLOCK).read_to_end(&mut there)?;
        differ += text::differences(&here, &there);
        if here.is_empty() && there.is_empty() {
            return Ok(differ);
        }
    }
}
