//! Everything the engine counts.

use super::verdict::{Cause, Discard, Side};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// A counter per variant of a small enumeration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerCause<const N: usize>([u64; N]);

impl<const N: usize> Default for PerCause<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> PerCause<N> {
    pub(super) fn add(&mut self, index: usize) {
        self.0[index] += 1;
    }

    /// The count for the variant with this discriminant.
    pub fn get(&self, index: usize) -> u64 {
        self.0[index]
    }

    /// The sum over all variants.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    fn serialize<S: Serializer>(&self, labels: [&str; N], serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(N))?;
        for (label, count) in labels.iter().zip(self.0) {
            map.serialize_entry(label, &count)?;
        }
        map.end()
    }
}

fn by_discard<S: Serializer>(counts: &PerCause<{ Discard::ALL.len() }>, s: S) -> Result<S::Ok, S::Error> {
    counts.serialize(Discard::ALL.map(Discard::label), s)
}

fn by_cause<S: Serializer>(counts: &PerCause<{ Cause::ALL.len() }>, s: S) -> Result<S::Ok, S::Error> {
    counts.serialize(Cause::ALL.map(Cause::label), s)
}

/// What one side did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SideStats {
    /// Frames that came in.
    pub frames: u64,
    /// Bytes of those frames.
    pub bytes: u64,
    /// Frames that were discarded, by cause.
    #[serde(serialize_with = "by_discard")]
    pub discards: PerCause<{ Discard::ALL.len() }>,
}

/// Everything the engine counts, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The primary.
    pub primary: SideStats,
    /// The secondary.
    pub secondary: SideStats,
    /// Primary frames that were released.
    pub released: u64,
    /// Primary frames that were released because a checkpoint covers them.
    pub released_by_checkpoint: u64,
    /// Primary frames that were released uncompared by a pass-through rule.
    pub passed_through: u64,
    /// Bytes of streams and messages that were compared equal.
    pub verified_bytes: u64,
    /// Frames whose acknowledgement or window was lowered.
    pub acks_lowered: u64,
    /// Acknowledgements that were let out later by a frame of the engine's own.
    pub acks_injected: u64,
    /// Acknowledgements that told the client of what only the secondary misses.
    pub gaps_told: u64,
    /// Frames that were cut, because only their beginning was verified.
    pub frames_cut: u64,
    /// UDP and other messages that matched out of order.
    pub reordered: u64,
    /// SYNs whose MSS or SACK-permitted options differ, which is tolerated.
    pub syn_options_tolerated: u64,
    /// Divergences, by cause; at most one per flow and epoch.
    #[serde(serialize_with = "by_cause")]
    pub divergences: PerCause<{ Cause::ALL.len() }>,
    /// Triggers that were sent, by cause.
    #[serde(serialize_with = "by_cause")]
    pub triggers: PerCause<{ Cause::ALL.len() }>,
    /// Triggers that merged into an outstanding one, by cause.
    #[serde(serialize_with = "by_cause")]
    pub triggers_merged: PerCause<{ Cause::ALL.len() }>,
    /// Checkpoints that completed.
    pub checkpoints: u64,
    /// Checkpoints that failed.
    pub checkpoints_failed: u64,
    /// Datagrams put together from fragments.
    pub reassembled: u64,
    /// Flows made.
    pub flows_created: u64,
    /// Idle flows forgotten for want of room.
    pub flows_evicted: u64,
    /// Streams that began anew on a known 4-tuple.
    pub streams_restarted: u64,
}

impl Stats {
    pub(super) fn side(&mut self, side: Side) -> &mut SideStats {
        match side {
            Side::Primary => &mut self.primary,
            Side::Secondary => &mut self.secondary,
        }
    }
}
