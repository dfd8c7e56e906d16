//! A disk with a driver, over real images, on both engines.

mod driver;
mod hostile;
mod model;
mod pause;
mod requests;

use super::{Block, Disk};
use crate::block::engine::Choice;
use crate::block::qcow2::Qcow2;
use crate::block::raw::Raw;
use crate::block::{Image, write_at};
use crate::replication::layers::{Limits, SecondaryDisk};
use driver::Driver;
use std::fs::File;
use std::sync::Arc;

const DISK: u64 = 8 << 20;
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

fn file() -> File {
    tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

fn raw(read_only: bool) -> Arc<dyn Image> {
    let file = file();
    file.set_len(DISK).unwrap();
    Arc::new(Raw::new(file, read_only, false).unwrap())
}

fn qcow2() -> Arc<dyn Image> {
    let file: Arc<dyn Image> = Arc::new(Raw::new(file(), false, false).unwrap());
    Arc::new(Qcow2::create(file, DISK).unwrap())
}

/// The disk of a guest that follows another, or of one that did and goes on alone: zeros, some of them on their way
/// into the image.
fn secondary(promoted: bool) -> Arc<dyn Image> {
    let disk = SecondaryDisk::new(raw(false), Limits::default(), None).unwrap();
    disk.checkpoint(1);
    for at in (0..DISK).step_by(20480) {
        write_at(&disk, &mut [0; 4096 + 512], at).unwrap();
    }
    if promoted {
        disk.promote();
    }
    Arc::new(disk)
}

fn disk(image: Arc<dyn Image>, engine: Choice) -> Block {
    Block::new(Disk { engine, ..Disk::new(image, "colo-0001") })
}

/// Runs a test with each kind of image and engine.
fn every(act: impl Fn(&mut Block, &mut Driver)) {
    for engine in [Choice::Uring, Choice::Threads] {
        for image in [raw(false), qcow2()] {
            let mut block = disk(image, engine);
            let features = crate::virtio::Device::features(&block);
            let mut driver = Driver::new(&mut block, features);
            act(&mut block, &mut driver);
        }
    }
}

/// A range, as DISCARD and WRITE ZEROES have it.
fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}
