//! What the guest's worker relies on.

use super::faulty::{Faulty, Wrong};
use super::*;
use crate::block::{Access, Place, write_at};
use crate::replication::layers::Epoch;

fn place(disk: &SecondaryDisk, at: u64, len: u64, access: Access) -> Place {
    disk.find(at, len, access).unwrap().0
}

#[test]
fn what_nobody_has_written_is_found_in_the_base() {
    let disk = disk(&raw(MIB));
    disk.checkpoint(1);
    write_at(&disk, &mut [1; 512], 8192).unwrap();
    let found = disk.find(0, 8192, Access::Read).unwrap();
    assert!(matches!(found, (Place::File { offset: 0, .. }, 8192)));
    assert!(matches!(place(&disk, 12288, 4096, Access::Read), Place::File { offset: 12288, .. }));
    assert!(matches!(place(&disk, 4096, 8192, Access::Read), Place::Elsewhere));
    assert!(matches!(place(&disk, 0, 4096, Access::Write), Place::Elsewhere), "a write is always its own");
    assert!(disk.find(MIB, 512, Access::Read).is_err());
    disk.primary().write(Epoch::new(2).tag(), 65536, &mut [2; 512]).unwrap();
    assert!(matches!(place(&disk, 65536, 4096, Access::Read), Place::File { .. }), "none of its business");
    commit(&disk);
    for access in [Access::Read, Access::Write] {
        assert!(matches!(disk.find(0, MIB, access).unwrap(), (Place::File { offset: 0, .. }, MIB)));
    }
}

#[test]
fn what_moves_in_the_base_is_found_only_when_nobody_else_is_there() {
    let base = qcow2(MIB);
    write_at(&*base, &mut vec![1; 65536], 0).unwrap();
    let disk = disk(&base);
    disk.checkpoint(1);
    assert!(disk.moves());
    assert!(matches!(place(&disk, 0, 4096, Access::Read), Place::Elsewhere));
    commit(&disk);
    assert!(matches!(place(&disk, 0, 4096, Access::Read), Place::File { .. }));
}

#[test]
fn after_a_promotion_layers_only_shrink_while_the_guest_goes_on() {
    let base = Faulty::new(raw(MIB));
    let disk = SecondaryDisk::new(base.clone(), limits(), None).unwrap();
    disk.checkpoint(1);
    write_at(&disk, &mut [1; 512], 4096).unwrap();
    base.set(Wrong { writes: Some((4096..8192, rustix::io::Errno::NOSPC)), ..Wrong::default() });
    disk.promote();
    let before = until(&disk, |status| status.base_errors > 0);
    assert_eq!(before.left, 512);
    // Its slot is in a layer: so are writes there. All others are the base's.
    assert!(matches!(place(&disk, 4096 + 2048, 512, Access::Write), Place::Elsewhere));
    assert!(matches!(place(&disk, 8192, 4096, Access::Write), Place::File { .. }));
    write_at(&disk, &mut [2; 16384], 0).unwrap();
    let mut expected = vec![2; 16384];
    expected.resize(MIB as usize, 0);
    assert!(all(&disk) == expected);
    assert_eq!(all(&*base)[..4096], [2; 4096]);
    assert_eq!(all(&*base)[8192..16384], [2; 8192]);
    assert!(disk.flush().is_err(), "it is not all in the base");
    disk.discard(0, 65536).unwrap();
    assert!(all(&disk)[..65536].iter().all(|byte| *byte == 0));
    assert!(disk.status().left <= 4096 + 512);
    base.set(Wrong::default());
    until(&disk, |status| status.phase == Phase::Plain);
    disk.flush().unwrap();
    assert!(all(&*base).iter().all(|byte| *byte == 0));
}

#[test]
fn a_flush_means_something_after_a_promotion_only() {
    let base = Faulty::new(raw(MIB));
    let disk = SecondaryDisk::new(base.clone(), limits(), None).unwrap();
    disk.checkpoint(1);
    write_at(&disk, &mut [1; 4096], 4096).unwrap();
    assert!(disk.settle().unwrap().is_none());
    assert!(base.written().is_empty(), "nothing of it is in the base");
    disk.promote();
    assert!(disk.settle().unwrap().is_some());
    assert!(base.written().iter().eq([&(4096..8192)]), "{:?}", base.written());
    assert_eq!(all(&*base)[4096..8192], [1; 4096]);
}
