//! Reasons for a checkpoint, of which one is under way at a time.
//!
//! ```text
//!   divergence ─┐
//!   age ────────┤            idle ── wanted? ──begin──► under way (epoch n)
//!   overflow ───┼─► trigger    ▲                         │  of epoch ≤ n: this one covers it
//!   memory ─────┤              │                         │
//!   timer ──────┤              │                         │  of epoch > n: remembered
//!   operator ───┘              └── done: n + 1, failed: n, and its reasons are wanted again
//! ```
//!
//! A trigger carries the epoch that it was seen in: the one whose frames it is about. The checkpoint that ends
//! an epoch covers what was seen in it and before; what is seen after the primary's pause is of the next one,
//! however long the checkpoint still takes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a checkpoint is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Cause {
    /// The first one after the sync.
    Start,
    /// The outputs differ.
    Divergence,
    /// Something waits too long.
    Age,
    /// Too much waits.
    Overflow,
    /// So much was written that the secondary would need much memory for it.
    Memory,
    /// So much was written to a disk, likewise.
    Disk,
    /// It is time.
    Timer,
    /// Somebody asked.
    Operator,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Divergence,
        Self::Age,
        Self::Overflow,
        Self::Memory,
        Self::Disk,
        Self::Timer,
        Self::Operator,
    ];

    /// In logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Divergence => "divergence",
            Self::Age => "age",
            Self::Overflow => "overflow",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Timer => "timer",
            Self::Operator => "operator",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Some of them.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Causes(u8);

impl Causes {
    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this is one of them.
    pub const fn has(self, cause: Cause) -> bool {
        self.0 & cause.bit() != 0
    }

    /// Each.
    pub fn iter(self) -> impl Iterator<Item = Cause> {
        Cause::ALL.into_iter().filter(move |cause| self.has(*cause))
    }

    fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }
}

impl From<Cause> for Causes {
    fn from(cause: Cause) -> Self {
        Self(cause.bit())
    }
}

impl fmt::Display for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, cause) in self.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { "" } else { ", " }, cause.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Causes({self})")
    }
}

/// What became of a trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// The next checkpoint, which has not begun, is for it.
    Wanted,
    /// The checkpoint under way covers it.
    UnderWay,
    /// It is for the checkpoint after the one under way.
    Remembered,
    /// A checkpoint that is done covers it.
    Covered,
}

/// Which checkpoint is wanted, and which is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The epoch that the next checkpoint ends, or the one under way.
    epoch: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// None is under way. The next one has these causes; with none it is not wanted.
    Idle { wanted: Causes },
    /// One is, for these; and what came meanwhile and concerns later frames.
    UnderWay { causes: Causes, later: Causes },
}

impl Merge {
    /// Before the checkpoint that ends this epoch.
    pub const fn new(epoch: u64) -> Self {
        Self { epoch, state: State::Idle { wanted: Causes(0) } }
    }

    /// The epoch that the next checkpoint ends, or the one under way.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether a checkpoint is to be begun.
    pub const fn wanted(&self) -> bool {
        matches!(self.state, State::Idle { wanted } if !wanted.is_empty())
    }

    /// Whether one is under way.
    pub const fn under_way(&self) -> bool {
        matches!(self.state, State::UnderWay { .. })
    }

    /// Something asks for a checkpoint, because of what it saw in this epoch. An epoch that is yet to come counts
    /// as the next one: a checkpoint too many is legal, a lost trigger is not.
    pub fn trigger(&mut self, cause: Cause, epoch: u64) -> Merged {
        if epoch < self.epoch {
            return Merged::Covered;
        }
        match &mut self.state {
            State::Idle { wanted } => {
                wanted.add(cause.into());
                Merged::Wanted
            }
            State::UnderWay { causes, .. } if epoch == self.epoch => {
                causes.add(cause.into());
                Merged::UnderWay
            }
            State::UnderWay { later, .. } => {
                later.add(cause.into());
                Merged::Remembered
            }
        }
    }

    /// Begins the checkpoint that is wanted, if one is and none is under way; gives what it is for.
    pub fn begin(&mut self) -> Option<Causes> {
        match self.state {
            State::Idle { wanted } if !wanted.is_empty() => {
                self.state = State::UnderWay { causes: wanted, later: Causes::default() };
                Some(wanted)
            }
            _ => None,
        }
    }

