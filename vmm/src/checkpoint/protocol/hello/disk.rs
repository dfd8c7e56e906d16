//! What a side says of its disks: those that the guest can write, in their order.
//!
//! ```text
//!   count u8 · of each: place u8, flags u8 (1 alone, 2 dirty, 4 believed), port be16, size be64, own be128, peer be128
//! ```
//!
//! What the generations come to is not for the protocol to judge: see [`crate::replication::bitmap::generation`].

use super::HelloError;
use super::bytes::Bytes;

/// The most of them.
pub const DISKS: usize = 64;

/// A disk, as its host knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Which of the guest's disks, from 0, those that it cannot write counted.
    pub place: u8,
    /// A secondary's: the TCP port that its primary connects to for it.
    pub port: u16,
    /// Its bytes.
    pub size: u64,
    /// The generation of what is on it; 0 is none.
    pub own: u128,
    /// The generation that both hosts had when this one took over; 0 is none.
    pub peer: u128,
    /// Whether it was written to while nobody followed.
    pub alone: bool,
    /// Whether there are regions that the other host may not have.
    pub dirty: bool,
    /// Whether what is said here is certain.
    pub believed: bool,
}

impl Disk {
    pub(super) fn put(&self, bytes: &mut Vec<u8>) {
        let flags = [(self.alone, 1), (self.dirty, 2), (self.believed, 4)];
        bytes.push(self.place);
        bytes.push(flags.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum());
        bytes.extend(self.port.to_be_bytes());
        bytes.extend(self.size.to_be_bytes());
        bytes.extend(self.own.to_be_bytes());
        bytes.extend(self.peer.to_be_bytes());
    }

    pub(super) fn take(bytes: &mut Bytes<'_>) -> Result<Self, HelloError> {
        let place = bytes.byte("a disk's place")?;
        let flags = bytes.byte("a disk's flags")?;
        if flags > 7 {
            return Err(HelloError::Number { field: "disk", number: flags });
        }
        Ok(Self {
            place,
            port: bytes.array("a disk's port").map(u16::from_be_bytes)?,
            size: bytes.be64("a disk's size")?,
            own: bytes.array("a disk's generation").map(u128::from_be_bytes)?,
            peer: bytes.array("a disk's generation before").map(u128::from_be_bytes)?,
            alone: flags & 1 != 0,
            dirty: flags & 2 != 0,
            believed: flags & 4 != 0,
        })
    }
}
