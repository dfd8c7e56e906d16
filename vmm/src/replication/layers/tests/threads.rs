//! Both faces at once, from several threads, while layers are settled; what is read tells where it is from.

use super::*;
use crate::block::write_at;
use crate::replication::layers::{Epoch, Primary};
use fastrand::Rng;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, RwLock};

const SIZE: u64 = 4 * MIB;
const SECTORS: u64 = SIZE / 512;
const EPOCHS: u64 = 60;
const GUESTS: u64 = 2;

/// The tag of a sector is in all of its words: who wrote it, and where.
fn fill(tags: impl Iterator<Item = u64>) -> Vec<u8> {
    tags.flat_map(|tag| tag.to_le_bytes().repeat(64)).collect()
}

/// The tag of a sector, which is whole.
fn tag(sector: &[u8]) -> u64 {
    let tag = u64::from_le_bytes(sector[..8].try_into().unwrap());
    assert!(sector.chunks(8).all(|word| word == tag.to_le_bytes()), "a sector of two writes");
    tag
}

fn of_primary(epoch: u64, sector: u64) -> u64 {
    1 << 63 | epoch << 32 | sector
}

/// The ranges of sectors that the primary writes in an epoch.
fn ranges(epoch: u64) -> Vec<(u64, u64)> {
    let mut chance = Rng::with_seed(epoch);
    let mut range = || {
        let start = chance.u64(..SECTORS);
        (start, (1 + chance.u64(..64)).min(SECTORS - start))
    };
    (0..100).map(|_| range()).collect()
}

fn write_epoch(primary: &Primary, epoch: u64) {
    for (start, count) in ranges(epoch) {
        let mut bytes = fill((start..start + count).map(|sector| of_primary(epoch, sector)));
        primary.write(Epoch::new(epoch).tag(), start * 512, &mut bytes).unwrap();
    }
}

/// Guests: each has sectors of its own, those whose number divided by 16 it is; what it sees there is the last
/// checkpoint, or what it wrote after that.
struct Guests<'a> {
    disk: &'a SecondaryDisk,
    /// What is in each sector at the last checkpoint, or was written since.
    seen: Vec<AtomicU64>,
    /// Held by each guest during a request; and alone at a checkpoint.
    runs: RwLock<()>,
    end: AtomicBool,
    done: AtomicU64,
    /// A guest has seen something wrong: nobody need wait for it.
    broken: AtomicBool,
}

/// Says so when a thread panics.
struct Witness<'a>(&'a AtomicBool);

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        self.0.fetch_or(std::thread::panicking(), Ordering::Relaxed);
    }
}

impl Guests<'_> {
    fn run(&self, number: u64) {
        let _witness = Witness(&self.broken);
        let mut chance = Rng::with_seed(1000 + number);
        let mut count = 0;
        while !self.end.load(Ordering::Relaxed) {
            let _running = self.runs.read().unwrap();
            count += 1;
            let first = (chance.u64(..SECTORS / 16 / GUESTS) * GUESTS + number) * 16;
            let len = 1 + chance.u64(..16);
            let at = first + chance.u64(..17 - len);
            let sectors = at..at + len;
            if chance.u64(..3) == 0 {
                let tag = |sector| number << 48 | (count & 0xffff_ffff) << 16 | sector & 0xffff;
                write_at(self.disk, &mut fill(sectors.clone().map(tag)), at * 512).unwrap();
                sectors.for_each(|sector| self.seen[sector as usize].store(tag(sector), Ordering::Relaxed));
            } else {
                let mut bytes = vec![0; len as usize * 512];
                read_at(self.disk, &mut bytes, at * 512).unwrap();
                for (sector, bytes) in sectors.zip(bytes.chunks(512)) {
                    let expected = self.seen[sector as usize].load(Ordering::Relaxed);
                    assert!(tag(bytes) == expected, "{:x} at {sector}, not {expected:x}", tag(bytes));
                }
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn more(&self, requests: u64) {
        let target = self.done.load(Ordering::Relaxed) + requests;
        while self.done.load(Ordering::Relaxed) < target && !self.broken.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
    }
}

fn hammer(base: &Arc<dyn Image>) {
    let limits = Limits { memory: MIB as usize, spill: 64 * MIB, ..limits() };
    let disk = SecondaryDisk::new(base.clone(), limits, Some(file(0))).unwrap();
    let mut level = vec![0; SECTORS as usize];
    let seen = std::iter::repeat_with(AtomicU64::default).take(SECTORS as usize).collect();
    let guests = Guests {
        disk: &disk,
        seen,
        runs: RwLock::new(()),
        end: AtomicBool::new(false),
        done: AtomicU64::new(0),
        broken: AtomicBool::new(false),
    };
    let primary = disk.primary();
    disk.checkpoint(0);
    let turn = Barrier::new(2);
    std::thread::scope(|scope| {
        let guests = &guests;
        let all: Vec<_> = (0..GUESTS).map(|number| scope.spawn(move || guests.run(number))).collect();
        let writer = scope.spawn(|| {
            // It is one epoch ahead of the checkpoints, and in the middle of one when the guest is promoted.
            write_epoch(&primary, 1);
            for epoch in 2..=EPOCHS {
                turn.wait();
                write_epoch(&primary, epoch);
            }
            turn.wait();
            for n in 0.. {
                let start = n * 64 % SECTORS;
                let mut bytes = fill((start..start + 64).map(|sector| of_primary(EPOCHS + 1, sector)));
                if primary.write(Epoch::new(EPOCHS + 1).tag(), start * 512, &mut bytes).is_err() {
                    return n;
                }
            }
            0
        });
        for epoch in 1..=EPOCHS {
            turn.wait();
            guests.more(100);
            let alone = guests.runs.write().unwrap();
            disk.checkpoint(epoch);
            for (start, count) in ranges(epoch) {
                (start..start + count).for_each(|sector| level[sector as usize] = of_primary(epoch, sector));
            }
            guests.seen.iter().zip(&level).for_each(|(seen, level)| seen.store(*level, Ordering::Relaxed));
            drop(alone);
        }
        guests.more(2000);
        disk.promote();
        let unfinished = writer.join().unwrap();
        guests.more(5000);
        until(&disk, |status| status.phase == Phase::Plain);
        guests.more(1000);
        guests.end.store(true, Ordering::Relaxed);
        all.into_iter().for_each(|guest| guest.join().unwrap());
        println!("{unfinished} writes of the unfinished epoch; {:?}", disk.status());
    });
    let bytes = super::all(&**base);
    for (sector, bytes) in bytes.chunks(512).enumerate() {
        assert_eq!(tag(bytes), guests.seen[sector].load(Ordering::Relaxed), "sector {sector}");
    }
}

#[test]
fn a_raw_disk_is_right_under_both_faces_at_once() {
    hammer(&raw(SIZE));
}

#[test]
fn a_qcow2_disk_is_right_under_both_faces_at_once() {
    hammer(&qcow2(SIZE));
}

#[test]
fn a_disk_with_large_blocks_is_right_under_both_faces_at_once() {
    let base: Arc<dyn Image> = Arc::new(faulty::Blocks(raw(SIZE)));
    hammer(&base);
}
