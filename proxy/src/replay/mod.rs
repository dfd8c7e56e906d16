//! Replay: the comparator over two captures of one guest's two runs, with a virtual clock.
//!
//! ```text
//!   primary.pcap   ─► capture ─┐
//!                              ├─► merge ─► run (clock) ─► engine ─► book ─► report ─► text, JSON
//!   secondary.pcap ─► capture ─┘                                      └────► divergence (pcapng)
//! ```
//!
//! Everything streams: what is in memory is one frame of each capture, what the engine holds, and a
//! tally of each flow.

mod book;
mod capture;
mod divergence;
mod error;
mod exhibit;
mod mac;
mod merge;
mod pcapng;
mod report;
mod run;
mod source;
mod text;
mod warnings;

pub use error::ReplayError;
pub use mac::Mac;
pub use report::{Exhibit, Finding, Flow, Report, Summary, Traffic, Verdict};
pub use run::run;
pub use text::write_text;

use crate::engine::PassRules;
use std::path::PathBuf;

/// What to replay, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the primary sent: pcap or pcapng.
    pub primary: PathBuf,
    /// What the secondary sent.
    pub secondary: PathBuf,
    /// Only frames from this address are the guest's; without it all are.
    pub guest_mac: Option<Mac>,
    /// How long output may wait for its twin, in milliseconds.
    pub timeout_ms: u64,
    /// Where to write the frames of each divergence, as pcapng.
    pub divergence: Option<PathBuf>,
    /// End at the first divergence.
    pub stop_at_first: bool,
    /// Take the first frame of each capture for time 0.
    pub align_start: bool,
    /// Flows that are not compared.
    pub pass: PassRules,
}
