//! Reads frames from the capture tap, many into one block of memory.
//!
//! ```text
//!   tap ─► block ┌──────────────┬───────────┬──────────────┬─────────┬─────┐
//!                │ vnet header  │ frame 1   │ vnet header  │ frame 2 │  …  │     a turn reads a few,
//!                └──────────────┴───────────┴──────────────┴─────────┴─────┘     then hands them out
//!          tags ─► whose, which epoch
//! ```

use super::frame::LiveFrame;
use crate::engine::{Epoch, Input, Nanos, Side};
use crate::frame::{Pool, WireFrame};
use crate::link::{Tap, VNET_HDR};
use crate::packet::{Offload, VnetError};
use colo_ebpf_shared::tag::{self, Tag};
use rustix::io::Errno;
use std::rc::Rc;

/// The longest frame that a tap hands out: a packet of 64 KiB, Ethernet and VLAN headers, and ours.
const LONGEST: usize = VNET_HDR + 18 + 8 + (64 << 10);

/// Bytes of a block.
const BLOCK: usize = 4 * LONGEST;

/// Frames that are read in one turn: enough to spare clock readings and wake-ups, few enough that
/// the first does not wait long for the last.
const TURN: usize = 64;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum's place counts.
const NEEDS_CHECKSUM: u8 = 1;

/// Blocks that frames may keep before small ones are copied out of them.
const BLOCKS: usize = 64;

/// What was read and is not handed out yet.
#[derive(Clone, Copy, Debug)]
struct Read {
    start: usize,
    len: usize,
    side: Side,
    /// The tag's epoch.
    epoch: u8,
    offload: Offload,
}

/// Frames that came in and are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct IntakeStats {
    /// Without our tag: not a guest's at all.
    pub untagged: u64,
    /// With a vnet header that cannot be read.
    pub bad_header: u64,
}

/// The reader of one capture tap.
#[derive(Debug)]
pub(super) struct Intake {
    pool: Pool,
    /// What was read last lies here.
    block: Option<Rc<[u8]>>,
    reads: Vec<Read>,
    relief: usize,
    stats: IntakeStats,
}

impl Intake {
    pub(super) fn new() -> Self {
        Self {
            pool: Pool::new(BLOCK),
            block: None,
            reads: Vec::with_capacity(TURN),
            relief: BLOCKS,
            stats: IntakeStats::default(),
        }
    }

    /// Reads what is there, but not more than one turn's. Whether there may be more.
    pub(super) fn fill(&mut self, tap: &Tap) -> Result<bool, Errno> {
        let mut block = self.pool.take();
        let outcome = match Rc::get_mut(&mut block) {
            Some(bytes) => self.read(tap, bytes),
            // A block of the pool has no other handle.
            None => Ok(true),
        };
        self.block = Some(block);
        outcome
    }

    fn read(&mut self, tap: &Tap, bytes: &mut [u8]) -> Result<bool, Errno> {
        let mut start = 0;
        for _ in 0..TURN {
            let Some(room) = bytes.get_mut(start..).filter(|room| room.len() >= LONGEST) else { break };
            let mut tag = [0; tag::LEN];
            let Some(len) = tap.read(room, &mut tag)? else { return Ok(false) };
            match look(&mut room[..len], tag) {
                Ok((side, epoch, offload)) => {
                    self.reads.push(Read { start, len, side, epoch, offload });
                    start += len;
                }
                Err(Unreadable::Untagged) => self.stats.untagged += 1,
                Err(Unreadable::Header(_)) => self.stats.bad_header += 1,
            }
        }
        Ok(true)
    }

    /// Hands out what was read, in order. Gives how many frames that were.
    pub(super) fn hand_out(
        &mut self,
        current: Epoch,
        now: Nanos,
        mut each: impl FnMut(Input<LiveFrame>),
    ) -> usize {
        let Some(block) = self.block.take() else { return 0 };
        let frames = self.reads.len();
        for read in self.reads.drain(..) {
            let wire = WireFrame::new(Rc::clone(&block), read.start, read.len, VNET_HDR);
            let distance = i64::from(tag::ahead(read.epoch, current.0 as u32));
            each(Input {
                side: read.side,
                frame: LiveFrame::new(wire, now),
                offload: read.offload,
                at: now,
                epoch: Epoch(current.0.saturating_add_signed(distance)),
            });
        }
        self.pool.retire(block);
        frames
    }

    /// Whether so many blocks are in use that frames should be copied out of them.
    pub(super) fn is_crowded(&self) -> bool {
        self.pool.len() > self.relief
    }

    /// Frees blocks that no frame lives in, after frames were copied out of them.
    pub(super) fn sweep(&mut self) {
        self.pool.sweep();
        self.relief = BLOCKS.max(2 * self.pool.len());
    }

    pub(super) fn stats(&self) -> IntakeStats {
        self.stats
    }
}

enum Unreadable {
    Untagged,
    Header(#[allow(dead_code, reason = "says what it was in a debugger")] VnetError),
}

/// Reads the tag and the vnet header, and moves the header's places by the tag that is gone.
fn look(frame: &mut [u8], tag: [u8; tag::LEN]) -> Result<(Side, u8, Offload), Unreadable> {
    let [a, b, c, d] = tag;
    let ours = (u16::from_be_bytes([a, b]) == tag::TPID).then(|| Tag::parse(u16::from_be_bytes([c, d])));
    let tag = ours.flatten().ok_or(Unreadable::Untagged)?;
    let header = frame.get_mut(..VNET_HDR).ok_or(Unreadable::Untagged)?;
    if header[0] & NEEDS_CHECKSUM != 0 {
        let start = u16::from_le_bytes([header[6], header[7]]).saturating_sub(tag::LEN as u16);
        header[6..8].copy_from_slice(&start.to_le_bytes());
    }
    let offload = Offload::parse(header).map_err(Unreadable::Header)?;
    let side = if tag.captured { Side::Primary } else { Side::Secondary };
    Ok((side, tag.epoch, offload))
}
