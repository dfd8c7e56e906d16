//! A copy that is kept level, over random epochs.

use super::guest::DEVICES;
use super::*;
use proptest::prelude::*;

/// What happens to a guest's memory, and to its copy.
#[derive(Clone, Debug)]
enum Step {
    /// The guest runs for so many rounds and stands again.
    Run(u64),
    /// A device writes.
    Device { offset: u64, len: usize },
    /// A device writes while the guest runs.
    Both { rounds: u64, offset: u64, len: usize },
    /// Dirty pages are copied while the guest runs.
    PreCopy { rounds: u64 },
    /// An epoch that the other side gets.
    Epoch,
    /// An epoch that it does not get.
    Lost,
}

fn any_step() -> impl Strategy<Value = Step> {
    let rounds = || 1..400_u64;
    let (offset, len) = (|| 0..0x10_0000_u64, || 1..20_000_usize);
    prop_oneof![
        3 => rounds().prop_map(Step::Run),
        2 => (offset(), len()).prop_map(|(offset, len)| Step::Device { offset, len }),
        2 => (rounds(), offset(), len()).prop_map(|(rounds, offset, len)| Step::Both { rounds, offset, len }),
        2 => rounds().prop_map(|rounds| Step::PreCopy { rounds }),
        3 => Just(Step::Epoch),
        1 => Just(Step::Lost),
    ]
}

struct Pair {
    guest: Guest,
    tracker: Box<dyn Tracker>,
    copy: Vec<Vec<u8>>,
    writes: u8,
}

impl Pair {
    fn new(tracking: Tracking, vcpus: u32) -> Self {
        let guest = Guest::new(tracking, vcpus);
        let mut tracker = choose(&guest.vm).unwrap();
        tracker.start().unwrap();
        // Nothing is known of any page, so the copy may begin as anything.
        let copy = guest.contents().iter().map(|bytes| vec![0xa5; bytes.len()]).collect();
        Self { guest, tracker, copy, writes: 0 }
    }

    fn device(&mut self, offset: u64, len: usize) {
        self.writes = self.writes.wrapping_add(1);
        let bytes = vec![self.writes; len];
        // Over the devices' window into the guest's, and at the very end.
        for at in [DEVICES + offset, guest::HIGH + (1 << 20) + 3 * PAGE - len as u64] {
            self.guest.vm.ram().write_slice(&bytes, GuestAddress(at)).unwrap();
        }
    }

    fn dirty(&mut self) -> PageSet {
        let mut set = PageSet::new(self.guest.vm.ram());
        self.tracker.collect(&mut set).unwrap();
        set
    }

    fn copy(&mut self, set: &PageSet) {
        for run in set.runs() {
            let at = (run.offset * PAGE) as usize;
            let bytes = &mut self.copy[run.region][at..at + run.bytes() as usize];
            self.guest.vm.ram().read_slice(bytes, GuestAddress(run.address())).unwrap();
        }
    }

    fn epoch(&mut self, arrives: bool) {
        let set = self.dirty();
        let mut missed = self.guest.changed_since(&self.copy);
        missed.subtract(&set);
        assert!(missed.is_empty(), "{:?} changed, and {:?} does not know", missed, self.tracker);
        self.tracker.rearm(&set).unwrap();
        assert!(self.dirty().is_empty(), "nobody writes");
        if arrives {
            self.copy(&set);
            assert!(self.guest.contents() == self.copy, "the copy is not level");
        } else {
            self.tracker.redirty(&set);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Run(rounds) => {
                self.guest.resume();
                self.guest.wait(rounds);
                self.guest.pause();
            }
            Step::Device { offset, len } => self.device(offset, len),
            Step::Both { rounds, offset, len } => {
                self.guest.resume();
                self.device(offset, len);
                self.guest.wait(rounds);
                self.device(offset / 2, len);
                self.guest.pause();
            }
            Step::PreCopy { rounds } => {
                self.guest.resume();
                for _ in 0..3 {
                    let set = self.dirty();
                    self.tracker.rearm(&set).unwrap();
                    self.device(set.count(), 100);
                    self.copy(&set);
                    self.guest.wait(rounds / 3);
                }
                self.guest.pause();
            }
            Step::Epoch => self.epoch(true),
            Step::Lost => self.epoch(false),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..Default::default() })]

    #[test]
    fn a_copy_is_kept_level(steps in prop::collection::vec(any_step(), 1..25), vcpus in 1..3_u32) {
        for tracking in BOTH {
            let mut pair = Pair::new(tracking, vcpus);
            steps.iter().for_each(|step| pair.step(step));
            pair.epoch(true);
        }
    }
}

/// Its vCPUs stand only for the copies, as those of a primary do.
#[test]
fn a_copy_is_kept_level_over_many_epochs_of_a_guest_that_runs() {
    for tracking in BOTH {
        let mut pair = Pair::new(tracking, 2);
        for epoch in 0..100_u64 {
            pair.guest.resume();
            pair.device(epoch * 4321, 1 + epoch as usize * 50);
            pair.guest.wait(epoch % 7 * 30);
            pair.guest.pause();
            pair.epoch(epoch % 5 != 3);
        }
    }
}
