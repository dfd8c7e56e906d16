//! What a replay found: the data, and its JSON.
//!
//! ```text
//!   {"version":1,
//!    "summary":{"flows":…,"frames_primary":…,"released":…,"held":…,"checkpoints":…,…},
//!    "warnings":[…],
//!    "flows":[{"proto":"tcp","a":"ip:port","b":"ip:port","verdict":"match",…,"divergence":null}]}
//! ```
//!
//! Keys may be added; those that are there keep their meaning as long as `version` stays.

use crate::engine::{Cause, Side};
use crate::packet::FlowKey;
use serde::{Serialize, Serializer};

/// What became of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The two sides differ.
    Diverged,
    /// One side lacks what the other has, up to the end of the captures.
    Incomplete,
    /// A rule let it pass uncompared.
    PassedThrough,
    /// Everything the primary sent, the secondary sent too, and the other way round.
    Match,
}

impl Verdict {
    /// The word used in reports.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Diverged => "diverged",
            Self::Incomplete => "incomplete",
            Self::PassedThrough => "passed-through",
        }
    }
}

/// What one side sent in a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes of those frames, headers included.
    pub bytes: u64,
}

/// How many bytes around a difference are shown.
pub(super) const WINDOW: usize = 16;

/// One side's part in a divergence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhibit {
    /// Which capture the frame is in.
    pub side: Side,
    /// The frame's number in its file, from 1.
    pub frame: u64,
    /// What kind of frame, where that says more than its bytes: `FIN`, `SYN mss 1460`, ….
    pub what: String,
    /// A few bytes of what is compared, around the place where the sides part.
    pub bytes: Vec<u8>,
    /// Which of `bytes` stands at that place.
    pub mark: usize,
}

/// How a flow diverged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Why.
    pub cause: Cause,
    /// TCP: bytes of agreed stream before it. Others: bytes of the message before it.
    pub offset: u64,
    /// The primary's part, where it has one.
    pub primary: Option<Exhibit>,
    /// The secondary's part, where it has one. Where the primary contradicts itself (the same place
    /// of a stream sent twice with other bytes), this is its other frame.
    pub secondary: Option<Exhibit>,
}

/// One flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Which one.
    pub key: FlowKey,
    /// What the primary sent.
    pub primary: Traffic,
    /// What the secondary sent.
    pub secondary: Traffic,
    /// Primary frames that were released.
    pub released: u64,
    /// Bytes of stream or message that were compared equal and released.
    pub released_bytes: u64,
    /// Primary frames that were still held at the end.
    pub held: u64,
    /// Secondary frames that were still without a twin at the end.
    pub unmatched: u64,
    /// Frames that could not be compared for want of room.
    pub uncompared: u64,
    /// A rule lets it pass.
    pub passed: bool,
    /// The source MAC address of the first frame seen.
    pub(super) source: super::Mac,
    /// How it diverged, if it did.
    pub divergence: Option<Box<Finding>>,
}

impl Flow {
    pub(super) fn new(key: FlowKey, passed: bool, source: super::Mac) -> Self {
        Self {
            key,
            primary: Traffic::default(),
            secondary: Traffic::default(),
            released: 0,
            released_bytes: 0,
            held: 0,
            unmatched: 0,
            uncompared: 0,
            passed,
            source,
            divergence: None,
        }
    }

    /// What became of it.
    pub fn verdict(&self) -> Verdict {
        if self.divergence.is_some() {
            Verdict::Diverged
        } else if self.uncompared > 0 {
            Verdict::Incomplete
        } else if self.passed {
            Verdict::PassedThrough
        } else if self.held + self.unmatched > 0 {
            Verdict::Incomplete
        } else {
            Verdict::Match
        }
    }
}

