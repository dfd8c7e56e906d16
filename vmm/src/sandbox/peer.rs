//! What the thread of a pair of hosts does besides: it connects to the other one, again and again.

use super::calls::Call;

/// The bits of a socket's type; others are flags, such as close-on-exec.
const TYPE: u32 = 0xf;

pub(super) const CALLS: &[Call] = &[
    // TCP over IPv4 and IPv6, and nothing else: no raw sockets, no datagrams.
    Call::with(libc::SYS_socket, 0, libc::AF_INET as u32).and(1, TYPE, libc::SOCK_STREAM as u32),
    Call::with(libc::SYS_socket, 0, libc::AF_INET6 as u32).and(1, TYPE, libc::SOCK_STREAM as u32),
    Call::any(libc::SYS_connect),
    Call::any(libc::SYS_setsockopt),
    Call::any(libc::SYS_getsockname),
    Call::any(libc::SYS_getpeername),
];
