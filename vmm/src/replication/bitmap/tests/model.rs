//! A primary that writes and a secondary that keeps up, falls back and is lost: what differs is known.

use crate::replication::bitmap::{Dirty, REGION, touched};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const REGIONS: u64 = 150;

#[derive(Clone, Debug)]
enum Step {
    Write(u64),
    /// An epoch ends; the secondary says what is stable.
    Checkpoint,
    /// So many epochs more are stable at the secondary.
    Settle(u64),
    /// So many whole epochs, and so many writes, come to the base yet, not the rest.
    Lose(u64, usize),
    Connect,
    Take(u64, u64),
    /// The process ends in order, and begins again.
    Keep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..REGIONS).prop_map(Step::Write),
        5 => Just(Step::Checkpoint),
        5 => (1u64..4).prop_map(Step::Settle),
        1 => (0u64..3, 0usize..4).prop_map(|(epochs, writes)| Step::Lose(epochs, writes)),
        2 => Just(Step::Connect),
        4 => (0..REGIONS, 1u64..9).prop_map(|(from, most)| Step::Take(from, most)),
        1 => Just(Step::Keep),
    ];
    prop::collection::vec(step, 1..120)
}

/// Contents are numbers: the how-manieth write it was.
struct World {
    dirty: Dirty,
    primary: Vec<u64>,
    base: Vec<u64>,
    on_its_way: BTreeMap<u64, Vec<(u64, u64)>>,
    writes: u64,
    epoch: u64,
    stable: u64,
    up: bool,
}

impl World {
    fn new() -> Self {
        let contents = vec![0; REGIONS as usize];
        // The last region is not whole.
        let dirty = Dirty::new(REGIONS * REGION - 512);
        let on_its_way = BTreeMap::new();
        Self {
            dirty,
            primary: contents.clone(),
            base: contents,
            on_its_way,
            writes: 0,
            epoch: 1,
            stable: 0,
            up: true,
        }
    }

    fn send(&mut self, region: u64) {
        let content = self.primary[region as usize];
        self.on_its_way.entry(self.epoch).or_default().push((region, content));
    }

    fn settle(&mut self, epoch: u64, most: usize) {
        let writes = self.on_its_way.remove(&epoch).unwrap_or_default();
        for (region, content) in writes.into_iter().take(most) {
            self.base[region as usize] = content;
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write(region) => {
                self.writes += 1;
                self.primary[region as usize] = self.writes;
                self.dirty.mark(region * REGION + 512, 512.min(REGION - 1024), self.up.then_some(self.epoch));
                if self.up {
                    self.send(region);
                }
            }
            Step::Checkpoint => {
                self.epoch += 1;
                if self.up {
                    self.dirty.rotate(self.stable);
                }
            }
            Step::Settle(count) if self.up => {
                let to = (self.stable + count).min(self.epoch - 1);
                while self.stable < to {
                    self.stable += 1;
                    self.settle(self.stable, usize::MAX);
                }
            }
            Step::Lose(epochs, writes) if self.up => {
                for epoch in self.stable + 1..=self.stable + epochs {
                    self.settle(epoch, usize::MAX);
                }
                self.settle(self.stable + epochs + 1, writes);
                self.on_its_way.clear();
                self.up = false;
                self.dirty.lose();
            }
            Step::Connect if !self.up => {
                self.dirty.lose();
                // Of the new session; nothing of it is stable.
                self.epoch += 1;
                self.stable = self.epoch - 1;
                self.up = true;
            }
            Step::Take(from, most) if self.up => {
                let Some(run) = self.dirty.take(from, most, self.epoch + 1) else { return };
                assert!(run.start >= from && run.end - run.start <= most);
                run.for_each(|region| self.send(region));
            }
            Step::Keep => {
                let missing = self.dirty.missing();
                self.dirty = Dirty::new(REGIONS * REGION);
                self.dirty.restore(&missing);
                self.on_its_way.clear();
                self.up = false;
            }
            Step::Settle(_) | Step::Lose(..) | Step::Connect | Step::Take(..) => {}
        }
    }

    fn differing(&self) -> impl Iterator<Item = u64> {
        (0..REGIONS).filter(|&region| self.base[region as usize] != self.primary[region as usize])
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn what_the_secondary_lacks_is_always_on_record_and_nothing_else_in_the_end(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            let missing = world.dirty.missing();
            for region in world.differing() {
                prop_assert!(missing.is_set(region), "region {region} after {step:?}");
            }
        }
        world.step(&Step::Connect);
        while world.dirty.unsent() > 0 {
            world.step(&Step::Take(0, 7));
        }
        // Two generations wait for their time, one behind the other.
        for _ in 0..4 {
            world.step(&Step::Checkpoint);
            world.step(&Step::Settle(u64::MAX / 2));
        }
        world.step(&Step::Checkpoint);
        prop_assert_eq!(world.dirty.missing().count(), 0);
        prop_assert_eq!(world.differing().count(), 0);
    }

