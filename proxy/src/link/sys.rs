//! The ioctls of a tap (`linux/if_tun.h`).
#![allow(unsafe_code, reason = "ioctl(2) takes pointers; each block says why its pointer is right")]

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};
use std::os::fd::{AsRawFd as _, BorrowedFd};

const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<i32>(b'T', 216);
const TUNSETSTEERINGEBPF: Opcode = opcode::read::<i32>(b'T', 224);

const IFF_TAP: u16 = 2;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// Checksums, TCP segmentation over IPv4 and IPv6 with ECN, and UDP segmentation.
const OFFLOADS: u32 = 0x01 | 0x02 | 0x04 | 0x08;
const USO: u32 = 0x20 | 0x40;

/// `struct ifreq`, as far as `TUNSETIFF` looks at it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Makes an open `/dev/net/tun` a tap called `name` (`%d` in it is replaced by a number), with
/// vnet headers. Gives the name that it got. One with `several` queues that is there already gets
/// another one.
pub(super) fn make_tap(fd: BorrowedFd<'_>, name: &str, several: bool) -> Result<String, Errno> {
    let queues = if several { IFF_MULTI_QUEUE } else { 0 };
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | queues;
    let mut request = Request { name: [0; 16], flags, rest: [0; 22] };
    if name.len() >= request.name.len() {
        return Err(Errno::NAMETOOLONG);
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one ifreq, which this is, in size and layout.
    unsafe { ioctl(fd, Updater::<TUNSETIFF, _>::new(&mut request)) }?;
    let end = request.name.iter().position(|&byte| byte == 0).unwrap_or(request.name.len());
    Ok(String::from_utf8_lossy(&request.name[..end]).into_owned())
}

/// Sets the length of the vnet header.
pub(super) fn set_vnet_header(fd: BorrowedFd<'_>, len: i32) -> Result<(), Errno> {
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    unsafe { ioctl(fd, Setter::<TUNSETVNETHDRSZ, i32>::new(len)) }
}

/// Lets a program of the kind `BPF_PROG_TYPE_SOCKET_FILTER` choose the queue of each frame.
pub(super) fn set_steering(fd: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: TUNSETSTEERINGEBPF reads one int, whatever its direction bits say.
    unsafe { ioctl(fd, Setter::<TUNSETSTEERINGEBPF, i32>::new(program.as_raw_fd())) }
}

/// An ioctl whose argument is a number and not a pointer.
struct Number<const OPCODE: Opcode>(usize);

// SAFETY: the kernel takes the argument of these requests as a number; nothing is read or written.
unsafe impl<const OPCODE: Opcode> rustix::ioctl::Ioctl for Number<OPCODE> {
    type Output = ();
    const IS_MUTATING: bool = false;
    fn opcode(&self) -> Opcode {
        OPCODE
    }
    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        core::ptr::without_provenance_mut(self.0)
    }
    unsafe fn output_from_ptr(
        _: rustix::ioctl::IoctlOutput,
        _: *mut core::ffi::c_void,
    ) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Takes frames as guests made them: unfinished checksums and unsegmented streams, as far as this
/// kernel can.
pub(super) fn accept_offloads(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: see `Number`.
    let set = |offloads: u32| unsafe { ioctl(fd, Number::<TUNSETOFFLOAD>(offloads as usize)) };
    // UDP segmentation is younger (6.2) than the rest.
    set(OFFLOADS | USO).or_else(|_| set(OFFLOADS))
}
