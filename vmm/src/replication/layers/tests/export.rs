//! What the primary is allowed, and what a whole epoch is.

use super::*;
use crate::block::write_at;
use crate::replication::layers::{Epoch, Primary, Refused, SecondaryError};

fn write(primary: &Primary, epoch: u64, at: u64, fill: u8) -> Result<(), Refused> {
    primary.write(Epoch::new(epoch).tag(), at, &mut [fill; 4096])
}

fn byte(image: &dyn Image, at: u64) -> u8 {
    let mut byte = [0xee];
    read_at(image, &mut byte, at).unwrap();
    byte[0]
}

#[test]
fn an_epoch_is_seen_at_its_checkpoint_and_not_before() {
    let base = raw(MIB);
    let disk = disk(&base);
    let primary = disk.primary();
    disk.checkpoint(1);
    write(&primary, 2, 0, 2).unwrap();
    write(&primary, 3, 0, 3).unwrap();
    write(&primary, 3, 8192, 3).unwrap();
    write_at(&disk, &mut [9; 512], 512).unwrap();
    assert_eq!([0, 512, 8192].map(|at| byte(&disk, at)), [0, 9, 0]);
    disk.checkpoint(2);
    assert_eq!([0, 512, 8192].map(|at| byte(&disk, at)), [2, 2, 0], "its own write is forgotten");
    disk.checkpoint(3);
    assert_eq!([0, 512, 8192].map(|at| byte(&disk, at)), [3, 3, 3]);
    let status = until(&disk, |status| status.stable == Some(3));
    assert_eq!((status.in_base, status.settled, status.pending, status.active), (Some(3), 0, 0, 0));
    assert_eq!([0, 512, 8192].map(|at| byte(&*base, at)), [3, 3, 3]);
}

#[test]
fn one_checkpoint_may_end_several_epochs() {
    let base = raw(MIB);
    let disk = disk(&base);
    let primary = disk.primary();
    disk.checkpoint(10);
    write(&primary, 11, 0, 11).unwrap();
    write(&primary, 12, 0, 12).unwrap();
    write(&primary, 13, 4096, 13).unwrap();
    disk.checkpoint(12);
    assert_eq!([0, 4096].map(|at| byte(&disk, at)), [12, 0]);
    disk.fail();
    assert_eq!([0, 4096].map(|at| byte(&disk, at)), [12, 0]);
    assert_eq!(disk.status().pending_epochs, 0);
}

