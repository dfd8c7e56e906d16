//! A driver for tests: it builds rings in guest RAM by the text of the standard (virtio 1.3 §2.7), and
//! shares no code with the device side.
//!
//! ```text
//!   base ── descriptor table ── available ring ── used ring ──►  one 64 KiB area per queue
//! ```

use crate::memory::{GuestRam, Written};
use std::sync::Arc;
use virtio_queue::{Queue, QueueState};
use vm_memory::bitmap::Bitmap as _;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MmapRegion};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// RAM for a test: from 0 on.
pub(crate) fn ram(len: usize) -> Arc<GuestRam> {
    Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), len)]).unwrap())
}

/// What memory was at a moment, and no page of it marked: whatever a device writes after has to be marked.
#[derive(Debug)]
pub(crate) struct Watch(Vec<u8>);

const PAGE: usize = 4096;

impl Watch {
    pub(crate) fn begin(ram: &GuestRam) -> Self {
        let region = ram.find_region(GuestAddress(0)).unwrap();
        let mut bytes = vec![0; region.len() as usize];
        ram.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        // The region's own method of that name gives a view of the marks, not the marks.
        let mapping: &MmapRegion<Written> = region;
        mapping.bitmap().take(&mut vec![0; bytes.len() / PAGE / 64 + 1]);
        Self(bytes)
    }

    /// Which pages were written, and which of them are not marked.
    pub(crate) fn written(&self, ram: &GuestRam) -> (Vec<usize>, Vec<usize>) {
        let region = ram.find_region(GuestAddress(0)).unwrap();
        let mut now = vec![0; self.0.len()];
        ram.read_slice(&mut now, GuestAddress(0)).unwrap();
        let pages = self.0.chunks(PAGE).zip(now.chunks(PAGE)).enumerate();
        let written: Vec<_> =
            pages.filter(|(_, (before, now))| before != now).map(|(page, _)| page).collect();
        let unmarked =
            written.iter().copied().filter(|page| !region.bitmap().dirty_at(page * PAGE)).collect();
        (written, unmarked)
    }
}

/// A part of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) write: bool,
}

pub(crate) fn reads(address: u64, len: u32) -> Part {
    Part { address, len, write: false }
}

pub(crate) fn writes(address: u64, len: u32) -> Part {
    Part { address, len, write: true }
}

#[derive(Debug)]
pub(crate) struct FakeDriver {
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) base: u64,
    pub(crate) size: u16,
    pub(crate) event_idx: bool,
    free: Vec<u16>,
    chains: std::collections::HashMap<u16, Vec<u16>>,
    avail: u16,
    used: u16,
}

impl FakeDriver {
    pub(crate) fn new(ram: &Arc<GuestRam>, base: u64, size: u16) -> Self {
        let free = (0..size).rev().collect();
        let chains = std::collections::HashMap::new();
        Self { ram: ram.clone(), base, size, event_idx: false, free, chains, avail: 0, used: 0 }
    }

    /// A driver of the same rings with nothing in them, after `count` buffers.
    pub(crate) fn again(&self, count: u16) -> Self {
        let new = Self::new(&self.ram, self.base, self.size);
        Self { event_idx: self.event_idx, avail: count, used: count, ..new }
    }

    pub(crate) fn table(&self) -> u64 {
        self.base
    }

    pub(crate) fn available(&self) -> u64 {
        self.base + 0x8000
    }

    pub(crate) fn used(&self) -> u64 {
        self.base + 0xa000
    }

    pub(crate) fn queue(&self) -> Queue {
        Queue::try_from(QueueState {
            max_size: self.size,
            size: self.size,
            ready: true,
            event_idx_enabled: self.event_idx,
            desc_table: self.table(),
            avail_ring: self.available(),
            used_ring: self.used(),
            ..QueueState::default()
        })
        .unwrap()
    }

    fn put<const N: usize>(&self, address: u64, bytes: [u8; N]) {
        self.ram.write_slice(&bytes, GuestAddress(address)).unwrap();
    }

