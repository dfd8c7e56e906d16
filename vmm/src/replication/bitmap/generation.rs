//! Whose data is newer: what is to be done when two disks meet.
//!
//! ```text
//!   first      primary: own A               secondary: none              ──► everything
//!   level      primary: own A               secondary: own A             ──► what the record has
//!   alone      primary: own A, alone        secondary: own A             ──► what the record has
//!   taken over primary: own B, peer A       secondary: own A (was primary) ──► what both records have
//!   both went on: secondary: own A, alone; or each took over from A      ──► refused: someone's writes would be lost
//! ```
//!
//! A generation names the line that a disk's contents belong to. A secondary takes that of its primary when the two
//! begin to be made level; a side that takes over begins a new one, and keeps as `peer` what both had. Whoever
//! writes while nobody follows is *alone*, and says so in its record before others can rely on what it wrote.

use crate::checkpoint::protocol::hello::Disk;
use rustix::rand::{GetRandomFlags, getrandom};
use std::fmt;
use std::num::NonZeroU128;

/// The name of what is on a disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(NonZeroU128);

impl Generation {
    /// One that is known; 0 is none.
    pub const fn new(number: u128) -> Option<Self> {
        match NonZeroU128::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// One that nobody has yet.
    pub fn random() -> std::io::Result<Self> {
        loop {
            let mut bytes = [0; 16];
            getrandom(&mut bytes, GetRandomFlags::empty())?;
            if let Some(generation) = Self::new(u128::from_ne_bytes(bytes)) {
                return Ok(generation);
            }
        }
    }

    /// Its number.
    pub const fn get(self) -> u128 {
        self.0.get()
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a side knows of its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Of what is on it; none if it was never one of two.
    pub own: Option<Generation>,
    /// What both had when this side took over from the other.
    pub peer: Option<Generation>,
    /// Whether it was written to while nobody followed.
    pub alone: bool,
    /// Whether its record has regions that the other may not have.
    pub dirty: bool,
    /// Whether its record is to be believed: there is one, and it was closed in order.
    pub believed: bool,
}

impl Side {
    /// As a hello says it, of a disk in this place of so many bytes.
    pub fn word(&self, place: u8, port: u16, size: u64) -> Disk {
        let number = |generation: Option<Generation>| generation.map_or(0, Generation::get);
        let Self { own, peer, alone, dirty, believed } = *self;
        Disk { place, port, size, own: number(own), peer: number(peer), alone, dirty, believed }
    }
}

impl From<&Disk> for Side {
    fn from(word: &Disk) -> Self {
        let Disk { own, peer, alone, dirty, believed, .. } = *word;
        Self { own: Generation::new(own), peer: Generation::new(peer), alone, dirty, believed }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// They are equal.
    Nothing,
    /// What our record has is sent.
    Incremental,
    /// Everything is compared (or sent): nobody knows what differs.
    Verify,
    /// An operator has to say that the other's data is to be lost.
    Refused(Refusal),
}

/// Why nothing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Each has what the other has not.
    #[error(
        "both disks were written to since they were level; choose whose data is kept, and start that guest as the primary \
         with --sync-force"
    )]
    BothWritten,
    /// The other went on alone.
    #[error(
        "the other disk was written to since they were level, this one was not; start that guest as the primary, and this \
         host as the secondary"
    )]
    TheirsIsNewer,
    /// It belongs to another pair, or to nobody any more.
    #[error("the other disk has data of another origin; --sync-force, if that may be lost")]
    Unrelated,
}

/// What makes their disk equal to ours. With an operator's word, theirs may be lost.
pub fn sync(ours: &Side, theirs: &Side, word: bool) -> Sync {
    let refused = |why| if word { Sync::Verify } else { Sync::Refused(why) };
    // A disk that never was one of two has nothing that anybody would miss here.
    let (Some(mine), Some(other)) = (ours.own, theirs.own) else {
        return if theirs.own.is_none() { Sync::Verify } else { refused(Refusal::Unrelated) };
    };
    let newer = if ours.alone { Refusal::BothWritten } else { Refusal::TheirsIsNewer };
    // What they wrote and we do not have would have to be sent over as well: their record does not tell us of which.
    let certain = ours.believed && theirs.believed && !theirs.dirty;
    if mine == other {
        return match (theirs.alone, certain) {
            (true, _) => refused(newer),
            (false, true) if ours.dirty => Sync::Incremental,
            (false, true) => Sync::Nothing,
            (false, false) => Sync::Verify,
        };
    }
    if ours.peer == Some(other) {
        return match (theirs.alone, certain) {
            (true, _) => refused(Refusal::BothWritten),
            (false, true) => Sync::Incremental,
            (false, false) => Sync::Verify,
        };
    }
    refused(if theirs.peer == Some(mine) {
        newer
    } else if ours.peer.is_some() && ours.peer == theirs.peer {
        Refusal::BothWritten
    } else {
        Refusal::Unrelated
    })
}
