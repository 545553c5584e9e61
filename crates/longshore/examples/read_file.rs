//! Copies a file to standard output through a completion port: `read_file FILE`.
// UNSAFETY: lends a Context and a buffer to the operating system.
#![expect(unsafe_code)]

use longshore::{Completion, Dispatcher, Handle, Submission, dispatcher::Context};
use std::{env, fs::OpenOptions, io, io::Write, ptr::NonNull, sync::Mutex};

static LAST: Mutex<Completion> = Mutex::new(Completion { bytes: 0, error: 0 });

/// Called by `dispatch` when a read has completed.
extern "C-unwind" fn finished(_word: usize, bytes: u32, error: u32) {
    *LAST.lock().unwrap() = Completion { bytes, error };
}

fn main() -> io::Result<()> {
    let Some(path) = env::args_os().nth(1).filter(|path| path != "--help") else {
        println!("Usage: read_file FILE");
        return Ok(());
    };
    let mut options = OpenOptions::new();
    #[cfg(windows)] // FILE_FLAG_OVERLAPPED
    std::os::windows::fs::OpenOptionsExt::custom_flags(&mut options, 0x4000_0000);
    let file = options.read(true).open(path)?;
    let mut buffer = vec![0; 64 * 1024];
    let context = Context::new(finished, 0);
    // Made last, so closed first: nothing above is freed while a read is in flight.
    let port = Dispatcher::new()?;
    port.attach(&file)?;
    let mut offset = 0;
    loop {
        let read = Submission::Read {
            handle: Handle::from(&file),
            offset,
            buffer: buffer.as_mut_ptr(),
            len: buffer.len(),
        };
        // SAFETY: file, buffer and context stay where they are until the read has completed.
        unsafe { port.submit(NonNull::from(&context), read)? };
        port.dispatch()?;
        let bytes = LAST.lock().unwrap().result()?;
        if bytes == 0 {
            return Ok(()); // the end of the file
        }
        io::stdout().write_all(&buffer[..bytes as usize])?;
        offset += u64::from(bytes);
    }
}
