//! Which errors pass.

use rustix::io::Errno;
use std::io;

/// Whether the peer may answer later although it does not now: it is down, or the way to it is, or this host
/// has run out of ports for a moment. Anything else is a mistake that waiting does not mend.
pub fn passes(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNREFUSED
            | Errno::NETUNREACH
            | Errno::AGAIN
            | Errno::CONNABORTED
            | Errno::TIMEDOUT
            | Errno::HOSTUNREACH
            | Errno::NETDOWN
            | Errno::HOSTDOWN
            | Errno::CONNRESET
            | Errno::ADDRNOTAVAIL
            | Errno::NOBUFS
            | Errno::INTR
    )
}

/// Whether this is about the one that was to be accepted, so that the next may be fine (accept(2) hands on
/// the network's errors of a connection that is already gone). Anything else would come again at once.
pub fn of_the_accepted(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNABORTED
            | Errno::INTR
            | Errno::AGAIN
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::NETDOWN
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
            | Errno::CONNRESET
    )
}

/// The number behind it; what has none is one of this program's own.
pub(super) fn of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