    #[test]
    fn a_write_touches_the_regions_that_its_bytes_are_in(offset in 0u64..1 << 50, length in 0u64..1 << 20) {
        let regions = touched(offset, length);
        let expected: Vec<_> = (offset / REGION..=(offset + length) / REGION)
            .filter(|region| (region * REGION).max(offset) < ((region + 1) * REGION).min(offset + length))
            .collect();
        prop_assert_eq!(regions.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn no_mark_is_lost_between_threads() {
    const WRITERS: u64 = 3;
    let dirty = Dirty::new(64 * WRITERS * REGION);
    let (epoch, done) = (AtomicU64::new(1), AtomicBool::new(false));
    // The epoch that a writer is at: that one is not stable before its write is sent, and it is sent when it is marked.
    let at: Vec<_> = (0..WRITERS).map(|_| AtomicU64::new(u64::MAX)).collect();
    let together = Barrier::new(WRITERS as usize + 1);
    let (told, last) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (dirty, epoch, at, together) = (&dirty, &epoch, &at[writer as usize], &together);
                scope.spawn(move || {
                    let mut last = vec![0; 64];
                    together.wait();
                    for write in 0..60_000u64 {
                        let region = write.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
                        let mut now = epoch.load(Ordering::SeqCst);
                        loop {
                            at.store(now, Ordering::SeqCst);
                            let again = epoch.load(Ordering::SeqCst);
                            if again == now {
                                break;
                            }
                            now = again;
                        }
                        // All writers share the words.
                        let marked = region * WRITERS + writer;
                        dirty.mark(marked * REGION, 1, Some(now));
                        assert!(
                            dirty.generations.iter().any(|bits| bits.is_set(marked)),
                            "{marked} in {now}"
                        );
                        last[region as usize] = now;
                        at.store(u64::MAX, Ordering::SeqCst);
                    }
                    last
                })
            })
            .collect();
        let turner = scope.spawn(|| {
            let mut told = 0;
            together.wait();
            while !done.load(Ordering::SeqCst) {
                let ended = epoch.fetch_add(1, Ordering::SeqCst);
                let oldest = at.iter().map(|at| at.load(Ordering::SeqCst)).min().unwrap_or(u64::MAX);
                let stable = ended.min(oldest - 1);
                dirty.rotate(stable);
                told = told.max(stable);
            }
            told
        });
        let last: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        done.store(true, Ordering::SeqCst);
        (turner.join().unwrap(), last)
    });
    let missing = dirty.missing();
    for (writer, last) in last.iter().enumerate() {
        for (region, &marked) in last.iter().enumerate() {
            let known = missing.is_set(region as u64 * WRITERS + writer as u64);
            assert!(known || marked <= told, "region {region} of {writer}: epoch {marked} > {told}");
        }
    }
    // And in time everything is forgotten.
    let end = epoch.load(Ordering::SeqCst);
    (0..3).for_each(|_| dirty.rotate(end));
    assert_eq!(dirty.missing().count(), 0);
}

#[test]
fn a_mark_that_is_late_waits_for_its_own_epoch() {
    let dirty = Dirty::new(REGION);
    dirty.mark(0, 1, Some(4));
    // A writer of epoch 5 knows where its mark goes, and is held up; the generations turn as far as they may.
    let late = dirty.young_in(5);
    (0..3).for_each(|_| dirty.rotate(4));
    late.set(0..1);
    for _ in 0..4 {
        dirty.rotate(4);
        assert!(dirty.missing().is_set(0));
    }
    (0..3).for_each(|_| dirty.rotate(5));
    assert_eq!(dirty.missing().count(), 0);
}

#[test]
fn a_generation_that_waits_is_not_added_to() {
    let dirty = Dirty::new(3 * REGION);
    // The secondary is always two epochs behind; there is a write in each.
    for epoch in 1..20 {
        dirty.mark(epoch % 3 * REGION, 1, Some(epoch));
        dirty.rotate(epoch.saturating_sub(2));
    }
    let missing = dirty.missing();
    assert!((18..20).all(|epoch| missing.is_set(epoch % 3)));
    // Nothing is written any more: the last marks go as soon as their epochs are stable.
    dirty.rotate(19);
    dirty.rotate(19);
    assert_eq!(dirty.missing().count(), 0);
}
