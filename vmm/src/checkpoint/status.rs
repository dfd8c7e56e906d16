//! What is going on, for people, machines and debuggers.
//!
//! ```text
//!   session ── Epoch, Phase ──► Board ──► status (people, JSON), QMP, metrics
//! ```

pub use super::protocol::hello::Mode;
pub use super::protocol::merge::Cause;

use super::disks;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many epochs are kept for medians.
const KEPT: usize = 1024;

/// Which of the two a host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The guest that serves.
    Primary,
    /// The guest that is kept level with it.
    Secondary,
}

/// What this side does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It looks for its peer, or waits for it. A primary's guest runs unprotected.
    Connecting,
    /// All of the guest's memory is on its way for the first time.
    Syncing,
    /// The secondary can take over.
    Level,
    /// A checkpoint is under way. The secondary can take over, from the one before or from this one.
    Checkpoint,
    /// The peer is lost, and nobody has said yet what is to be done (`x-colo-lost-heartbeat`).
    Lost,
    /// There is no peer any more: this guest serves alone.
    Alone,
}

/// Why a session is over, in QEMU's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// There was none.
    #[default]
    None,
    /// Somebody asked for it.
    Request,
    /// Something failed.
    Error,
    /// It is just being ended.
    Processing,
}

/// How long a guest stood, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stood {
    /// Until its vCPUs and devices stood.
    pub stop: Duration,
    /// Reading which pages are dirty.
    pub log: Duration,
    /// Copying them (on a secondary: putting them into its memory).
    pub copy: Duration,
    /// Reading (or setting) the state of devices and vCPUs.
    pub state: Duration,
    /// Until all went on.
    pub resume: Duration,
    /// All together.
    pub total: Duration,
}

/// A checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its number; the first of a session is 1.
    pub epoch: u64,
    /// What asked for it.
    pub cause: Cause,
    /// Pages that were sent while the guest ran.
    pub ahead: u64,
    /// Pages that the checkpoint itself brought.
    pub pages: u64,
    /// Of those, pages that only the secondary's guest had changed.
    pub foreign: u64,
    /// Bytes of pages on the wire.
    pub ram_bytes: u64,
    /// Bytes of device state.
    pub state_bytes: u64,
    /// How long this side's guest stood.
    pub stood: Stood,
    /// From the primary's going on until the secondary had everything.
    pub transfer: Duration,
    /// From then on until it had loaded it.
    pub load: Duration,
}

/// What a session begins with: all memory, or what has changed since the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// How often it has begun with the pages that changed meanwhile.
    pub round: u32,
    /// Pages that were sent, in all rounds.
    pub sent: u64,
    /// Pages that this round still has.
    pub left: u64,
    /// Pages of the guest.
    pub of: u64,
    /// Whether only what had changed was sent: the secondary held a checkpoint of this primary, and could take over
    /// from it all the time.
    #[serde(default)]
    pub incremental: bool,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Which side this is.
    pub role: Role,
    /// What the secondary's guest does.
    pub mode: Mode,
    /// What this side does.
    pub phase: Phase,
    /// The other side's address, once it was met.
    pub peer: Option<String>,
    /// How many sessions there were.
    pub sessions: u64,
    /// Why the last one ended.
    pub reason: Reason,
    /// The same in a sentence.
    pub error: Option<String>,
    /// The time between two checkpoints, if nothing else asks for one.
    pub delay: Duration,
    /// The last checkpoint that is complete on the secondary; 0 is none.
    pub epoch: u64,
    /// How many were completed, in all sessions.
    pub checkpoints: u64,
    /// How many came to nothing.
    pub failed: u64,
    /// How many were asked for, by cause.
    pub causes: BTreeMap<Cause, u64>,
    /// The first transfer.
    pub sync: Sync,
    /// The last checkpoint.
    pub last: Option<Epoch>,
    /// Of the last 1024: the median, the 99th percentile, and the longest time that the guest stood.
    pub stood: [Duration; 3],
    /// Bytes that were sent or received for checkpoints.
    pub bytes: u64,
    /// Pages, likewise.
    pub pages: u64,
    /// Heartbeats that did not come in time.
    pub missed_beats: u64,
    /// Peers that were refused.
    pub refused: u64,
    /// The disks that the guest can write.
    #[serde(default)]
    pub disks: Vec<disks::Status>,
}

/// Where a session writes and others read.
#[derive(Debug)]
pub struct Board(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    status: Status,
    stood: VecDeque<Duration>,
}

impl Board {
    /// Of one that looks for its peer.
    pub fn new(role: Role, mode: Mode, delay: Duration) -> Self {
        let status = Status {
            role,
            mode,
            phase: Phase::Connecting,
            peer: None,
            sessions: 0,
            reason: Reason::None,
            error: None,
            delay,
            epoch: 0,
            checkpoints: 0,
            failed: 0,
            causes: BTreeMap::new(),
            sync: Sync::default(),
            last: None,
            stood: [Duration::ZERO; 3],
            bytes: 0,
            pages: 0,
            missed_beats: 0,
            refused: 0,
            disks: Vec::new(),
        };
        Self(Mutex::new(Inner { status, stood: VecDeque::new() }))
    }

    /// A checkpoint begins. The first of a session is still part of bringing the secondary level: nobody can take
    /// over from it before it is complete.
    pub fn checkpoint_begins(&self) {
        self.write(|status| {
            if status.phase == Phase::Level {
                status.phase = Phase::Checkpoint;
            }
        });
    }

    /// What is on it.
    pub fn read(&self) -> Status {
        let inner = self.lock();
        let mut sorted: Vec<_> = inner.stood.iter().copied().collect();
        sorted.sort_unstable();
        let at = |share: usize| sorted.get((sorted.len() * share / 100).min(sorted.len().saturating_sub(1)));
        let stood = [50, 99, 100].map(|share| at(share).copied().unwrap_or_default());
        Status { stood, ..inner.status.clone() }
    }

    /// Changes it.
    pub fn write(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock().status);
    }

    /// A checkpoint is complete.
    pub fn complete(&self, epoch: Epoch) {
        let mut inner = self.lock();
        if inner.stood.len() == KEPT {
            inner.stood.pop_front();
        }
        inner.stood.push_back(epoch.stood.total);
        let status = &mut inner.status;
        status.epoch = epoch.epoch;
        status.checkpoints += 1;
        status.bytes += epoch.ram_bytes + epoch.state_bytes;
        status.pages += epoch.ahead + epoch.pages;
        status.last = Some(epoch);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
