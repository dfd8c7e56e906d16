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

/// No disk takes so long here.
const LONG: std::time::Duration = std::time::Duration::from_mins(1);

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

/// The only piece.
fn whole(capture: &Capture) -> &[u8] {
    let mut pieces = capture.pieces();
    let piece = pieces.next().unwrap();
    assert_eq!(pieces.next(), None);
    piece
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
        bound in prop_oneof![Just(None), Just(Some(0)), (0..100_000_usize).prop_map(Some)],
    ) {
        let (ours, theirs) = (memory(), memory());
        let blocks = Arc::new(Blocks::of(&ours));
        let mut captures = [0, 1].map(|_| Capture::new(blocks.clone()).unwrap());
        let file = || Spill::of(tempfile::tempfile().unwrap(), LONG);
        let (spill, bound) = (bound.map(|_| file()), bound.unwrap_or(0));
        let mut staged = Staged::with_bound(blocks.clone(), spill, bound).unwrap();
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
            stage(&mut staged, packer.pack_alone(&blocks, whole(&extra)).0).unwrap();
            let dirty: BTreeSet<u64> = written.keys().chain(theirs_wrote.keys()).copied().collect();
            capture(now, &ours, dirty.iter().copied());
            let foreign: BTreeSet<u64> = theirs_wrote.keys().chain(&ahead).map(|page| address(*page)).collect();
            let mut base = (number > 0).then_some(&*before).into_iter().flat_map(Capture::all).peekable();
            let foreign = |address| foreign.contains(&address);
            let (piece, packed) = packer.pack(&blocks, whole(now), &mut base, foreign);
            drop(base);
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
        let _ = stage(&mut Staged::new(blocks, None).unwrap(), &bytes);
    }
}

#[test]
fn a_file_that_fails_loses_nothing_unnoticed() {
    let ram = memory();
    let blocks = Arc::new(Blocks::of(&ram));
    let pages: Writes = (0..2 * LOW).map(|page| (page, vec![page as u8 + 1; PAGE])).collect();
    put(&ram, &pages);
    let mut now = Capture::new(blocks.clone()).unwrap();
    capture(&mut now, &ram, 0..2 * LOW);
    // A full disk: they wait in memory.
    let full = std::fs::File::options().read(true).write(true).open("/dev/full").unwrap();
    let mut staged = Staged::with_bound(blocks.clone(), Some(Spill::of(full, LONG)), 0).unwrap();
    stage(&mut staged, whole(&now)).unwrap();
    let theirs = memory();
    staged.apply(&theirs).unwrap();
    assert_eq!(all(&ram), all(&theirs));
    // A file that has lost what was in it.
    let file = tempfile::tempfile().unwrap();
    let mut staged = Staged::with_bound(blocks, Some(Spill::of(file.try_clone().unwrap(), LONG)), 0).unwrap();
    stage(&mut staged, whole(&now)).unwrap();
    file.set_len(0).unwrap();
    let error = staged.apply(&memory()).unwrap_err();
    assert!(matches!(error, staged::ApplyError::Spill(_)), "{error}");
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
        let (piece, _) = packer.pack_alone(&blocks, whole(&now));
        for len in 0..piece.len() {
            stage(&mut Staged::new(blocks.clone(), None).unwrap(), &piece[..len]).unwrap_err();
        }
        stage(&mut Staged::new(blocks.clone(), None).unwrap(), piece).unwrap();
    }
}

#[test]
fn what_cannot_be_is_said_with_its_place() {
    let blocks = Arc::new(Blocks::of(&memory()));
    let check =
        |bytes: &[u8]| stage(&mut Staged::new(blocks.clone(), None).unwrap(), bytes).unwrap_err().to_string();
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
    assert_eq!(whole(&small), records::EOS.to_be_bytes());
}

/// More pages than a piece has, in runs that begin and end anywhere: each piece can be read alone, and together they
/// are all pages.
#[test]
fn a_capture_is_made_of_pieces_that_can_be_read_alone() {
    const PAGES: usize = 3 * capture::PIECE;
    let ram = GuestRam::from_ranges(&[(GuestAddress(0), PAGES * PAGE), (GuestAddress(HIGH), PAGES * PAGE)])
        .unwrap();
    let blocks = Arc::new(Blocks::of(&ram));
    let mut capture = Capture::new(blocks.clone()).unwrap();
    let runs = [(0, 5), (7, 1), (9, 1017), (1026, 1024), (2060, 1000)];
    for from in [0, HIGH] {
        for (first, count) in runs {
            for page in first..first + count {
                let at = GuestAddress(from + page * PAGE as u64);
                ram.write_obj(page as u32 ^ (from >> 32) as u32 ^ 0x5555_0000, at).unwrap();
            }
        }
    }
    for _ in 0..2 {
        capture.begin();
        for from in [0, HIGH] {
            for (first, count) in runs {
                capture.pages_at(&ram, from + first * PAGE as u64, count as usize).unwrap();
            }
        }
        capture.end();
        let mut found = Vec::new();
        for piece in capture.pieces() {
            let records: Result<Vec<_>, _> = Records::new(&blocks, piece).collect();
            let records = records.unwrap();
            assert!((1..=capture::PIECE).contains(&records.len()), "{}", records.len());
            for Record { block, offset, content } in records {
                let Content::Plain(page) = content else { panic!("{content:?}") };
                let word = u32::from_le_bytes(*page.first_chunk().unwrap());
                assert_eq!(word, (offset / PAGE as u64) as u32 ^ block as u32 ^ 0x5555_0000);
                found.push((block, offset / PAGE as u64));
            }
        }
        let expected: Vec<_> = (0..2)
            .flat_map(|block| {
                runs.into_iter().flat_map(move |(at, n)| (at..at + n).map(move |page| (block, page)))
            })
            .collect();
        assert!(found == expected);
        assert_eq!(capture.pages(), expected.len());
        assert_eq!(capture.pieces().count(), expected.len().div_ceil(capture::PIECE));
    }
}
