//! What a post is, and that each is dispatched once: D2, D3, D5, D6, D7.
// UNSAFETY: registers a foreign function, and re-posts a Context.
#![expect(unsafe_code)]

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use longshore::{Dispatcher, Error, dispatcher::Context};

use super::{Check, port, probe};
use crate::{os, text::grouped, workload::Facts};

pub(super) fn d02(facts: &Facts) -> io::Result<Check> {
    os::words(port(facts)?)
}

/// What the callbacks below throw. Without a message: it is meant to be caught.
struct Thrown(usize);

extern "C-unwind" fn throw(word: usize) {
    resume_unwind(Box::new(Thrown(word)));
}

extern "C-unwind" fn throw_event(word: usize, _bytes: u32, _error: u32) {
    resume_unwind(Box::new(Thrown(word)));
}

// SAFETY: a foreign function's signature; it asks nothing of its caller.
/// Stands for a function of another language.
///
/// # Safety
/// Any word is good; only the type is that of a function which has conditions.
unsafe extern "C-unwind" fn foreign(word: usize) {
    probe::note(word);
}

/// What one dispatch threw.
fn thrown(port: &Dispatcher) -> Option<usize> {
    let outcome = catch_unwind(AssertUnwindSafe(|| port.dispatch()));
    let payload = outcome.err()?.downcast::<Thrown>().ok()?;
    Some(payload.0)
}

pub(super) fn d03(facts: &Facts) -> io::Result<Check> {
    let port = port(facts)?;
    let context = Box::new(Context::new(throw_event, 2));
    port.post(1, throw)?;
    // SAFETY: the Context is dispatched below.
    unsafe { port.repost(NonNull::from(&*context), 0, 0)? };
    port.post(3, probe::note)?;
    let caught = [thrown(&port), thrown(&port)];
    port.dispatch()?;
    let after = probe::seen();
    // SAFETY: the function exists as long as the process does, and any word is good for it.
    let registered = unsafe { port.register_callback(foreign) };
    port.post(4, registered)?;
    port.dispatch()?;
    let by_foreign = probe::seen();
    let count = caught.iter().flatten().count();
    Ok(Check::default()
        .saw(
            caught == [Some(1), Some(2)],
            format!("{count} of {} panics came out of dispatch", caught.len()),
        )
        .saw(
            after == [3],
            format!("the next dispatch ran the next entry: {after:?}"),
        )
        .saw(
            by_foreign == [4],
            format!("a registered foreign function got {by_foreign:?}"),
        ))
}

pub(super) fn d05(facts: &Facts) -> io::Result<Check> {
    let posts = &facts.posts;
    let check = Check::default().saw(
        posts.once == posts.posted && posts.strays == 0 && posts.calls == posts.posted,
        format!(
            "{} of {} payloads exactly once, {} never, {} more often, {} unknown",
            grouped(posts.once as u64),
            grouped(posts.posted as u64),
            posts.never,
            posts.more_often,
            posts.strays
        ),
    );
    let port = port(facts)?;
    port.clone().close()?;
    let ran = Arc::new(AtomicUsize::new(0));
    let noted = ran.clone();
    let refused = port.post_fn(move || _ = noted.fetch_add(1, Ordering::Relaxed));
    let check = match refused {
        Ok(()) => check.saw(false, "a closed port took a closure"),
        Err(refused) => {
            let before = ran.load(Ordering::Relaxed);
            (refused.closure)();
            let after = ran.load(Ordering::Relaxed);
            check.saw(
                (before, after) == (0, 1) && Error::of(&refused.error) == Some(Error::Closed),
                format!(
                    "refused: \"{}\"; the closure came back after {before} calls and could be \
                     called: {after}",
                    refused.error
                ),
            )
        }
    };
    Ok(match port.post(1, probe::note) {
        Ok(()) => check.saw(false, "a closed port took a post"),
        Err(error) => check.saw(
            Error::of(&error) == Some(Error::Closed),
            format!("a plain post was refused: \"{error}\""),
        ),
    })
}

pub(super) fn d06(facts: &Facts) -> io::Result<Check> {
    let work = &facts.dispatches;
    let returned = work.by_thread.iter().sum::<u64>() + work.left_over;
    let port = port(facts)?;
    (1..=3).try_for_each(|word| port.post(word, probe::note))?;
    port.dispatch()?;
    let first = probe::seen();
    let mut rest = Vec::new();
    while port.try_dispatch()? {
        rest.push(probe::seen().len());
    }
    Ok(Check::default()
        .saw(
            returned == work.ran,
            format!(
                "{} dispatches in the main job, {} callbacks and completions ran",
                grouped(returned),
                grouped(work.ran)
            ),
        )
        .saw(
            first == [1] && rest == [1, 1],
            format!(
                "of 3 posts one dispatch ran {}, {} more ran {rest:?}",
                first.len(),
                rest.len()
            ),
        ))
}

pub(super) fn d07(facts: &Facts) -> io::Result<Check> {
    let port = port(facts)?;
    let empty = port.try_dispatch()?;
    port.post(1, probe::note)?;
    port.post(2, probe::note)?;
    let mut polls = Vec::new();
    for _ in 0..3 {
        let said = port.try_dispatch()?;
        polls.push((said, probe::seen().len()));
    }
    let shown: Vec<_> = polls
        .iter()
        .map(|(said, ran)| format!("{said} and ran {ran}"))
        .collect();
    Ok(Check::default()
        .saw(
            !empty,
            format!("on an empty port try_dispatch said {empty}"),
        )
        .saw(
            polls == [(true, 1), (true, 1), (false, 0)],
            format!("with two entries it said {}", shown.join(", then ")),
        ))
}
