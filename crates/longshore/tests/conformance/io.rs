//! Real I/O for tests: operations that own what they lend.
// UNSAFETY: lends memory to the port under test; an operation's record owns that memory.
#![expect(unsafe_code)]

use std::{
    any::Any,
    cell::UnsafeCell,
    fs::File,
    io,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    ptr::{self, NonNull},
    sync::{Arc, Condvar, Mutex, Weak},
};

use longshore::{
    AcceptSlot, AddressSlot, Dispatcher, Error, Handle, Submission, dispatcher::Context,
};
use socket2::Socket;

type Hook = Box<dyn Fn(&Op, u32, u32) + Send + Sync>;

/// One operation: a Context, what it lends to the system, and a record of what came back.
///
/// While it is in flight the system holds one reference to the record, and the record one to the
/// handle. So a test that fails early leaks them; nothing is freed under the system.
#[derive(Clone)]
pub struct Op(Arc<Record>);

#[repr(C)]
struct Record {
    context: Context,
    buffer: NonNull<[u8]>,
    slot: UnsafeCell<AcceptSlot>,
    address: UnsafeCell<AddressSlot>,
    state: Mutex<State>,
    ended: Condvar,
    hook: Option<Hook>,
}

#[derive(Default)]
struct State {
    issued: usize,
    calls: usize,
    last: (u32, u32),
    kept: Vec<Box<dyn Any + Send>>,
}

// SAFETY: buffer and slot are touched by the system while the operation is in flight and by the
// test while it is idle, which every access asserts.
unsafe impl Send for Record {}
// SAFETY: see Send.
unsafe impl Sync for Record {}

impl Drop for Record {
    fn drop(&mut self) {
        // SAFETY: the buffer came out of a box, and the system's reference is gone.
        drop(unsafe { Box::from_raw(self.buffer.as_ptr()) });
    }
}

extern "C-unwind" fn finished(word: usize, bytes: u32, error: u32) {
    // SAFETY: the word is the record's address, and this is the reference that the system held.
    let op = Op(unsafe { Arc::from_raw(ptr::with_exposed_provenance(word)) });
    {
        let mut state = op.0.state.lock().unwrap();
        state.calls += 1;
        state.last = (bytes, error);
        let kept = (!state.kept.is_empty()).then(|| state.kept.remove(0));
        drop(kept);
    }
    if let Some(hook) = &op.0.hook {
        hook(&op, bytes, error);
    }
    op.0.ended.notify_all();
}

impl Op {
    /// An operation with a buffer of `len` zeros.
    pub fn new(len: usize) -> Self {
        Self::build(vec![0; len], None)
    }

    /// An operation with this buffer.
    pub fn with(buffer: Vec<u8>) -> Self {
        Self::build(buffer, None)
    }

    /// An operation whose `on_event` goes on with `hook`, which may start it again.
    pub fn hooked(len: usize, hook: impl Fn(&Self, u32, u32) + Send + Sync + 'static) -> Self {
        Self::build(vec![0; len], Some(Box::new(hook)))
    }

    fn build(buffer: Vec<u8>, hook: Option<Hook>) -> Self {
        let buffer = NonNull::from(Box::leak(buffer.into_boxed_slice()));
        Self(Arc::new_cyclic(|record: &Weak<Record>| Record {
            context: Context::new(finished, record.as_ptr().expose_provenance()),
            buffer,
            slot: UnsafeCell::default(),
            address: UnsafeCell::default(),
            state: Mutex::default(),
            ended: Condvar::new(),
            hook,
        }))
    }

    pub fn context(&self) -> NonNull<Context> {
        // Derived from the whole record; never null.
        NonNull::new(Arc::as_ptr(&self.0).cast_mut().cast()).unwrap()
    }

    /// Lends the record to the system for the time of one `call` on the Context.
    pub fn lend<T>(
        &self,
        kept: Box<dyn Any + Send>,
        call: impl FnOnce(NonNull<Context>) -> io::Result<T>,
    ) -> io::Result<T> {
        let lent = Arc::into_raw(self.0.clone());
        {
            let mut state = self.0.state.lock().unwrap();
            state.issued += 1;
            state.kept.push(kept);
        }
        call(self.context()).inspect_err(|_| {
            let mut state = self.0.state.lock().unwrap();
            state.issued -= 1;
            state.kept.pop();
            // SAFETY: the call failed, so the system never took the reference made above.
            drop(unsafe { Arc::from_raw(lent) });
        })
    }

    /// What is lent for the bytes.
    pub fn buffer(&self) -> (*mut u8, usize) {
        (self.0.buffer.as_ptr().cast(), self.0.buffer.len())
    }

