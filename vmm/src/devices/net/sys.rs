//! The ioctls of a tap (`linux/if_tun.h`).
#![expect(unsafe_code, reason = "ioctl(2) takes pointers; each block says why its pointer is right")]

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, Updater, ioctl, opcode};
use std::ffi::c_void;
use std::os::fd::BorrowedFd;

const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<i32>(b'T', 216);
const TUNSETQUEUE: Opcode = opcode::write::<i32>(b'T', 217);

const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_ATTACH_QUEUE: u16 = 0x0200;
const IFF_DETACH_QUEUE: u16 = 0x0400;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// `struct ifreq`, as far as a tap looks at it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Makes an open `/dev/net/tun` a queue of the tap `name`. Gives the name that it got.
pub(super) fn attach(fd: BorrowedFd<'_>, name: &str, several: bool) -> Result<String, Errno> {
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | if several { IFF_MULTI_QUEUE } else { 0 };
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

/// Whether the kernel gives frames to this queue of several.
pub(super) fn use_queue(fd: BorrowedFd<'_>, used: bool) -> Result<(), Errno> {
    let flags = if used { IFF_ATTACH_QUEUE } else { IFF_DETACH_QUEUE };
    let mut request = Request { name: [0; 16], flags, rest: [0; 22] };
    // SAFETY: TUNSETQUEUE reads one ifreq.
    unsafe { ioctl(fd, Updater::<TUNSETQUEUE, _>::new(&mut request)) }
}

/// Sets the length of the vnet header.
pub(super) fn set_vnet_header(fd: BorrowedFd<'_>, len: i32) -> Result<(), Errno> {
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    unsafe { ioctl(fd, Setter::<TUNSETVNETHDRSZ, i32>::new(len)) }
}

/// An ioctl whose argument is a number and not a pointer.
struct Number<const OPCODE: Opcode>(usize);

// SAFETY: the kernel takes the argument of these requests as a number; nothing is read or written.
unsafe impl<const OPCODE: Opcode> Ioctl for Number<OPCODE> {
    type Output = ();
    const IS_MUTATING: bool = false;
    fn opcode(&self) -> Opcode {
        OPCODE
    }
    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.0)
    }
    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Which unfinished frames the kernel may give us.
pub(super) fn set_offload(fd: BorrowedFd<'_>, offloads: u32) -> Result<(), Errno> {
    // SAFETY: see `Number`.
    unsafe { ioctl(fd, Number::<TUNSETOFFLOAD>(offloads as usize)) }
}
