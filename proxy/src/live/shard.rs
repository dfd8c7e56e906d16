//! What one thread does for a guest: one queue of each of its NICs. It shares nothing with the other
//! threads of the guest, because a conversation's frames are all in the same queue.

use super::LiveError;
use super::clock::{Clock, until};
use super::lane::{Lane, Queue};
use super::spec::Guest;
use crate::engine::{Mode, Nanos, Trigger};
use crate::link::Tap;
use rustix::event::Timespec;

/// The longest time between two looks at things that nobody announces.
const SCAN: Nanos = Nanos::from_millis(1000);

/// Turns without a `poll` while taps have more to read: the rest must not wait for ever.
const POLL_EVERY: u32 = 8;

/// A thread's lanes, and when they are looked at.
#[derive(Debug)]
pub(super) struct Shard {
    /// One for each NIC, in the guest's order.
    pub(super) lanes: Vec<Lane>,
    pub(super) clock: Clock,
    busy: Nanos,
    moved: Nanos,
    turns: u32,
    scan_at: Nanos,
}

impl Shard {
    pub(super) fn new(queues: Vec<Queue>, guest: &Guest, clock: Clock) -> Self {
        Self {
            lanes: queues.into_iter().map(|queue| Lane::new(queue, guest)).collect(),
            clock,
            busy: Nanos(u64::try_from(guest.busy_poll.as_nanos()).unwrap_or(u64::MAX)),
            moved: clock.now(),
            turns: 0,
            scan_at: SCAN,
        }
    }

    pub(super) fn into_taps(self) -> Vec<Tap> {
        self.lanes.into_iter().map(Lane::into_tap).collect()
    }

    /// Whether a queue may have more to read.
    pub(super) fn has_more(&self) -> bool {
        self.lanes.iter().any(|lane| lane.more)
    }

    /// Whether it is time to `poll`. To be asked once before each turn.
    pub(super) fn is_to_poll(&mut self, more: bool) -> bool {
        if more && self.turns < POLL_EVERY {
            return false;
        }
        self.turns = 0;
        true
    }

    /// How long to wait: until the next deadline, this one of others included.
    pub(super) fn patience(&self, more: bool, other: Option<Nanos>) -> Timespec {
        let now = self.clock.now();
        if more || now.since(self.moved) < self.busy {
            return Timespec::default();
        }
        let engines = self.lanes.iter().filter_map(|lane| lane.engine.next_deadline());
        until(engines.chain(other).fold(self.scan_at, Nanos::min), now)
    }

    /// Reads and compares what is there, and notices what waited too long. Whether it was time to look
    /// at everything.
    pub(super) fn turn(&mut self) -> Result<bool, LiveError> {
        self.turns += 1;
        let now = self.clock.now();
        for lane in &mut self.lanes {
            if lane.turn(now)? {
                self.moved = now;
            }
        }
        let scan = self.scan_at <= now;
        for lane in &mut self.lanes {
            lane.tick(now, scan);
            if scan {
                lane.compact(now.since(SCAN));
            }
        }
        if scan {
            self.scan_at = now.plus(SCAN);
        }
        Ok(scan)
    }

    /// Requests that have not been passed on.
    pub(super) fn triggers(&mut self) -> impl Iterator<Item = Trigger> {
        self.lanes.iter_mut().filter_map(|lane| lane.exit.trigger.take())
    }

    /// The next epoch begins.
    pub(super) fn begin(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.engine.checkpoint_begin());
    }

    /// It counts. With `protect`, output that passed until now is compared from now on.
    pub(super) fn done(&mut self, protect: bool, now: Nanos) {
        for lane in &mut self.lanes {
            lane.done(now);
            if protect {
                lane.set_mode(Mode::Compare, now);
            }
        }
    }

    /// It never was.
    pub(super) fn failed(&mut self, now: Nanos) -> Result<(), LiveError> {
        self.lanes.iter_mut().try_for_each(|lane| lane.failed(now))
    }

    pub(super) fn set_mode(&mut self, mode: Mode, now: Nanos) {
        self.lanes.iter_mut().for_each(|lane| lane.set_mode(mode, now));
    }
}
