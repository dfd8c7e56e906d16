//! Disks that fail: nothing is lost, and it can be seen.

use super::faulty::{Faulty, Wrong};
use super::*;
use crate::block::write_at;
use crate::replication::layers::{Epoch, Primary, Refused};
use rustix::io::Errno;

fn write(primary: &Primary, epoch: u64, at: u64, len: usize, fill: u8) -> Result<(), Refused> {
    primary.write(Epoch::new(epoch).tag(), at, &mut vec![fill; len])
}

fn fails(range: std::ops::Range<u64>, errno: Errno) -> Wrong {
    Wrong { writes: Some((range, errno)), ..Wrong::default() }
}

fn stuck() -> Wrong {
    Wrong { stuck: true, ..Wrong::default() }
}

/// `fill` in a range, zeros elsewhere.
fn expected(size: u64, parts: &[(std::ops::Range<usize>, u8)]) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    parts.iter().for_each(|(range, fill)| bytes[range.clone()].fill(*fill));
    bytes
}

#[test]
fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    let base = Faulty::new(raw(4 * MIB));
    let disk = SecondaryDisk::new(base.clone(), limits(), None).unwrap();
    let primary = disk.primary();
    base.set(fails(0..4 * MIB, Errno::NOSPC));
    disk.checkpoint(1);
    write(&primary, 2, MIB, 1 << 20, 2).unwrap();
    disk.checkpoint(2);
    write(&primary, 3, MIB + 4096, 4096, 3).unwrap();
    disk.checkpoint(3);
    let status = until(&disk, |status| status.base_errors > 1);
    assert!(status.trouble.unwrap().contains("No space"));
    assert_eq!((status.in_base, status.settled_layers), (Some(1), 2));
    let (one, all_of_it) = (1 << 20, 2 << 20);
    let seen = expected(4 * MIB, &[(one..all_of_it, 2), (one + 4096..one + 8192, 3)]);
    assert!(all(&disk) == seen);
    base.set(Wrong::default());
    let status = until(&disk, |status| status.stable == Some(3));
    assert_eq!((status.trouble, status.left, status.memory), (None, 0, 0));
    assert!(all(&disk) == seen && all(&*base) == seen);
}

#[test]
fn one_bad_block_holds_up_nothing_but_itself() {
    let base = Faulty::new(raw(4 * MIB));
    let disk = SecondaryDisk::new(base.clone(), limits(), None).unwrap();
    let bad = 244 * 4096;
    base.set(fails(bad..bad + 1, Errno::IO));
    disk.checkpoint(1);
    write(&disk.primary(), 2, 0, 2 << 20, 2).unwrap();
    disk.checkpoint(2);
    let seen = expected(4 * MIB, &[(0..2 << 20, 2)]);
    until(&disk, |status| status.left == 4096);
    disk.promote();
    // The block that the disk does not take stays in memory, and so does what the guest writes to it.
    write_at(&disk, &mut vec![5; 8192], bad - 4096).unwrap();
    let seen = {
        let mut seen = seen;
        seen[bad as usize - 4096..bad as usize + 4096].fill(5);
        seen
    };
    assert!(all(&disk) == seen);
    let (found, block) = (all(&*base), bad as usize);
    assert!(found[..block] == seen[..block] && found[block + 4096..] == seen[block + 4096..]);
    let status = disk.status();
    assert!(status.phase == Phase::Promoted && status.trouble.is_some() && status.left <= 8192, "{status:?}");
    base.set(Wrong::default());
    until(&disk, |status| status.phase == Phase::Plain);
    assert!(all(&*base) == seen);
}