#[test]
fn without_an_epoch_it_goes_into_the_base_as_long_as_nobody_is_there() {
    let base = raw(MIB);
    let disk = disk(&base);
    let primary = disk.primary();
    primary.write(0, 100, &mut [1; 1000]).unwrap();
    primary.zero(0, 200, 100, true).unwrap();
    primary.flush().unwrap();
    assert_eq!([100, 200, 300].map(|at| byte(&*base, at)), [1, 0, 1]);
    write(&primary, 1, 0, 5).unwrap();
    assert!(matches!(primary.write(0, 0, &mut [1; 512]), Err(Refused::Begun)));
    disk.checkpoint(1);
    let refused = primary.write(0, 0, &mut [1; 512]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(matches!(primary.zero(0, 0, 512, true), Err(Refused::Held)));
    assert!(matches!(primary.trim(0, 0, 512), Err(Refused::Held)));
    assert_eq!((byte(&disk, 0), disk.status().refused), (5, 4));
    // A guest that is gone leaves whole epochs, and room for another first sync after them.
    write(&primary, 2, 0, 6).unwrap();
    disk.release();
    assert_eq!((disk.status().phase, disk.status().checkpoint), (Phase::Open, None));
    disk.primary().write(0, 512, &mut [7; 512]).unwrap();
    assert_eq!([0, 512, 1024].map(|at| byte(&*base, at)), [5, 7, 5]);
}

#[test]
fn epochs_do_not_go_back_nor_far_ahead() {
    let base = raw(MIB);
    let disk = SecondaryDisk::new(base, Limits { epochs: 2, ..limits() }, None).unwrap();
    let primary = disk.primary();
    disk.checkpoint((1 << 32) - 1);
    let zero = 1_u64 << 32;
    assert!(matches!(write(&primary, zero - 1, 0, 1), Err(Refused::Back { .. })));
    write(&primary, zero, 0, 1).unwrap();
    write(&primary, zero + 1, 0, 2).unwrap();
    assert!(matches!(write(&primary, zero, 0, 1), Err(Refused::Back { .. })));
    assert!(matches!(write(&primary, zero + 2, 0, 1), Err(Refused::Ahead { open: 2, .. })));
    disk.checkpoint(zero);
    write(&primary, zero + 2, 0, 3).unwrap();
    assert_eq!(byte(&disk, 0), 1);
}

#[test]
fn who_belongs_to_a_failed_session_changes_nothing_any_more() {
    let disk = disk(&raw(MIB));
    let old = disk.primary();
    disk.checkpoint(1);
    write(&old, 2, 0, 1).unwrap();
    disk.fail();
    assert!(matches!(write(&old, 2, 0, 1), Err(Refused::Ended(_))));
    let new = disk.primary();
    write(&new, 2, 4096, 2).unwrap();
    disk.checkpoint(2);
    assert_eq!([0, 4096].map(|at| byte(&disk, at)), [0, 2]);
    disk.promote();
    assert!(matches!(write(&new, 3, 0, 1), Err(Refused::Ended(_))));
    drop(disk);
    assert!(new.read(&mut [0; 512], 0).is_err());
}

#[test]
fn what_is_beyond_the_end_is_refused_by_both_faces() {
    let disk = disk(&raw(MIB));
    let primary = disk.primary();
    for (offset, len) in [(MIB - 512, 1024), (u64::MAX - 100, 512), (MIB, 1)] {
        let mut bytes = vec![1; len as usize];
        assert!(matches!(primary.write(1, offset, &mut bytes), Err(Refused::Range { .. })));
        assert!(matches!(primary.zero(1, offset, len, true), Err(Refused::Range { .. })));
        assert!(matches!(primary.trim(1, offset, len), Err(Refused::Range { .. })));
        assert!(primary.read(&mut bytes, offset).is_err());
        assert!(write_at(&disk, &mut bytes, offset).is_err());
        assert!(disk.discard(offset, len).is_err() && disk.write_zeroes(offset, len, true).is_err());
    }
    assert!(primary.trim(1, 0, u64::MAX).is_err());
    let mut bytes = [7; 1024];
    write_at(&disk, &mut [1; 512], MIB - 512).unwrap();
    read_at(&disk, &mut bytes, MIB - 512).unwrap();
    assert_eq!(bytes, *[[1; 512], [0; 512]].concat(), "zeros, as of any image");
}

#[test]
fn a_disk_that_cannot_be_written_is_refused() {
    let read_only: Arc<dyn Image> = Arc::new(Raw::new(file(MIB), true, false).unwrap());
    assert!(matches!(SecondaryDisk::new(read_only, limits(), None), Err(SecondaryError::ReadOnly)));
    assert!(matches!(SecondaryDisk::new(raw(1000), limits(), None), Err(SecondaryError::Size(1000))));
}

#[test]
fn a_trim_of_a_huge_disk_costs_nothing() {
    let base = raw(256 << 30);
    let disk = disk(&base);
    let primary = disk.primary();
    disk.checkpoint(1);
    write(&primary, 2, 100 << 30, 1).unwrap();
    primary.trim(Epoch::new(2).tag(), 512, (256 << 30) - 512).unwrap();
    write(&primary, 2, 200 << 30, 2).unwrap();
    let status = disk.status();
    assert!(status.pending == 4096 && status.index < 4096, "{status:?}");
    disk.checkpoint(2);
    assert_eq!([100 << 30, 200 << 30].map(|at| byte(&disk, at)), [0, 2]);
    settled(&disk);
    assert_eq!(byte(&*base, 200 << 30), 2);
}

#[test]
fn tables_are_bounded_too() {
    let disk = SecondaryDisk::new(raw(1 << 40), Limits { index: 1 << 20, ..limits() }, None).unwrap();
    let primary = disk.primary();
    disk.checkpoint(1);
    let refused = (0..).find_map(|n| primary.trim(Epoch::new(2).tag(), n << 20, 512).err()).unwrap();
    assert!(matches!(refused, Refused::Full(what) if what.contains("tables")), "{refused}");
    let status = disk.status();
    assert!(status.index < (1 << 20) + 4096 && status.memory == 0 && status.full > 0, "{status:?}");
    disk.fail();
    until(&disk, |status| status.index == 0);
}
