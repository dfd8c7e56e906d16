//! What the clients outside were told, and by which checkpoint it must be on the secondary.
//!
//! ```text
//!   primary:   … checkpoint n complete ──┬── n+1 begins … complete ──── n+2 begins …
//!   look:                                └ at any time here the status says n
//! ```
//!
//! What was told before a look that saw checkpoint n may have happened while n+1 was under way, since the guest goes
//! on meanwhile; but n+2 begins after n+1 is complete, so after the look: it has all of that. With output that is held
//! until its checkpoint ([`Rule::Strict`]), whatever was told is on the secondary.

/// What is to be there after a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// What was told before the last checkpoint began.
    Checkpointed,
    /// All that was told.
    Strict,
}

/// What was told until some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The last step of the files.
    pub(super) step: u64,
    /// How many transactions were seen committed.
    pub(super) commits: usize,
}

/// What was told, by the checkpoint that was complete.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes(Vec<(u64, Told)>);

impl Notes {
    /// At a look whose status says that checkpoint `epoch` is complete, so much had been told. What was told is
    /// read before the status.
    pub(super) fn saw(&mut self, epoch: u64, told: Told) {
        match self.0.last_mut() {
            Some((last, at)) if *last == epoch => *at = told,
            _ => self.0.push((epoch, told)),
        }
    }

    /// What must be there at a secondary that goes on from checkpoint `epoch`.
    pub(super) fn due(&self, epoch: u64, rule: Rule) -> Told {
        let is_due = |(at, _): &&(u64, Told)| {
            rule == Rule::Strict || epoch.checked_sub(2).is_some_and(|last| *at <= last)
        };
        self.0.iter().rev().find(is_due).map_or_else(Told::default, |(_, told)| *told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(step: u64) -> Told {
        Told { step, commits: 2 * step as usize }
    }

    #[test]
    fn what_was_told_two_checkpoints_before_is_due_and_strictly_all_of_it() {
        let mut notes = Notes::default();
        assert_eq!(notes.due(9, Rule::Strict), Told::default());
        for (epoch, step) in [(1, 5), (1, 6), (2, 8), (4, 10), (4, 12)] {
            notes.saw(epoch, told(step));
        }
        for (epoch, due) in [(1, 0), (2, 0), (3, 6), (4, 8), (5, 8), (6, 12), (7, 12)] {
            assert_eq!(notes.due(epoch, Rule::Checkpointed), told(due), "{epoch}");
        }
        assert_eq!(notes.due(1, Rule::Strict), told(12));
    }
}
