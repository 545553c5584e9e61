//! A caller's own Context on key 0: D11, and foreign functions as callbacks (D3).
// UNSAFETY: lends Contexts to the port.
#![expect(unsafe_code)]

use std::{
    cell::RefCell,
    ptr::{self, NonNull},
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
};

use longshore::{Dispatcher, Error, dispatcher::Context};

use crate::{
    harness::{Test, port, spawn, tick},
    support::{Token, assert_closed, join, note, panic_of, rounds, seen, word_of},
};

pub const TESTS: &[Test] = tests![
    d03_a_foreign_function_is_called_once_registered,
    d04_a_context_is_a_header_and_two_words,
    d11_a_reposted_context_gets_exactly_these_values,
    d11_reposts_and_posts_share_the_queue,
    d11_a_context_in_flight_is_refused,
    d11_of_many_reposts_at_once_one_succeeds,
    d11_a_context_may_be_reposted_by_its_own_on_event,
    d11_a_context_may_be_freed_by_its_own_on_event,
    d11_a_panic_in_on_event_leaves_the_context_idle,
    d11_closing_gives_a_reposted_context_its_event,
    d11_a_repost_after_closing_is_refused,
];

type Event = (usize, u32, u32);

thread_local! {
    static EVENTS: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

extern "C-unwind" fn log(context: usize, bytes: u32, error: u32) {
    EVENTS.with_borrow_mut(|events| events.push((context, bytes, error)));
}

fn events() -> Vec<Event> {
    EVENTS.take()
}

/// A Context that is never freed, so that a test that fails leaves no dangling pointer behind.
fn context(on_event: extern "C-unwind" fn(usize, u32, u32), word: usize) -> NonNull<Context> {
    NonNull::from(Box::leak(Box::new(Context::new(on_event, word))))
}

fn repost(port: &Dispatcher, context: NonNull<Context>, bytes: u32) -> Result<(), Option<Error>> {
    // SAFETY: every Context of this module stays where it is until its event, or for ever.
    unsafe { port.repost(context, bytes, 0) }.map_err(|error| Error::of(&error))
}

fn d03_a_foreign_function_is_called_once_registered() {
    // SAFETY: to be called with the address of a live number that is not in use.
    unsafe extern "C-unwind" fn foreign(word: usize) {
        // SAFETY: whoever posts it passes the address of a live number that is not in use.
        unsafe { *ptr::with_exposed_provenance_mut::<usize>(word) += 1 };
    }
    let port = port();
    let number = Box::into_raw(Box::new(41usize));
    // SAFETY: a function of this program is there for ever, and it is posted with what it expects.
    let callback = unsafe { port.register_callback(foreign) };
    assert_eq!(
        callback as *const () as usize,
        foreign as *const () as usize
    );
    port.post(number.expose_provenance(), callback).unwrap();
    assert!(port.unregister_callback(callback));
    assert!(
        !port.unregister_callback(callback),
        "it is not registered any more"
    );
    // It was posted through longshore, which is enough by itself.
    port.dispatch().unwrap();
    assert_eq!(port.foreign_packets(), 0);
    // SAFETY: the number was made above and is nobody else's any more.
    assert_eq!(*unsafe { Box::from_raw(number) }, 42);
}

fn d04_a_context_is_a_header_and_two_words() {
    let context = context(log, 7);
    // SAFETY: the Context lives for ever.
    let header = unsafe { Context::overlapped_ptr(context) };
    assert_eq!(header.as_ptr().addr(), context.as_ptr().addr());
    assert_eq!(
        size_of::<longshore::RawOverlapped>(),
        2 * size_of::<usize>() + 8 + size_of::<usize>()
    );
    assert_eq!(
        size_of::<Context>(),
        size_of::<longshore::RawOverlapped>() + 2 * size_of::<usize>()
    );
    // SAFETY: as above, and it is idle.
    assert_eq!(unsafe { Context::raw_status(context) }, 0);
}

fn d11_a_reposted_context_gets_exactly_these_values() {
    let port = port();
    let context = context(log, usize::MAX - 5);
    let values = [
        (0, 0),
        (1, 0),
        (0, 995),
        (u32::MAX, u32::MAX),
        (4096, 104),
        (0, 0x103),
    ];
    for (bytes, error) in values {
        // SAFETY: the Context lives for ever and is idle each time.
        unsafe { port.repost(context, bytes, error) }.unwrap();
        assert_eq!(port.in_flight(), 1);
        assert_eq!(events(), [], "never inside the call");
        port.dispatch().unwrap();
        assert_eq!(events(), [(usize::MAX - 5, bytes, error)]);
        assert_eq!(port.in_flight(), 0);
    }
    assert!(!port.try_dispatch().unwrap());
}

fn d11_reposts_and_posts_share_the_queue() {
    let port = port();
    let contexts: Vec<_> = (0..10).map(|word| context(log, word)).collect();
    for (word, &context) in contexts.iter().enumerate() {
        port.post(word, note).unwrap();
        repost(&port, context, word as u32).unwrap();
    }
    for word in 0..10 {
        port.dispatch().unwrap();
        assert_eq!((seen(), events()), (vec![word], vec![]));
        port.dispatch().unwrap();
        assert_eq!((seen(), events()), (vec![], vec![(word, word as u32, 0)]));
    }
}

fn d11_a_context_in_flight_is_refused() {
    let port = port();
    let context = context(log, 1);
    repost(&port, context, 10).unwrap();
    assert_eq!(
        repost(&port, context, 20),
        Err(Some(Error::ContextInFlight))
    );
    assert_eq!(port.in_flight(), 1);
    port.dispatch().unwrap();
    assert_eq!(events(), [(1, 10, 0)], "the refused call changed nothing");
    repost(&port, context, 30).unwrap();
    port.dispatch().unwrap();
    assert_eq!(events(), [(1, 30, 0)]);
    assert!(!port.try_dispatch().unwrap());
}

/// Lets a thread have a Context.
#[derive(Clone, Copy)]
struct Lent(NonNull<Context>);

// SAFETY: a Context is meant to travel; the threads only hand its address to the port.
unsafe impl Send for Lent {}

fn d11_of_many_reposts_at_once_one_succeeds() {
    const THREADS: usize = 4;
    let port = port();
    let context = context(log, 2);
    for _ in 0..rounds(500) {
        let start = Arc::new(Barrier::new(THREADS));
        let lent = Lent(context);
        let threads = (0..THREADS).map(|thread| {
            let (port, start) = (port.clone(), start.clone());
            spawn(move || {
                let lent = lent;
                start.wait();
                repost(&port, lent.0, thread as u32)
            })
        });
        let results = join(threads.collect());
        let winner = results.iter().position(|result| result.is_ok()).unwrap();
        let refused = Err(Some(Error::ContextInFlight));
        assert_eq!(
            results.iter().filter(|&result| *result == refused).count(),
            THREADS - 1
        );
        port.dispatch().unwrap();
        assert_eq!(events(), [(2, winner as u32, 0)]);
        assert!(!port.try_dispatch().unwrap());
        tick();
    }
}

/// What a Context's word leads to in the tests below.
struct Owner {
    context: Context,
    port: Dispatcher,
    left: AtomicUsize,
    _token: Token,
}

impl Owner {
    /// Alive until [`Owner::free`].
    fn new(
        port: &Dispatcher,
        on_event: extern "C-unwind" fn(usize, u32, u32),
        left: usize,
        dropped: &Arc<AtomicUsize>,
    ) -> NonNull<Self> {
        let owner = Box::into_raw(Box::new(Self {
            context: Context::new(on_event, 0),
            port: port.clone(),
            left: left.into(),
            _token: Token::new(dropped),
        }));
        // SAFETY: made just above and not shared yet.
        unsafe { (*owner).context.context = owner.expose_provenance() };
        NonNull::new(owner).unwrap()
    }

    /// # Safety
    /// The word is that of a live owner.
    unsafe fn context(this: NonNull<Self>) -> NonNull<Context> {
        // SAFETY: live, says the caller.
        unsafe { NonNull::new_unchecked(&raw mut (*this.as_ptr()).context) }
    }

    /// # Safety
    /// The owner is live, its Context is idle, and it is not used again.
    unsafe fn free(this: NonNull<Self>) {
        // SAFETY: as the caller says.
        drop(unsafe { Box::from_raw(this.as_ptr()) });
    }
}

fn owner(word: usize) -> NonNull<Owner> {
    NonNull::new(ptr::with_exposed_provenance_mut(word)).unwrap()
}

extern "C-unwind" fn once_more(word: usize, bytes: u32, error: u32) {
    log(0, bytes, error);
    let this = owner(word);
    // SAFETY: the owner is alive until its last event, which frees it; only this event has it.
    unsafe {
        if this.as_ref().left.fetch_sub(1, Ordering::Relaxed) == 1 {
            return Owner::free(this);
        }
        let port = this.as_ref().port.clone();
        port.repost(Owner::context(this), bytes + 1, error + 2)
            .unwrap();
    }
}

extern "C-unwind" fn free(word: usize, bytes: u32, error: u32) {
    log(0, bytes, error);
    // SAFETY: the event is the owner's last.
    unsafe { Owner::free(owner(word)) };
}

fn d11_a_context_may_be_reposted_by_its_own_on_event() {
    let (port, dropped) = (port(), Arc::default());
    let owner = Owner::new(&port, once_more, 100, &dropped);
    // SAFETY: the owner lives until its last event.
    let context = unsafe { Owner::context(owner) };
    repost(&port, context, 0).unwrap();
    for round in 0..100 {
        port.dispatch().unwrap();
        assert_eq!(
            events(),
            [(0, round, 2 * round)],
            "one event for each dispatch"
        );
    }
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert!(!port.try_dispatch().unwrap());
    assert_eq!(port.in_flight(), 0);
}

fn d11_a_context_may_be_freed_by_its_own_on_event() {
    let (port, dropped) = (port(), Arc::new(AtomicUsize::new(0)));
    for round in 0..100 {
        let owner = Owner::new(&port, free, 0, &dropped);
        // SAFETY: the owner lives until its event.
        let context = unsafe { Owner::context(owner) };
        repost(&port, context, round).unwrap();
        port.dispatch().unwrap();
        assert_eq!(events(), [(0, round, 0)]);
        assert_eq!(dropped.load(Ordering::SeqCst), round as usize + 1);
    }
}

fn d11_a_panic_in_on_event_leaves_the_context_idle() {
    extern "C-unwind" fn panics(word: usize, _bytes: u32, _error: u32) {
        crate::support::fail(word);
    }
    let port = port();
    let context = context(panics, 3);
    for _ in 0..3 {
        repost(&port, context, 0).unwrap();
        assert_eq!(word_of(&*panic_of(|| port.dispatch())), 3);
        assert_eq!(port.in_flight(), 0);
    }
    // Also when closing delivers it, to whoever closes.
    repost(&port, context, 0).unwrap();
    assert_eq!(word_of(&*panic_of(|| port.close())), 3);
}

fn d11_closing_gives_a_reposted_context_its_event() {
    for by_drop in [false, true] {
        let (port, dropped) = (port(), Arc::new(AtomicUsize::new(0)));
        let lasting = context(log, 4);
        // SAFETY: the Context lives for ever.
        unsafe { port.repost(lasting, 5, 6) }.unwrap();
        let owner = Owner::new(&port, free, 0, &dropped);
        // SAFETY: the owner lives until its event.
        let context = unsafe { Owner::context(owner) };
        if by_drop {
            // The owner has a clone of the port, which would keep it open.
            repost(&port, context, 7).unwrap();
            port.dispatch().unwrap();
            port.dispatch().unwrap();
            assert_eq!(events(), [(4, 5, 6), (0, 7, 0)]);
            // SAFETY: the Context lives for ever and is idle.
            unsafe { port.repost(lasting, 5, 6) }.unwrap();
            drop(port);
            assert_eq!(events(), [(4, 5, 6)]);
        } else {
            repost(&port, context, 7).unwrap();
            port.close_with(|_| unreachable!("no raw post")).unwrap();
            assert_eq!(events(), [(4, 5, 6), (0, 7, 0)]);
        }
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
    }
}

fn d11_a_repost_after_closing_is_refused() {
    let port = port();
    let context = context(log, 8);
    port.clone().close().unwrap();
    for _ in 0..2 {
        // SAFETY: the Context lives for ever.
        assert_closed(unsafe { port.repost(context, 0, 0) });
        assert_eq!(port.in_flight(), 0);
    }
    drop(port);
    assert_eq!(events(), []);
    // The Context is the caller's: another port takes it.
    let other = crate::harness::port();
    repost(&other, context, 9).unwrap();
    other.dispatch().unwrap();
    assert_eq!(events(), [(8, 9, 0)]);
}
