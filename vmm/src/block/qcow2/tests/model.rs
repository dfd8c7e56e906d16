//! Any sequence of operations does to an image what it does to a flat array.

use super::{Memory, Qcow2, checker, empty, read_at, write_at};
use crate::block::{Access, Image};
use proptest::prelude::*;
use std::sync::Arc;

pub(super) const SIZE: u64 = 6 << 20;

#[derive(Clone, Debug)]
pub(super) enum Op {
    Write(u64, usize, u8),
    Read(u64, usize),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Find(u64, u64),
    Flush,
    Reopen,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let at = (0..SIZE / 512).prop_map(|sector| sector * 512);
    // Mostly small, at times over several clusters.
    let len = prop_oneof![3 => 1..16_u64, 1 => 1..600_u64].prop_map(|sectors| sectors * 512);
    let range = (at, len).prop_map(|(at, len)| (at, len.min(SIZE - at)));
    prop_oneof![
        5 => (range.clone(), 1..=255_u8).prop_map(|((at, len), byte)| Op::Write(at, len as usize, byte)),
        3 => range.clone().prop_map(|(at, len)| Op::Read(at, len as usize)),
        2 => (range.clone(), any::<bool>()).prop_map(|((at, len), unmap)| Op::Zero(at, len, unmap)),
        2 => range.clone().prop_map(|(at, len)| Op::Discard(at, len)),
        1 => range.prop_map(|(at, len)| Op::Find(at, len)),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

/// Bytes that tell where they were meant to be.
pub(super) fn pattern(at: u64, len: usize, byte: u8) -> Vec<u8> {
    (0..len as u64).map(|n| byte ^ ((at + n) / 512 % 251) as u8).collect()
}

/// Does one operation to both.
pub(super) fn perform(memory: &Arc<Memory>, image: &mut Qcow2, model: &mut [u8], op: &Op) {
    match *op {
        Op::Write(at, len, byte) => {
            let mut data = pattern(at, len, byte);
            write_at(image, &mut data, at).unwrap();
            model[at as usize..at as usize + len].copy_from_slice(&data);
        }
        Op::Read(at, len) => {
            let mut found = vec![0xee; len];
            read_at(image, &mut found, at).unwrap();
            assert!(found == model[at as usize..at as usize + len], "{len} bytes at {at:#x}");
        }
        Op::Zero(at, len, unmap) => {
            image.write_zeroes(at, len, unmap).unwrap();
            model[at as usize..(at + len) as usize].fill(0);
        }
        Op::Discard(at, len) => {
            image.discard(at, len).unwrap();
            // What it means is the image's choice, byte by byte: it stays, or is zero.
            let range = at as usize..(at + len) as usize;
            let mut found = vec![0xee; len as usize];
            read_at(image, &mut found, at).unwrap();
            let fine =
                found.iter().zip(&model[range.clone()]).all(|(found, was)| found == was || *found == 0);
            assert!(fine, "discarded bytes have become something else");
            model[range].copy_from_slice(&found);
        }
        Op::Find(at, len) => {
            for access in [Access::Read, Access::Write] {
                let (_, found) = image.find(at, len, access).unwrap();
                assert!((1..=len).contains(&found));
            }
        }
        Op::Flush => image.flush().unwrap(),
        Op::Reopen => {
            image.flush().unwrap();
            *image = Qcow2::new(memory.clone(), None, false).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn an_image_is_what_was_written_to_it(ops in proptest::collection::vec(op(), 1..60)) {
        let (memory, mut image) = empty(SIZE);
        let mut model = vec![0; SIZE as usize];
        for op in &ops {
            perform(&memory, &mut image, &mut model, op);
        }
        perform(&memory, &mut image, &mut model, &Op::Reopen);
        let mut found = vec![0xee; SIZE as usize];
        read_at(&image, &mut found, 0).unwrap();
        prop_assert!(found == model);
        prop_assert_eq!(checker::errors(&memory.bytes()), Vec::<String>::new());
    }
}