    pub(crate) fn half(&self, address: u64) -> u16 {
        let mut bytes = [0; 2];
        self.ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        u16::from_le_bytes(bytes)
    }

    fn word(&self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        self.ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Writes a descriptor of any table, whatever it says.
    pub(crate) fn descriptor(&self, table: u64, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = table + 16 * u64::from(index);
        self.put(at, address.to_le_bytes());
        self.put(at + 8, len.to_le_bytes());
        self.put(at + 12, flags.to_le_bytes());
        self.put(at + 14, next.to_le_bytes());
    }

    /// Makes a head available, whatever it is.
    pub(crate) fn offer_head(&mut self, head: u16) {
        self.put(self.available() + 4 + 2 * u64::from(self.avail % self.size), head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
        self.claim(self.avail);
    }

    /// Says that buffers up to `index` are available.
    pub(crate) fn claim(&self, index: u16) {
        // One aligned store, as a driver's.
        self.ram
            .store(index.to_le(), GuestAddress(self.available() + 2), std::sync::atomic::Ordering::Release)
            .unwrap();
    }

    /// Offers a buffer. None if too few descriptors are free.
    pub(crate) fn offer(&mut self, parts: &[Part]) -> Option<u16> {
        if parts.len() > self.free.len() {
            return None;
        }
        let taken = self.free.split_off(self.free.len() - parts.len());
        for (number, part) in parts.iter().enumerate() {
            let next = taken.get(number + 1);
            let flags = if part.write { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
            let next = next.copied().unwrap_or(0);
            self.descriptor(self.table(), taken[number], part.address, part.len, flags, next);
        }
        let head = taken[0];
        self.chains.insert(head, taken);
        self.offer_head(head);
        Some(head)
    }

    /// Offers a buffer through an indirect table at `table`.
    pub(crate) fn offer_indirect(&mut self, table: u64, parts: &[Part]) -> Option<u16> {
        for (number, part) in parts.iter().enumerate() {
            let more = number + 1 < parts.len();
            let flags = if part.write { WRITE } else { 0 } | if more { NEXT } else { 0 };
            self.descriptor(table, number as u16, part.address, part.len, flags, number as u16 + 1);
        }
        let head = self.free.pop()?;
        self.descriptor(self.table(), head, table, 16 * parts.len() as u32, INDIRECT, 0);
        self.chains.insert(head, vec![head]);
        self.offer_head(head);
        Some(head)
    }

    /// Takes back what the device has used: heads and lengths.
    pub(crate) fn collect(&mut self) -> Vec<(u16, u32)> {
        let end: u16 =
            self.ram.load(GuestAddress(self.used() + 2), std::sync::atomic::Ordering::Acquire).unwrap();
        let mut got = Vec::new();
        while self.used != u16::from_le(end) {
            let at = self.used() + 4 + 8 * u64::from(self.used % self.size);
            let (head, len) = (self.word(at), self.word(at + 4));
            let chain = self.chains.remove(&(head as u16)).expect("it uses what was offered, once");
            self.free.extend(chain);
            got.push((head as u16, len));
            self.used = self.used.wrapping_add(1);
        }
        got
    }

    /// Without `EVENT_IDX`: whether it wants interrupts.
    pub(crate) fn set_interrupts(&self, wanted: bool) {
        self.put(self.available(), u16::to_le_bytes(u16::from(!wanted)));
    }

    /// With `EVENT_IDX`: it wants an interrupt when the device passes `index`.
    pub(crate) fn set_used_event(&self, index: u16) {
        self.put(self.available() + 4 + 2 * u64::from(self.size), index.to_le_bytes());
    }

    /// With `EVENT_IDX`: which buffer the device wants to be kicked for.
    pub(crate) fn avail_event(&self) -> u16 {
        self.half(self.used() + 4 + 8 * u64::from(self.size))
    }

    /// How many descriptors are free.
    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }
}
