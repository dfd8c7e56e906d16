//! The statistics: one JSON object for programs, one line for people.

use super::framing::FramingStats;
use super::notify::NotifyStats;
use crate::engine::{self, Cause, Discard, PerCause, SideStats, Usage};
use serde::Serialize;
use std::fmt;

/// What happened to a socket's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortStats {
    /// Peers that came, or were reached.
    pub connected: u64,
    /// Peers that went, or were sent away for being out of step.
    pub disconnected: u64,
    /// Peers that were refused because there was one already.
    pub refused: u64,
}

/// An input's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InputStats {
    /// Its connections.
    #[serde(flatten)]
    pub port: PortStats,
    /// Its byte stream.
    #[serde(flatten)]
    pub framing: FramingStats,
}

/// The outdev's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutputStats {
    /// Its connections.
    #[serde(flatten)]
    pub port: PortStats,
    /// Frames that were written whole.
    pub frames: u64,
    /// Bytes that were written.
    pub bytes: u64,
    /// Frames that a disconnect cut off and that were, or will be, written again.
    pub cut: u64,
    /// Released frames that are not written yet.
    pub pending_frames: u64,
    /// Bytes of them.
    pub pending_bytes: usize,
}

/// The notify socket's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NotifyPortStats {
    /// Its connections.
    #[serde(flatten)]
    pub port: PortStats,
    /// Its messages.
    #[serde(flatten)]
    pub messages: NotifyStats,
}

/// What is held of each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeldStats {
    /// The primary's output that waits to be released.
    pub primary: Usage,
    /// The secondary's output that waits for its twin.
    pub secondary: Usage,
}

/// All there is to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// primary-in.
    pub primary_in: InputStats,
    /// secondary-in.
    pub secondary_in: InputStats,
    /// outdev.
    pub outdev: OutputStats,
    /// notify-dev.
    pub notify_dev: NotifyPortStats,
    /// What is held now.
    pub held: HeldStats,
    /// Flows that are known now.
    pub flows: usize,
    /// The engine's own counters.
    pub engine: engine::Stats,
}

/// `name number` for each count that is not zero, after a word; nothing if all are.
struct NonZero<'a>(&'a str, &'a [(&'a str, u64)]);

impl fmt::Display for NonZero<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = self.0;
        for (name, count) in self.1.iter().filter(|(_, count)| *count > 0) {
            write!(f, "{before} {name} {count}")?;
            before = ",";
        }
        Ok(())
    }
}

fn discards(side: &SideStats) -> Vec<(&'static str, u64)> {
    Discard::ALL.iter().map(|cause| (cause.label(), side.discards.get(*cause as usize))).collect()
}

fn causes(counts: &PerCause<{ Cause::ALL.len() }>) -> Vec<(&'static str, u64)> {
    Cause::ALL.iter().map(|cause| (cause.label(), counts.get(*cause as usize))).collect()
}

fn nonsense(framing: &FramingStats) -> [(&'static str, u64); 5] {
    [
        ("empty", framing.empty),
        ("oversized", framing.oversized),
        ("bad-vnet-header", framing.bad_vnet_headers),
        ("cut", framing.cut),
        ("out-of-step", framing.out_of_step),
    ]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let engine = &self.engine;
        let [primary, secondary] = [&self.primary_in.framing, &self.secondary_in.framing];
        write!(
            f,
            "in: {} primary frames ({} bytes), {} secondary frames ({} bytes); released {} ({} by {} checkpoints, {} acknowledgements injected)",
            primary.frames,
            primary.bytes,
            secondary.frames,
            secondary.bytes,
            engine.released,
            engine.released_by_checkpoint,
            engine.checkpoints,
            engine.acks_injected,
        )?;
        write!(f, "; out: {} frames ({} bytes)", self.outdev.frames, self.outdev.bytes)?;
        write!(f, "{}", NonZero("; primary discarded:", &discards(&engine.primary)))?;
        write!(f, "{}", NonZero("; secondary discarded:", &discards(&engine.secondary)))?;
        write!(f, "{}", NonZero("; triggers:", &causes(&engine.triggers)))?;
        write!(f, "{}", NonZero("; primary skipped:", &nonsense(primary)))?;
        write!(f, "{}", NonZero("; secondary skipped:", &nonsense(secondary)))?;
        let held = &self.held;
        write!(
            f,
            "; held: {} primary, {} secondary; released but not written: {}",
            held.primary.frames, held.secondary.frames, self.outdev.pending_frames
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_leaves_out_what_did_not_happen() {
        let mut report = Report::default();
        assert!(!report.to_string().contains("skipped"));
        report.primary_in.framing.empty = 2;
        report.primary_in.framing.cut = 1;
        report.held.primary.frames = 3;
        let line = report.to_string();
        assert!(line.contains("; primary skipped: empty 2, cut 1;"), "{line}");
        assert!(line.ends_with("; held: 3 primary, 0 secondary; released but not written: 0"), "{line}");
    }

    #[test]
    fn the_object_is_flat_where_it_can_be() {
        let json = serde_json::to_value(Report::default()).unwrap();
        assert_eq!(json["primary_in"]["oversized"], 0);
        assert_eq!(json["notify_dev"]["refused"], 0);
        assert_eq!(json["engine"]["triggers"]["payload"], 0);
        assert_eq!(json["held"]["secondary"]["bytes"], 0);
    }
}
