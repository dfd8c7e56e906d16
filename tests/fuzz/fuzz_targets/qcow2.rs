//! Any bytes as a qcow2 image, with a guest that reads, writes and discards: errors at most, and
//! nothing that takes time or memory beyond what was asked for.
#![no_main]

use arbitrary::Arbitrary;
use colo_vmm::block::qcow2::Qcow2;
use colo_vmm::block::raw::Raw;
use colo_vmm::block::{Access, Image, Place, read_at, write_at};
use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

#[derive(Arbitrary, Debug)]
struct Case {
    /// Bytes of the file that are not zero: where (in eighths of a cluster), and what.
    patches: Vec<(u16, Vec<u8>)>,
    /// Header fields that a fuzzer would take long to find.
    cluster_bits: u8,
    size: u32,
    l1: (u8, u8),
    refcounts: (u8, u8),
    version: bool,
    read_only: bool,
    ops: Vec<Op>,
}

#[derive(Arbitrary, Debug)]
enum Op {
    Read(u32, u16),
    Write(u32, u16),
    Zero(u32, u16, bool),
    Discard(u32, u16),
    Find(u32, u16),
    Flush,
}

/// The largest image: what a disk of this size may take is bounded by it.
const MAX: u64 = 1 << 22;

impl Case {
    fn file(&self) -> std::io::Result<File> {
        let bits = 9 + u32::from(self.cluster_bits % 8);
        let cluster = 1_u64 << bits;
        let mut head = vec![0; 112];
        let mut put = |at: usize, value: &[u8]| head[at..at + value.len()].copy_from_slice(value);
        put(0, b"QFI\xfb");
        put(4, &if self.version { 3_u32 } else { 2 }.to_be_bytes());
        put(20, &bits.to_be_bytes());
        let size = u64::from(self.size) % MAX & !511;
        put(24, &size.to_be_bytes());
        put(36, &u32::from(self.l1.1).to_be_bytes());
        put(40, &(u64::from(self.l1.0) * cluster).to_be_bytes());
        put(48, &(u64::from(self.refcounts.0) * cluster).to_be_bytes());
        put(56, &u32::from(self.refcounts.1 % 4).to_be_bytes());
        if self.version {
            put(96, &4_u32.to_be_bytes());
            put(100, &104_u32.to_be_bytes());
        }
        let mut bytes = head;
        for (at, patch) in &self.patches {
            let at = (u64::from(*at) * cluster / 8 % MAX) as usize;
            bytes.resize(bytes.len().max(at + patch.len()), 0);
            bytes[at..at + patch.len()].copy_from_slice(patch);
        }
        let fd = rustix::fs::memfd_create("qcow2", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = File::from(fd);
        file.write_all(&bytes)?;
        Ok(file)
    }
}

fuzz_target!(|case: Case| {
    let file = case.file().expect("a file in memory");
    let below: Arc<dyn Image> = Arc::new(Raw::new(file, case.read_only, false).expect("a raw image"));
    let Ok(image) = Qcow2::new(below, None, case.read_only) else { return };
    let range = |at: &u32, sectors: &u16| (u64::from(*at) % (2 * MAX), u64::from(*sectors % 600) * 512);
    for op in case.ops.iter().take(64) {
        match op {
            Op::Read(at, len) => {
                let (at, len) = range(at, len);
                let _ = read_at(&image, &mut vec![0; len as usize], at);
            }
            Op::Write(at, len) => {
                let (at, len) = range(at, len);
                let _ = write_at(&image, &mut vec![1; len as usize], at);
            }
            Op::Zero(at, len, unmap) => {
                let (at, len) = range(at, len);
                let _ = image.write_zeroes(at, len, *unmap);
            }
            Op::Discard(at, len) => {
                let (at, len) = range(at, len);
                let _ = image.discard(at, len);
            }
            Op::Find(at, len) => {
                let (at, len) = range(at, len);
                for access in [Access::Read, Access::Write] {
                    if let Ok((place, found)) = image.find(at, len, access) {
                        assert!(found <= len.max(1));
                        assert!(access == Access::Read || !matches!(place, Place::Zeroes));
                    }
                }
            }
            Op::Flush => drop(image.flush()),
        }
    }
});
