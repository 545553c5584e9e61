//! Windows' named pipes: the calls that make, open and end them.
// UNSAFETY: calls into the system.
#![expect(unsafe_code)]

use std::{
    fs::OpenOptions,
    hash::{BuildHasher, Hasher, RandomState},
    io, iter,
    os::windows::{
        ffi::OsStrExt,
        fs::OpenOptionsExt,
        io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle},
    },
    path::Path,
    process, ptr,
};

use windows_sys::Win32::{
    Foundation::{ERROR_ACCESS_DENIED, ERROR_PIPE_BUSY, GENERIC_READ, INVALID_HANDLE_VALUE},
    Storage::FileSystem::{
        FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, FILE_WRITE_ATTRIBUTES,
        FlushFileBuffers, PIPE_ACCESS_DUPLEX, PIPE_ACCESS_INBOUND, PIPE_ACCESS_OUTBOUND,
        SECURITY_IDENTIFICATION, SECURITY_IMPERSONATION,
    },
    System::Pipes::{
        CreateNamedPipeW, DisconnectNamedPipe, PIPE_READMODE_BYTE, PIPE_READMODE_MESSAGE,
        PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PIPE_TYPE_MESSAGE, PIPE_UNLIMITED_INSTANCES,
        PIPE_WAIT, PeekNamedPipe, SetNamedPipeHandleState,
    },
};

/// What a pipe holds before a write has to wait, in bytes: as much as Linux' does.
const BUFFER_SIZE: u32 = 64 * 1024;

/// Which way the bytes go, as the server sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Access {
    Duplex,
    Inbound,
    Outbound,
}

/// What one instance of a named pipe is to be like.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) access: Access,
    pub(crate) messages: bool,
    pub(crate) first: bool,
    pub(crate) reject_remote: bool,
    /// `None`: as many as the system can have.
    pub(crate) max_instances: Option<u8>,
    pub(crate) buffer_size: u32,
}

impl Instance {
    pub(crate) fn new() -> Self {
        Self {
            access: Access::Duplex,
            messages: false,
            first: false,
            reject_remote: true,
            max_instances: None,
            buffer_size: BUFFER_SIZE,
        }
    }

    fn open_mode(&self) -> u32 {
        let access = match self.access {
            Access::Duplex => PIPE_ACCESS_DUPLEX,
            Access::Inbound => PIPE_ACCESS_INBOUND,
            Access::Outbound => PIPE_ACCESS_OUTBOUND,
        };
        let first = match self.first {
            true => FILE_FLAG_FIRST_PIPE_INSTANCE,
            false => 0,
        };
        FILE_FLAG_OVERLAPPED | access | first
    }

    fn pipe_mode(&self) -> u32 {
        let messages = match self.messages {
            true => PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE,
            false => PIPE_TYPE_BYTE | PIPE_READMODE_BYTE,
        };
        let remote = match self.reject_remote {
            true => PIPE_REJECT_REMOTE_CLIENTS,
            false => 0,
        };
        PIPE_WAIT | messages | remote
    }

    /// Makes a server end, overlapped and not inherited.
    pub(crate) fn create(&self, name: &Path) -> io::Result<OwnedHandle> {
        let name = wide(name)?;
        if self.max_instances == Some(0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let max_instances = self
            .max_instances
            .map_or(PIPE_UNLIMITED_INSTANCES, u32::from);
        let (default_timeout, default_security) = (0, ptr::null());
        // SAFETY: the name ends with a zero and lives across the call.
        let handle = unsafe {
            CreateNamedPipeW(
                name.as_ptr(),
                self.open_mode(),
                self.pipe_mode(),
                max_instances,
                self.buffer_size,
                self.buffer_size,
                default_timeout,
                default_security,
            )
        };
        if handle == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: made just now, and nobody else's.
        Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
    }
}

fn wide(name: &Path) -> io::Result<Vec<u16>> {
    let name: Vec<u16> = name.as_os_str().encode_wide().collect();
    match name.contains(&0) {
        true => Err(io::ErrorKind::InvalidInput.into()),
        false => Ok(name.into_iter().chain(iter::once(0)).collect()),
    }
}

/// How a client opens its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) messages: bool,
    pub(crate) overlapped: bool,
    pub(crate) impersonation: bool,
}

impl Client {
    /// The level on which a server may act for its client: not at all, unless it is allowed.
    fn security(&self) -> u32 {
        match self.impersonation {
            true => SECURITY_IMPERSONATION,
            false => SECURITY_IDENTIFICATION,
        }
    }