    /// The checkpoint under way is complete; gives all that it was for. The next epoch begins.
    pub fn done(&mut self) -> Causes {
        let State::UnderWay { causes, later } = self.state else { return Causes::default() };
        *self = Self { epoch: self.epoch.wrapping_add(1), state: State::Idle { wanted: later } };
        causes
    }

    /// The checkpoint under way came to nothing: whatever asked for it, or came meanwhile, asks again.
    pub fn failed(&mut self) {
        if let State::UnderWay { causes, later } = self.state {
            let mut wanted = causes;
            wanted.add(later);
            self.state = State::Idle { wanted };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_trigger_of_later_frames_waits_for_its_own_checkpoint() {
        let mut merge = Merge::new(1);
        assert_eq!(merge.begin(), None);
        assert_eq!(merge.trigger(Cause::Timer, 1), Merged::Wanted);
        assert_eq!(merge.trigger(Cause::Age, 1), Merged::Wanted);
        assert_eq!(merge.begin().unwrap().to_string(), "age, timer");
        assert_eq!(merge.begin(), None);
        assert_eq!(merge.trigger(Cause::Divergence, 1), Merged::UnderWay);
        assert_eq!(merge.trigger(Cause::Overflow, 2), Merged::Remembered);
        assert_eq!(merge.done().to_string(), "divergence, age, timer");
        assert_eq!(merge.trigger(Cause::Divergence, 1), Merged::Covered);
        assert_eq!((merge.epoch(), merge.begin().unwrap().to_string().as_str()), (2, "overflow"));
        merge.failed();
        assert_eq!((merge.epoch(), merge.wanted(), merge.under_way()), (2, true, false));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Trigger { cause: Cause, seen: u64 },
        Begin,
        Done,
        Failed,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6usize, 0..4u64).prop_map(|(cause, seen)| Step::Trigger { cause: Cause::ALL[cause], seen }),
            3 => Just(Step::Begin),
            2 => Just(Step::Done),
            1 => Just(Step::Failed),
        ]
    }

    proptest! {
        /// The oracle is a list of all that was ever asked, struck out by the checkpoints that are complete.
        #[test]
        fn no_trigger_is_lost_and_no_two_checkpoints_overlap(steps in prop::collection::vec(step(), 0..200)) {
            let mut merge = Merge::new(1);
            let mut open: Vec<(u64, Cause)> = Vec::new();
            let (mut running, mut completed) = (None, 0);
            for step in steps {
                match step {
                    Step::Trigger { cause, seen } => {
                        // From a past epoch to one too far.
                        let epoch = (completed + seen).saturating_sub(1);
                        let merged = merge.trigger(cause, epoch);
                        prop_assert_eq!(merged == Merged::Covered, epoch <= completed);
                        if epoch > completed {
                            open.push((epoch, cause));
                        }
                    }
                    Step::Begin => match merge.begin() {
                        Some(causes) => {
                            prop_assert_eq!(running, None, "two at once");
                            prop_assert!(!open.is_empty(), "nobody asked");
                            prop_assert!(open.iter().all(|(_, cause)| causes.has(*cause)));
                            running = Some(completed + 1);
                            // One begun for an epoch yet to come is for it: nobody sees that far.
                            open.iter_mut().for_each(|(epoch, _)| *epoch = (*epoch).min(completed + 1));
                        }
                        None => prop_assert!(running.is_some() || open.is_empty(), "{:?} are lost", open),
                    },
                    Step::Done if running.is_some() => {
                        let causes = merge.done();
                        completed = running.take().unwrap();
                        let (covered, rest): (Vec<_>, Vec<_>) =
                            open.into_iter().partition(|(epoch, _)| *epoch <= completed);
                        prop_assert!(Cause::ALL.iter().all(|c| causes.has(*c) == covered.iter().any(|o| o.1 == *c)));
                        open = rest;
                    }
                    Step::Failed if running.is_some() => {
                        merge.failed();
                        running = None;
                    }
                    Step::Done | Step::Failed => {
                        let before = merge;
                        if matches!(step, Step::Done) { merge.done(); } else { merge.failed(); }
                        prop_assert_eq!(merge, before);
                    }
                }
                prop_assert_eq!(merge.under_way(), running.is_some());
            }
        }
    }
}
