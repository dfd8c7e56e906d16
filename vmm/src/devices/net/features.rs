//! The features of virtio-net (virtio 1.3 §5.1.3), and what they mean to a tap.

/// The device takes frames without checksums.
pub const CSUM: u64 = 1 << 0;
/// The driver takes them.
pub const GUEST_CSUM: u64 = 1 << 1;
/// The device says how large frames may be.
pub const MTU: u64 = 1 << 3;
/// The device has an address.
pub const MAC: u64 = 1 << 5;
/// The driver takes uncut TCP over IPv4.
pub const GUEST_TSO4: u64 = 1 << 7;
/// The driver takes uncut TCP over IPv6.
pub const GUEST_TSO6: u64 = 1 << 8;
/// The driver takes uncut TCP with ECN.
pub const GUEST_ECN: u64 = 1 << 9;
/// The device takes uncut TCP over IPv4.
pub const HOST_TSO4: u64 = 1 << 11;
/// The device takes uncut TCP over IPv6.
pub const HOST_TSO6: u64 = 1 << 12;
/// The device takes uncut TCP with ECN.
pub const HOST_ECN: u64 = 1 << 13;
/// A frame may be in several buffers.
pub const MRG_RXBUF: u64 = 1 << 15;
/// The device says whether the link is up.
pub const STATUS: u64 = 1 << 16;
/// There is a queue for commands.
pub const CTRL_VQ: u64 = 1 << 17;
/// There are several queue pairs.
pub const MQ: u64 = 1 << 22;
/// The driver takes uncut UDP over IPv4.
pub const GUEST_USO4: u64 = 1 << 54;
/// The driver takes uncut UDP over IPv6.
pub const GUEST_USO6: u64 = 1 << 55;
/// The device takes uncut UDP.
pub const HOST_USO: u64 = 1 << 56;

/// What every tap can do.
pub const ALWAYS: u64 = CSUM
    | GUEST_CSUM
    | MAC
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | MRG_RXBUF
    | STATUS;
/// What those of newer kernels can.
pub const USO: u64 = GUEST_USO4 | GUEST_USO6 | HOST_USO;

/// What a driver takes unfinished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent bits of the kernel's interface")]
pub struct Offloads {
    /// Without checksums.
    pub checksum: bool,
    /// Uncut TCP over IPv4.
    pub tso4: bool,
    /// Uncut TCP over IPv6.
    pub tso6: bool,
    /// With ECN.
    pub ecn: bool,
    /// Uncut UDP, over both: a tap knows no difference.
    pub uso: bool,
}

impl Offloads {
    /// Those of negotiated features. What is uncut has no checksum, so none is possible without that.
    pub fn of(features: u64) -> Self {
        let checksum = features & GUEST_CSUM != 0;
        let has = |all: u64| checksum && features & all == all;
        Self {
            checksum,
            tso4: has(GUEST_TSO4),
            tso6: has(GUEST_TSO6),
            ecn: has(GUEST_ECN) && (has(GUEST_TSO4) || has(GUEST_TSO6)),
            uso: has(GUEST_USO4 | GUEST_USO6),
        }
    }

    /// As `TUNSETOFFLOAD` wants them.
    pub(super) fn bits(self) -> u32 {
        let bits =
            [(self.checksum, 1), (self.tso4, 2), (self.tso6, 4), (self.ecn, 8), (self.uso, 0x20 | 0x40)];
        bits.into_iter().filter(|(has, _)| *has).fold(0, |all, (_, bit)| all | bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_checksums_nothing_is_uncut() {
        assert_eq!(Offloads::of(ALWAYS | USO).bits(), 0x6f);
        assert_eq!(Offloads::of(ALWAYS).bits(), 0x0f);
        assert_eq!(Offloads::of(GUEST_CSUM | GUEST_ECN).bits(), 1);
        assert_eq!(Offloads::of((ALWAYS | USO) & !GUEST_CSUM).bits(), 0);
    }
}
