//! What a system needs to know when a file is opened for a port.

use std::fs::OpenOptions;

/// Completes the options of a file that is to be attached.
pub(crate) fn for_a_port(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(windows)]
    {
        use std::os::windows::fs::OpenOptionsExt;

        use windows_sys::Win32::Storage::FileSystem::FILE_FLAG_OVERLAPPED;

        options.custom_flags(FILE_FLAG_OVERLAPPED);
    }
    options
}
