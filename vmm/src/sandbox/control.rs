//! What the threads of control do besides: main, QMP, the console.

use super::calls::Call;

pub(super) const CALLS: &[Call] = &[
    // Clients of the sockets that are listened on. No new socket is made.
    Call::any(libc::SYS_accept4),
    Call::any(libc::SYS_recvfrom),
    Call::any(libc::SYS_sendto),
    Call::any(libc::SYS_recvmsg),
    Call::any(libc::SYS_sendmsg),
    Call::any(libc::SYS_shutdown),
    Call::any(libc::SYS_getsockopt),
    Call::with(libc::SYS_ioctl, 1, libc::FIONBIO as u32),
    Call::with(libc::SYS_fcntl, 1, libc::F_GETFL as u32),
    Call::with(libc::SYS_fcntl, 1, libc::F_SETFL as u32),
    // The file of a socket goes with it.
    Call::any(libc::SYS_lstat),
    Call::any(libc::SYS_unlink),
    Call::any(libc::SYS_unlinkat),
    // Signals that end the process in an orderly way, and a terminal's size and state.
    Call::any(libc::SYS_rt_sigaction),
    Call::any(libc::SYS_rt_sigtimedwait),
    Call::with(libc::SYS_ioctl, 1, libc::TIOCGWINSZ as u32),
    Call::with(libc::SYS_ioctl, 1, libc::TCSETSW as u32),
    // Threads that are waited for, and the process's own figures.
    Call::any(libc::SYS_sched_setaffinity),
    Call::any(libc::SYS_getrusage),
];