#[test]
fn what_failed_is_tried_once_more_before_the_end() {
    for healed in [false, true] {
        let base = Faulty::new(raw(4 * MIB));
        let disk = SecondaryDisk::new(base.clone(), limits(), None).unwrap();
        base.set(fails(0..4 * MIB, Errno::NOSPC));
        disk.checkpoint(1);
        write_at(&disk, &mut vec![3; 1 << 20], MIB).unwrap();
        disk.promote();
        until(&disk, |status| status.base_errors > 2);
        // Without room for all of it, there may be some for some of it.
        base.set(if healed { Wrong::default() } else { fails(MIB + 8192..MIB + 8193, Errno::IO) });
        drop(disk);
        let mut seen = expected(4 * MIB, &[(1 << 20..2 << 20, 3)]);
        let mut found = all(&*base);
        if !healed {
            let lost = (1 << 20) + 8192..(1 << 20) + 12288;
            seen[lost.clone()].fill(0);
            found[lost].fill(0);
        }
        assert!(found == seen);
    }
}

#[test]
fn a_sync_that_failed_is_never_taken_back() {
    let base = Faulty::new(raw(MIB));
    let disk = SecondaryDisk::new(base.clone(), limits(), None).unwrap();
    let primary = disk.primary();
    base.set(Wrong { syncs: true, ..Wrong::default() });
    disk.checkpoint(1);
    write(&primary, 2, 0, 4096, 2).unwrap();
    disk.checkpoint(2);
    until(&disk, |status| status.base_errors == 1);
    base.set(Wrong::default());
    write(&primary, 3, 0, 4096, 3).unwrap();
    disk.checkpoint(3);
    let status = until(&disk, |status| status.in_base == Some(3));
    assert!(status.stable != Some(3) && status.trouble.unwrap().contains("sync"));
    // Another first sync begins anew.
    disk.release();
    disk.checkpoint(7);
    until(&disk, |status| status.stable == Some(7) && status.trouble.is_none());
}

#[test]
fn a_primary_that_writes_too_much_is_refused_and_the_guest_is_not() {
    let limits = Limits { memory: MIB as usize, spill: MIB, ..limits() };
    let disk = SecondaryDisk::new(raw(16 * MIB), limits, Some(file(0))).unwrap();
    let primary = disk.primary();
    disk.checkpoint(1);
    let refused = (0..16).find_map(|n| write(&primary, 2, n * MIB, 1 << 20, 2).err()).unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull, "{refused}");
    let status = disk.status();
    assert!(status.full > 0 && status.spilled > 0 && status.refused == 1, "{status:?}");
    assert!(status.memory + status.spilled <= 2 * MIB);
    write_at(&disk, &mut vec![7; 65536], 12 * MIB).unwrap();
    disk.fail();
    until(&disk, |status| {
        (status.memory, status.spilled) == (65536, 0) || status.memory + status.spilled == 65536
    });
    assert!(all(&disk) == expected(16 * MIB, &[(12 << 20..(12 << 20) + 65536, 7)]));
    write(&disk.primary(), 2, 0, 1 << 20, 2).unwrap();
}

#[test]
fn more_than_memory_is_in_the_file_and_goes_into_the_base_from_there() {
    let base = raw(16 * MIB);
    let limits = Limits { memory: MIB as usize, ..limits() };
    let disk = SecondaryDisk::new(base.clone(), limits, Some(file(0))).unwrap();
    let primary = disk.primary();
    disk.checkpoint(1);
    for n in 0..12 {
        write(&primary, 2, n * MIB + 512, 1 << 20, n as u8 + 1).unwrap();
    }
    assert!(disk.status().spilled >= 11 * MIB);
    let mut seen = vec![0; 16 << 20];
    primary.read(&mut seen, 0).unwrap();
    assert!(seen[512..12 << 20].iter().enumerate().all(|(n, byte)| usize::from(*byte) == (n >> 20) + 1));
    disk.checkpoint(2);
    assert!(all(&disk) == seen);
    let status = until(&disk, |status| status.in_base == Some(2));
    assert_eq!((status.memory, status.spilled), (0, 0));
    assert!(all(&*base) == seen);
}

