//! Every limit of the engine, with its default.

use super::rules::PassRules;
use super::verdict::Nanos;

/// What the guest's output is worth at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// COLO: compare, release what agrees, trigger where it does not.
    #[default]
    Compare,
    /// Periodic (Remus): hold all primary output until the next checkpoint is complete.
    Periodic,
    /// The primary runs alone: nothing is held, secondary output is discarded.
    Unprotected,
}

/// What to do with neighbour traffic (ARP, ND).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Neighbours {
    /// Compare its fields.
    #[default]
    Compare,
    /// Release the primary's at once, discard the secondary's.
    Ignore,
    /// Hold the primary's and ask for a checkpoint at once.
    Checkpoint,
}

/// How much may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Frames.
    pub frames: usize,
    /// Bytes of frames.
    pub bytes: usize,
}

/// The engine's settings. `Config::default()` is what the shells start from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Held on either side of one flow; above it a checkpoint is triggered. Default 1024 frames,
    /// 4 MiB.
    pub flow_limit: Limit,
    /// Held on either side in all; above it a checkpoint is triggered, and above twice this
    /// [`Engine::accepts`](super::Engine::accepts) is false. Default 16 384 frames, 64 MiB.
    pub total_limit: Limit,
    /// Flows that are remembered while nothing of them is held; the longest idle go first.
    /// Default 65 536.
    pub max_flows: usize,
    /// The lowest age limit a flow can adapt to. Default 100 ms.
    pub age_floor: Nanos,
    /// The age limit of a flow that has not matched yet, and the highest it can adapt to.
    /// Default 3 s.
    pub age_ceiling: Nanos,
    /// How long unequal messages (UDP, ICMP, …) that both sides have may wait for their twins to
    /// come in another order. Default 20 ms.
    pub reorder_wait: Nanos,
    /// How many unmatched messages the secondary may be ahead of an unmatched primary's before
    /// that counts as a divergence. Default 32.
    pub reorder_window: usize,
    /// The shortest time between two triggers. Default 10 ms.
    pub trigger_interval: Nanos,
    /// Datagrams under reassembly on each side. Default 64.
    pub max_reassemblies: usize,
    /// How long fragments wait for their rest. Default 3 s.
    pub reassembly_timeout: Nanos,
    /// ARP.
    pub arp: Neighbours,
    /// Neighbour discovery.
    pub nd: Neighbours,
    /// Flows that are not compared, first match wins. Default none.
    pub pass: PassRules,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            flow_limit: Limit { frames: 1024, bytes: 4 << 20 },
            total_limit: Limit { frames: 16_384, bytes: 64 << 20 },
            max_flows: 65_536,
            age_floor: Nanos::from_millis(100),
            age_ceiling: Nanos::from_millis(3000),
            reorder_wait: Nanos::from_millis(20),
            reorder_window: 32,
            trigger_interval: Nanos::from_millis(10),
            max_reassemblies: 64,
            reassembly_timeout: Nanos::from_millis(3000),
            arp: Neighbours::default(),
            nd: Neighbours::default(),
            pass: PassRules::default(),
        }
    }
}
