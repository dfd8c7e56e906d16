//! The virtio-net header: what a guest left to the NIC (virtio 1.2 §5.1.6).

use thiserror::Error;

/// The longest virtio-net header there is: `virtio_net_hdr_v1_hash`.
pub const VNET_HDR_MAX: usize = 20;

const F_NEEDS_CSUM: u8 = 1;
const GSO_ECN: u8 = 0x80;

/// How a frame is to be segmented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// Not at all.
    #[default]
    None,
    /// TCP over IPv4 or IPv6: a run of one stream; the size does not count for the comparison.
    Tcp,
    /// One UDP datagram to be fragmented (UFO).
    UdpFragments,
    /// Many UDP datagrams of `size` bytes each (USO); the size decides where they begin.
    UdpDatagrams {
        /// Payload bytes of each datagram but the last.
        size: u16,
    },
}

/// What the virtio-net header said of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The L4 checksum field holds the pseudo-header's sum only; the NIC completes it.
    pub partial_checksum: bool,
    /// Where the NIC would complete it, counted from the Ethernet header; none if nobody says. A
    /// frame that wants a checksum elsewhere would be changed after it was compared.
    pub checksum_at: Option<u16>,
    /// How it is to be segmented.
    pub gso: Gso,
}

/// A virtio-net header that cannot be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum VnetError {
    /// Shorter than `virtio_net_hdr`, or longer than any header there is.
    #[error(
        "a virtio-net header of {0} bytes (10, 12 and 20 are known): are both ends set to the same vnet_hdr_support?"
    )]
    Length(usize),
    /// A segmentation type that virtio does not define.
    #[error(
        "unknown GSO type {0:#04x} in a virtio-net header: are both ends set to the same vnet_hdr_support?"
    )]
    GsoType(u8),
}

impl Offload {
    /// Reads a virtio-net header. An empty one means no offload at all.
    pub fn parse(header: &[u8]) -> Result<Self, VnetError> {
        if header.is_empty() {
            return Ok(Self::default());
        }
        if header.len() < 10 || header.len() > VNET_HDR_MAX {
            return Err(VnetError::Length(header.len()));
        }
        let size = u16::from_le_bytes([header[4], header[5]]);
        let gso = match header[1] & !GSO_ECN {
            0 => Gso::None,
            1 | 4 => Gso::Tcp,
            3 => Gso::UdpFragments,
            5 => Gso::UdpDatagrams { size },
            other => return Err(VnetError::GsoType(other)),
        };
        let partial_checksum = header[0] & F_NEEDS_CSUM != 0;
        let place = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let checksum_at = partial_checksum.then(|| place(6).saturating_add(place(8)));
        Ok(Self { partial_checksum, checksum_at, gso })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_matters_and_refuses_what_is_not_a_header() {
        assert_eq!(Offload::parse(&[]), Ok(Offload::default()));
        assert_eq!(Offload::parse(&[0; 9]), Err(VnetError::Length(9)));
        assert_eq!(Offload::parse(&[0; 21]), Err(VnetError::Length(21)));
        let tso = [1, 0x81, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
        assert_eq!(
            Offload::parse(&tso),
            Ok(Offload { partial_checksum: true, checksum_at: Some(50), gso: Gso::Tcp })
        );
        let uso = [0, 5, 42, 0, 0xe8, 3, 34, 0, 6, 0];
        assert_eq!(
            Offload::parse(&uso),
            Ok(Offload { gso: Gso::UdpDatagrams { size: 1000 }, ..Offload::default() })
        );
        assert_eq!(Offload::parse(&[0, 9, 0, 0, 0, 0, 0, 0, 0, 0]), Err(VnetError::GsoType(9)));
    }
}
