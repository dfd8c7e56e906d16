//! What is kept is what was there, or an error; never something else.

use crate::replication::bitmap::generation::Generation;
use crate::replication::bitmap::record::{MOST, length};
use crate::replication::bitmap::{Bits, FileError, REGION, Record, RecordError, RecordFile, regions};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use std::os::unix::fs::FileExt as _;

fn record(disk: u64, set: &[u64]) -> Record {
    let missing = Bits::new(regions(disk));
    set.iter().for_each(|region| missing.set(*region..region + 1));
    let own = Generation::new(0x1234_5678_9abc_def0_1122_3344_5566_7788);
    let (open, alone, partial) = (false, false, false);
    Record { disk, own, peer: Generation::new(5), epoch: 77, sequence: 3, open, alone, partial, missing }
}

fn is_set(record: &Record) -> Vec<u64> {
    (0..regions(record.disk)).filter(|region| record.missing.is_set(*region)).collect()
}

/// With a checksum that is right.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - 32);
    let sum = Sha256::digest(&bytes);
    bytes.extend(sum);
    bytes
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        disk in 0u64..200 * REGION, set in prop::collection::btree_set(0u64..200, 0..40),
        own: u128, peer: u128, epoch: u64, sequence: u64, flags: [bool; 3],
        at: prop::sample::Index, flip in 1u8..,
    ) {
        let set: Vec<_> = set.into_iter().filter(|region| *region < regions(disk)).collect();
        let (own, peer) = (Generation::new(own), Generation::new(peer));
        let [open, alone, partial] = flags;
        let kept = Record { own, peer, epoch, sequence, open, alone, partial, ..record(disk, &set) };
        let bytes = kept.to_bytes().unwrap();
        let read = Record::parse(&bytes).unwrap();
        prop_assert_eq!((read.disk, read.own, read.peer, read.epoch), (disk, own, peer, epoch));
        prop_assert_eq!((read.sequence, is_set(&read)), (sequence, set));
        prop_assert_eq!([read.open, read.alone, read.partial], flags);
        prop_assert_eq!(read.to_bytes().unwrap(), &bytes[..]);
        // Any byte that is another is found.
        let mut wrong = bytes.clone();
        let at = at.index(wrong.len());
        wrong[at] ^= flip;
        prop_assert!(Record::parse(&wrong).is_err());
        // With a right checksum it may be another record, which is then written as it was read.
        if let Ok(read) = Record::parse(&sealed(wrong.clone())) {
            prop_assert_eq!(read.to_bytes().unwrap(), sealed(wrong));
        }
    }
}

#[test]
fn every_mistake_has_its_name() {
    let good = record(100 * REGION, &[0, 99]).to_bytes().unwrap();
    for short in 0..good.len() {
        let error = Record::parse(&good[..short]).unwrap_err();
        let expected = if short < 8 {
            matches!(error, RecordError::Magic)
        } else {
            matches!(error, RecordError::Length { .. })
        };
        assert!(expected, "{short}: {error}");
    }
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Record::parse(&sealed(bytes)).unwrap_err()
    };
    assert!(matches!(with(0, b'X'), RecordError::Magic));
    assert!(matches!(with(8, 2), RecordError::Version(2)));
    assert!(matches!(with(26, 2), RecordError::Region(0x2_0000)));
    assert!(matches!(with(23, 1), RecordError::Disk(_)));
    assert!(matches!(with(19, 1), RecordError::Length { .. }));
    for (at, byte) in [(12, 8), (48, 3), (56, 1)] {
        assert!(matches!(with(at, byte), RecordError::Damaged(_)), "{at}");
    }
    // Region 100 is behind the end.
    let text = with(96 + 12, 0x10).to_string();
    assert!(text.contains("behind the end") && text.contains("--sync verify"), "{text}");
    assert_eq!(length(MOST + 1), Err(RecordError::Disk(MOST + 1)));
    assert!(length(MOST).unwrap() > 1 << 30);
}

#[test]
fn a_record_that_is_torn_is_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.record");
    let disk = 3000 * REGION;
    let mut first = record(disk, &[1, 2999]);
    let mut file = RecordFile::create(&path, &mut first).unwrap();
    let names: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names, ["disk.record"]);
    assert!(matches!(RecordFile::open(&path, disk), Err(FileError::Taken(_))));
    let before = file_bytes(&path);
    // The disk is opened: that is on record before anything is written to it.
    let mut open = Record { open: true, ..record(disk, &[1, 2999]) };
    file.write(&mut open).unwrap();
    drop(file);
    let after = file_bytes(&path);
    assert_eq!(before.len(), after.len());
    let changed: Vec<_> = (0..after.len()).filter(|at| before[*at] != after[*at]).collect();
    let (start, end) = (changed[0], changed[changed.len() - 1] + 1);
    // A power failure in the middle of it, at any byte.
    for torn in (start..=end).step_by(7).chain([end]) {
        let bytes = [&after[..torn], &before[torn..]].concat();
        std::fs::write(&path, bytes).unwrap();
        let (_, read) = RecordFile::open(&path, disk).unwrap();
        assert_eq!(read.open, torn > start, "{torn}");
        // What the damaged half would have said is not known: somebody may have written alone.
        assert_eq!(read.alone, torn > start && torn < end, "{torn}");
        assert_eq!((is_set(&read), read.own), (vec![1, 2999], first.own));
    }
    // It goes on from there, in turns.
    let (mut file, read) = RecordFile::open(&path, disk).unwrap();
    let mut sequence = read.sequence;
    for region in 0..5 {
        let mut next = record(disk, &[region]);
        file.write(&mut next).unwrap();
        drop(file);
        let (again, read) = RecordFile::open(&path, disk).unwrap();
        assert_eq!((is_set(&read), read.sequence), (vec![region], sequence + 1));
        (file, sequence) = (again, read.sequence);
    }
}

fn file_bytes(path: &std::path::Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_record_of_another_disk_is_not_taken_for_ours() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let disk = 1000 * REGION;
    drop(RecordFile::create(&path, &mut record(disk, &[])).unwrap());
    for other in [disk + 512, disk - 512, disk * 2, disk / 2, 0] {
        let error = RecordFile::open(&path, other).unwrap_err();
        assert!(matches!(error, FileError::Size { found, .. } if found == disk), "{other}: {error}");
    }
    // One of another size replaces it.
    drop(RecordFile::create(&path, &mut record(7, &[0])).unwrap());
    let (mut file, read) = RecordFile::open(&path, 7).unwrap();
    assert_eq!(is_set(&read), [0]);
    assert!(matches!(file.write(&mut record(8, &[])), Err(FileError::Size { .. })));
    drop(file);
    // Both places damaged: it says so, and what to do.
    let damaged = std::fs::File::options().write(true).open(&path).unwrap();
    for at in [64, 4096 + 64] {
        damaged.write_all_at(b"damage", at).unwrap();
    }
    let error = RecordFile::open(&path, 7).unwrap_err().to_string();
    assert!(error.contains("checksum") && error.contains("--sync verify"), "{error}");
    let error = RecordFile::open(&directory.path().join("none"), 7).unwrap_err().to_string();
    assert!(error.contains("cannot open the record") && error.contains("none"), "{error}");
    // A file that is none is not read any further than a record is long.
    std::fs::write(&path, vec![b'x'; 100_000]).unwrap();
    assert!(matches!(RecordFile::open(&path, 7), Err(FileError::Record { source: RecordError::Magic, .. })));
}
