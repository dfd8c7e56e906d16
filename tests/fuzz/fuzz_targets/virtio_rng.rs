//! Any chains of plain descriptors on a source of randomness: nothing is written but what a writable
//! descriptor names and the used ring, and what is used has room for what it says.
#![no_main]

use arbitrary::Arbitrary;
use colo_fuzz::guest::{Guest, RAM, SIZE};
use colo_vmm::devices::rng::Rng;
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};

const TABLE: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x1_8000;
const USED: u64 = 0x1_a000;
const END_OF_USED: u64 = USED + 6 + 8 * SIZE as u64;

#[derive(Arbitrary, Debug)]
struct Case {
    /// Address, whether near the end of memory, length, flags, next.
    descriptors: [(u32, bool, u16, u8, u8); SIZE as usize],
    heads: Vec<u8>,
    features: u64,
    pauses: u8,
}

fn memory(guest: &Guest) -> Vec<u8> {
    let mut bytes = vec![0; RAM as usize];
    guest.ram.read_slice(&mut bytes, GuestAddress(0)).expect("RAM");
    bytes
}

fuzz_target!(|case: Case| {
    let guest = Guest::new(Box::<Rng>::default());
    let mut writable: Vec<std::ops::Range<u64>> = Vec::new();
    for (index, (address, end, len, flags, next)) in (0..).zip(case.descriptors) {
        let address = if end { RAM - u64::from(address % 0x2_0000) } else { u64::from(address) % RAM };
        // Neither table nor rings are in them: what they say stays what it was.
        let address = if address < 0x10_0000 { address + 0x10_0000 } else { address };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..10].copy_from_slice(&len.to_le_bytes());
        bytes[12] = flags & 3;
        bytes[14] = next % (SIZE as u8 + 2);
        guest.poke(TABLE + 16 * index, &bytes);
        if flags & 2 != 0 {
            writable.push(address..address + u64::from(len));
        }
    }
    let heads = case.heads.iter().take(usize::from(SIZE));
    let count = heads.len() as u16;
    for (slot, head) in (0..).zip(heads) {
        guest.poke(AVAILABLE + 4 + 2 * slot, &[head % (SIZE as u8 + 1), 0]);
    }
    let before = memory(&guest);
    if !guest.start(case.features & (1 << 29)) {
        return;
    }
    guest.poke(AVAILABLE + 2, &count.to_le_bytes());
    guest.notify(0);
    for _ in 0..=case.pauses % 3 {
        guest.function.pause();
        guest.function.resume();
    }
    guest.function.pause();
    let after = memory(&guest);
    writable.push(USED..END_OF_USED);
    writable.push(AVAILABLE + 2..AVAILABLE + 4);
    writable.sort_by_key(|range| range.start);
    let mut at = 0;
    for range in writable.into_iter().chain([RAM..RAM]) {
        if at < range.start {
            assert!(before[at as usize..range.start as usize] == after[at as usize..range.start as usize]);
        }
        at = at.max(range.end).min(RAM);
    }
    let word = |at: u64| u16::from_le_bytes([after[at as usize], after[at as usize + 1]]);
    assert!(word(USED + 2) <= count, "each is used once");
    for slot in 0..u64::from(word(USED + 2)) {
        assert!(word(USED + 4 + 8 * slot) < SIZE);
        let len = word(USED + 8 + 8 * slot);
        assert!(len <= 4096);
    }
    guest.function.resume();
});
