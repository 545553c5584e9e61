//! An actor's Contexts: reposted, and lent to receives on a connection of their own.
// UNSAFETY: lends Contexts and a buffer to the port.
#![expect(unsafe_code)]

use std::{
    io,
    net::TcpStream,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use longshore::{ABORTED, Dispatcher, Handle, Submission, dispatcher::Context};

use super::{
    actor::{OPEN, When, connection, send},
    play::play,
};

/// What the port borrows is there for as long as the program. The Contexts know the actor and are
/// never written to; an event's word travels as a result, or in the buffer.
pub(crate) struct Lent {
    reposted: Context,
    received: Context,
    aborted: Context,
    /// An atomic, so that looking at it too early would be a wrong number and nothing worse.
    buffer: AtomicU64,
    ours: TcpStream,
    theirs: TcpStream,
}

impl Lent {
    pub(crate) fn new(port: &Dispatcher, number: usize) -> io::Result<Self> {
        let (ours, theirs) = connection()?;
        port.attach(&ours)?;
        Ok(Self {
            reposted: Context::new(reposted, number),
            received: Context::new(received, number),
            aborted: Context::new(aborted, number),
            buffer: AtomicU64::new(0),
            ours,
            theirs,
        })
    }

    /// Queues a Context whose result is the word.
    pub(crate) fn repost(&'static self, port: &Dispatcher, word: usize) {
        let (bytes, error) = (word as u32, (word as u64 >> 32) as u32);
        // SAFETY: the Context is never moved, dropped or borrowed mutably.
        unsafe { port.repost(NonNull::from(&self.reposted), bytes, error) }.expect(OPEN);
    }

    /// Submits a receive that brings the word, or is cancelled.
    pub(crate) fn receive(&'static self, port: &Dispatcher, when: When, word: usize) {
        // Once a packet can come, another thread may begin the next event with what is in here. So
        // each of these has one last step, and nothing after it.
        match when {
            When::Before => {
                self.submit(port, &self.received);
                send(&self.theirs, word);
            }
            When::After => {
                send(&self.theirs, word);
                self.submit(port, &self.received);
            }
            When::Cancelled => {
                self.buffer.store(word as u64, SeqCst);
                self.submit(port, &self.aborted);
                let context = NonNull::from(&self.aborted);
                port.cancel(&self.ours, context).expect(OPEN);
            }
        }
    }

    fn submit(&'static self, port: &Dispatcher, context: &'static Context) {
        let receive = Submission::Recv {
            socket: Handle::from(&self.ours),
            buffer: self.buffer.as_ptr().cast(),
            len: size_of::<u64>(),
        };
        // SAFETY: Context, buffer and socket are there for as long as the program. The Context is
        // never moved or borrowed mutably, and the buffer is left alone until its event.
        unsafe { port.submit(NonNull::from(context), receive) }.expect(OPEN);
    }

    fn word(&self) -> usize {
        self.buffer.load(SeqCst) as usize
    }
}

extern "C-unwind" fn reposted(number: usize, bytes: u32, error: u32) {
    let word = u64::from(error) << 32 | u64::from(bytes);
    if let Some(actor) = play().actor(number) {
        actor.delivered(word as usize);
    }
}

extern "C-unwind" fn received(number: usize, bytes: u32, error: u32) {
    if let Some(actor) = play().actor(number) {
        play().check((bytes, error) == (8, 0));
        actor.delivered(actor.lent.word());
    }
}

extern "C-unwind" fn aborted(number: usize, bytes: u32, error: u32) {
    if let Some(actor) = play().actor(number) {
        play().check((bytes, error) == (0, ABORTED));
        actor.delivered(actor.lent.word());
    }
}