#[test]
fn a_spill_file_that_fails_refuses_the_write() {
    let limits = Limits { memory: 0, ..limits() };
    let broken = File::open("/proc/self/exe").unwrap();
    let disk = SecondaryDisk::new(raw(MIB), limits, Some(broken)).unwrap();
    disk.checkpoint(1);
    assert!(matches!(write(&disk.primary(), 2, 0, 4096, 1), Err(Refused::Spill(_))));
    assert!(write_at(&disk, &mut [1; 512], 0).is_err());
    let status = disk.status();
    assert_eq!((status.spill_errors, status.spilled), (2, 0));
    assert!(all(&disk).iter().all(|byte| *byte == 0));
}

#[test]
fn what_cannot_be_read_back_stays_an_error_of_its_own() {
    let spill = file(0);
    let limits = Limits { memory: 0, ..limits() };
    let base = raw(MIB);
    let disk = SecondaryDisk::new(base.clone(), limits, Some(spill.try_clone().unwrap())).unwrap();
    disk.checkpoint(1);
    write(&disk.primary(), 2, 0, 8192, 1).unwrap();
    // The second slot is lost.
    spill.set_len(4096).unwrap();
    disk.checkpoint(2);
    let status = until(&disk, |status| status.trouble.is_some() && status.left == 4096);
    assert!(status.trouble.unwrap().contains("spill"));
    let mut found = [0; 4096];
    read_at(&disk, &mut found, 0).unwrap();
    assert_eq!(found, [1; 4096]);
    assert!(read_at(&disk, &mut found, 4096).is_err(), "better no bytes than other bytes");
    assert_ne!(disk.status().in_base, Some(2));
}

#[test]
fn a_primary_that_is_faster_than_the_disk_waits() {
    let base = Faulty::new(raw(16 * MIB));
    let limits = Limits { backlog: MIB, ..limits() };
    let disk = SecondaryDisk::new(base.clone(), limits, None).unwrap();
    let primary = disk.primary();
    base.set(stuck());
    disk.checkpoint(1);
    write(&primary, 2, 0, 1 << 20, 2).unwrap();
    disk.checkpoint(2);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| write(&primary, 3, 0, 4096, 3));
        until(&disk, |status| status.waits == 1);
        assert_eq!(disk.status().pending, 0);
        base.set(Wrong::default());
        waiting.join().unwrap().unwrap();
    });
    disk.checkpoint(3);
    until(&disk, |status| status.in_base == Some(3));
    assert!(all(&*base) == expected(16 * MIB, &[(0..1 << 20, 2), (0..4096, 3)]));
}

#[test]
fn a_primary_does_not_wait_for_ever() {
    let base = Faulty::new(raw(16 * MIB));
    let limits = Limits { layers: 1, patience: Duration::from_millis(20), ..limits() };
    let disk = SecondaryDisk::new(base.clone(), limits, None).unwrap();
    let primary = disk.primary();
    base.set(stuck());
    disk.checkpoint(1);
    write(&primary, 2, 0, 4096, 2).unwrap();
    disk.checkpoint(2);
    let refused = write(&primary, 3, 0, 4096, 3).unwrap_err();
    assert!(matches!(refused, Refused::Backlog { bytes: 4096, layers: 1, .. }), "{refused}");
    // The guest is not the one who has to wait.
    write_at(&disk, &mut [7; 4096], 0).unwrap();
    base.set(Wrong::default());
    until(&disk, |status| status.in_base == Some(2));
}

#[test]
fn a_session_that_fails_ends_writes_that_wait() {
    let base = Faulty::new(raw(MIB));
    let disk = SecondaryDisk::new(base.clone(), Limits { layers: 1, ..limits() }, None).unwrap();
    let primary = disk.primary();
    base.set(stuck());
    disk.checkpoint(1);
    write(&primary, 2, 0, 4096, 2).unwrap();
    disk.checkpoint(2);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| write(&primary, 3, 0, 4096, 3));
        until(&disk, |status| status.waits == 1);
        disk.fail();
        assert!(matches!(waiting.join().unwrap(), Err(Refused::Ended(_))));
    });
    base.set(Wrong::default());
    commit(&disk);
    assert!(all(&*base) == expected(MIB, &[(0..4096, 2)]));
}
