//! Contexts: their layout, and what is in them: D4, D11.
// UNSAFETY: re-posts Contexts.
#![expect(unsafe_code)]

use std::{
    io::{self, Write},
    mem::offset_of,
    ptr::NonNull,
};

use longshore::{Error, RawOverlapped, dispatcher::Context};

use super::{
    Check, port,
    probe::{self, On, Probe},
};
use crate::{os, text::grouped, workload::Facts};

pub(super) fn d04(facts: &Facts) -> io::Result<Check> {
    const PENDING: u32 = 0x103;
    let (copy, echo) = (&facts.copy, &facts.echo);
    let port = port(facts)?;
    let (ours, mut theirs) = probe::tcp_pair()?;
    let op = Probe::start(&port, On::Stream(ours))?;
    let during = op.status();
    theirs.write_all(b"hello")?;
    let completion = probe::wait(&port, &op)?;
    let after = op.status();

    let first = offset_of!(Context, overlapped);
    let (header, whole) = (size_of::<RawOverlapped>(), size_of::<Context>());
    let other = whole - header;
    Ok(Check::default()
        .saw(
            copy.differ == 0 && copy.copied == copy.length,
            format!(
                "{} of {} bytes copied, {} differ from the file",
                grouped(copy.copied),
                grouped(copy.length),
                copy.differ
            ),
        )
        .saw(
            echo.wrong == 0 && echo.messages == echo.messages_meant,
            format!(
                "{} bytes echoed in {} of {} messages over {} connections, {} came back wrong",
                grouped(echo.bytes),
                grouped(echo.messages as u64),
                grouped(echo.messages_meant as u64),
                grouped(echo.connections as u64),
                echo.wrong
            ),
        )
        .saw(
            first == 0 && header == os::OVERLAPPED && other == 2 * size_of::<usize>(),
            format!(
                "the overlapped header lies at {first} and has {header} bytes, the rest {other}"
            ),
        )
        .saw(
            (during, after) == (PENDING, 0) && (completion.bytes, completion.error) == (5, 0),
            format!(
                "its status was {during:#x} in flight and {after:#x} after {} bytes",
                completion.bytes
            ),
        ))
}

pub(super) fn d11(facts: &Facts) -> io::Result<Check> {
    let port = port(facts)?;
    let context = Box::new(Context::new(probe::note_event, 11));
    let context = NonNull::from(&*context);
    let mut events = Vec::new();
    let mut refused = None;
    for (bytes, error) in [(123, 5), (u32::MAX, 0)] {
        // SAFETY: the box outlives the dispatch below.
        unsafe { port.repost(context, bytes, error)? };
        // SAFETY: as above; it is refused, because the Context is in flight.
        let again = unsafe { port.repost(context, 0, 0) };
        refused = again.err();
        while port.try_dispatch()? {}
        events.extend(probe::events());
    }
    let shown = refused
        .as_ref()
        .map_or("nothing".into(), io::Error::to_string);
    Ok(Check::default()
        .saw(
            events == [(11, 123, 5), (11, u32::MAX, 0)],
            format!("on_event got {events:?}"),
        )
        .saw(
            refused.is_some_and(|error| Error::of(&error) == Some(Error::ContextInFlight)),
            format!("in flight it was refused: \"{shown}\""),
        ))
}
