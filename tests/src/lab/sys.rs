//! Calls that have no safe form: dying with the parent, and a tap.
#![expect(
    unsafe_code,
    reason = "`pre_exec` runs between fork and exec; TUNSETIFF is an ioctl with a struct of its own"
)]

use rustix::process::{Signal, set_parent_process_death_signal};
use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Has the command killed when the thread that starts it ends, however that comes.
pub(super) fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: the closure makes one raw system call: no allocation, no lock, no libc state, so it is
    // fit to run in the child of a fork.
    unsafe {
        command.pre_exec(|| {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        })
    }
}

/// A tap of that name in the namespace of the calling thread; it is gone when the file is closed.
pub(super) fn tap(name: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeros is a valid request.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name is too long"));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes one ifreq, which lives until the call is over.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}
