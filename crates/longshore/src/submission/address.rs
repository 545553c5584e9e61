//! Where an operation finds, or leaves, the address at the other end of a datagram.
// UNSAFETY: reads what the kernel has written.
#![expect(unsafe_code)]

use std::{fmt, net::SocketAddr, ptr};

use socket2::{SockAddr, SockAddrStorage, socklen_t};

/// Caller-owned storage for one address: whom a datagram goes to, or who sent it.
///
/// It lives unmoved until the packet comes, as the buffer does: the kernel writes the sender into it
/// when a datagram arrives, and may read the receiver until the datagram has left.
///
/// # Examples
/// ```
/// use longshore::AddressSlot;
/// let to = AddressSlot::from(std::net::SocketAddr::from(([127, 0, 0, 1], 7)));
/// assert_eq!(to.address().unwrap().port(), 7);
/// assert!(AddressSlot::new().address().is_none(), "nothing has arrived yet");
/// ```
pub struct AddressSlot {
    pub(crate) storage: SockAddrStorage,
    pub(crate) len: socklen_t,
    /// Flags that the kernel reads, and writes at the end of a receive.
    #[cfg_attr(
        target_os = "linux",
        expect(dead_code, reason = "only Windows keeps them for so long")
    )]
    pub(crate) flags: u32,
}

impl AddressSlot {
    /// An empty slot, for a receive.
    pub fn new() -> Self {
        Self {
            storage: SockAddrStorage::zeroed(),
            len: 0,
            flags: 0,
        }
    }

    /// The address in it: whom the datagram came from, once a receive has brought one. `None` before
    /// that, after an error, and if it is no Internet address. A datagram that did not fit has a
    /// sender, too.
    pub fn address(&self) -> Option<SocketAddr> {
        // SAFETY: plain data, and read as a copy.
        let storage = unsafe { ptr::from_ref(&self.storage).read() };
        // SAFETY: an address and its length, as it was put in or as the kernel wrote it, or zeros,
        // which are of no family.
        unsafe { SockAddr::new(storage, self.len) }.as_socket()
    }

    /// Empties it and tells the room there is: what a receive begins with.
    pub(crate) fn clear(&mut self) {
        *self = Self::new();
        self.len = self.storage.size_of();
    }
}

impl Default for AddressSlot {
    fn default() -> Self {
        Self::new()
    }
}

impl From<SocketAddr> for AddressSlot {
    /// A slot for a send to this address.
    fn from(address: SocketAddr) -> Self {
        let address = SockAddr::from(address);
        Self {
            len: address.len(),
            storage: address.as_storage(),
            flags: 0,
        }
    }
}

impl fmt::Debug for AddressSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AddressSlot").field(&self.address()).finish()
    }
}
