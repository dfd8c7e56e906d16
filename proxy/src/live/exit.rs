//! Where the engine's verdicts go: released frames to the tap, requests to whoever takes them up.

use super::frame::LiveFrame;
use crate::engine::{AckFrame, Discard, Divergence, Nanos, Side, Sink, Trigger};
use crate::link::Tap;
use crate::packet::FlowKey;
use crate::quiet::{Quiet, quietly};
use hdrhistogram::Histogram;

/// The longest delay that is told apart: an hour, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;

/// What left, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ExitStats {
    /// Frames that were written to the tap.
    pub written: u64,
    /// Frames that the kernel refused; to clients they are lost packets.
    pub refused: u64,
}

/// The way out of one NIC.
#[derive(Debug)]
pub(super) struct Exit {
    tap: Tap,
    vif: String,
    pub(super) now: Nanos,
    /// The request that has not been passed on.
    pub(super) trigger: Option<Trigger>,
    /// How long released frames were held.
    pub(super) delays: Histogram<u64>,
    stats: ExitStats,
    divergences: Quiet,
    refusals: Quiet,
}

impl Exit {
    pub(super) fn new(tap: Tap, vif: String) -> Self {
        // Two digits are enough for a percentile; the bounds are constants that it accepts.
        let delays = Histogram::new_with_bounds(1, LONGEST_US, 2)
            .unwrap_or_else(|_| unreachable!("1 to an hour with two digits is a histogram"));
        Self {
            tap,
            vif,
            now: Nanos::default(),
            trigger: None,
            delays,
            stats: ExitStats::default(),
            divergences: Quiet::default(),
            refusals: Quiet::default(),
        }
    }

    pub(super) fn tap(&self) -> &Tap {
        &self.tap
    }

    pub(super) fn stats(&self) -> ExitStats {
        self.stats
    }

    pub(super) fn into_tap(self) -> Tap {
        self.tap
    }

    fn write(&mut self, frame: &LiveFrame) {
        match self.tap.write(frame.wire()) {
            Ok(()) => self.stats.written += 1,
            Err(error) => {
                self.stats.refused += 1;
                quietly!(
                    self.refusals,
                    self.now,
                    warn,
                    "{}: a released frame of {} bytes is lost: {error}",
                    self.vif,
                    frame.wire().len()
                );
            }
        }
    }
}

impl Sink<LiveFrame> for Exit {
    #[inline]
    fn release(&mut self, _: Option<&FlowKey>, frame: LiveFrame, _: u32) {
        self.delays.saturating_record(self.now.since(frame.at).0 / 1000);
        self.write(&frame);
    }

    fn inject(&mut self, _: &FlowKey, ack: AckFrame) {
        let frame = LiveFrame::made(&ack.0, self.now);
        self.write(&frame);
    }

    #[inline]
    fn discard(&mut self, _: Option<&FlowKey>, _: Side, _: LiveFrame, _: Discard) {}

    fn divergence(&mut self, divergence: &Divergence<'_, LiveFrame>) {
        let Divergence { flow, cause, offset, .. } = divergence;
        quietly!(
            self.divergences,
            self.now,
            info,
            "{}: {flow}: the outputs differ ({cause}) after {offset} bytes",
            self.vif
        );
    }

    fn trigger(&mut self, trigger: Trigger) {
        self.trigger.get_or_insert(trigger);
    }
}
