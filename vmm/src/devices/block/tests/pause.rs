//! A paused disk has nothing in flight; a resumed one goes on where it was.

use super::*;
use crate::virtio::Device;
use crate::virtio::fake_driver::Watch;
use driver::BUFFERS;
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, GuestAddress};

const SLOTS: u64 = 80;

/// Asks for a write of one sector's pattern, in a slot of its own.
fn write(driver: &mut Driver, slot: u64, sector: u64, byte: u8) -> u16 {
    let at = BUFFERS + slot * 0x1000;
    driver.ram.write_obj(WRITE, GuestAddress(at)).unwrap();
    driver.ram.write_obj(sector, GuestAddress(at + 8)).unwrap();
    driver.ram.write_slice(&[byte; 512], GuestAddress(at + 0x200)).unwrap();
    driver.ram.write_obj(0xff_u8, GuestAddress(at + 0x500)).unwrap();
    driver.chain(&[(at, 16, false), (at + 0x200, 512, false), (at + 0x500, 1, true)])
}

#[test]
fn under_load_nothing_is_lost_and_nothing_is_done_twice() {
    every(|block, driver| {
        let mut asked = 0;
        let mut answered = Vec::new();
        for round in 0..40_u64 {
            for slot in 0..SLOTS {
                write(driver, slot, (round * SLOTS + slot) % (DISK / 512), round as u8 + 1);
                asked += 1;
                if slot % 16 == 0 {
                    driver.kick();
                }
            }
            driver.kick();
            let states = block.pause();
            assert_eq!((states.len(), states[0].0), (1, 0));
            // While it stands, nothing moves: what is used is all that was begun.
            let done = driver.used();
            assert_eq!(states[0].1.next_used, states[0].1.next_avail, "all that was popped is told of");
            assert!(driver.bell.rung.load(Ordering::SeqCst) > 0 || done.is_empty());
            driver.kick();
            assert_eq!(driver.used(), [], "a kick wakes nobody");
            answered.extend(done);
            if round % 3 == 0 {
                // As on another host: a new device goes on with what the old one said.
                block.reset();
                let features = block.features();
                driver.activate(block, features, Some(states[0].1));
            } else {
                block.resume();
            }
            answered.extend(driver.wait(asked - answered.len()));
        }
        assert_eq!(answered.len(), asked);
        for slot in 0..SLOTS {
            let status: u8 = driver.ram.read_obj(GuestAddress(BUFFERS + slot * 0x1000 + 0x500)).unwrap();
            assert_eq!(status, OK);
        }
        for round in 0..40_u64 {
            let (_, found) = driver.request(READ, round * SLOTS, &[], SLOTS as usize * 512);
            assert!(found.iter().all(|&byte| byte == round as u8 + 1), "round {round}");
        }
    });
}

#[test]
fn to_pause_and_to_resume_twice_is_fine() {
    every(|block, driver| {
        assert_eq!(driver.request(WRITE, 0, &[1; 512], 0).0, OK);
        let first = block.pause();
        assert_eq!(first, block.pause());
        block.resume();
        block.resume();
        assert_eq!(driver.request(READ, 0, &[], 512), (OK, vec![1; 512]));
        block.pause();
        block.reset();
        assert_eq!(block.pause(), []);
        block.resume();
    });
}

#[test]
fn every_page_that_it_writes_is_marked() {
    every(|block, driver| {
        // Something to read, in whole clusters and in parts of them.
        let data: Vec<u8> = (0..200_u32 << 10).map(|n| (n % 251) as u8 + 1).collect();
        assert_eq!(driver.request(WRITE, 100, &data, 0).0, OK);
        let (header, status) = (BUFFERS, BUFFERS + 0x3100);
        for (kind, room) in [(READ, 96 << 10), (GET_ID, 20), (FLUSH, 0), (99, 0)] {
            driver.ram.write_obj(kind, GuestAddress(header)).unwrap();
            driver.ram.write_obj(101_u64, GuestAddress(header + 8)).unwrap();
            driver.ram.write_obj(0xff_u8, GuestAddress(status)).unwrap();
            let first = 0x1_0e00.min(room);
            let mut buffers = vec![(header, 16, false)];
            let parts = [(0x100_0200_u64, first), (0x120_0a00, room - first)];
            for (address, len) in parts.into_iter().filter(|(_, len)| *len > 0) {
                driver.ram.write_slice(&vec![0; len as usize], GuestAddress(address)).unwrap();
                buffers.push((address, len, true));
            }
            buffers.push((status, 1, true));
            // While it stands it cannot be faster than the watch.
            block.pause();
            driver.chain(&buffers);
            let watch = Watch::begin(&driver.ram);
            block.resume();
            driver.kick();
            driver.wait(1);
            block.pause();
            let (written, unmarked) = watch.written(&driver.ram);
            // At least the used ring and the status are written.
            assert!(written.len() as u32 >= 2 + room.div_ceil(4096), "{kind}: {written:x?}");
            assert!(unmarked.is_empty(), "{kind}: {unmarked:x?}");
            block.resume();
        }
    });
}
