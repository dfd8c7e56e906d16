//! Frames: from bytes to a flow key and what is to be compared.
//!
//! ```text
//!   Ethernet ─► VLAN tags ─► ARP
//!                         ─► IPv4 / IPv6 + extension headers ─► TCP      ─► Segment (seq, ack, window, payload)
//!                         │        │                         ─► the rest ─► Message (the byte regions that count)
//!                         │        └─ fragment ─► Fragment (reassembled by the engine, then `parse_datagram`)
//!                         ─► any other ethertype ─────────────────────────► Message
//! ```
//!
//! Lengths come from the IP header, so Ethernet padding never counts. The parser is written by hand
//! because it runs twice per compared pair and needs only positions; `etherparse` is its oracle in
//! the property tests.

mod ack;
mod checksum;
mod ethernet;
mod icmp;
mod ip;
mod key;
mod length;
mod offload;
mod tcp;

pub use ack::{PureAck, SackBlocks, Stamps, lower_ack, pure_ack};
pub use checksum::{Checksum, internet_checksum};
pub use ethernet::parse;
pub use ip::parse_datagram;
pub use key::{FlowKey, Proto};
pub use length::{can_be_cut, cut_flags, mend_cut};
pub use offload::{Gso, Offload, VNET_HDR_MAX, VnetError};
pub use tcp::{Segment, SynOptions, TcpFlags, same_other_options};

use thiserror::Error;

/// A stretch of a frame's, or of a reassembled datagram's, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Where it starts.
    pub start: u32,
    /// How long it is.
    pub len: u32,
}

impl Region {
    pub(crate) fn new(start: usize, len: usize) -> Self {
        Self { start: start as u32, len: len as u32 }
    }

    /// The bytes; empty if they lie outside `data`.
    pub fn of(self, data: &[u8]) -> &[u8] {
        let start = self.start as usize;
        data.get(start..start + self.len as usize).unwrap_or_default()
    }
}

/// How many separate stretches a message can have.
pub const MAX_REGIONS: usize = 6;

/// A message that is compared as a whole: the stretches that count, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    regions: [Region; MAX_REGIONS],
    count: u8,
    /// USO: payload bytes of each datagram in the frame; two frames that are cut differently are
    /// different messages. 0 if the frame is one message.
    pub segment_size: u16,
}

impl Message {
    pub(crate) fn of(start: usize, len: usize) -> Self {
        let mut message = Self::default();
        message.push(start, len);
        message
    }

    /// Adds a stretch; false if there is no room for it.
    pub(crate) fn push(&mut self, start: usize, len: usize) -> bool {
        let Some(slot) = self.regions.get_mut(usize::from(self.count)) else { return false };
        *slot = Region::new(start, len);
        self.count += 1;
        true
    }

    /// The stretches that count.
    pub fn regions(&self) -> &[Region] {
        &self.regions[..usize::from(self.count)]
    }

    /// How many bytes count.
    pub fn len(&self) -> usize {
        self.regions().iter().map(|region| region.len as usize).sum()
    }

    /// Whether no byte counts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What of a frame is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// A piece of a TCP stream.
    Tcp(Segment),
    /// Anything else.
    Message(Message),
}

/// A frame that is a whole datagram, or needs none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The conversation.
    pub key: FlowKey,
    /// What is compared.
    pub body: Body,
}

/// The datagram that a fragment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramId {
    /// VLANs, addresses and protocol, as a key without ports.
    pub ends: FlowKey,
    /// The IP identification (16 or 32 bits).
    pub id: u32,
    /// Whether it is IPv6.
    pub v6: bool,
}

/// One fragment of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The datagram.
    pub datagram: DatagramId,
    /// Where its payload belongs in the datagram, in bytes.
    pub offset: u32,
    /// Whether others follow.
    pub more: bool,
    /// Its payload in the frame.
    pub payload: Region,
}

/// A frame, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A frame that stands for itself.
    Whole(Packet),
    /// A fragment; parse the reassembled datagram with [`parse_datagram`].
    Fragment(Fragment),
}

/// Why a frame does not parse. Such a frame cannot be verified, so it is dropped and counted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// The frame ends inside a header.
    #[error("the frame ends inside its {0} header")]
    Truncated(&'static str),
    /// A length field says more than the frame has, or less than its own header.
    #[error("the {0} length field does not fit the frame")]
    Length(&'static str),
    /// The version field and the ethertype disagree.
    #[error("the IP version field does not fit the ethertype")]
    Version,
    /// Flags or types that cannot stand together.
    #[error("the {0} header contradicts itself")]
    Contradiction(&'static str),
    /// A fragment beyond 65 535 bytes, or one that is not a multiple of 8 and not the last.
    #[error("a fragment that fits no datagram")]
    Fragment,
}

/// The `N` bytes at `at`.
fn chunk<'a, const N: usize>(
    data: &'a [u8],
    at: usize,
    what: &'static str,
) -> Result<&'a [u8; N], Malformed> {
    data.get(at..).and_then(<[u8]>::first_chunk).ok_or(Malformed::Truncated(what))
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}
