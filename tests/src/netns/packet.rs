//! A packet socket: whole frames, as they are on an interface.

use super::space::Space;
use super::sys;
use anyhow::{Context, Result};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

/// What waits to be read: enough for a second of anything that a test sends.
const BUFFER: i32 = 256 << 20;

/// The longest frame: a packet of 64 KiB that is still to be segmented, and its headers.
pub const LONGEST: usize = 66 * 1024;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether this host sent it.
    pub outgoing: bool,
    /// Its bytes, with every VLAN tag in its place; of a long one perhaps only the first.
    pub bytes: Vec<u8>,
    /// How many there are.
    pub length: usize,
}

impl Frame {
    /// Who sent it.
    pub fn source(&self) -> Option<[u8; 6]> {
        self.bytes.get(6..12)?.try_into().ok()
    }

    /// The first ethertype: that of its outermost tag, if it has one.
    pub fn ethertype(&self) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes.get(12..14)?.try_into().ok()?))
    }
}

/// A socket on one interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl PacketSocket {
    /// One that sends and hears nothing.
    pub fn sender(space: &Space, interface: &str) -> Result<Self> {
        Self::open(space, interface, false)
    }

    /// One that hears everything.
    pub fn listener(space: &Space, interface: &str) -> Result<Self> {
        Self::open(space, interface, true)
    }

    fn open(space: &Space, interface: &str, listens: bool) -> Result<Self> {
        let index = space.index_of(interface)?;
        let socket = space
            .enter(|| sys::open(index, listens, BUFFER))
            .with_context(|| format!("no packet socket on {interface} of {}", space.name()))?;
        Ok(Self { socket, buffer: vec![0; LONGEST] })
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            match rustix::net::send(&self.socket, frame, rustix::net::SendFlags::empty()) {
                Ok(_) => return Ok(()),
                // The queue of the interface is full.
                Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::AGAIN) => std::thread::yield_now(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next frame, if there is one; no more than `keep` bytes of it.
    pub fn receive(&mut self, keep: usize) -> Result<Option<Frame>> {
        let room = &mut self.buffer[..keep.min(LONGEST)];
        let received = match sys::receive(self.socket.as_fd(), room) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            // The interface went down; it may come back.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = room[..received.copied].to_vec();
        if let Some((kind, tci)) = received.tag
            && bytes.len() >= 12
        {
            let tag = [kind.to_be_bytes(), tci.to_be_bytes()].concat();
            bytes.splice(12..12, tag);
        }
        let length = received.length + if received.tag.is_some() { 4 } else { 0 };
        Ok(Some(Frame { outgoing: received.outgoing, bytes, length }))
    }

    /// Frames that were lost to this socket since the last call.
    pub fn lost(&self) -> Result<u32> {
        Ok(sys::lost(self.socket.as_fd())?)
    }

    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.socket
    }
}
