//! Tap → guest: a frame is one `readv` into the guest's own buffers.
//!
//! ```text
//!   ring ─ fill ─► waiting buffers ─┬─ enough for any frame ─► readv ─► used, in one publish
//!                                   └─ a frame that is longer than they are goes on into the spill:
//!                                      it is kept whole, and copied when there are buffers
//!   no buffers: nothing is read, and the tap's own queue holds (and in the end drops) frames
//! ```

use super::Counters;
use super::tap::VNET_HDR;
use super::transmit::LONGEST;
use crate::virtio::gather::Gather;
use crate::virtio::ring::{Broken, MAX_CHAIN, Ring, Segment};
use crate::virtio::worker::Next;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use virtio_queue::QueueState;

/// Frames between two looks at the control eventfd.
const BATCH: usize = 64;
/// The most parts of a receive buffer.
const MOST_SEGMENTS: usize = MAX_CHAIN / 2;
/// Where the header says how many buffers a frame takes.
const NUM_BUFFERS: usize = 10;

/// A buffer that waits for a frame.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    head: u16,
    /// Its segments in the gather list.
    segments: usize,
    len: usize,
}

/// A receive queue.
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) ring: Ring,
    gather: Gather,
    segments: Vec<Segment>,
    buffers: VecDeque<Buffer>,
    /// What they hold together.
    room: usize,
    /// Whether a frame may take several.
    mergeable: bool,
    /// A frame that found no room, header included.
    kept: Vec<u8>,
    /// The tap has frames, as far as is known.
    ready: bool,
    /// The driver was asked to kick.
    listening: bool,
}

impl Receive {
    pub(super) fn new(ring: Ring, mergeable: bool) -> Self {
        let gather = Gather::new(ring.ram().clone(), LONGEST);
        Self {
            ring,
            gather,
            segments: Vec::new(),
            buffers: VecDeque::new(),
            room: 0,
            mergeable,
            kept: Vec::new(),
            ready: true,
            listening: true,
        }
    }

    /// Goes on from another position. A frame that was kept was another guest's, who was not told of it.
    pub(super) fn rewind(&mut self, position: &QueueState) {
        self.rest();
        self.ring.rewind(position.next_avail, position.next_used);
        self.kept.clear();
        (self.ready, self.listening) = (true, true);
    }

    /// The tap may have frames again.
    pub(super) fn wake(&mut self) {
        self.ready = true;
    }

    /// Puts the buffers that wait back into the ring.
    pub(super) fn rest(&mut self) {
        self.ring.put_back(self.buffers.len() as u16);
        self.buffers.clear();
        self.gather.clear();
        self.room = 0;
    }

    /// Receives a batch. The caller tells the driver of what was used.
    pub(super) fn run(&mut self, tap: BorrowedFd<'_>, counters: &Counters) -> Result<Next, Broken> {
        for _ in 0..BATCH {
            if !self.ready && self.kept.is_empty() {
                return Ok(Next::Wait);
            }
            if !self.fill()? {
                return Ok(Next::Wait);
            }
            if !self.kept.is_empty() {
                self.give_kept(counters)?;
                continue;
            }
            let count = if self.mergeable { self.gather.len() } else { self.buffers[0].segments };
            match self.gather.read_from(tap, count) {
                Ok(len) => self.received(len, counters)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Empty; or the interface is down, and says so by an event when it is up.
                Err(_) => self.ready = false,
            }
        }
        Ok(Next::Again)
    }

    /// Takes buffers until any frame fits; false if there are none, or too few for the frame that is kept.
    /// Then the driver has been asked to kick.
    fn fill(&mut self) -> Result<bool, Broken> {
        let wanted = if self.mergeable { self.kept.len().max(LONGEST) } else { 1 };
        // A frame that is kept needs all of its buffers; another one can be tried.
        let needed = if self.kept.is_empty() || !self.mergeable { 1 } else { self.kept.len() };
        let mut full = false;
        loop {
            // One piece is the spill's.
            while self.room < wanted && self.gather.len() < MAX_CHAIN - 1 {
                self.segments.clear();
                let Some(head) = self.ring.pop(&mut self.segments)? else { break };
                if self.segments.first().is_none_or(|segment| !segment.writable) {
                    return Err(Broken::Form("a readable or empty buffer in a receive queue"));
                }
                if self.segments.len() > MOST_SEGMENTS {
                    return Err(Broken::Form("a receive buffer in too many parts"));
                }
                let mut buffer = Buffer { head, segments: self.segments.len(), len: 0 };
                if self.gather.len() + buffer.segments >= MAX_CHAIN {
                    self.ring.put_back(1);
                    full = true;
                    break;
                }
                for &segment in &self.segments {
                    self.gather.push(segment);
                    buffer.len = buffer.len.saturating_add(segment.len as usize);
                }
                self.room = self.room.saturating_add(buffer.len);
                self.buffers.push_back(buffer);
            }
            // All that the ring can hold, and still too little: no kick will change that.
            let stuck = full
                || self.buffers.len() == usize::from(self.ring.size())
                || self.gather.len() >= MAX_CHAIN - 1
                || !self.mergeable;
            if !self.buffers.is_empty() && (self.room >= needed || stuck) {
                if self.listening {
                    self.ring.kicks_off()?;
                    self.listening = false;
                }
                return Ok(true);
            }
            self.listening = true;
            if !self.ring.kicks_on()? {
                return Ok(false);
            }
        }
    }

    /// A frame of `len` bytes is in the buffers, and in the spill.
    fn received(&mut self, len: usize, counters: &Counters) -> Result<(), Broken> {
        let room = if self.mergeable { self.room } else { self.buffers[0].len };
        if len < VNET_HDR {
            Counters::count(&counters.receive_dropped);
            return Ok(());
        }
        if len <= room {
            return self.give(len, counters);
        }
        if self.mergeable {
            self.kept.resize(room, 0);
            self.gather.read_at(0, &mut self.kept);
            self.kept.extend_from_slice(self.gather.spill(len - room));
        } else {
            // The driver's buffers are too short for what it said that it takes.
            Counters::count(&counters.receive_dropped);
        }
        Ok(())
    }

    fn give_kept(&mut self, counters: &Counters) -> Result<(), Broken> {
        let kept = std::mem::take(&mut self.kept);
        if kept.len() <= self.room {
            self.gather.write_at(0, &kept);
            return self.give(kept.len(), counters);
        }
        // It does not fit into all that the driver can offer at once.
        Counters::count(&counters.receive_dropped);
        Ok(())
    }

    /// Gives the buffers of a frame to the driver, together.
    fn give(&mut self, len: usize, counters: &Counters) -> Result<(), Broken> {
        let (mut left, mut count) = (len, 0_u16);
        let mut segments = 0;
        for buffer in &self.buffers {
            let part = left.min(buffer.len);
            self.ring.give_back(buffer.head, part as u32)?;
            left -= part;
            count += 1;
            segments += buffer.segments;
            self.room -= buffer.len;
            if left == 0 {
                break;
            }
        }
        self.gather.write_at(NUM_BUFFERS, &count.to_le_bytes());
        self.gather.drop_front(segments);
        self.buffers.drain(..usize::from(count));
        self.ring.publish()?;
        Counters::count(&counters.received);
        Ok(())
    }
}
