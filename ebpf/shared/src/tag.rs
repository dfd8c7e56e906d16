//! The forward tag: an 802.1ad tag that says which NIC a frame belongs to, and which epoch.
//!
//! ```text
//!   TCI    15   13  12  11          5 4       0
//!         ┌───────┬───┬──────────────┬─────────┐
//!         │  PCP  │DEI│  index + 1   │ epoch   │
//!         │   0   │   │  1 … 101     │ mod 32  │
//!         └───────┴───┴──────────────┴─────────┘
//! ```
//!
//! The index is stored plus one, so that the VLAN identifier is never 0 (which means "no VLAN" to a
//! switch) and never 4095 (reserved). DEI never appears on the forward link: on the way to the
//! comparator it tells the primary's own output from the secondary's.

/// The ethertype of the tag (IEEE 802.1ad).
pub const TPID: u16 = 0x88a8;

/// Bytes of the tag, ethertype included.
pub const LEN: usize = 4;

/// The highest index of a protected NIC on one forward device (seed 000: R-000-4).
pub const MAX_INDEX: u8 = 100;

/// How many epochs the tag can tell apart.
pub const EPOCHS: u32 = 32;

const DEI: u16 = 1 << 12;
const VID: u16 = 0x0fff;

/// What a tag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The NIC, 0 to [`MAX_INDEX`].
    pub index: u8,
    /// The epoch modulo [`EPOCHS`].
    pub epoch: u8,
    /// Whether this is the primary's output on its way to the comparator. Never on the wire.
    pub captured: bool,
}

impl Tag {
    /// The tag of a frame of this NIC in this epoch, as it is on the forward link.
    #[inline]
    pub const fn new(index: u8, epoch: u32) -> Self {
        Self { index, epoch: (epoch % EPOCHS) as u8, captured: false }
    }

    /// The same for the primary's own output.
    #[inline]
    pub const fn captured(index: u8, epoch: u32) -> Self {
        Self { captured: true, ..Self::new(index, epoch) }
    }

    /// The tag control information.
    #[inline]
    pub const fn tci(self) -> u16 {
        let vid = (self.index as u16 + 1) << 5 | self.epoch as u16;
        if self.captured { vid | DEI } else { vid }
    }

    /// Reads tag control information. None if it is none of ours.
    #[inline]
    pub const fn parse(tci: u16) -> Option<Self> {
        if tci & !(VID | DEI) != 0 {
            return None;
        }
        let number = (tci & VID) >> 5;
        if number == 0 || number > MAX_INDEX as u16 + 1 {
            return None;
        }
        Some(Self { index: (number - 1) as u8, epoch: (tci & 31) as u8, captured: tci & DEI != 0 })
    }
}

/// How many epochs a tag is ahead of `current`: −16 to 15. Negative is stale.
#[inline]
pub const fn ahead(epoch: u8, current: u32) -> i32 {
    let distance = (epoch as u32).wrapping_sub(current) % EPOCHS;
    if distance < EPOCHS / 2 { distance as i32 } else { distance as i32 - EPOCHS as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_reads_back_as_it_was_written_and_is_a_usable_vlan() {
        for index in 0..=MAX_INDEX {
            for epoch in 0..40 {
                for tag in [Tag::new(index, epoch), Tag::captured(index, epoch)] {
                    assert_eq!(Tag::parse(tag.tci()), Some(tag));
                    let vid = tag.tci() & VID;
                    assert!(vid != 0 && vid != 4095);
                }
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        let ours = (0..=u16::MAX).filter(|&tci| Tag::parse(tci).is_some()).count();
        assert_eq!(ours, 101 * 32 * 2, "each index, epoch and direction, and nothing else");
        assert_eq!(Tag::parse(5), None, "an index field of zero");
        assert_eq!(Tag::parse(0x2000 | Tag::new(0, 0).tci()), None, "another priority");
    }

    #[test]
    fn epochs_are_told_apart_across_the_wrap() {
        assert_eq!((ahead(0, 32), ahead(1, 32), ahead(31, 32)), (0, 1, -1));
        assert_eq!((ahead(15, 0), ahead(16, 0), ahead(31, 0)), (15, -16, -1));
        assert_eq!(ahead(0, u32::MAX), 1);
    }
}
