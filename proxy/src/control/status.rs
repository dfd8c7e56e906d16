//! What a node says of itself: to a person (`status`, `top`), to a program (`--json`), and in
//! metrics. Plain data, made by the live path on request.

use crate::engine::{FlowView, Nanos, Usage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One running process, or the set-ups that were left without one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The version of the program.
    pub version: String,
    /// The process; 0 where none runs.
    pub pid: u32,
    /// How long it has run.
    pub uptime_ms: u64,
    /// The guests.
    pub guests: Vec<GuestStatus>,
}

/// One guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuestStatus {
    /// Its name.
    pub name: String,
    /// `primary`, `secondary` or `promoted`.
    pub role: String,
    /// `protected`, `periodic`, `unprotected`, or `following` on a secondary; `failed` where the process
    /// cannot go on with this guest.
    pub state: String,
    /// What has to happen before it goes on, in words; none when nothing is missing.
    pub waiting_for: Option<String>,
    /// The current epoch.
    pub epoch: u64,
    /// Checkpoints.
    pub checkpoints: CheckpointStatus,
    /// Its NICs.
    pub nics: Vec<NicStatus>,
    /// Why it has failed, if it has.
    #[serde(default)]
    pub failure: Option<String>,
}

/// How it stands with checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckpointStatus {
    /// Complete so far.
    pub completed: u64,
    /// Failed so far.
    pub failed: u64,
    /// Asked for, by cause.
    pub triggers: BTreeMap<String, u64>,
    /// Why one is asked for at the moment; none if none is.
    pub outstanding: Option<String>,
    /// How long that has been so.
    pub outstanding_ms: u64,
    /// How long after the request the last one was complete.
    pub last_ms: Option<u64>,
    /// Whether somebody is there to perform one.
    pub performer: Option<String>,
}

/// One NIC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NicStatus {
    /// The guest's interface.
    pub vif: String,
    /// The device to the other node.
    pub forward: String,
    /// Its number there.
    pub index: u8,
    /// The bridge, if one was named.
    pub bridge: Option<String>,
    /// What the kernel's programs counted, by label.
    pub kernel: BTreeMap<String, u64>,
    /// Frames that did not fit the queue to the comparator.
    pub capture_dropped: u64,
    /// Connections known: to the comparator, or to a secondary's translation.
    pub flows: u64,
    /// Primary only: what the comparator counted, as in `compare --json`.
    pub engine: Option<serde_json::Value>,
    /// Primary only: what is held of the primary's and of the secondary's output.
    pub held: Option<[HeldStatus; 2]>,
    /// Primary only: how long released frames were held.
    pub match_delay: Option<DelayStatus>,
    /// Primary only: flows that hold something, those that have waited longest first; at most 1000.
    pub held_flows: Vec<FlowStatus>,
    /// Primary only: each queue by itself, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<QueueStatus>,
    /// Announced addresses on a promoted node; known ones on a secondary.
    pub addresses: Vec<String>,
}

/// One queue of a NIC's capture tap, and the thread that compares what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Frames that came in, of the primary and of the secondary.
    pub frames: [u64; 2],
    /// Primary frames that were released.
    pub released: u64,
    /// What is held of the primary's and of the secondary's output.
    pub held: [HeldStatus; 2],
    /// Connections known.
    pub flows: u64,
    /// Checkpoints asked for; those of several queues may have become one.
    pub triggers: u64,
}

/// What is held of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldStatus {
    /// Frames.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// How long released frames were held, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelayStatus {
    /// Frames.
    pub count: u64,
    /// Half of them no longer than this.
    pub p50_us: u64,
    /// Nine of ten.
    pub p90_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// One flow that holds something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStatus {
    /// The flow as text.
    pub flow: String,
    /// What is held of the primary's and of the secondary's output.
    pub held: [HeldStatus; 2],
    /// For how long the oldest of it.
    pub oldest_ms: u64,
    /// From when on that counts as a divergence; none where it waits for a checkpoint already.
    pub limit_ms: Option<u64>,
    /// Why, in words: what it waits for.
    pub why: String,
}

impl From<Usage> for HeldStatus {
    fn from(usage: Usage) -> Self {
        Self { frames: usage.frames as u64, bytes: usage.bytes as u64 }
    }
}

impl FlowStatus {
    /// What the engine says of what it holds, at this time of its clock.
    pub fn new(view: &FlowView, now: Nanos) -> Self {
        let millis = |nanos: Nanos| nanos.0 / 1_000_000;
        Self {
            flow: view.holder.to_string(),
            held: view.held.map(HeldStatus::from),
            oldest_ms: millis(now.since(view.since)),
            limit_ms: view.limit.map(millis),
            why: view.why.to_string(),
        }
    }
}
