//! What the thread of a pair of hosts does besides: it connects to the other one, again and again.

use super::calls::Call;

pub(super) const CALLS: &[Call] = &[
    // Sockets of IPv4 and IPv6, and of nothing else.
    Call::with(libc::SYS_socket, 0, libc::AF_INET as u32),
    Call::with(libc::SYS_socket, 0, libc::AF_INET6 as u32),
    Call::any(libc::SYS_connect),
    Call::any(libc::SYS_setsockopt),
    Call::any(libc::SYS_getsockname),
    Call::any(libc::SYS_getpeername),
];
