//! What goes on inside, told to [`tracing`] where the feature of that name is on. Where it is off, the
//! macros are nothing: their values are type-checked and never computed.
//!
//! Backends tell nothing, because no foreign code runs in them; the port tells what they returned.
//! A subscriber is foreign code, so nothing is told under a lock, nor after a system call that owes a
//! packet has made an operation's memory the kernel's (numbers that were copied before are told then).

#[cfg(feature = "tracing")]
mod way {
    /// `event!(LEVEL, "what", field = value, …)`: something has happened.
    macro_rules! event {
        ($level:ident, $what:literal $(, $field:ident = $value:expr)* $(,)?) => {
            ::tracing::event!(
                target: "longshore",
                ::tracing::Level::$level,
                $($field = $value,)*
                $what
            )
        };
    }

    /// `let _span = span!(LEVEL, "what", field = value, …)`: what happens while it lives belongs to it.
    macro_rules! span {
        ($level:ident, $what:literal $(, $field:ident = $value:expr)* $(,)?) => {
            ::tracing::span!(
                target: "longshore",
                ::tracing::Level::$level,
                $what,
                $($field = $value,)*
            )
            .entered()
        };
    }

    pub(crate) use tracing::field::{debug, display};
    pub(crate) use {event, span};
}

#[cfg(not(feature = "tracing"))]
mod way {
    macro_rules! event {
        ($level:ident, $what:literal $(, $field:ident = $value:expr)* $(,)?) => {{
            $(let _ = || _ = &$value;)*
        }};
    }

    macro_rules! span {
        ($level:ident, $what:literal $(, $field:ident = $value:expr)* $(,)?) => {{
            $(let _ = || _ = &$value;)*
            $crate::trace::NoSpan
        }};
    }

    /// What a span is where there is none.
    pub(crate) struct NoSpan;

    pub(crate) fn debug<T>(value: T) -> T {
        value
    }

    pub(crate) fn display<T>(value: T) -> T {
        value
    }

    pub(crate) use {event, span};
}

pub(crate) use way::*;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    #[test]
    fn trace_values_are_not_computed_where_nobody_listens() {
        let computed = Cell::new(false);
        let compute = || {
            computed.set(true);
            1
        };
        super::event!(ERROR, "an event of a test", value = compute());
        let _span = super::span!(ERROR, "a span of a test", value = compute());
        assert!(!computed.get());
    }
}
