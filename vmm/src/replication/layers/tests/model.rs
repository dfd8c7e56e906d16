//! Any sequence of what can happen to a secondary's disk, against flat lists of bytes: a list of what the guest
//! sees, one of what the primary sees, and one for the end of each epoch.

use super::*;
use crate::block::{Access, Place};
use crate::replication::layers::{Epoch, Primary, Refused};
use fastrand::Rng;
use std::collections::VecDeque;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use vm_memory::VolatileSlice;

const SIZE: u64 = 2 * MIB;
const SECTORS: u64 = SIZE / 512;

/// What one would keep on paper.
struct Paper {
    guest: Vec<u8>,
    /// At the end of epochs that are open, oldest first; the last is what the primary sees.
    open: VecDeque<(u64, Vec<u8>)>,
    /// At the last checkpoint.
    level: Vec<u8>,
    epoch: u64,
}

impl Paper {
    fn primary(&mut self) -> &mut Vec<u8> {
        if self.open.is_empty() {
            self.open.push_back((self.epoch + 1, self.level.clone()));
        }
        &mut self.open.back_mut().unwrap().1
    }

    fn newest(&self) -> u64 {
        self.open.back().map_or(self.epoch + 1, |(epoch, _)| *epoch)
    }
}

struct Trial {
    base: Arc<dyn Image>,
    disk: SecondaryDisk,
    primary: Primary,
    paper: Paper,
    chance: Rng,
    buffer: Vec<u8>,
    /// Whether a sector may be written in part.
    parts: bool,
}

/// A range: mostly some sectors, at times over regions.
fn range(chance: &mut Rng, parts: bool) -> (u64, usize) {
    let sectors = match chance.u64(..100) {
        0 => 1 + chance.u64(..1200),
        1..20 => 1 + chance.u64(..64),
        _ => 1 + chance.u64(..12),
    };
    let first = chance.u64(..SECTORS);
    let (mut at, mut len) = (first * 512, sectors.min(SECTORS - first) * 512);
    if parts && chance.u64(..8) == 0 {
        let cut = chance.u64(..512);
        (at, len) = (at + cut, len - cut);
        len -= chance.u64(..len.min(512));
    }
    (at, len as usize)
}

impl Trial {
    fn new(base: Arc<dyn Image>, seed: u64, parts: bool) -> Self {
        let before = all(&*base);
        // Little memory, so that most layers are in the file as well.
        let limits = Limits { memory: MIB as usize, spill: 64 * MIB, epochs: 3, ..limits() };
        let disk = SecondaryDisk::new(base.clone(), limits, Some(file(0))).unwrap();
        let primary = disk.primary();
        let paper = Paper { guest: before.clone(), open: VecDeque::new(), level: before, epoch: 0 };
        let mut trial = Self {
            base,
            disk,
            primary,
            paper,
            chance: Rng::with_seed(seed),
            buffer: vec![0; SIZE as usize],
            parts,
        };
        trial.checkpoint();
        trial
    }

    fn fill(&mut self, len: usize) {
        for piece in self.buffer[..len].chunks_mut(8) {
            piece.copy_from_slice(&self.chance.u64(..).to_le_bytes()[..piece.len()]);
        }
    }

    /// Two buffers, so that requests are not in one piece.
    fn guest_write(&mut self) {
        let (at, len) = range(&mut self.chance, self.parts);
        self.fill(len);
        let cut = self.chance.u64(..len as u64) as usize;
        self.paper.guest[at as usize..at as usize + len].copy_from_slice(&self.buffer[..len]);
        let (one, two) = self.buffer[..len].split_at_mut(cut);
        self.disk.write(&[VolatileSlice::from(one), VolatileSlice::from(two)], at).unwrap();
    }

    fn guest_read(&mut self) {
        let (at, len) = range(&mut self.chance, true);
        let cut = self.chance.u64(..len as u64) as usize;
        let (one, two) = self.buffer[..len].split_at_mut(cut);
        self.disk.read(&[VolatileSlice::from(one), VolatileSlice::from(two)], at).unwrap();
        let expected = &self.paper.guest[at as usize..at as usize + len];
        assert!(self.buffer[..len] == *expected, "the guest reads {len} bytes at {at:#x}");
    }

    fn guest_zero(&mut self) {
        let (at, len) = range(&mut self.chance, self.parts);
        self.disk.write_zeroes(at, len as u64, self.chance.u64(..2) == 0).unwrap();
        self.paper.guest[at as usize..at as usize + len].fill(0);
    }

    /// A discarded byte is what it was, or zero.
    fn guest_discard(&mut self) {
        let (at, len) = range(&mut self.chance, self.parts);
        self.disk.discard(at, len as u64).unwrap();
        let found = &mut self.buffer[..len];
        read_at(&self.disk, found, at).unwrap();
        let expected = &mut self.paper.guest[at as usize..at as usize + len];
        assert!(found.iter().zip(&*expected).all(|(found, was)| found == was || *found == 0));
        expected.copy_from_slice(found);
    }

    /// What is found in the base's file is what the guest sees there.
    fn find(&mut self) {
        let (at, len) = range(&mut self.chance, false);
        let (place, found) = self.disk.find(at, len as u64, Access::Read).unwrap();
        assert!((1..=len as u64).contains(&found));
        let expected = &self.paper.guest[at as usize..(at + found) as usize];
        match place {
            Place::File { file, offset } => {
                let bytes = &mut self.buffer[..found as usize];
                let there = Raw::new(file.try_clone().unwrap(), true, false).unwrap();
                // Direct I/O wants its buffer aligned, which this one need not be.
                if self.base.alignment() == 1 {
                    read_at(&there, bytes, offset).unwrap();
                    assert!(bytes == expected, "{found} bytes at {at:#x} in the file");
                }
            }
            Place::Zeroes => assert!(expected.iter().all(|byte| *byte == 0)),
            Place::Elsewhere => {}
        }
    }

