//! A split virtqueue, seen from the device (virtio 1.3 §2.7).
//!
//! ```text
//!   driver ─► avail ring: heads ─► pop ─► Segments in guest RAM ─► device
//!                ▲ used_event                                        │ give_back (n times)
//!   driver ◄─ used ring: idx ◄──────────── publish (once) ◄──────────┘
//!                ▼ avail_event: kicks_on / kicks_off
//! ```
//!
//! `virtio_queue::Queue` carries a queue's set-up; this walks it. It differs in three things: what a driver
//! does wrong is a typed error and not a log line or an early end, several used buffers can become visible
//! at once (a mergeable packet must), and a driver without `EVENT_IDX` can still switch interrupts off.

use crate::memory::GuestRam;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use thiserror::Error;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueState};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// The most descriptors of one chain. It is what one `readv` can take.
pub const MAX_CHAIN: usize = 1024;

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_INDIRECT: u16 = 4;
const DESC_LEN: u64 = 16;

const AVAIL_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;

/// A part of a buffer: bytes that are in RAM, and in one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where, in guest-physical addresses.
    pub address: u64,
    /// How many; never none.
    pub len: u32,
    /// Whether the device writes it (it reads it otherwise).
    pub writable: bool,
}

/// What a driver did that it must not. The queue cannot go on.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Broken {
    /// A ring is misplaced.
    #[error("its {part} at {address:#x} is not aligned, or not in RAM")]
    Misplaced {
        /// Which ring.
        part: &'static str,
        /// Where it should be.
        address: u64,
    },
    /// A size that no queue has.
    #[error("a size of {0}, which is no power of two up to 32768")]
    Size(u16),
    /// More is available than the ring holds.
    #[error("its driver offers {0} buffers at once, more than the ring has")]
    Flood(u16),
    /// A head that is not in the table.
    #[error("descriptor {index} of a table of {size}")]
    Index {
        /// The descriptor.
        index: u16,
        /// The entries of the table.
        size: u32,
    },
    /// A chain that does not end.
    #[error("a chain of more than {0} descriptors, or one that has a loop")]
    Endless(usize),
    /// A buffer that is not in RAM.
    #[error("a buffer of {len:#x} bytes at {address:#x}, which is not RAM")]
    Wild {
        /// Where.
        address: u64,
        /// How long.
        len: u32,
    },
    /// An indirect table in an indirect table, with a successor, or of a wrong length.
    #[error("a malformed indirect table (flags {flags:#x}, {len} bytes)")]
    Indirect {
        /// The descriptor's flags.
        flags: u16,
        /// The table's length.
        len: u32,
    },
    /// What the device reads comes after what it writes.
    #[error("a readable descriptor after a writable one")]
    Order,
    /// A chain that is not of the form that the device needs.
    #[error("{0}")]
    Form(&'static str),
}

/// A queue that a device works on.
#[derive(Debug)]
pub struct Ring {
    ram: Arc<GuestRam>,
    set_up: QueueState,
    next_avail: u16,
    next_used: u16,
    /// What the driver sees of `next_used`.
    published: u16,
    /// `published` when an interrupt was last decided on.
    signalled: u16,
    /// The driver's index when it was last read.
    avail: u16,
}

impl Ring {
    /// Takes a queue as the driver set it up.
    pub fn new(ram: Arc<GuestRam>, queue: &Queue) -> Result<Self, Broken> {
        let set_up = queue.state();
        let size = u64::from(set_up.size);
        if !set_up.size.is_power_of_two() {
            return Err(Broken::Size(set_up.size));
        }
        let parts = [
            ("descriptor table", set_up.desc_table, 16, size * DESC_LEN),
            ("available ring", set_up.avail_ring, 2, 6 + 2 * size),
            ("used ring", set_up.used_ring, 4, 6 + 8 * size),
        ];
        for (part, address, align, len) in parts {
            if address % align != 0 || ram.get_slice(GuestAddress(address), len as usize).is_err() {
                return Err(Broken::Misplaced { part, address });
            }
        }
        let (next_avail, used) = (set_up.next_avail, set_up.next_used);
        Ok(Self {
            ram,
            set_up,
            next_avail,
            next_used: used,
            published: used,
            signalled: used,
            avail: next_avail,
        })
    }

    /// The guest's memory.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// The number of descriptors.
    pub fn size(&self) -> u16 {
        self.set_up.size
    }

    /// Where it is and how far; what is given back but not published is not in it.
    pub fn state(&self) -> QueueState {
        QueueState { next_avail: self.next_avail, next_used: self.published, ..self.set_up }
    }

    /// Goes on from other positions, in the same rings: what was taken from them is forgotten.
    pub fn rewind(&mut self, next_avail: u16, next_used: u16) {
        (self.next_avail, self.avail) = (next_avail, next_avail);
        (self.next_used, self.published, self.signalled) = (next_used, next_used, next_used);
    }

