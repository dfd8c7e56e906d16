//! From one memory to another, through every kind of packing.

use super::pack::Packer;
use super::*;
use crate::checkpoint::protocol::Buffer;
use crate::memory::GuestRam;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

/// Two blocks, as a guest with memory above the hole has.
const LOW: u64 = 8;
const HIGH: u64 = 4 << 30;

/// A page of the tests' guest, by number: the last are in the second block.
fn address(page: u64) -> u64 {
    if page < LOW { page * PAGE as u64 } else { HIGH + (page - LOW) * PAGE as u64 }
}

fn memory() -> GuestRam {
    GuestRam::from_ranges(&[
        (GuestAddress(0), LOW as usize * PAGE),
        (GuestAddress(HIGH), LOW as usize * PAGE),
    ])
    .unwrap()
}

/// Contents that are like pages: zeros, a few bytes, noise.
fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![0; PAGE]),
        (0..PAGE, any::<u8>()).prop_map(|(at, byte)| {
            let mut page = vec![7; PAGE];
            page[at] = byte;
            page
        }),
        vec(any::<u8>(), PAGE),
    ]
}

fn put(ram: &GuestRam, pages: &BTreeMap<u64, Vec<u8>>) {
    for (page, content) in pages {
        ram.write_slice(content, GuestAddress(address(*page))).unwrap();
    }
}

fn capture(capture: &mut Capture, ram: &GuestRam, pages: impl IntoIterator<Item = u64>) {
    capture.begin();
    for page in pages {
        capture.pages_at(ram, address(page), 1).unwrap();
    }
    capture.end();
}

fn all(ram: &GuestRam) -> Vec<Vec<u8>> {
    let read = |page| {
        let mut content = vec![0; PAGE];
        ram.read_slice(&mut content, GuestAddress(address(page))).unwrap();
        content
    };
    (0..2 * LOW).map(read).collect()
}

fn stage(staged: &mut Staged, piece: &[u8]) -> Result<usize, staged::StageError> {
    staged.accept(Buffer::from(piece.to_vec()))
}

fn packings() -> impl Strategy<Value = pack::Packing> {
    use pack::Packing::{Delta, Lz4, None, Zeros};
    prop_oneof![Just(None), Just(Zeros), Just(Lz4), Just(Delta)]
}

type Writes = BTreeMap<u64, Vec<u8>>;

proptest! {
    /// Both guests write; after each epoch their memories are the same.
    #[test]
    fn memories_are_level_after_every_epoch(
        packing in packings(),
        epochs in vec(
            (
                btree_map(0..2 * LOW, content(), 0..8),
                btree_map(0..2 * LOW, content(), 0..4),
                btree_set(0..2 * LOW, 0..4),
            ),
            1..6,
        ),
    ) {
        let (ours, theirs) = (memory(), memory());
        let blocks = Arc::new(Blocks::of(&ours));
        let mut captures = [0, 1].map(|_| Capture::new(blocks.clone()).unwrap());
        let mut staged = Staged::new(blocks.clone()).unwrap();
        let mut packer = Packer::new(packing);
        let epochs: Vec<(Writes, Writes, BTreeSet<u64>)> = epochs;
        for (number, (written, theirs_wrote, ahead)) in epochs.into_iter().enumerate() {
            put(&ours, &written);
            put(&theirs, &theirs_wrote);
            // Some are sent ahead, as a background transfer does: without a base.
            let [before, now] = &mut captures;
            let ahead: Vec<u64> = ahead.into_iter().filter(|page| written.contains_key(page)).collect();
            let mut extra = Capture::new(blocks.clone()).unwrap();
            capture(&mut extra, &ours, ahead.iter().copied());
            stage(&mut staged, packer.pack(&blocks, extra.piece(), None, |_| false).0).unwrap();
            let dirty: BTreeSet<u64> = written.keys().chain(theirs_wrote.keys()).copied().collect();
            capture(now, &ours, dirty.iter().copied());
            let foreign: BTreeSet<u64> = theirs_wrote.keys().chain(&ahead).map(|page| address(*page)).collect();
            let base = (number > 0).then(|| before.piece());
            let (piece, packed) = packer.pack(&blocks, now.piece(), base, |address| foreign.contains(&address));
            prop_assert_eq!(packed.zero + packed.plain + packed.lz4 + packed.delta, dirty.len());
            stage(&mut staged, piece).unwrap();
            staged.apply(&theirs).unwrap();
            prop_assert_eq!(all(&ours), all(&theirs));
            captures.swap(0, 1);
        }
    }

    /// Bytes from a peer do no harm: an error, or pages that this guest has.
    #[test]
    fn noise_is_refused(noise in vec(any::<u8>(), 0..200), flags in vec(prop_oneof![Just(2_u64), Just(8), Just(0x28), Just(0x60), Just(0x120), Just(0x10)], 0..4)) {
        let blocks = Arc::new(Blocks::of(&memory()));
        let mut bytes = Vec::new();
        for flag in flags {
            records::begin(&mut bytes, 0x1000, flag, (flag & records::CONTINUE == 0).then_some("pc.ram"));
            bytes.extend(&noise);
        }
        bytes.extend(&noise);
        let _ = stage(&mut Staged::new(blocks).unwrap(), &bytes);
    }
}

