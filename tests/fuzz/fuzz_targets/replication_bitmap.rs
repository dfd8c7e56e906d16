//! Any bytes as the record of a replicated disk, with whatever checksum they have and with a right one: an error,
//! or something that is written again as it was read.
#![no_main]

use colo_vmm::replication::bitmap::{Dirty, Record, regions};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest as _, Sha256};

fn judge(bytes: &[u8]) -> bool {
    let Ok(record) = Record::parse(bytes) else { return false };
    assert_eq!(record.to_bytes().expect("what was read is written"), bytes);
    // Memory grows with the bytes that come.
    assert!(regions(record.disk) / 8 <= bytes.len() as u64);
    let dirty = Dirty::new(record.disk);
    dirty.restore(&record.missing);
    assert_eq!(dirty.unsent(), record.missing.count());
    let (mut at, mut runs) = (0, 0);
    while let Some(run) = dirty.take(at, 1 << 20, 1) {
        assert!(at <= run.start && run.start < run.end && run.end <= regions(record.disk));
        (at, runs) = (run.end, runs + run.end - run.start);
    }
    assert_eq!((runs, dirty.unsent()), (record.missing.count(), 0));
    true
}

fuzz_target!(|input: &[u8]| {
    judge(input);
    let sealed = [input, &Sha256::digest(input)].concat();
    judge(&sealed);
});
