//! The secondary's disk against flat lists of bytes, failing disks, and threads.

mod export;
mod faults;
mod faulty;
mod guest;
mod layer;
mod model;
mod threads;

use super::{Limits, Phase, SecondaryDisk, Status};
use crate::block::qcow2::Qcow2;
use crate::block::raw::Raw;
use crate::block::{Image, read_at};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// A file on a disk.
fn file(size: u64) -> File {
    let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    file.set_len(size).unwrap();
    file
}

/// An empty raw image.
fn raw(size: u64) -> Arc<dyn Image> {
    Arc::new(Raw::new(file(size), false, false).unwrap())
}

/// An empty qcow2 image.
fn qcow2(size: u64) -> Arc<dyn Image> {
    Arc::new(Qcow2::create(raw(0), size).unwrap())
}

/// Bounds that a test meets.
fn limits() -> Limits {
    Limits { memory: 64 << 20, index: 4 << 20, patience: Duration::from_mins(1), ..Limits::default() }
}

fn disk(base: &Arc<dyn Image>) -> SecondaryDisk {
    SecondaryDisk::new(base.clone(), limits(), None).unwrap()
}

/// All of an image.
fn all(image: &dyn Image) -> Vec<u8> {
    let mut bytes = vec![0xee; image.size() as usize];
    read_at(image, &mut bytes, 0).unwrap();
    bytes
}

/// Waits until something is true of a disk: that it comes about is what is tested.
fn until(disk: &SecondaryDisk, what: impl Fn(&Status) -> bool) -> Status {
    let end = Instant::now() + Duration::from_mins(2);
    loop {
        let status = disk.status();
        if what(&status) {
            return status;
        }
        assert!(Instant::now() < end, "still {status:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until nothing is on its way into the base.
fn settled(disk: &SecondaryDisk) {
    until(disk, |status| status.settled_layers == 0);
}

/// Promotes, and waits until the disk is its base.
fn commit(disk: &SecondaryDisk) {
    disk.promote();
    until(disk, |status| status.phase == Phase::Plain);
}