#[test]
fn a_piece_that_is_cut_anywhere_is_refused() {
    let ram = memory();
    let blocks = Arc::new(Blocks::of(&ram));
    put(&ram, &BTreeMap::from([(1, vec![9; PAGE]), (2, vec![0; PAGE])]));
    for packing in [pack::Packing::None, pack::Packing::Delta] {
        let mut now = Capture::new(blocks.clone()).unwrap();
        capture(&mut now, &ram, [1, 2, 9]);
        let mut packer = Packer::new(packing);
        let (piece, _) = packer.pack(&blocks, now.piece(), None, |_| false);
        for len in 0..piece.len() {
            stage(&mut Staged::new(blocks.clone()).unwrap(), &piece[..len]).unwrap_err();
        }
        stage(&mut Staged::new(blocks.clone()).unwrap(), piece).unwrap();
    }
}

#[test]
fn what_cannot_be_is_said_with_its_place() {
    let blocks = Arc::new(Blocks::of(&memory()));
    let check =
        |bytes: &[u8]| stage(&mut Staged::new(blocks.clone()).unwrap(), bytes).unwrap_err().to_string();
    let record = |offset, flags, name| {
        let mut bytes = Vec::new();
        records::begin(&mut bytes, offset, flags, name);
        bytes.extend([0; 4]);
        bytes
    };
    assert!(check(&record(0, records::ZERO, None)).contains("none was named"));
    assert!(check(&record(0, records::ZERO, Some("vga.ram"))).contains("\"vga.ram\""));
    assert!(check(&record(LOW * 4096, records::ZERO, Some("pc.ram"))).contains("0x8000, outside"));
    assert!(check(&record(u64::MAX << 12, records::ZERO, Some("pc.ram"))).contains("outside"));
    assert!(check(&record(0, 0x200, Some("pc.ram"))).contains("flags 0x200"));
    assert!(check(&record(0, records::LZ4, Some("pc.ram"))).contains("of 0 bytes"));
    let mut more = records::EOS.to_be_bytes().to_vec();
    more.push(0);
    assert!(check(&more).contains("1 bytes follow"));
}

#[test]
fn a_capture_keeps_to_its_room() {
    let ram = memory();
    let blocks = Arc::new(Blocks::of(&ram));
    let mut small = Capture::with_room(blocks, 2).unwrap();
    small.begin();
    assert!(small.room() >= 2);
    let room = small.room();
    small.pages_at(&ram, 0, room + 1).unwrap_err();
    small.pages_at(&ram, 0, 2).unwrap();
    small.pages_at(&ram, HIGH - 1, 1).unwrap_err();
    small.end();
    assert_eq!(small.pages(), 2);
    small.prepare(100);
    small.begin();
    small.end();
    assert_eq!(small.piece(), records::EOS.to_be_bytes());
}
