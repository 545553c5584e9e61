//! A packet: what the port moves, before anybody has given it a meaning.

/// One dequeued record: three words that the port carries and never interprets.
///
/// On Windows these are the words of an `OVERLAPPED_ENTRY`; elsewhere the same three words
/// travel through the port's own queue. The [`Dispatcher`](crate::Dispatcher) is the only place
/// that turns them into a call. Callers meet a packet in the
/// [`on_foreign`](crate::Builder::on_foreign) hook only.
///
/// # Examples
/// ```
/// let packet = longshore::Packet { key: 0, overlapped: 0, bytes: 0 };
/// assert_eq!(packet.key, 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The completion key: the address of a callback, or 0 for an overlapped completion.
    pub key: usize,
    /// The overlapped word: the payload of a post, or the address of an overlapped header.
    pub overlapped: usize,
    /// The count of bytes the packet carries. Whoever posted the packet chose it.
    pub bytes: u32,
}