/// The sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Flows.
    pub flows: u64,
    /// Flows that match.
    pub matched: u64,
    /// Flows that diverged.
    pub diverged: u64,
    /// Flows that are incomplete.
    pub incomplete: u64,
    /// Flows that a rule let pass.
    pub passed_through: u64,
    /// The guest's frames in the primary's capture.
    pub frames_primary: u64,
    /// The guest's frames in the secondary's capture.
    pub frames_secondary: u64,
    /// Frames of the primary's capture that others sent to the guest.
    pub other_direction_primary: u64,
    /// Frames of the secondary's capture that others sent to the guest.
    pub other_direction_secondary: u64,
    /// Primary frames that were released.
    pub released: u64,
    /// Bytes of stream or message that were compared equal and released.
    pub released_bytes: u64,
    /// Primary frames still held at the end.
    pub held: u64,
    /// Secondary frames without a twin at the end.
    pub unmatched: u64,
    /// How many checkpoints the divergences would have asked for: one each.
    pub checkpoints: u64,
    /// Times that too much was held in all without one flow being to blame.
    pub overflows: u64,
    /// Frames that do not parse, and were dropped.
    pub malformed: u64,
    /// Fragments that overlap or fit no datagram, and were dropped.
    pub bad_fragments: u64,
    /// Frames that could not be compared for want of room.
    pub uncompared: u64,
    /// Flows that were forgotten while idle, for want of room, and compared anew when they spoke again.
    pub resumed: u64,
    /// From the first frame to the last, in milliseconds.
    pub duration_ms: u64,
    /// The replay ended at the first divergence, as it was told to.
    pub stopped: bool,
}

/// What a replay found.
#[derive(Debug, Serialize)]
pub struct Report {
    version: u32,
    /// The sums.
    pub summary: Summary,
    /// What a reader of the verdicts should know about the captures.
    pub warnings: Vec<String>,
    /// The flows in the order in which they were first decided on.
    pub flows: Vec<Flow>,
}

impl Report {
    pub(super) fn new(summary: Summary, warnings: Vec<String>, flows: Vec<Flow>) -> Self {
        Self { version: 1, summary, warnings, flows }
    }

    /// Whether every flow matches, or is passed through by a rule.
    pub fn agrees(&self) -> bool {
        let Summary { diverged, incomplete, uncompared, .. } = self.summary;
        diverged + incomplete + uncompared == 0
    }
}

#[derive(Serialize)]
struct Row {
    proto: String,
    a: String,
    b: String,
    vlans: Vec<u16>,
    verdict: Verdict,
    frames_primary: u64,
    frames_secondary: u64,
    bytes_primary: u64,
    bytes_secondary: u64,
    released: u64,
    released_bytes: u64,
    held: u64,
    unmatched: u64,
    divergence: Option<FindingRow>,
}

#[derive(Serialize)]
struct FindingRow {
    cause: &'static str,
    offset: u64,
    primary_frame: Option<u64>,
    secondary_frame: Option<u64>,
    primary_bytes: Option<String>,
    secondary_bytes: Option<String>,
}

impl From<&Finding> for FindingRow {
    fn from(finding: &Finding) -> Self {
        let of = |side, exhibit: &Option<Exhibit>| exhibit.clone().filter(|exhibit| exhibit.side == side);
        let primary = of(Side::Primary, &finding.primary);
        let secondary = of(Side::Secondary, &finding.secondary);
        let hex = |exhibit: &Exhibit| hex(&exhibit.bytes);
        Self {
            cause: finding.cause.label(),
            offset: finding.offset,
            primary_frame: primary.as_ref().map(|exhibit| exhibit.frame),
            secondary_frame: secondary.as_ref().map(|exhibit| exhibit.frame),
            primary_bytes: primary.as_ref().map(hex),
            secondary_bytes: secondary.as_ref().map(hex),
        }
    }
}

impl Serialize for Flow {
    // Row by row, so that a report on millions of flows is never in memory as text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = Row {
            proto: self.key.proto().to_string(),
            a: self.key.guest_text(),
            b: self.key.peer_text(),
            vlans: self.key.vlans().collect(),
            verdict: self.verdict(),
            frames_primary: self.primary.frames,
            frames_secondary: self.secondary.frames,
            bytes_primary: self.primary.bytes,
            bytes_secondary: self.secondary.bytes,
            released: self.released,
            released_bytes: self.released_bytes,
            held: self.held,
            unmatched: self.unmatched,
            divergence: self.divergence.as_deref().map(FindingRow::from),
        };
        row.serialize(serializer)
    }
}

/// A count with its unit: `1 frame`, `2 frames`.
pub(super) fn plural(count: u64, unit: &str) -> String {
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// Bytes as pairs of digits with spaces between.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
