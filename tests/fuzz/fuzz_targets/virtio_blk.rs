//! Any bytes as rings and buffers of a disk: it answers or stops, and can always be paused and reset.
#![no_main]

use arbitrary::Arbitrary;
use colo_vmm::block::engine::Choice;
use colo_vmm::block::raw::Raw;
use colo_vmm::devices::block::{Block, Disk};
use colo_vmm::irq::Interrupt;
use colo_vmm::memory::GuestRam;
use colo_vmm::virtio::{Activation, ActiveQueue, Device};
use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::sync::Arc;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const SIZE: u16 = 16;
const MEMORY: usize = 0x8000;
const DISK: u64 = 1 << 16;

#[derive(Arbitrary, Debug)]
struct Case {
    /// Headers, which chains may point to: type and sector.
    headers: Vec<(u8, u16)>,
    /// Descriptors: where, how long, flags, next.
    descriptors: Vec<(Address, u16, u8, u8)>,
    available: Vec<u8>,
    /// How far the ring says it is beyond what it has.
    ahead: u16,
    noise: Vec<(u16, u8)>,
    read_only: bool,
    features: u64,
}

#[derive(Arbitrary, Debug)]
enum Address {
    Header(u8),
    Memory(u16),
    Any(u64),
}

#[derive(Debug)]
struct Silence;

impl Interrupt for Silence {
    fn queue(&self, _: u16) {}
    fn config(&self) {}
}

fn fill(case: &Case, ram: &GuestRam) -> Result<(), vm_memory::GuestMemoryError> {
    for (n, (kind, sector)) in case.headers.iter().enumerate().take(64) {
        let at = 0x1000 + n as u64 * 16;
        ram.write_obj(u32::from(kind % 16), GuestAddress(at))?;
        ram.write_obj(u64::from(*sector), GuestAddress(at + 8))?;
    }
    for (n, (address, len, flags, next)) in case.descriptors.iter().enumerate().take(usize::from(SIZE)) {
        let address = match address {
            Address::Header(n) => 0x1000 + u64::from(n % 64) * 16,
            Address::Memory(at) => u64::from(*at),
            Address::Any(at) => *at,
        };
        let at = n as u64 * 16;
        ram.write_obj(address, GuestAddress(at))?;
        ram.write_obj(u32::from(*len), GuestAddress(at + 8))?;
        ram.write_obj(u16::from(flags % 8), GuestAddress(at + 12))?;
        ram.write_obj(u16::from(next % 20), GuestAddress(at + 14))?;
    }
    for (n, head) in case.available.iter().enumerate().take(usize::from(SIZE)) {
        ram.write_obj(u16::from(head % 20), GuestAddress(0x404 + n as u64 * 2))?;
    }
    for (at, byte) in &case.noise {
        ram.write_obj(*byte, GuestAddress(u64::from(*at) % MEMORY as u64))?;
    }
    let index = case.available.len().min(usize::from(SIZE)) as u16;
    ram.write_obj(index.wrapping_add(if case.ahead % 8 == 0 { case.ahead } else { 0 }), GuestAddress(0x402))
}

fuzz_target!(|case: Case| {
    let fd = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
    let file = File::from(fd);
    file.set_len(DISK).expect("a file in memory");
    let image = Arc::new(Raw::new(file, case.read_only, false).expect("a raw image"));
    let mut block = Block::new(Disk { engine: Choice::Uring, ..Disk::new(image, "fuzz") });
    let ram = Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory"));
    fill(&case, &ram).expect("all of it is in memory");
    let mut queue = Queue::new(SIZE).expect("a queue");
    queue.set_desc_table_address(Some(0), Some(0));
    queue.set_avail_ring_address(Some(0x400), Some(0));
    queue.set_used_ring_address(Some(0x800), Some(0));
    queue.set_ready(true);
    let kick = EventFd::new(EFD_NONBLOCK).expect("an event");
    let queues = vec![ActiveQueue { index: 0, queue, kick }];
    let features = block.features() & case.features;
    let activation = Activation { ram, queues, features, interrupt: Arc::new(Silence) };
    block.activate(activation).expect("a worker");
    let states = block.pause();
    assert_eq!(states.len(), 1);
    block.resume();
    block.reset();
});
