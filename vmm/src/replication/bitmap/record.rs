//! What is kept of the record when nobody runs, as bytes.
//!
//! ```text
//!   0   magic "COLOBMAP"    32  epoch        u64      64  this disk's generation   u128   (0: none)
//!   8   version     u32     40  sequence     u64      80  the peer's               u128   (0: none)
//!   12  flags       u32     48  bytes of bits u64     96  the bits, then SHA-256 of all that is before
//!   16  disk size   u64     56  reserved, 0
//!   24  region size u64                               all numbers are little-endian; flags: 1 open,
//!                                                     2 alone, 4 partial
//! ```

use super::generation::Generation;
use super::{Bits, REGION, regions};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

const MAGIC: &[u8; 8] = b"COLOBMAP";
const VERSION: u32 = 1;
const HEADER: usize = 96;
const SUM: usize = 32;
const OPEN: u32 = 1;
const ALONE: u32 = 2;
const PARTIAL: u32 = 4;
/// No disk is larger: its record would take 2 GiB.
pub const MOST: u64 = 1 << 50;

/// What is kept.
#[derive(Debug)]
pub struct Record {
    /// The size of the disk.
    pub disk: u64,
    /// Of what is on it; none if it was never one of two.
    pub own: Option<Generation>,
    /// What both disks had when this side took over from the other.
    pub peer: Option<Generation>,
    /// The newest epoch that was stable.
    pub epoch: u64,
    /// How often it was written.
    pub sequence: u64,
    /// The disk was opened for writing, and not closed in order since: the bits are not to be believed.
    pub open: bool,
    /// It was written to while nobody followed.
    pub alone: bool,
    /// It is being made what its primary's is, and is not that yet: no guest can run on it.
    pub partial: bool,
    /// What the peer may not have.
    pub missing: Bits,
}

/// Bytes that are no record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Something else.
    #[error(
        "this is no record of a replicated disk (no {:?} at its beginning); is it the right file?",
        "COLOBMAP"
    )]
    Magic,
    /// Of another version.
    #[error(
        "the record has version {0}, this program reads {VERSION}; use the colo-vm that wrote it, or sync with --sync verify"
    )]
    Version(u32),
    /// Too short, too long.
    #[error(
        "the record has {found} bytes, and not the {expected} that are right for it; it is damaged, sync with --sync verify"
    )]
    Length {
        /// What there is.
        found: u64,
        /// What is right.
        expected: u64,
    },
    /// Regions of another size.
    #[error("the record counts regions of {0} bytes, this program {REGION}; sync with --sync verify")]
    Region(u64),
    /// A size that no disk has.
    #[error("the record is of a disk of {0} bytes; more than {MOST} are not supported, it is damaged")]
    Disk(u64),
    /// What must not be.
    #[error("the record is damaged: {0}; sync with --sync verify")]
    Damaged(&'static str),
}

fn words(disk: u64) -> usize {
    regions(disk).div_ceil(64) as usize
}

/// How many bytes the record of a disk has.
pub fn length(disk: u64) -> Result<usize, RecordError> {
    if disk > MOST { Err(RecordError::Disk(disk)) } else { Ok(HEADER + words(disk) * 8 + SUM) }
}

/// The number at an offset.
fn number(bytes: &[u8], at: usize) -> Result<u64, RecordError> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    let short = RecordError::Length { found: bytes.len() as u64, expected: (HEADER + SUM) as u64 };
    found.map(|found| u64::from_le_bytes(*found)).ok_or(short)
}

impl Record {
    /// Of a disk that was never one of two.
    pub fn new(disk: u64) -> Self {
        Self {
            disk,
            own: None,
            peer: None,
            epoch: 0,
            sequence: 0,
            open: false,
            alone: false,
            partial: false,
            missing: Bits::new(regions(disk)),
        }
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        let mut bytes = Vec::with_capacity(length(self.disk)?);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        let flags = [(self.open, OPEN), (self.alone, ALONE), (self.partial, PARTIAL)];
        let flags = flags.iter().fold(0, |bits, (set, bit)| if *set { bits | bit } else { bits });
        bytes.extend(flags.to_le_bytes());
        for number in [self.disk, REGION, self.epoch, self.sequence, words(self.disk) as u64 * 8, 0] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.own.map_or(0, Generation::get).to_le_bytes());
        bytes.extend(self.peer.map_or(0, Generation::get).to_le_bytes());
        bytes.extend(self.missing.words().take(words(self.disk)).flat_map(u64::to_le_bytes));
        bytes.resize(length(self.disk)? - SUM, 0);
        let sum = Sha256::digest(&bytes);
        bytes.extend(sum);
        Ok(bytes)
    }

    /// From bytes, all of which are the record. Memory is taken when their number is known to be right.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if !bytes.starts_with(MAGIC) {
            return Err(RecordError::Magic);
        }
        let kind = number(bytes, 8)?;
        let (version, flags) = (kind as u32, (kind >> 32) as u32);
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let [disk, region, epoch, sequence, bits, reserved] = {
            let mut numbers = [0; 6];
            for (at, found) in numbers.iter_mut().enumerate() {
                *found = number(bytes, 16 + at * 8)?;
            }
            numbers
        };
        if region != REGION {
            return Err(RecordError::Region(region));
        }
        let expected = length(disk)?;
        if bytes.len() != expected {
            return Err(RecordError::Length { found: bytes.len() as u64, expected: expected as u64 });
        }
        let (body, sum) = bytes.split_at(expected - SUM);
        if Sha256::digest(body)[..] != *sum {
            return Err(RecordError::Damaged("its checksum is another"));
        }
        if flags & !(OPEN | ALONE | PARTIAL) != 0 || reserved != 0 || bits != words(disk) as u64 * 8 {
            return Err(RecordError::Damaged("its header says what no version says"));
        }
        let generation = |at: usize| -> Result<Option<Generation>, RecordError> {
            let (low, high) = (number(body, at)?, number(body, at + 8)?);
            Ok(Generation::new(u128::from(low) | u128::from(high) << 64))
        };
        let own = generation(64)?;
        let missing = Bits::new(regions(disk));
        let (kept, _) = body.get(HEADER..).unwrap_or_default().as_chunks();
        for (at, word) in kept.iter().enumerate() {
            missing.set_word(at, u64::from_le_bytes(*word));
        }
        if !missing.words().eq(kept.iter().map(|word| u64::from_le_bytes(*word))) {
            return Err(RecordError::Damaged("it has regions behind the end of the disk"));
        }
        let peer = generation(80)?;
        let [open, alone, partial] = [OPEN, ALONE, PARTIAL].map(|bit| flags & bit != 0);
        Ok(Self { disk, own, peer, epoch, sequence, open, alone, partial, missing })
    }
}
