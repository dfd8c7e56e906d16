//! The values in the maps. All are plain old data: fixed layout, no padding, every bit pattern
//! valid, because both ends of a map must agree on each byte.

/// Bumped with every change of a layout; part of the path that maps are pinned at, so that programs
/// of another version are never mistaken for ours.
pub const VERSION: u32 = 1;

/// Slots of the map `NICS` and of the map `COUNTERS`: one for each index.
pub const SLOTS: u32 = crate::tag::MAX_INDEX as u32 + 1;

/// Flows that a secondary remembers by default.
pub const FLOWS: u32 = 65_536;

/// Addresses of a guest that are remembered for its announcements.
pub const ADDRESSES: u32 = 256;

/// What a NIC is to this node. A `u32` in the map, because a map can hold any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    /// The slot is free.
    None = 0,
    /// The guest runs alone: nothing is held, nothing is copied.
    Unprotected = 1,
    /// Its input is copied to the forward link, its output goes to the comparator.
    Primary = 2,
    /// Its input comes from the forward link, and its output goes there and nowhere else.
    Secondary = 3,
    /// It was a secondary and serves now: translation goes on where it is needed.
    Promoted = 4,
    /// Its input is copied to the forward link, and its output passes: the secondary runs along
    /// before it counts.
    Mirrored = 5,
}

impl Role {
    /// Reads a role; numbers that mean nothing are no role at all.
    #[inline]
    pub const fn from_u32(number: u32) -> Self {
        match number {
            1 => Self::Unprotected,
            2 => Self::Primary,
            3 => Self::Secondary,
            4 => Self::Promoted,
            5 => Self::Mirrored,
            _ => Self::None,
        }
    }
}

/// One protected NIC: the value of the map `NICS`, whose key is the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Nic {
    /// A [`Role`]. Writing it is what protects a guest, lets it go, or promotes it.
    pub role: u32,
    /// The number of the epoch that frames of this node belong to, modulo 2³²; five bits of it are on
    /// the wire.
    pub epoch: u32,
    /// The oldest epoch that is not stale: behind `epoch` while a checkpoint is under way, because it
    /// may come to nothing.
    pub oldest: u32,
    /// Checkpoints so far: a flow of another generation has lost its offset.
    pub generation: u32,
    /// The mark of frames that have passed and are on their way on.
    pub mark: u32,
    /// The guest's interface, by number.
    pub vif: u32,
    /// The forward device, by number.
    pub forward: u32,
    /// Where the primary's output and the secondary's go to be compared, by number; 0 on a secondary.
    pub capture: u32,
    /// The longest frame that the forward device takes, Ethernet header included, tag not.
    pub forward_frame: u32,
    /// Bits of [`nic_flags`]; a secondary's.
    pub flags: u32,
    /// Since when all frames are stale, on a clock of milliseconds that goes round; 0 while they are
    /// not. A secondary's.
    pub stale_since: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Bits of [`Nic::flags`].
pub mod nic_flags {
    /// The epoch is not known yet: the first frame tells it.
    pub const JOINING: u32 = 1;
    /// Nobody tells this node of checkpoints: a newer epoch on the forward link is one.
    pub const FOLLOWS: u32 = 2;
}

/// For so many milliseconds stale frames, and none of the epoch between them: the other node has begun
/// anew. Not a number of frames: who is told of a checkpoint before the other node goes on gets as many
/// stale ones as fit into the time between.
pub const STALE_MS: u32 = 2000;

/// What is counted of one NIC, on each CPU: the value of the map `COUNTERS`, in the order of
/// [`Counter`].
pub type Counters = [u64; Counter::ALL.len()];

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// What the programs count.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[$doc])* $name,)*
        }

        impl Counter {
            /// All of them, in the order in which they are stored.
            pub const ALL: [Self; [$(Self::$name),*].len()] = [$(Self::$name),*];

            /// The label used in reports and metrics.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

counters! {
    /// Primary: frames for the guest that were copied to the forward link.
    Mirrored = "mirrored",
    /// Primary: frames for the guest that could not be copied (the device's queue was full).
    MirrorFailed = "mirror-failed",
    /// Frames that do not fit the forward device.
    TooLong = "too-long",
    /// Primary: the guest's output, handed to the comparator.
    Captured = "captured",
    /// Primary: the secondary's output, handed to the comparator.
    Received = "received",
    /// Primary: released frames that went on as the vif's own.
    Released = "released",
    /// Frames on the forward link of a past epoch: dropped.
    Stale = "stale",
    /// Frames on the forward link for a NIC that does not want them now: dropped.
    Unwanted = "unwanted",
    /// Secondary: frames for the guest that came over the forward link.
    Delivered = "delivered",
    /// Secondary: frames for the guest from elsewhere: dropped.
    NotForwarded = "not-forwarded",
    /// Secondary: the guest's output that went to the forward link.
    Forwarded = "forwarded",
    /// Promoted: the guest's output that went to the bridge.
    Served = "served",
    /// Segments whose numbers were translated, in either direction.
    Translated = "translated",
    /// Connections whose offset was learned.
    Learned = "learned",
    /// Segments that should have been translated and could not be: dropped.
    Untranslatable = "untranslatable",
}

/// One connection of a secondary: the key of the map `FLOWS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowKey {
    /// The guest's address; IPv4 as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2).
    pub guest: [u8; 16],
    /// The other end's.
    pub peer: [u8; 16],
    /// The guest's port, as it is on the wire.
    pub guest_port: [u8; 2],
    /// The other end's.
    pub peer_port: [u8; 2],
    /// The VLAN identifiers, outer and inner; [`UNTAGGED`] where there is none.
    pub vlans: [u16; 2],
}

/// No VLAN tag at this place of the stack.
pub const UNTAGGED: u16 = 0xffff;

/// An address that the guest was seen to use: the key of the map `ADDRESSES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AddressKey {
    /// The address; IPv4 as IPv4-mapped IPv6.
    pub address: [u8; 16],
    /// The VLAN identifiers that it was used on, outer and inner.
    pub vlans: [u16; 2],
}

/// The hardware address that goes with it: the value of the map `ADDRESSES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Address {
    /// The MAC address.
    pub mac: [u8; 6],
    /// Always zero.
    pub reserved: [u8; 2],
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Nic>(), 12 * 4);
        assert_eq!(size_of::<FlowKey>(), 16 + 16 + 2 + 2 + 4);
        assert_eq!(size_of::<AddressKey>(), 20);
        assert_eq!(size_of::<Address>(), 8);
    }

    #[test]
    fn roles_and_counters_are_numbered_as_they_are_listed() {
        for number in 0..6 {
            let role = Role::from_u32(number);
            assert_eq!(role as u32, number);
        }
        assert_eq!(Role::from_u32(99), Role::None);
        for (place, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, place);
        }
    }
}
