//! An image whose tables are damaged gives errors, and nothing worse.

use super::model::{Op, SIZE, op, perform};
use super::{Memory, Qcow2, empty, read_at, write_at};
use crate::block::Image;
use proptest::prelude::*;
use std::sync::atomic::Ordering;

/// Does an operation whatever comes of it.
fn attempt(image: &Qcow2, op: &Op) {
    let _ = match *op {
        Op::Write(at, len, byte) => write_at(image, &mut vec![byte; len], at),
        Op::Read(at, len) => read_at(image, &mut vec![0; len], at),
        Op::Zero(at, len, unmap) => image.write_zeroes(at, len, unmap),
        Op::Discard(at, len) => image.discard(at, len),
        Op::Find(at, len) => image.find(at, len, crate::block::Access::Write).map(drop),
        Op::Flush | Op::Reopen => image.flush(),
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_its_tables_say(
        before in proptest::collection::vec(op(), 1..12),
        damage in proptest::collection::vec((0..8_u64, 0..1024_u64, 0..8_u64, any::<u8>()), 1..20),
        after in proptest::collection::vec(op(), 1..20),
        read_only in any::<bool>(),
    ) {
        let (memory, mut image) = empty(SIZE);
        let mut model = vec![0; SIZE as usize];
        for op in &before {
            perform(&memory, &mut image, &mut model, op);
        }
        image.flush().unwrap();
        let mut bytes = memory.bytes();
        // The first clusters are the header and the tables; entries are 8 bytes, the first ones in use.
        for (cluster, entry, byte, value) in damage {
            let entry = if cluster == 0 { entry % 14 } else { entry % 128 };
            if let Some(place) = bytes.get_mut((cluster * 65536 + entry * 8 + byte) as usize) {
                *place = value;
            }
        }
        let Ok(image) = Qcow2::new(Memory::of(bytes), None, read_only) else { return Ok(()) };
        for op in &after {
            attempt(&image, op);
        }
        prop_assert!(!image.broken.load(Ordering::Relaxed), "the library has panicked");
    }
}

#[test]
fn a_library_in_circles_is_stopped_and_one_at_work_is_not() {
    use super::super::storage::Under;
    use super::super::{circles, contained};
    use imago::storage::Storage as _;
    let under = Under::read(Memory::of(vec![0; 4096]));
    let circles = || loop {
        under.mem_align();
    };
    let error = contained::<()>(circles).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    let works = || {
        for _ in 0..1000 {
            under.mem_align();
            circles::begin();
        }
        Ok(())
    };
    contained(works).unwrap();
}

#[test]
fn an_image_whose_header_counts_as_free_is_not_written() {
    let (memory, image) = empty(SIZE);
    drop(image);
    let mut bytes = memory.bytes();
    let table = u64::from_be_bytes(bytes[48..56].try_into().unwrap()) as usize;
    bytes[table..table + 8].fill(0);
    let text = Qcow2::new(Memory::of(bytes.clone()), None, false).unwrap_err().to_string();
    assert!(text.contains("count as free") && text.contains("qemu-img check"), "{text}");
    Qcow2::new(Memory::of(bytes), None, true).unwrap();
}
