//! Whenever the program dies, or the host loses power, no image is left that would lose data later.

use super::memory::{Change, apply};
use super::model::{Op, SIZE, op, perform};
use super::{Memory, Qcow2, checker, empty, read_at};
use proptest::prelude::*;

/// The image after some operations, the changes that they made, and what the guest knew to be stable.
struct History {
    start: Vec<u8>,
    changes: Vec<Change>,
}

fn history(ops: &[Op]) -> History {
    let (memory, mut image) = empty(SIZE);
    image.flush_for_test();
    let start = memory.bytes();
    let before = memory.changes().len();
    let mut model = vec![0; SIZE as usize];
    for op in ops {
        perform(&memory, &mut image, &mut model, op);
    }
    perform(&memory, &mut image, &mut model, &Op::Flush);
    History { start, changes: memory.changes().split_off(before) }
}

impl Qcow2 {
    fn flush_for_test(&self) {
        crate::block::Image::flush(self).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn to_be_killed_at_any_write_leaks_at_most(ops in proptest::collection::vec(op(), 1..25)) {
        let History { start, changes } = history(&ops);
        let mut bytes = start;
        for change in changes {
            if let Change::Write(offset, data) = change {
                apply(&mut bytes, offset, &data);
                prop_assert_eq!(checker::errors(&bytes), Vec::<String>::new());
            }
        }
        let image = Qcow2::new(Memory::of(bytes), None, false).unwrap();
        read_at(&image, &mut vec![0; SIZE as usize], 0).unwrap();
    }

    #[test]
    fn a_host_that_loses_power_may_have_written_any_of_what_was_not_synced(
        ops in proptest::collection::vec(op(), 1..25),
        lost in any::<u64>(),
    ) {
        let History { start, changes } = history(&ops);
        let mut stable = start;
        // Each stretch between two syncs: some of its writes are there, others are not.
        for (round, stretch) in changes.split(|change| *change == Change::Sync).enumerate() {
            let mut after = stable.clone();
            for (index, change) in stretch.iter().enumerate() {
                let Change::Write(offset, data) = change else { continue };
                apply(&mut stable, *offset, data);
                if lost.rotate_left((round * 31 + index * 7) as u32) & 1 == 1 {
                    apply(&mut after, *offset, data);
                }
            }
            prop_assert_eq!(checker::errors(&after), Vec::<String>::new(), "round {}", round);
        }
    }

    #[test]
    fn what_was_flushed_survives_a_kill(
        ops in proptest::collection::vec(op(), 1..15),
        more in proptest::collection::vec(op(), 1..10),
        cut in any::<prop::sample::Index>(),
    ) {
        let (memory, mut image) = empty(SIZE);
        let mut model = vec![0; SIZE as usize];
        for op in &ops {
            perform(&memory, &mut image, &mut model, op);
        }
        perform(&memory, &mut image, &mut model, &Op::Flush);
        let mut bytes = memory.bytes();
        let before = memory.changes().len();
        // What is touched later may be anything; all else has to be as it was flushed.
        let mut touched = vec![false; SIZE as usize];
        let mut later = model.clone();
        for op in &more {
            if let Op::Write(at, len, _) = *op {
                touched[at as usize..at as usize + len].fill(true);
            }
            if let Op::Zero(at, len, _) | Op::Discard(at, len) = *op {
                touched[at as usize..(at + len) as usize].fill(true);
            }
            perform(&memory, &mut image, &mut later, op);
        }
        let changes = memory.changes().split_off(before);
        let cut = if changes.is_empty() { 0 } else { cut.index(changes.len()) };
        for change in &changes[..cut] {
            if let Change::Write(offset, data) = change {
                apply(&mut bytes, *offset, data);
            }
        }
        let image = Qcow2::new(Memory::of(bytes), None, false).unwrap();
        let mut found = vec![0xee; SIZE as usize];
        read_at(&image, &mut found, 0).unwrap();
        let wrong = (0..found.len()).find(|&n| !touched[n] && found[n] != model[n]);
        prop_assert_eq!(wrong, None);
    }
}