    /// Opens a client's end, not inherited.
    pub(crate) fn open(&self, name: &Path) -> io::Result<OwnedHandle> {
        let mut options = OpenOptions::new();
        options.read(self.read).write(self.write);
        if self.messages && !self.write {
            // Changing the read mode counts as writing.
            options.access_mode(GENERIC_READ | FILE_WRITE_ATTRIBUTES);
        }
        if self.overlapped {
            options.custom_flags(FILE_FLAG_OVERLAPPED);
        }
        // std adds SECURITY_SQOS_PRESENT.
        let handle = options.security_qos_flags(self.security()).open(name)?;
        let handle = OwnedHandle::from(handle);
        if self.messages {
            read_messages(&handle)?;
        }
        Ok(handle)
    }
}

fn read_messages(client: &OwnedHandle) -> io::Result<()> {
    let mode = PIPE_READMODE_MESSAGE;
    let raw = client.as_raw_handle();
    // SAFETY: the mode lives across the call; nothing else is changed.
    let done = unsafe { SetNamedPipeHandleState(raw, &raw const mode, ptr::null(), ptr::null()) };
    check(done)
}

/// Ends the connection, and whatever is in flight on it. What the client has not read is lost.
pub(crate) fn disconnect(server: impl AsHandle) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { DisconnectNamedPipe(server.as_handle().as_raw_handle()) })
}

/// Looks at what could be read; an error if nothing ever will.
pub(crate) fn peek(reader: impl AsHandle) -> io::Result<()> {
    let (unasked, nowhere) = (ptr::null_mut(), ptr::null_mut());
    let raw = reader.as_handle().as_raw_handle();
    // SAFETY: nothing is asked for but success.
    check(unsafe { PeekNamedPipe(raw, nowhere, 0, unasked, unasked, unasked) })
}

/// Waits until the other end has read everything.
pub(crate) fn flush(pipe: impl AsHandle) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { FlushFileBuffers(pipe.as_handle().as_raw_handle()) })
}

fn check(done: i32) -> io::Result<()> {
    match done {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A pipe of one instance, with its client, under a name that nobody can guess. The server's end is
/// overlapped.
pub(crate) fn pair(
    access: Access,
    overlapped_client: bool,
) -> io::Result<(OwnedHandle, OwnedHandle)> {
    let instance = Instance {
        access,
        first: true,
        max_instances: Some(1),
        ..Instance::new()
    };
    let client = Client {
        read: access != Access::Inbound,
        write: access != Access::Outbound,
        messages: false,
        overlapped: overlapped_client,
        impersonation: false,
    };
    let mut tries = 0..16;
    loop {
        let name = fresh_name();
        let made = instance.create(name.as_ref()).and_then(|server| {
            // The client need not be waited for: it is there.
            let client = client.open(name.as_ref())?;
            Ok((server, client))
        });
        match made {
            // Somebody has the name, or has found it out and was quicker.
            Err(error) if is_taken(&error) && tries.next().is_some() => {}
            made => return made,
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    let code = error.raw_os_error().unwrap_or_default().cast_unsigned();
    matches!(code, ERROR_ACCESS_DENIED | ERROR_PIPE_BUSY)
}

fn fresh_name() -> String {
    // Its keys are random, and others for each one.
    let random = || RandomState::new().build_hasher().finish();
    let process = process::id();
    format!(
        r"\\.\pipe\longshore.{process}.{:016x}{:016x}",
        random(),
        random()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use windows_sys::Win32::Foundation::GetHandleInformation;

    #[test]
    fn pipe_remote_clients_are_refused_unless_they_are_let_in() {
        let mut instance = Instance::new();
        let rejects = PIPE_REJECT_REMOTE_CLIENTS;
        assert_eq!(instance.pipe_mode() & rejects, rejects);
        assert_eq!(instance.pipe_mode() & PIPE_TYPE_MESSAGE, 0);
        (instance.reject_remote, instance.messages) = (false, true);
        assert_eq!(instance.pipe_mode() & rejects, 0);
        let messages = PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE;
        assert_eq!(instance.pipe_mode() & messages, messages);
    }

    #[test]
    fn pipe_a_server_may_only_know_its_client() {
        let client = |impersonation| Client {
            read: true,
            write: true,
            messages: false,
            overlapped: true,
            impersonation,
        };
        assert_eq!(client(false).security(), SECURITY_IDENTIFICATION);
        assert_eq!(client(true).security(), SECURITY_IMPERSONATION);
    }

    #[test]
    fn pipe_names_are_fresh_and_ends_are_not_inherited() {
        assert_ne!(fresh_name(), fresh_name());
        let (server, client) = pair(Access::Inbound, true).unwrap();
        for end in [server, client] {
            let mut flags = u32::MAX;
            // SAFETY: the flags are ours for the call.
            let told = unsafe { GetHandleInformation(end.as_raw_handle(), &raw mut flags) };
            assert_eq!((told, flags), (1, 0));
        }
    }
}
