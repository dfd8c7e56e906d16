//! What every thread does: run, wait, get memory, say something, end.

use super::calls::Call;

pub(super) const CALLS: &[Call] = &[
    // Reading and writing what is open: eventfds, sockets, images, messages.
    Call::any(libc::SYS_read),
    Call::any(libc::SYS_write),
    Call::any(libc::SYS_readv),
    Call::any(libc::SYS_writev),
    Call::any(libc::SYS_close),
    // Rust's debug builds ask whether what they close is open.
    Call::with(libc::SYS_fcntl, 1, libc::F_GETFD as u32),
    // Waiting, for descriptors and for each other.
    Call::any(libc::SYS_poll),
    Call::any(libc::SYS_ppoll),
    Call::any(libc::SYS_epoll_wait),
    Call::any(libc::SYS_epoll_pwait),
    Call::any(libc::SYS_epoll_ctl),
    Call::any(libc::SYS_futex),
    Call::any(libc::SYS_nanosleep),
    Call::any(libc::SYS_clock_nanosleep),
    Call::any(libc::SYS_sched_yield),
    Call::any(libc::SYS_restart_syscall),
    // Time, where the vDSO cannot say it.
    Call::any(libc::SYS_clock_gettime),
    Call::any(libc::SYS_clock_getres),
    Call::any(libc::SYS_gettimeofday),
    // The allocator. No page becomes executable.
    Call::masked(libc::SYS_mmap, 2, libc::PROT_EXEC as u32, 0),
    Call::masked(libc::SYS_mprotect, 2, libc::PROT_EXEC as u32, 0),
    Call::any(libc::SYS_mremap),
    Call::any(libc::SYS_munmap),
    Call::any(libc::SYS_madvise),
    Call::any(libc::SYS_brk),
    Call::any(libc::SYS_getrandom),
    // Signals: masks, alternate stacks for stack overflow, returning from a handler.
    Call::any(libc::SYS_rt_sigprocmask),
    Call::any(libc::SYS_rt_sigreturn),
    Call::any(libc::SYS_sigaltstack),
    // A signal that ends the process may come in any thread: its handler writes a byte to a pair of sockets.
    Call::with(libc::SYS_sendto, 2, 1).and(5, u32::MAX, 0),
    // Starting a thread, and what its libc does first.
    Call::any(libc::SYS_clone3),
    Call::masked(libc::SYS_clone, 0, libc::CLONE_THREAD as u32, libc::CLONE_THREAD as u32),
    Call::any(libc::SYS_set_robust_list),
    Call::any(libc::SYS_rseq),
    Call::any(libc::SYS_gettid),
    Call::any(libc::SYS_getpid),
    Call::any(libc::SYS_sched_getaffinity),
    Call::with(libc::SYS_prctl, 0, libc::PR_SET_NAME as u32),
    Call::with(libc::SYS_prctl, 0, libc::PR_GET_NAME as u32),
    // A thread that is started enters a sandbox of its own, on top of this one.
    Call::with(libc::SYS_prctl, 0, libc::PR_SET_NO_NEW_PRIVS as u32),
    Call::with(libc::SYS_seccomp, 0, libc::SECCOMP_SET_MODE_FILTER),
    // Ending: a thread, the process, and a panic that aborts.
    Call::any(libc::SYS_exit),
    Call::any(libc::SYS_exit_group),
    Call::own_process(libc::SYS_tgkill, 0),
    Call::with(libc::SYS_rt_sigaction, 0, libc::SIGABRT as u32),
    // A terminal that is made what it was, by whichever thread ends the process.
    Call::with(libc::SYS_ioctl, 1, libc::TCGETS as u32),
    Call::with(libc::SYS_ioctl, 1, libc::TCSETS as u32),
    Call::with(libc::SYS_ioctl, 1, libc::TCGETS2 as u32),
    Call::with(libc::SYS_ioctl, 1, libc::TCSETS2 as u32),
];
