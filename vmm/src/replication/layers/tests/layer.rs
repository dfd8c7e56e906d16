//! One layer, against a list of sectors.

use crate::replication::layers::arena::{Arena, Who};
use crate::replication::layers::batch::Batch;
use crate::replication::layers::buffers::Buffers;
use crate::replication::layers::layer::{Found, Layer};
use crate::replication::layers::region::{PER_REGION, PER_SLOT, SLOTS};
use proptest::prelude::*;
use vm_memory::VolatileSlice;

const SECTORS: u64 = 5 * PER_REGION + 100;

#[derive(Clone, Debug)]
enum Act {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Forget(u64, u64),
    Settle(bool, usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let len =
        prop_oneof![4 => 1..20_u64, 1 => 1..3 * PER_REGION, 1 => (1..4_u64).prop_map(|n| n * PER_REGION)];
    let at = prop_oneof![3 => 0..SECTORS, 1 => (0..5_u64).prop_map(|n| n * PER_REGION)];
    let range = (at, len).prop_map(|(at, len)| (at, len.min(SECTORS - at)));
    prop::collection::vec(
        prop_oneof![
            4 => (range.clone(), 1_u8..).prop_map(|((at, len), fill)| Act::Write(at, len, fill)),
            2 => range.clone().prop_map(|(at, len)| Act::Zero(at, len)),
            2 => range.prop_map(|(at, len)| Act::Forget(at, len)),
            1 => (any::<bool>(), 1..50_usize).prop_map(|(small, runs)| Act::Settle(small, runs)),
        ],
        1..60,
    )
}

/// What is known of a sector: nothing, zeros, or bytes of one value.
fn read(layer: &Layer, arena: &Arena) -> Vec<Option<u8>> {
    let mut found = vec![None; SECTORS as usize];
    for region in 0..=SECTORS / PER_REGION {
        let mut need = [0xff; SLOTS];
        layer
            .read(arena, region, &mut need, |sector, what| {
                let at = (region * PER_REGION + sector) as usize;
                match what {
                    Found::Zeros(count) => found[at..at + count as usize].fill(Some(0)),
                    Found::Bytes(bytes) => {
                        for (n, bytes) in bytes.chunks(512).enumerate() {
                            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                            found[at + n] = Some(bytes[0]);
                        }
                    }
                }
            })
            .unwrap();
        let known = need.iter().flat_map(|mask| (0..8).map(move |bit| mask & 1 << bit == 0));
        for (sector, known) in known.enumerate() {
            if let Some(found) = found.get((region * PER_REGION) as usize + sector) {
                assert_eq!(found.is_some(), known);
            }
        }
    }
    found
}

/// Takes batches out of a layer, as the settler does, and says what was in them.
fn settle(layer: &mut Layer, arena: &mut Arena, small: bool, most: usize) -> Vec<(u64, u64)> {
    let (mut batch, mut runs) = (Batch::new(), Vec::new());
    batch.clear(small);
    layer.gather(arena, 0, &mut batch);
    for run in batch.runs.iter().take(most) {
        layer.forget(arena, run.start, run.count);
        runs.push((run.start, run.count));
    }
    runs
}

proptest! {
    #[test]
    fn a_layer_is_a_list_of_sectors_and_gives_back_what_it_took(acts in acts()) {
        let mut arena = Arena::new(8 << 20, 1 << 20, None);
        let mut layer = Layer::default();
        let mut list = vec![None; SECTORS as usize];
        for act in acts {
            match act {
                Act::Write(start, len, fill) => {
                    let mut bytes = vec![fill; len as usize * 512];
                    let slices = [VolatileSlice::from(&mut bytes[..])];
                    let buffers = Buffers::new(&slices);
                    let mut at = start;
                    while at < start + len {
                        let next = ((at / PER_REGION + 1) * PER_REGION).min(start + len);
                        let mut from = buffers.cursor(((at - start) * 512) as usize);
                        layer.write(&mut arena, Who::Guest, at, next - at, &mut from).unwrap();
                        at = next;
                    }
                    list[start as usize..(start + len) as usize].fill(Some(fill));
                }
                Act::Zero(start, len) => {
                    layer.zero(&mut arena, Who::Guest, start, len).unwrap();
                    list[start as usize..(start + len) as usize].fill(Some(0));
                }
                Act::Forget(start, len) => {
                    layer.forget(&mut arena, start, len);
                    list[start as usize..(start + len) as usize].fill(None);
                }
                Act::Settle(small, most) => {
                    let mut end = 0;
                    for (start, len) in settle(&mut layer, &mut arena, small, most) {
                        prop_assert!(start >= end, "in the order of the disk");
                        prop_assert!(!small || start / PER_SLOT == (start + len - 1) / PER_SLOT);
                        end = start + len;
                        for sector in &mut list[start as usize..end as usize] {
                            prop_assert!(sector.take().is_some(), "only what is there");
                        }
                    }
                }
            }
            prop_assert_eq!(&read(&layer, &arena), &list);
            let count = |zeros: bool| {
                list.iter().flatten().filter(|byte| (**byte == 0) == zeros).count() as u64 * 512
            };
            prop_assert_eq!(layer.bytes(), (count(false), count(true)));
            for slot in 0..SECTORS / PER_SLOT {
                let there = list[(slot * PER_SLOT) as usize..][..PER_SLOT as usize].iter().any(Option::is_some);
                prop_assert_eq!(layer.touches(slot * PER_SLOT + 3, 1), there);
                let (region, bit) = (slot / SLOTS as u64, slot % SLOTS as u64);
                prop_assert_eq!(layer.present(region) & 1 << bit != 0, there);
            }
        }
        while !settle(&mut layer, &mut arena, false, 1000).is_empty() {}
        prop_assert!(layer.is_empty());
        prop_assert_eq!((arena.used(), arena.index()), ([0, 0], 0));
    }
}

#[test]
fn neighbours_are_settled_as_one() {
    let mut arena = Arena::new(8 << 20, 1 << 20, None);
    let mut layer = Layer::default();
    let mut bytes = vec![1; 2 * 4096];
    let slices = [VolatileSlice::from(&mut bytes[..])];
    // Backwards, and in two regions.
    for slot in (0..SLOTS as u64).rev() {
        let at = slot * 16;
        layer.write(&mut arena, Who::Guest, at, 16, &mut Buffers::new(&slices).cursor(0)).unwrap();
    }
    layer.zero(&mut arena, Who::Guest, 2 * PER_REGION, 100 * PER_REGION).unwrap();
    layer.zero(&mut arena, Who::Guest, 102 * PER_REGION, 3).unwrap();
    assert_eq!(
        settle(&mut layer, &mut arena, false, 9),
        [(0, 2 * PER_REGION), (2 * PER_REGION, 100 * PER_REGION + 3)]
    );
}