    fn primary_write(&mut self) {
        let (at, len) = range(&mut self.chance, true);
        self.fill(len);
        self.paper.primary()[at as usize..at as usize + len].copy_from_slice(&self.buffer[..len]);
        let tag = Epoch::new(self.paper.newest()).tag();
        self.primary.write(tag, at, &mut self.buffer[..len]).unwrap();
    }

    fn primary_zero(&mut self) {
        let (at, len) = range(&mut self.chance, true);
        self.paper.primary()[at as usize..at as usize + len].fill(0);
        let tag = Epoch::new(self.paper.newest()).tag();
        self.primary.zero(tag, at, len as u64, true).unwrap();
    }

    fn primary_read(&mut self) {
        let (at, len) = range(&mut self.chance, true);
        self.primary.read(&mut self.buffer[..len], at).unwrap();
        let expected = &self.paper.primary()[at as usize..at as usize + len];
        assert!(self.buffer[..len] == *expected, "the primary reads {len} bytes at {at:#x}");
    }

    /// The primary goes on while the last epoch is still being loaded.
    fn next_epoch(&mut self) {
        if self.paper.open.len() < 3 {
            let next = self.paper.newest() + 1;
            let bytes = self.paper.primary().clone();
            self.paper.open.push_back((next, bytes));
        }
    }

    fn checkpoint(&mut self) {
        let epoch = self.paper.open.front().map_or(self.paper.epoch + 1, |(epoch, _)| *epoch);
        if let Some((_, bytes)) = self.paper.open.pop_front() {
            self.paper.level = bytes;
        }
        self.paper.epoch = epoch;
        self.disk.checkpoint(epoch);
        self.paper.guest.clone_from(&self.paper.level);
    }

    fn fail(&mut self) {
        self.disk.fail();
        let late = self.primary.write(Epoch::new(self.paper.epoch + 1).tag(), 0, &mut [1; 512]);
        assert!(matches!(late, Err(Refused::Ended(_))));
        self.primary = self.disk.primary();
        self.paper.open.clear();
    }

    fn whole(&mut self) {
        read_at(&self.disk, &mut self.buffer, 0).unwrap();
        assert!(self.buffer == self.paper.guest, "the guest's disk");
    }

    fn guest(&mut self) {
        match self.chance.u64(..20) {
            0..8 => self.guest_write(),
            8..14 => self.guest_read(),
            14..16 => self.guest_zero(),
            16 => self.guest_discard(),
            _ => self.find(),
        }
    }

    fn one(&mut self) {
        match self.chance.u64(..2000) {
            0..1000 => self.guest(),
            1000..1600 => self.primary_write(),
            1600..1700 => self.primary_zero(),
            1700..1970 => self.primary_read(),
            1970..1985 => self.next_epoch(),
            1985..1998 => self.checkpoint(),
            1998 => self.disk.flush().unwrap(),
            _ => self.fail(),
        }
    }

    /// Everything up to a promotion, and the guest after it. Gives the base back.
    fn run(mut self, operations: u64) -> Arc<dyn Image> {
        for _ in 0..operations {
            self.one();
        }
        self.whole();
        self.disk.promote();
        self.whole();
        assert!(matches!(self.primary.read(&mut [0; 512], 0), Err(Refused::Ended(_))));
        for _ in 0..operations / 4 {
            self.guest();
            if self.chance.u64(..200) == 0 {
                self.disk.flush().unwrap();
            }
        }
        self.whole();
        // Half of them end in the middle of the commit.
        if self.chance.u64(..2) == 0 {
            until(&self.disk, |status| status.phase == Phase::Plain);
            self.whole();
            for _ in 0..20 {
                self.guest();
            }
            let status = self.disk.status();
            assert_eq!(
                (status.memory, status.spilled, status.index, status.left),
                (0, 0, 0, 0),
                "{status:?}"
            );
        }
        let Self { disk, base, paper, .. } = self;
        drop(disk);
        assert!(all(&*base) == paper.guest, "the base after the commit");
        base
    }
}

fn trials(mut base: Arc<dyn Image>, seeds: std::ops::Range<u64>, operations: u64, parts: bool) {
    for seed in seeds {
        println!("seed {seed}");
        base = Trial::new(base, seed, parts).run(operations);
    }
}

#[test]
fn a_raw_disk_is_what_one_would_keep_on_paper() {
    trials(raw(SIZE), 0..90, 4000, true);
}

#[test]
fn a_raw_disk_is_what_one_would_keep_on_paper_whatever_came_before() {
    trials(raw(SIZE), 1000..1090, 4000, false);
}

#[test]
fn a_qcow2_disk_is_what_one_would_keep_on_paper() {
    trials(qcow2(SIZE), 2000..2010, 4000, true);
}

#[test]
fn a_disk_whose_blocks_are_larger_than_sectors_is_what_one_would_keep_on_paper() {
    let base = Arc::new(faulty::Blocks(raw(SIZE)));
    trials(base, 3000..3010, 4000, true);
}

#[test]
fn a_disk_with_direct_io_is_what_one_would_keep_on_paper() {
    let file = file(SIZE);
    let again = File::options()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .unwrap();
    trials(Arc::new(Raw::new(again, false, true).unwrap()), 5000..5002, 1000, true);
}

#[test]
fn many_short_lives() {
    trials(raw(SIZE), 4000..4200, 200, true);
}
