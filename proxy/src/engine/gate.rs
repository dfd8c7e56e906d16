//! Merges triggers: at most one is outstanding, and two are never closer than an interval.
//!
//! ```text
//!            request                    begin                 done / failed
//!   Quiet ───────────► Outstanding ─────────────► UnderWay ─────────────────► Quiet
//!     │ too soon            │ request: merged        │ request about later frames: again
//!     └──► Waiting ─ tick ──┘
//! ```

use super::verdict::{Cause, Epoch, Nanos, Trigger};
use crate::packet::FlowKey;

type Reason = (Cause, Option<FlowKey>);

#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Sent and not answered by a checkpoint yet.
    outstanding: Option<Reason>,
    /// To be sent as soon as the interval allows.
    waiting: Option<Reason>,
    /// State is being captured: what is held now is covered, what comes in the next epoch is not.
    under_way: bool,
    /// When the last one was sent.
    last: Option<Nanos>,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Send this.
    Send(Trigger),
    /// It is covered by one that was sent, or waits for its time.
    Merged,
}

impl Gate {
    /// A request about frames of the current epoch.
    pub(super) fn request(&mut self, reason: Reason, now: Nanos, interval: Nanos, epoch: Epoch) -> Asked {
        if self.under_way {
            // The checkpoint covers it, unless it fails.
            self.outstanding.get_or_insert(reason);
        }
        if self.outstanding.is_some() {
            return Asked::Merged;
        }
        let first = *self.waiting.get_or_insert(reason);
        if self.ready(interval).is_some_and(|at| at > now) {
            return Asked::Merged;
        }
        self.send(first, now, epoch)
    }

    /// A request about frames of the next epoch, while a checkpoint is under way.
    pub(super) fn request_later(&mut self, reason: Reason) {
        self.waiting.get_or_insert(reason);
    }

    fn ready(&self, interval: Nanos) -> Option<Nanos> {
        self.last.map(|last| last.plus(interval))
    }

    fn send(&mut self, reason: Reason, now: Nanos, epoch: Epoch) -> Asked {
        self.waiting = None;
        self.outstanding = Some(reason);
        self.last = Some(now);
        Asked::Send(Trigger { cause: reason.0, flow: reason.1, epoch })
    }

    /// Whether no checkpoint is under way, and none is asked for or about to be.
    pub(super) fn is_quiet(&self) -> bool {
        self.outstanding.is_none() && self.waiting.is_none() && !self.under_way
    }

    /// When `tick` has something to send.
    pub(super) fn deadline(&self, interval: Nanos) -> Option<Nanos> {
        let blocked = self.outstanding.is_some() || self.under_way || self.waiting.is_none();
        (!blocked).then(|| self.ready(interval).unwrap_or_default())
    }

    pub(super) fn tick(&mut self, now: Nanos, interval: Nanos, epoch: Epoch) -> Option<Trigger> {
        if self.deadline(interval)? > now {
            return None;
        }
        match self.send(self.waiting?, now, epoch) {
            Asked::Send(trigger) => Some(trigger),
            Asked::Merged => None,
        }
    }

    pub(super) fn begin(&mut self) {
        self.under_way = true;
    }

    pub(super) fn done(&mut self) {
        self.outstanding = None;
        self.under_way = false;
    }

    /// No checkpoint is needed any more, whatever asked for one.
    pub(super) fn clear(&mut self) {
        self.done();
        self.waiting = None;
    }

    /// The reason stands: it is sent again after the interval.
    pub(super) fn failed(&mut self) {
        self.waiting = self.outstanding.take().or(self.waiting);
        self.under_way = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Nanos = Nanos(10);
    const AGE: Reason = (Cause::Age, None);
    const FIN: Reason = (Cause::Fin, None);

    fn sent(cause: Cause) -> Trigger {
        Trigger { cause, flow: None, epoch: Epoch::FIRST }
    }

    #[test]
    fn one_is_outstanding_and_the_next_waits_for_the_interval() {
        let mut gate = Gate::default();
        assert_eq!(gate.request(AGE, Nanos(5), INTERVAL, Epoch::FIRST), Asked::Send(sent(Cause::Age)));
        assert_eq!(gate.request(FIN, Nanos(6), INTERVAL, Epoch::FIRST), Asked::Merged);
        gate.begin();
        gate.done();
        assert_eq!(gate.deadline(INTERVAL), None, "what merged into the first needs no second");
        assert_eq!(gate.request(FIN, Nanos(7), INTERVAL, Epoch::FIRST), Asked::Merged);
        assert_eq!(gate.deadline(INTERVAL), Some(Nanos(15)));
        assert_eq!(gate.tick(Nanos(14), INTERVAL, Epoch::FIRST), None);
        assert_eq!(gate.tick(Nanos(15), INTERVAL, Epoch::FIRST), Some(sent(Cause::Fin)));
        assert_eq!(gate.tick(Nanos(99), INTERVAL, Epoch::FIRST), None);
    }

    #[test]
    fn a_failed_checkpoint_is_asked_for_again() {
        let mut gate = Gate::default();
        gate.request(AGE, Nanos(5), INTERVAL, Epoch::FIRST);
        gate.begin();
        gate.failed();
        assert_eq!(gate.tick(Nanos(15), INTERVAL, Epoch::FIRST), Some(sent(Cause::Age)));
    }

    #[test]
    fn what_merged_into_a_checkpoint_of_the_callers_is_asked_for_if_that_fails() {
        let mut gate = Gate::default();
        gate.begin();
        assert_eq!(gate.request(FIN, Nanos(5), INTERVAL, Epoch::FIRST), Asked::Merged);
        gate.failed();
        assert_eq!(gate.tick(Nanos(15), INTERVAL, Epoch::FIRST), Some(sent(Cause::Fin)));
    }

    #[test]
    fn later_frames_get_a_checkpoint_of_their_own() {
        let mut gate = Gate::default();
        gate.begin();
        gate.request_later(FIN);
        assert_eq!(gate.deadline(INTERVAL), None);
        gate.done();
        assert_eq!(gate.tick(Nanos(0), INTERVAL, Epoch::FIRST), Some(sent(Cause::Fin)));
    }
}
