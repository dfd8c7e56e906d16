//! A driver, as small as can be: rings in guest memory, written and read byte by byte.

use crate::irq::Interrupt;
use crate::memory::GuestRam;
use crate::virtio::{Activation, ActiveQueue, Device};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(super) const SIZE: u16 = 256;
const TABLE: u64 = 0x1000;
const AVAIL: u64 = 0x3000;
const USED: u64 = 0x4000;
/// Where buffers may be.
pub(super) const BUFFERS: u64 = 0x10_000;

/// Counts, and lets one wait.
#[derive(Debug, Default)]
pub(super) struct Bell {
    pub(super) rung: AtomicUsize,
    lock: Mutex<()>,
    condition: Condvar,
}

impl Interrupt for Bell {
    fn queue(&self, _: u16) {
        let _lock = self.lock.lock().unwrap();
        self.rung.fetch_add(1, Ordering::SeqCst);
        self.condition.notify_all();
    }
    fn config(&self) {}
}

/// A driver of one queue.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) ram: Arc<GuestRam>,
    pub(super) bell: Arc<Bell>,
    kick: EventFd,
    next: u16,
    seen: u16,
    descriptor: u16,
}

impl Driver {
    /// A driver that has the device's first queue.
    pub(super) fn new(device: &mut dyn Device, features: u64) -> Self {
        let ram = Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), 32 << 20)]).unwrap());
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        let this = Self { ram, bell: Arc::default(), kick, next: 0, seen: 0, descriptor: 0 };
        this.activate(device, features, None);
        this
    }

    /// Hands the queue to a device, as it was when it was paused if that is given.
    pub(super) fn activate(&self, device: &mut dyn Device, features: u64, state: Option<QueueState>) {
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_desc_table_address(Some(TABLE as u32), Some(0));
        queue.set_avail_ring_address(Some(AVAIL as u32), Some(0));
        queue.set_used_ring_address(Some(USED as u32), Some(0));
        if let Some(state) = state {
            queue = Queue::try_from(state).unwrap();
        }
        queue.set_ready(true);
        let kick = self.kick.try_clone().unwrap();
        let queues = vec![ActiveQueue { index: 0, queue, kick }];
        let (ram, interrupt) = (self.ram.clone(), self.bell.clone());
        device.activate(Activation { ram, queues, features, interrupt }).unwrap();
    }

    /// Writes a descriptor as it is said.
    pub(super) fn describe(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = GuestAddress(TABLE + u64::from(index) * 16);
        self.ram.write_obj(address.to_le(), at).unwrap();
        self.ram.write_obj(len, GuestAddress(at.0 + 8)).unwrap();
        self.ram.write_obj(flags, GuestAddress(at.0 + 12)).unwrap();
        self.ram.write_obj(next, GuestAddress(at.0 + 14)).unwrap();
    }

    /// Makes a chain available, without a word.
    pub(super) fn offer(&mut self, head: u16) {
        self.ram.write_obj(head, GuestAddress(AVAIL + 4 + u64::from(self.next % SIZE) * 2)).unwrap();
        self.next = self.next.wrapping_add(1);
        std::sync::atomic::fence(Ordering::SeqCst);
        self.ram.write_obj(self.next, GuestAddress(AVAIL + 2)).unwrap();
    }

    pub(super) fn set_available(&self, index: u16) {
        self.ram.write_obj(index, GuestAddress(AVAIL + 2)).unwrap();
    }

    pub(super) fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// Puts buffers into the ring: address, length, whether the device writes. Gives the head.
    pub(super) fn chain(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.descriptor;
        for (n, &(address, len, writable)) in buffers.iter().enumerate() {
            let index = (head + n as u16) % SIZE;
            let last = n + 1 == buffers.len();
            let flags = u16::from(!last) | u16::from(writable) << 1;
            self.describe(index, address, len, flags, (index + 1) % SIZE);
        }
        self.descriptor = (head + buffers.len() as u16) % SIZE;
        self.offer(head);
        head
    }

    /// What the device has used since the last call: heads and lengths.
    pub(super) fn used(&mut self) -> Vec<(u16, u32)> {
        let index: u16 = self.ram.read_obj(GuestAddress(USED + 2)).unwrap();
        let mut out = Vec::new();
        while self.seen != index {
            let at = USED + 4 + u64::from(self.seen % SIZE) * 8;
            let head: u32 = self.ram.read_obj(GuestAddress(at)).unwrap();
            out.push((head as u16, self.ram.read_obj(GuestAddress(at + 4)).unwrap()));
            self.seen = self.seen.wrapping_add(1);
        }
        out
    }

    /// Waits for so many to be used.
    pub(super) fn wait(&mut self, count: usize) -> Vec<(u16, u32)> {
        let mut out = self.used();
        while out.len() < count {
            let bell = self.bell.clone();
            let lock = bell.lock.lock().unwrap();
            let more = self.used();
            if more.is_empty() {
                // A device that never answers makes the test hang, which its runner notices.
                drop(bell.condition.wait(lock).unwrap());
            }
            out.extend(more);
        }
        out
    }

    /// Asks for something: type, sector, what to write, room for so many bytes. Gives status and answer.
    pub(super) fn request(&mut self, kind: u32, sector: u64, data: &[u8], room: usize) -> (u8, Vec<u8>) {
        let (header, status) = (BUFFERS, BUFFERS + 0x100);
        let (out, into) = (BUFFERS + 0x1000, BUFFERS + 0x1_000_000);
        self.ram.write_obj(kind, GuestAddress(header)).unwrap();
        self.ram.write_obj(sector, GuestAddress(header + 8)).unwrap();
        self.ram.write_slice(data, GuestAddress(out)).unwrap();
        self.ram.write_slice(&vec![0xee; room], GuestAddress(into)).unwrap();
        self.ram.write_obj(0xff_u8, GuestAddress(status)).unwrap();
        let mut buffers = vec![(header, 16, false)];
        if !data.is_empty() {
            buffers.push((out, data.len() as u32, false));
        }
        if room > 0 {
            buffers.push((into, room as u32, true));
        }
        buffers.push((status, 1, true));
        let head = self.chain(&buffers);
        self.kick();
        let used = self.wait(1);
        assert_eq!((used.len(), used[0].0), (1, head));
        let mut answer = vec![0; room];
        self.ram.read_slice(&mut answer, GuestAddress(into)).unwrap();
        (self.ram.read_obj(GuestAddress(status)).unwrap(), answer)
    }
}