    /// Takes the next buffer: appends its segments to `segments` and gives its head; none if the driver
    /// has offered no more. After an error `segments` is as before.
    pub fn pop(&mut self, segments: &mut Vec<Segment>) -> Result<Option<u16>, Broken> {
        if self.avail == self.next_avail && self.look()? == 0 {
            return Ok(None);
        }
        let slot = u64::from(self.next_avail % self.set_up.size);
        let head = u16::from_le(self.load(self.set_up.avail_ring + 4 + 2 * slot, Ordering::Relaxed)?);
        let before = segments.len();
        if let Err(broken) = self.walk(head, segments) {
            segments.truncate(before);
            return Err(broken);
        }
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(head))
    }

    /// Puts the last `count` buffers that were taken back to where they came from.
    pub fn put_back(&mut self, count: u16) {
        self.next_avail = self.next_avail.wrapping_sub(count);
    }

    /// Gives a buffer back with `len` bytes written. The driver sees it after [`publish`](Self::publish).
    pub fn give_back(&mut self, head: u16, len: u32) -> Result<(), Broken> {
        let slot = u64::from(self.next_used % self.set_up.size);
        let address = self.set_up.used_ring + 4 + 8 * slot;
        let element = u64::from(head) | u64::from(len) << 32;
        self.ram
            .write_obj(element.to_le(), GuestAddress(address))
            .map_err(|_| Broken::Misplaced { part: "used ring", address })?;
        self.next_used = self.next_used.wrapping_add(1);
        Ok(())
    }

    /// Shows the driver all that was given back, at once.
    pub fn publish(&mut self) -> Result<(), Broken> {
        if self.published != self.next_used {
            self.store(self.set_up.used_ring + 2, self.next_used, Ordering::Release)?;
            self.published = self.next_used;
        }
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was published since the last call.
    pub fn interrupt_due(&mut self) -> Result<bool, Broken> {
        let (old, new) = (self.signalled, self.published);
        if old == new {
            return Ok(false);
        }
        self.signalled = new;
        // The driver writes its wish and then looks at our index; we did the opposite.
        fence(Ordering::SeqCst);
        if self.set_up.event_idx_enabled {
            let at = self.set_up.avail_ring + 4 + 2 * u64::from(self.set_up.size);
            let wish = u16::from_le(self.load(at, Ordering::Relaxed)?);
            return Ok(new.wrapping_sub(wish).wrapping_sub(1) < new.wrapping_sub(old));
        }
        Ok(u16::from_le(self.load(self.set_up.avail_ring, Ordering::Relaxed)?) & AVAIL_NO_INTERRUPT == 0)
    }

    /// Asks the driver to kick when it offers the next buffer. Says whether one is there already (then
    /// no kick may come, and the caller goes on).
    pub fn kicks_on(&mut self) -> Result<bool, Broken> {
        if self.set_up.event_idx_enabled {
            let at = self.set_up.used_ring + 4 + 8 * u64::from(self.set_up.size);
            self.store(at, self.next_avail, Ordering::Relaxed)?;
        } else {
            self.store(self.set_up.used_ring, 0, Ordering::Relaxed)?;
        }
        fence(Ordering::SeqCst);
        Ok(self.look()? != 0)
    }

    /// Tells the driver not to kick; it may, still.
    pub fn kicks_off(&mut self) -> Result<(), Broken> {
        // With EVENT_IDX a wish is good for one kick, and needs no revocation.
        if self.set_up.event_idx_enabled {
            return Ok(());
        }
        self.store(self.set_up.used_ring, USED_NO_NOTIFY, Ordering::Relaxed)
    }

    /// Reads the driver's index. Gives how many buffers wait.
    fn look(&mut self) -> Result<u16, Broken> {
        self.avail = u16::from_le(self.load(self.set_up.avail_ring + 2, Ordering::Acquire)?);
        let count = self.avail.wrapping_sub(self.next_avail);
        if count > self.set_up.size {
            return Err(Broken::Flood(count));
        }
        Ok(count)
    }

    fn walk(&self, head: u16, segments: &mut Vec<Segment>) -> Result<(), Broken> {
        let mut table = self.set_up.desc_table;
        let mut size = u32::from(self.set_up.size);
        let mut index = head;
        let mut indirect = false;
        let mut writable = false;
        for _ in 0..=MAX_CHAIN {
            if u32::from(index) >= size {
                return Err(Broken::Index { index, size });
            }
            let address = table + DESC_LEN * u64::from(index);
            let descriptor: Descriptor = self
                .ram
                .read_obj(GuestAddress(address))
                .map_err(|_| Broken::Wild { address, len: DESC_LEN as u32 })?;
            let (flags, len) = (descriptor.flags(), descriptor.len());
            let address = descriptor.addr().0;
            if flags & DESC_INDIRECT != 0 {
                if indirect || flags & DESC_NEXT != 0 || len == 0 || u64::from(len) % DESC_LEN != 0 {
                    return Err(Broken::Indirect { flags, len });
                }
                // The table is checked as a whole here, so that no sum below can overflow.
                self.check(address, len)?;
                (table, size, index, indirect) = (address, len / DESC_LEN as u32, 0, true);
                continue;
            }
            let writes = flags & DESC_WRITE != 0;
            if writable && !writes {
                return Err(Broken::Order);
            }
            writable = writes;
            if len != 0 {
                self.check(address, len)?;
                segments.push(Segment { address, len, writable });
            }
            if flags & DESC_NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next();
        }
        Err(Broken::Endless(MAX_CHAIN))
    }

    fn check(&self, address: u64, len: u32) -> Result<(), Broken> {
        match self.ram.get_slice(GuestAddress(address), len as usize) {
            Ok(_) => Ok(()),
            Err(_) => Err(Broken::Wild { address, len }),
        }
    }

    fn load(&self, address: u64, order: Ordering) -> Result<u16, Broken> {
        self.ram
            .load(GuestAddress(address), order)
            .map_err(|_| Broken::Misplaced { part: "available ring", address })
    }

    fn store(&self, address: u64, value: u16, order: Ordering) -> Result<(), Broken> {
        self.ram
            .store(value.to_le(), GuestAddress(address), order)
            .map_err(|_| Broken::Misplaced { part: "used ring", address })
    }
}

#[cfg(test)]
mod tests;
