//! Each request does what it says, or says that it does not.

use super::*;
use crate::block::{read_at, write_at};
use crate::virtio::Device;
use crate::virtio::DeviceState;
use driver::{BUFFERS, SIZE};
use std::sync::atomic::Ordering;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

#[test]
fn what_is_written_is_read_and_stays() {
    every(|block, driver| {
        let data: Vec<u8> = (0..200 * 512).map(|n| (n / 512 + 1) as u8).collect();
        assert_eq!(driver.request(WRITE, 77, &data, 0).0, OK);
        assert_eq!(driver.request(FLUSH, 0, &[], 0).0, OK);
        let (status, found) = driver.request(READ, 76, &[], 202 * 512);
        assert_eq!(status, OK);
        assert!(found[512..201 * 512] == data && found[..512] == [0; 512] && found[201 * 512..] == [0; 512]);
        let mut found = vec![0; data.len()];
        read_at(&**block.image(), &mut found, 77 * 512).unwrap();
        assert!(found == data);
    });
}

#[test]
fn buffers_are_cut_wherever_the_driver_likes() {
    every(|block, driver| {
        write_at(&**block.image(), &mut (0..2048_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>(), 512)
            .unwrap();
        let base = BUFFERS;
        driver.ram.write_obj(READ, GuestAddress(base)).unwrap();
        driver.ram.write_obj(1_u64, GuestAddress(base + 8)).unwrap();
        // A header in two pieces; data in five, the last of which has the status as well.
        let buffers = [
            (base, 3, false),
            (base + 3, 13, false),
            (base + 0x1001, 1, true),
            (base + 0x2000, 1000, true),
            (base + 0x3000, 0, true),
            (base + 0x4000, 47, true),
            (base + 0x5000, 1001, true),
        ];
        let head = driver.chain(&buffers);
        driver.kick();
        assert_eq!(driver.wait(1), [(head, 2049)]);
        let mut found = Vec::new();
        for (at, len, _) in &buffers[2..] {
            let mut piece = vec![0; *len as usize];
            driver.ram.read_slice(&mut piece, GuestAddress(*at)).unwrap();
            let marked = |at: u64| driver.ram.get_slice(GuestAddress(at), 1).unwrap().bitmap().dirty_at(0);
            assert!(*len == 0 || marked(*at), "a checkpoint has to see it");
            found.extend(piece);
        }
        assert_eq!(found.pop(), Some(OK));
        assert_eq!(found, (0..2048_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    });
}

#[test]
fn a_disk_tells_what_it_is() {
    every(|block, driver| {
        let (status, id) = driver.request(GET_ID, 0, &[], 20);
        assert_eq!((status, &id[..]), (OK, &b"colo-0001\0\0\0\0\0\0\0\0\0\0\0"[..]));
        assert_eq!(driver.request(99, 0, &[], 0).0, UNSUPPORTED);
        let mut capacity = [0; 8];
        block.read_config(0, &mut capacity);
        assert_eq!(u64::from_le_bytes(capacity), DISK / 512);
        let mut beyond = [7; 8];
        block.read_config(58, &mut beyond);
        assert_eq!(beyond, [0, 0, 7, 7, 7, 7, 7, 7]);
        block.read_config(u64::MAX, &mut beyond);
        assert_eq!(block.check(&block.save()), Ok(()));
        let DeviceState::Block(mut other) = block.save() else { panic!("it is a disk") };
        other.sectors += 1;
        let error = block.check(&DeviceState::Block(other)).unwrap_err();
        assert!(error.to_string().contains("size in sectors"), "{error}");
        assert!(block.check(&DeviceState::Rng).is_err());
    });
}

#[test]
fn discarded_and_zeroed_ranges_are_what_was_asked() {
    every(|_, driver| {
        let data = vec![7; 1 << 20];
        assert_eq!(driver.request(WRITE, 0, &data, 0).0, OK);
        let ranges = [range(3, 5, 0), range(1000, 600, 1)].concat();
        assert_eq!(driver.request(WRITE_ZEROES, 0, &ranges, 0).0, OK);
        let (_, found) = driver.request(READ, 0, &[], 1 << 20);
        let zeroed = |sector: usize| (3..8).contains(&sector) || (1000..1600).contains(&sector);
        for (sector, bytes) in found.chunks(512).enumerate() {
            assert_eq!(bytes, [if zeroed(sector) { 0 } else { 7 }; 512], "sector {sector}");
        }
        assert_eq!(driver.request(DISCARD, 0, &range(1024, 512, 0), 0).0, OK);
        assert_eq!(driver.request(READ, 1023, &[], 512).1, [0; 512], "what is beside it is as it was");
        assert_eq!(driver.request(READ, 1600, &[], 512).1, [7; 512]);
        for (kind, bad, status) in [
            (DISCARD, range(0, 8, 1), UNSUPPORTED),
            (WRITE_ZEROES, range(0, 8, 2), UNSUPPORTED),
            (DISCARD, range(DISK / 512, 1, 0), ERROR),
            (DISCARD, range(u64::MAX / 512, 1, 0), ERROR),
            (WRITE_ZEROES, range(0, u32::MAX, 0), ERROR),
            (DISCARD, vec![0; 15], ERROR),
            (DISCARD, vec![0; 16 * 17], ERROR),
            (DISCARD, vec![], ERROR),
        ] {
            assert_eq!(driver.request(kind, 0, &bad, 0).0, status, "{kind} {bad:?}");
        }
    });
}

#[test]
fn what_is_not_on_the_disk_is_an_error() {
    every(|_, driver| {
        let last = DISK / 512 - 1;
        assert_eq!(driver.request(READ, last, &[], 512).0, OK);
        assert_eq!(driver.request(READ, last, &[], 1024).0, ERROR);
        assert_eq!(driver.request(WRITE, last, &[1; 1024], 0).0, ERROR);
        assert_eq!(driver.request(READ, u64::MAX, &[], 512).0, ERROR);
        assert_eq!(driver.request(READ, u64::MAX / 512, &[], 512).0, ERROR);
        assert_eq!(driver.request(READ, 0, &[], 511).0, ERROR, "no whole sector");
        assert_eq!(driver.request(WRITE, 0, &[1; 513], 0).0, ERROR);
    });
}

#[test]
fn a_read_only_disk_says_so_and_is_not_written() {
    let mut block = disk(raw(true), Choice::Best);
    let features = block.features();
    assert_eq!((features >> 5 & 1, features >> 13 & 3), (1, 0));
    let mut driver = Driver::new(&mut block, features);
    assert_eq!(driver.request(WRITE, 0, &[1; 512], 0).0, ERROR);
    assert_eq!(driver.request(WRITE_ZEROES, 0, &range(0, 1, 0), 0).0, ERROR);
    assert_eq!(driver.request(DISCARD, 0, &range(0, 1, 0), 0).0, ERROR);
    assert_eq!(driver.request(FLUSH, 0, &[], 0).0, OK);
    assert_eq!(driver.request(READ, 0, &[], 512), (OK, vec![0; 512]));
}

#[test]
fn without_flush_each_write_is_stable_when_it_is_told_of() {
    // What can be seen of it: nothing is left in the image's tables to be written.
    let file = file();
    let below: Arc<dyn Image> = Arc::new(Raw::new(file.try_clone().unwrap(), false, false).unwrap());
    let mut block = disk(Arc::new(Qcow2::create(below, DISK).unwrap()), Choice::Best);
    let mut driver = Driver::new(&mut block, 0);
    assert_eq!(driver.request(WRITE, 500, &[9; 1024], 0).0, OK);
    let reader: Arc<dyn Image> = Arc::new(Raw::new(file, true, false).unwrap());
    let mut found = [0; 1024];
    read_at(&Qcow2::new(reader, None, true).unwrap(), &mut found, 500 * 512).unwrap();
    assert_eq!(found, [9; 1024]);
}

#[test]
fn a_full_queue_is_served_in_one_go() {
    every(|block, driver| {
        write_at(&**block.image(), &mut (0..85 * 512_u32).map(|n| (n / 512) as u8).collect::<Vec<_>>(), 0)
            .unwrap();
        let before = driver.bell.rung.load(Ordering::SeqCst);
        let count = SIZE / 3;
        for n in 0..u64::from(count) {
            let at = BUFFERS + n * 0x1000;
            driver.ram.write_obj(READ, GuestAddress(at)).unwrap();
            driver.ram.write_obj(n, GuestAddress(at + 8)).unwrap();
            driver.chain(&[(at, 16, false), (at + 0x200, 512, true), (at + 0x500, 1, true)]);
        }
        driver.kick();
        let mut used = driver.wait(count.into());
        used.sort_unstable();
        assert_eq!(used, (0..count).map(|n| (n * 3, 513)).collect::<Vec<_>>());
        for n in 0..u64::from(count) {
            let mut found = [0xee; 512];
            driver.ram.read_slice(&mut found, GuestAddress(BUFFERS + n * 0x1000 + 0x200)).unwrap();
            assert_eq!(found, [n as u8; 512]);
        }
        assert!(driver.bell.rung.load(Ordering::SeqCst) > before);
    });
}
