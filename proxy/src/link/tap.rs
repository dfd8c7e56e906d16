//! A tap: an interface whose other end is a file descriptor.
//!
//! ```text
//!   redirected frames ─► tap's queue ─► read   vnet header │ MACs │ tag │ rest
//!                                                 tag to a place of its own ┘
//!   tap's ingress     ◄────────────── write  vnet header │ MACs │ rest
//! ```
//!
//! It goes away with its descriptor, and with it everything that is attached to it. One with several
//! queues has a descriptor for each, and a program that says which queue a frame goes to: the kernel's
//! own choice follows who wrote last, and hashes VLAN tags along.

use super::sys;
use colo_ebpf_shared::tag;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use thiserror::Error;

/// Bytes of the vnet header: `virtio_net_hdr` without the buffer count, which a tap never fills.
pub const VNET_HDR: usize = 10;

/// Bytes of both MAC addresses: what comes before the tag.
const MACS: usize = 12;

/// A tap that cannot be made.
#[derive(Debug, Error)]
pub enum TapError {
    /// The device node cannot be opened.
    #[error("cannot open /dev/net/tun: {0}; is the tun module loaded, and may this process use it?")]
    Open(io::Error),
    /// The kernel does not make one.
    #[error("cannot make the tap {name}: {error}; this needs CAP_NET_ADMIN")]
    Make {
        /// The name that was asked for.
        name: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// Its queues are of no use.
    #[error(
        "cannot choose between the queues of the tap {name}: {error}; Linux 4.16 can, and '--queues 1' has no need to"
    )]
    Steer {
        /// The tap.
        name: String,
        /// What the kernel said.
        error: io::Error,
    },
}

/// A tap, or one queue of it.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
}

impl Tap {
    /// Makes one; `%d` in the name is replaced by a number.
    pub fn make(name: &str) -> Result<Self, TapError> {
        Self::open(name, false)
    }

    /// Makes one with several queues, and gives them in the order of their numbers.
    pub fn with_queues(name: &str, queues: u8) -> Result<Vec<Self>, TapError> {
        let mut all = vec![Self::open(name, queues > 1)?];
        for _ in 1..queues {
            all.push(Self::open(&all[0].name, true)?);
        }
        Ok(all)
    }

    /// Lets a socket filter choose the queue of each frame: what it returns, modulo their number.
    pub fn steer(&self, program: BorrowedFd<'_>) -> Result<(), TapError> {
        sys::set_steering(self.fd.as_fd(), program)
            .map_err(|error| TapError::Steer { name: self.name.clone(), error: error.into() })
    }

    fn open(name: &str, several: bool) -> Result<Self, TapError> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
            .map_err(|error| TapError::Open(error.into()))?;
        let failed = |error: Errno| TapError::Make { name: name.into(), error: error.into() };
        let name = sys::make_tap(fd.as_fd(), name, several).map_err(failed)?;
        sys::set_vnet_header(fd.as_fd(), VNET_HDR as i32).map_err(failed)?;
        sys::accept_offloads(fd.as_fd()).map_err(failed)?;
        Ok(Self { fd, name })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one tagged frame. `buffer` gets the vnet header and the frame without its tag, and the
    /// tag's four bytes go to `tag`. Gives the number of bytes in `buffer`; none if there is no
    /// frame now.
    #[inline]
    pub fn read(&self, buffer: &mut [u8], tag: &mut [u8; tag::LEN]) -> Result<Option<usize>, Errno> {
        let (front, back) = buffer.split_at_mut(VNET_HDR + MACS);
        let mut parts = [IoSliceMut::new(front), IoSliceMut::new(tag), IoSliceMut::new(back)];
        match rustix::io::readv(&self.fd, &mut parts) {
            // Of a frame too short for a tag, some of the front is old; it will not parse.
            Ok(count) => Ok(Some(count.saturating_sub(tag::LEN))),
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one frame: vnet header and frame in one piece.
    #[inline]
    pub fn write(&self, frame: &[u8]) -> Result<(), Errno> {
        rustix::io::write(&self.fd, frame).map(|_| ())
    }

    /// Writes one frame without a vnet header.
    pub fn write_plain(&self, frame: &[u8]) -> Result<(), Errno> {
        rustix::io::writev(&self.fd, &[IoSlice::new(&[0; VNET_HDR]), IoSlice::new(frame)]).map(|_| ())
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
