//! One queue of one NIC's capture tap, and the comparator of the conversations in it.

use super::LiveError;
use super::exit::Exit;
use super::frame::LiveFrame;
use super::intake::Intake;
use super::spec::{Guest, IfName, Start};
use crate::engine::{Config, Engine, Epoch, Limit, Mode, Nanos};
use crate::link::Tap;

/// What one thread does for one NIC.
#[derive(Debug)]
pub(super) struct Lane {
    vif: IfName,
    pub(super) engine: Engine<LiveFrame>,
    pub(super) intake: Intake,
    pub(super) exit: Exit,
    /// The epoch on the wire minus the engine's: what was taken over goes on where it was.
    base: u64,
    /// Whether its queue may have more to read.
    pub(super) more: bool,
}

/// A queue that nobody reads yet. Unlike a [`Lane`] it can go to another thread.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) tap: Tap,
    pub(super) vif: IfName,
    /// The epoch on the wire at the start.
    pub(super) epoch: u32,
}

/// The settings of each of `parts` comparators that share a guest: what is held in all is divided, what
/// is held of one conversation is not.
fn share(config: &Config, parts: u8) -> Config {
    let parts = usize::from(parts.max(1));
    let Limit { frames, bytes } = config.total_limit;
    Config {
        total_limit: Limit { frames: frames.div_ceil(parts), bytes: bytes.div_ceil(parts) },
        max_flows: config.max_flows.div_ceil(parts),
        ..config.clone()
    }
}

impl Lane {
    pub(super) fn new(queue: Queue, guest: &Guest) -> Self {
        let Queue { tap, vif, epoch } = queue;
        let mut exit = Exit::new(tap, vif.to_string());
        let mut engine = Engine::new(share(&guest.engine, guest.queues.get()));
        if guest.start != Start::Protected {
            engine.set_mode(Mode::Unprotected, Nanos::default(), &mut exit);
        }
        let base = u64::from(epoch).saturating_sub(engine.epoch().0);
        Self { vif, engine, intake: Intake::new(), exit, base, more: false }
    }

    pub(super) fn into_tap(self) -> Tap {
        self.exit.into_tap()
    }

    /// Reads a turn's frames and compares them. Whether there were any.
    pub(super) fn turn(&mut self, now: Nanos) -> Result<bool, LiveError> {
        let Self { engine, intake, exit, vif, base, more } = self;
        let wire = Epoch(engine.epoch().0 + *base);
        *more = intake
            .fill(exit.tap())
            .map_err(|error| LiveError::Tap { vif: vif.clone(), error: error.into() })?;
        exit.now = now;
        let frames = intake.hand_out(wire, now, |mut input| {
            input.epoch = Epoch(input.epoch.0.saturating_sub(*base));
            engine.frame(input, exit);
        });
        if intake.is_crowded() {
            self.compact(Nanos(u64::MAX));
        }
        Ok(frames > 0)
    }

    /// Copies frames that came before `before` out of the blocks they share.
    pub(super) fn compact(&mut self, before: Nanos) {
        self.engine.compact(before, LiveFrame::shrink);
        self.intake.sweep();
    }

    /// Lets what waited too long be noticed; all of it if `always`.
    pub(super) fn tick(&mut self, now: Nanos, always: bool) {
        if always || self.engine.next_deadline().is_some_and(|at| at <= now) {
            self.exit.now = now;
            self.engine.tick(now, &mut self.exit);
        }
    }

    /// The epoch that began counts, and what is older is stale.
    pub(super) fn done(&mut self, now: Nanos) {
        self.exit.now = now;
        self.engine.checkpoint_done(now, &mut self.exit);
    }

    /// The epoch that began never was.
    pub(super) fn failed(&mut self, now: Nanos) -> Result<(), LiveError> {
        // What was captured meanwhile says that it is of that epoch: it is to be set aside before
        // the engine hears that there is none.
        while self.turn(now)? || self.more {}
        self.engine.checkpoint_failed(now, &mut self.exit);
        Ok(())
    }

    pub(super) fn set_mode(&mut self, mode: Mode, now: Nanos) {
        self.exit.now = now;
        self.engine.set_mode(mode, now, &mut self.exit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_in_all_is_divided_and_what_one_conversation_holds_is_not() {
        let whole = Config::default();
        let third = share(&whole, 3);
        assert_eq!(third.total_limit.frames, 5462);
        assert_eq!(third.total_limit.bytes, (64 << 20) / 3 + 1);
        assert_eq!(third.max_flows, 21_846);
        assert_eq!(third.flow_limit, whole.flow_limit);
        assert_eq!(format!("{:?}", share(&whole, 1)), format!("{whole:?}"));
    }
}
