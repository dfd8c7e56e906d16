//! What a vCPU's thread does besides: it runs the guest and serves its exits.

use super::calls::Call;

/// The type of KVM's ioctls, in the second byte of their numbers (linux/kvm.h).
const KVM: u32 = 0xae << 8;

pub(super) const CALLS: &[Call] = &[
    // Running, saving and loading a vCPU, and interrupts of devices: every ioctl of KVM, on a VM that is
    // open already.
    Call::masked(libc::SYS_ioctl, 1, 0xff00, KVM),
    // A driver that makes its device ready: its queues get eventfds, a worker starts with an epoll.
    Call::any(libc::SYS_eventfd2),
    Call::any(libc::SYS_epoll_create1),
    Call::any(libc::SYS_dup),
    Call::with(libc::SYS_fcntl, 1, libc::F_DUPFD_CLOEXEC as u32),
    // What a page of the guest's is, before it is given back.
    Call::any(libc::SYS_mincore),
];
