//! Guest → tap: a frame is one `writev` from the guest's own buffers.

use super::Counters;
use super::tap::VNET_HDR;
use crate::virtio::gather::Gather;
use crate::virtio::ring::{Broken, Ring, Segment};
use crate::virtio::worker::Next;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use virtio_queue::QueueState;

/// Frames between two looks at the control eventfd.
const BATCH: usize = 64;
/// The longest frame: header, MACs, two tags, and what IP can say of its length.
pub(super) const LONGEST: usize = VNET_HDR + 14 + 8 + 65_535;

/// A transmit queue.
#[derive(Debug)]
pub(super) struct Transmit {
    pub(super) ring: Ring,
    gather: Gather,
    segments: Vec<Segment>,
    /// The tap takes no more now.
    blocked: bool,
}

impl Transmit {
    pub(super) fn new(ring: Ring) -> Self {
        let gather = Gather::new(ring.ram().clone(), 0);
        Self { ring, gather, segments: Vec::new(), blocked: false }
    }

    /// Goes on from another position.
    pub(super) fn rewind(&mut self, position: &QueueState) {
        self.ring.rewind(position.next_avail, position.next_used);
        self.blocked = false;
    }

    /// The tap may take frames again.
    pub(super) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Sends a batch. The caller tells the driver of what was used.
    pub(super) fn run(&mut self, tap: BorrowedFd<'_>, counters: &Counters) -> Result<Next, Broken> {
        if self.blocked {
            return Ok(Next::Wait);
        }
        let mut next = Next::Again;
        self.ring.kicks_off()?;
        for _ in 0..BATCH {
            self.segments.clear();
            let Some(head) = self.ring.pop(&mut self.segments)? else {
                if self.ring.kicks_on()? {
                    continue;
                }
                next = Next::Wait;
                break;
            };
            if self.segments.last().is_some_and(|segment| segment.writable) {
                return Err(Broken::Form("a writable buffer in a transmit queue"));
            }
            if !self.send(tap, counters) {
                self.ring.put_back(1);
                self.blocked = true;
                next = Next::Wait;
                break;
            }
            self.ring.give_back(head, 0)?;
        }
        self.ring.publish()?;
        Ok(next)
    }

    /// Sends or drops a frame; false if the tap takes none now.
    fn send(&mut self, tap: BorrowedFd<'_>, counters: &Counters) -> bool {
        let len = self.segments.iter().fold(0_usize, |len, part| len.saturating_add(part.len as usize));
        self.gather.clear();
        let fits = (VNET_HDR..=LONGEST).contains(&len);
        if !fits || !self.segments.iter().all(|&segment| self.gather.push(segment)) {
            Counters::count(&counters.transmit_dropped);
            return true;
        }
        match self.gather.write_to(tap) {
            Ok(_) => Counters::count(&counters.transmitted),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            // The interface is down, or the header makes no sense: as on a wire, the frame is gone.
            Err(_) => Counters::count(&counters.transmit_dropped),
        }
        true
    }
}
