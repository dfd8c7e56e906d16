//! A message: a header of 20 bytes, then as many bytes as it says.
//!
//! ```text
//!   0        4                12               20
//!   │ code   │ epoch          │ length         │ payload …
//!   └ be32   └ be64           └ be64           └ bounded per code before anything is allocated
//! ```
//!
//! Codes 0 to 6 are COLO's, in the order in which they were first written down. What this protocol adds
//! begins at 16, so that it can be told from what COLO may yet add.

use super::hello::Block;
use std::fmt;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Code {
    /// Secondary: the first sync is in place, checkpoints may begin.
    CheckpointReady = 0,
    /// Primary: a checkpoint begins.
    CheckpointRequest = 1,
    /// Secondary: its guest stands; these ranges its guest has dirtied.
    CheckpointReply = 2,
    /// Primary: the last of the epoch's pages that it has not sent before.
    VmstateSend = 3,
    /// Primary: the device state, as one package. The length is its size.
    VmstateSize = 4,
    /// Secondary: it has all of the epoch.
    VmstateReceived = 5,
    /// Secondary: it is level with the primary.
    VmstateLoaded = 6,
    /// Primary: pages, in the first sync, ahead of a checkpoint, and of one.
    Ram = 16,
    /// Primary: with this every page has been sent once.
    Synced = 17,
    /// Primary: its guest has ended by itself, and nobody is to go on in its place. Without it a guest that was
    /// shut down could not be told from a host that died.
    Ended = 18,
    /// Primary: not all memory comes again; it goes on from the checkpoint that the secondary said it holds.
    Resume = 19,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::CheckpointReady,
        Self::CheckpointRequest,
        Self::CheckpointReply,
        Self::VmstateSend,
        Self::VmstateSize,
        Self::VmstateReceived,
        Self::VmstateLoaded,
        Self::Ram,
        Self::Synced,
        Self::Ended,
        Self::Resume,
    ];

    /// The one with this number. The number is unsigned from the wire to here: none is "negative".
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// What is on the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Its name: QEMU's, where QEMU has one.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CheckpointReady => "checkpoint-ready",
            Self::CheckpointRequest => "checkpoint-request",
            Self::CheckpointReply => "checkpoint-reply",
            Self::VmstateSend => "vmstate-send",
            Self::VmstateSize => "vmstate-size",
            Self::VmstateReceived => "vmstate-received",
            Self::VmstateLoaded => "vmstate-loaded",
            Self::Ram => "ram",
            Self::Synced => "synced",
            Self::Ended => "ended",
            Self::Resume => "resume",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.number())
    }
}

/// What stands before a payload, as it came: nothing of it has been judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The number of what it says.
    pub code: u32,
    /// The epoch that it belongs to; 0 is the first sync.
    pub epoch: u64,
    /// Bytes that follow.
    pub len: u64,
}

impl Header {
    /// Its size.
    pub const SIZE: usize = 20;

    /// On the wire.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.code.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[12..].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }

    /// From the wire.
    pub fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let [a, b, c, d, rest @ ..] = bytes;
        let [e0, e1, e2, e3, e4, e5, e6, e7, l0, l1, l2, l3, l4, l5, l6, l7] = rest;
        Self {
            code: u32::from_be_bytes([a, b, c, d]),
            epoch: u64::from_be_bytes([e0, e1, e2, e3, e4, e5, e6, e7]),
            len: u64::from_be_bytes([l0, l1, l2, l3, l4, l5, l6, l7]),
        }
    }
}

/// How long the payload of a message may be. Both sides make it of the blocks that their hellos agreed on, and
/// both ask it: one before it sends, the other before it allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A piece of RAM records.
    pub piece: u64,
    /// The ranges of a reply.
    pub reply: u64,
    /// The package of device state.
    pub package: u64,
}

impl Limits {
    /// The most of a piece: what a secondary holds that it has not looked at.
    pub const PIECE: u64 = 16 << 20;
    /// The most of a package; QEMU's own limit of what `MIG_CMD_PACKAGED` holds.
    pub const PACKAGE: u64 = 1 << 24;
    /// The bytes of a range: a block, where it begins, how long it is.
    const RANGE: u64 = 24;
    const PAGE: u64 = 4096;

    /// What a guest with these blocks needs at worst: every other page a range of its own. Of its pages there are as
    /// many pieces as it takes.
    pub fn of(blocks: &[Block]) -> Self {
        let pages =
            blocks.iter().fold(0u64, |sum, block| sum.saturating_add(block.size.div_ceil(Self::PAGE)));
        let ranges = (pages / 2).saturating_add(blocks.len() as u64).saturating_add(1);
        Self { piece: Self::PIECE, reply: ranges.saturating_mul(Self::RANGE), package: Self::PACKAGE }
    }

    /// The most that may follow this code.
    pub const fn max(&self, code: Code) -> u64 {
        match code {
            Code::Ram | Code::VmstateSend => self.piece,
            Code::CheckpointReply => self.reply,
            Code::VmstateSize => self.package,
            Code::CheckpointReady
            | Code::CheckpointRequest
            | Code::VmstateReceived
            | Code::VmstateLoaded
            | Code::Synced
            | Code::Ended
            | Code::Resume => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_numbers_are_those_of_colo() {
        let names: Vec<_> = (0..7).map(|n| Code::from_number(n).unwrap().name()).collect();
        assert_eq!(
            names,
            [
                "checkpoint-ready",
                "checkpoint-request",
                "checkpoint-reply",
                "vmstate-send",
                "vmstate-size",
                "vmstate-received",
                "vmstate-loaded"
            ]
        );
        assert_eq!(
            (16..20).filter_map(Code::from_number).map(Code::name).collect::<Vec<_>>(),
            ["ram", "synced", "ended", "resume"]
        );
    }

    #[test]
    fn every_other_number_is_none_however_it_is_signed() {
        for number in [7, 15, 20, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            assert_eq!(Code::from_number(number), None, "{number:#x}");
        }
    }

    #[test]
    fn a_guest_of_any_size_has_limits() {
        let block = |size| Block { name: "pc.ram".parse().unwrap(), size };
        let limits = Limits::of(&[block(4096)]);
        // One range at most, and one in case.
        assert_eq!(limits.reply, 2 * 24);
        assert_eq!(Limits::of(&[block(u64::MAX), block(u64::MAX)]).reply, ((1 << 52) + 3) * 24);
        assert_eq!(limits.max(Code::VmstateSend), Limits::PIECE);
    }

    proptest! {
        #[test]
        fn a_header_is_read_as_it_was_written(code: u32, epoch: u64, len: u64) {
            let header = Header { code, epoch, len };
            let bytes = header.to_bytes();
            prop_assert_eq!(Header::from_bytes(bytes), header);
            let by_hand = [&code.to_be_bytes()[..], &epoch.to_be_bytes(), &len.to_be_bytes()].concat();
            prop_assert_eq!(bytes.to_vec(), by_hand);
        }
    }
}
