//! What a device's worker does besides: it moves data between the guest's memory and what is open.

use super::calls::Call;

/// `TUNSETOFFLOAD`, `TUNSETVNETHDRSZ` and `TUNSETQUEUE` (`linux/if_tun.h`).
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;
const TUNSETQUEUE: u32 = 0x4004_54d9;
/// `BLKDISCARD` and `BLKZEROOUT` (linux/fs.h).
const BLKDISCARD: u32 = 0x1277;
const BLKZEROOUT: u32 = 0x127f;

pub(super) const CALLS: &[Call] = &[
    // A disk: reading, writing, and how far it is on the medium.
    Call::any(libc::SYS_pread64),
    Call::any(libc::SYS_pwrite64),
    Call::any(libc::SYS_preadv),
    Call::any(libc::SYS_pwritev),
    Call::any(libc::SYS_preadv2),
    Call::any(libc::SYS_pwritev2),
    Call::any(libc::SYS_fsync),
    Call::any(libc::SYS_fdatasync),
    Call::any(libc::SYS_sync_file_range),
    // Discarding, zeroing and growing an image, a file or a block device.
    Call::any(libc::SYS_fallocate),
    Call::any(libc::SYS_ftruncate),
    Call::any(libc::SYS_lseek),
    Call::any(libc::SYS_fstat),
    // An empty path means the descriptor; a path opens nothing.
    Call::any(libc::SYS_statx),
    Call::any(libc::SYS_newfstatat),
    Call::with(libc::SYS_ioctl, 1, BLKDISCARD),
    Call::with(libc::SYS_ioctl, 1, BLKZEROOUT),
    // io_uring, which a worker may make for itself.
    Call::any(libc::SYS_io_uring_setup),
    Call::any(libc::SYS_io_uring_enter),
    Call::any(libc::SYS_io_uring_register),
    // A tap whose offloads the driver chooses.
    Call::with(libc::SYS_ioctl, 1, TUNSETOFFLOAD),
    Call::with(libc::SYS_ioctl, 1, TUNSETVNETHDRSZ),
    Call::with(libc::SYS_ioctl, 1, TUNSETQUEUE),
    // Its own eventfds and epoll.
    Call::any(libc::SYS_eventfd2),
    Call::any(libc::SYS_epoll_create1),
    Call::any(libc::SYS_timerfd_create),
    Call::any(libc::SYS_timerfd_settime),
];