    /// Starts whatever `make` describes.
    pub fn start<T>(
        &self,
        port: &Dispatcher,
        handle: &Arc<T>,
        make: impl for<'a> FnOnce(Handle<'a>, *mut u8, usize) -> Submission<'a>,
    ) -> io::Result<()>
    where
        T: Send + Sync + 'static,
        for<'a> &'a T: Into<Handle<'a>>,
    {
        let (buffer, len) = self.buffer();
        let submission = make((&**handle).into(), buffer, len);
        self.lend(Box::new(handle.clone()), |context| {
            // SAFETY: the system's reference keeps the record (Context, buffer, slot) in place
            // until its packet, and the record keeps the handle open.
            unsafe { port.submit(context, submission) }
        })
    }

    pub fn read(&self, port: &Dispatcher, file: &Arc<File>, offset: u64) -> io::Result<()> {
        self.start(port, file, |handle, buffer, len| Submission::Read {
            handle,
            offset,
            buffer,
            len,
        })
    }

    pub fn write(&self, port: &Dispatcher, file: &Arc<File>, offset: u64) -> io::Result<()> {
        self.start(port, file, |handle, buffer, len| Submission::Write {
            handle,
            offset,
            buffer,
            len,
        })
    }

    pub fn recv<T>(&self, port: &Dispatcher, socket: &Arc<T>) -> io::Result<()>
    where
        T: Send + Sync + 'static,
        for<'a> &'a T: Into<Handle<'a>>,
    {
        self.start(port, socket, |socket, buffer, len| Submission::Recv {
            socket,
            buffer,
            len,
        })
    }

    /// Sends the first `len` bytes of the buffer.
    pub fn send<T>(&self, port: &Dispatcher, socket: &Arc<T>, len: usize) -> io::Result<()>
    where
        T: Send + Sync + 'static,
        for<'a> &'a T: Into<Handle<'a>>,
    {
        self.start(port, socket, |socket, buffer, room| {
            assert!(len <= room);
            Submission::Send {
                socket,
                buffer,
                len,
            }
        })
    }

    pub fn recv_from(&self, port: &Dispatcher, socket: &Arc<UdpSocket>) -> io::Result<()> {
        let from = NonNull::new(self.0.address.get()).unwrap();
        self.start(port, socket, |socket, buffer, len| Submission::RecvFrom {
            socket,
            buffer,
            len,
            from,
        })
    }

    /// Sends the first `len` bytes of the buffer.
    pub fn send_to(
        &self,
        port: &Dispatcher,
        socket: &Arc<UdpSocket>,
        len: usize,
        address: SocketAddr,
    ) -> io::Result<()> {
        assert!(self.is_idle());
        // SAFETY: nothing is in flight, so the slot is ours.
        unsafe { *self.0.address.get() = AddressSlot::from(address) };
        let to = NonNull::new(self.0.address.get()).unwrap();
        self.start(port, socket, |socket, buffer, _| Submission::SendTo {
            socket,
            buffer,
            len,
            to,
        })
    }

    /// Who sent the datagram.
    pub fn from(&self) -> Option<SocketAddr> {
        assert!(self.is_idle());
        // SAFETY: nothing is in flight, so the slot is ours.
        unsafe { (*self.0.address.get()).address() }
    }

    pub fn accept(&self, port: &Dispatcher, listener: &Arc<TcpListener>) -> io::Result<()> {
        let slot = NonNull::new(self.0.slot.get()).unwrap();
        self.start(port, listener, |listener, _, _| Submission::Accept {
            listener,
            slot,
        })
    }

    pub fn connect(
        &self,
        port: &Dispatcher,
        socket: &Arc<Socket>,
        address: SocketAddr,
    ) -> io::Result<()> {
        self.start(port, socket, |socket, _, _| Submission::Connect {
            socket,
            address,
        })
    }

    pub fn cancel<T>(&self, port: &Dispatcher, handle: &Arc<T>) -> io::Result<bool>
    where
        for<'a> &'a T: Into<Handle<'a>>,
    {
        port.cancel(&**handle, self.context())
    }

    /// Dispatches until the operation has ended. A synchronous error and one that came through a
    /// packet look alike: (bytes, error).
    pub fn finish(&self, port: &Dispatcher, started: io::Result<()>) -> (u32, u32) {
        if let Err(error) = started {
            let code = error.raw_os_error();
            let code = code.unwrap_or_else(|| panic!("the call was refused: {error}"));
            return (0, code.cast_unsigned());
        }
        while !self.is_idle() {
            port.dispatch().unwrap();
        }
        self.last()
    }

    /// Waits until other threads have dispatched the end of the operation.
    pub fn wait(&self) -> (u32, u32) {
        let mut state = self.0.state.lock().unwrap();
        while state.calls < state.issued {
            state = self.0.ended.wait(state).unwrap();
        }
        state.last
    }

    pub fn is_idle(&self) -> bool {
        let state = self.0.state.lock().unwrap();
        state.calls == state.issued
    }

    /// How often `on_event` was called.
    pub fn calls(&self) -> usize {
        self.0.state.lock().unwrap().calls
    }

    /// (bytes, error) of the last call.
    pub fn last(&self) -> (u32, u32) {
        self.0.state.lock().unwrap().last
    }

    /// The first `len` bytes of the buffer.
    pub fn data(&self, len: usize) -> Vec<u8> {
        assert!(self.is_idle(), "the buffer is the system's");
        // SAFETY: idle, so nobody writes.
        unsafe { self.0.buffer.as_ref()[..len].to_vec() }
    }

    /// Overwrites the start of the buffer.
    pub fn fill(&self, bytes: &[u8]) {
        assert!(self.is_idle() && bytes.len() <= self.0.buffer.len());
        // SAFETY: idle, so the buffer is ours, and it is long enough.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.buffer.as_ptr().cast(), bytes.len())
        };
    }

    /// What an accept brought.
    pub fn accepted(&self) -> Option<(Arc<TcpStream>, SocketAddr)> {
        assert!(self.is_idle(), "the slot is the system's");
        // SAFETY: idle, so the slot is ours.
        let (stream, peer) = unsafe { (*self.0.slot.get()).take() }?;
        Some((Arc::new(stream), peer))
    }
}

/// longshore's own error in a refused call.
pub fn refusal<T>(result: io::Result<T>) -> Option<Error> {
    result.err().as_ref().and_then(Error::of)
}

pub fn kind(error: u32) -> io::ErrorKind {
    io::Error::from_raw_os_error(error.cast_signed()).kind()
}
