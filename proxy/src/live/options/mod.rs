//! What can be said of one guest, defined once for the command line and for the file.
//!
//! ```text
//!   --mode secondary --max-flows 7  ─clap──┐
//!                                          ├─► GuestOptions ─► build ─► Spec
//!   mode = "secondary", [guest.engine] … ─serde─┘
//! ```
//!
//! An option has one name, one default and one range because it is one field; its help text is the
//! field's comment. What is not wrong by itself but beside something else is found by [`build()`].

pub mod build;
mod choice;
mod engine_args;
mod name;
mod whole;

pub use build::{Problem, SpecError, build};
pub use choice::{AttachOption, CrashOption, ModeOption, StartOption};
pub use engine_args::{EngineArgs, PassRule, Policy};
pub use name::{GuestName, GuestNameError, VifName};
pub use whole::{NotWhole, Whole};

use super::spec::{IfName, Index};
use crate::socket::Endpoint;
use serde::{Deserialize, Deserializer, de};
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Frames that may wait for the comparator, by default: as many as it may hold itself.
const QUEUE_FRAMES: Whole<1, 1_000_000> = Whole::constant::<16_384>();

/// Connections that a secondary remembers by default.
const FLOWS: Whole<1, 4_194_304> = Whole::constant::<{ colo_ebpf_shared::layout::FLOWS as u64 }>();

/// How long to look for more before sleeping, by default, in microseconds. Looking takes a CPU from
/// the guest where there are few: on two CPUs 50 µs of it cost 10 % of the requests and 30 % of small
/// datagrams, and save 30 µs of a round trip.
const BUSY_POLL: Whole<0, 1_000_000> = Whole::constant::<0>();

/// How long a checkpoint command may take, by default.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// One NIC, as it is given.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NicOptions {
    /// The host end of the guest's NIC.
    pub vif: VifName,
    /// The device to the other node.
    pub forward: IfName,
    /// Its number there; else the lowest that is free.
    pub index: Option<Index>,
    /// The bridge that it is a port of.
    pub bridge: Option<IfName>,
}

/// One guest, as it is given.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GuestOptions {
    /// Its NICs; the command line puts them together from several options.
    #[arg(skip)]
    #[serde(rename = "nic", default)]
    pub nics: Vec<toml::Spanned<NicOptions>>,

    /// Name of the guest in reports and of its control socket [default: that of its first vif]
    #[arg(long, value_name = "NAME")]
    pub name: Option<GuestName>,
    /// What this host is to the guest: a primary's guest serves, a secondary's follows
    #[arg(long, value_name = "MODE", default_value_t)]
    #[serde(default)]
    pub mode: ModeOption,
    /// Whom to ask for checkpoints, and who reports them and orders take-overs: unix:PATH or
    /// tcp:HOST:PORT, listens there; with ,server=off appended it connects
    #[arg(long, value_name = "SOCKET")]
    #[serde(default, deserialize_with = "text")]
    pub notify: Option<Endpoint>,
    /// Command for /bin/sh that performs a checkpoint: exit status 0 says that it is complete. It is
    /// told `COLO_GUEST`, `COLO_CAUSE`, `COLO_EPOCH`, `COLO_FLOW` and `COLO_VIFS`
    #[arg(long, value_name = "CMD")]
    pub checkpoint_command: Option<String>,
    /// Seconds that the checkpoint command may take before it is killed with all that it started
    /// [default: 30]
    #[arg(long, value_name = "S")]
    pub command_timeout: Option<Whole<1, 86_400>>,
    /// Hold output from the start, or let it pass until the first checkpoint is complete
    #[arg(long, value_name = "STATE", default_value_t)]
    #[serde(default)]
    pub start: StartOption,
    /// What becomes of the guest's output if the comparator dies without a word: closed lets nothing
    /// out, open lets the guest go on unprotected
    #[arg(long, value_name = "STATE", default_value_t)]
    #[serde(default)]
    pub on_crash: CrashOption,
    /// How the programs are attached in the kernel
    #[arg(long, value_name = "HOW", default_value_t)]
    #[serde(default)]
    pub attach: AttachOption,
    /// Queues between the kernel and the comparator, and threads that compare; each connection is one
    /// queue's [default: 1 with less than 4 CPUs, else half of them, at most 4]
    #[arg(long, value_name = "N")]
    pub queues: Option<Whole<1, 16>>,
    /// Frames that may wait for the comparator before the kernel drops them, in all queues
    #[arg(long, value_name = "N", default_value_t = QUEUE_FRAMES)]
    #[serde(default = "queue_frames")]
    pub queue_frames: Whole<1, 1_000_000>,
    /// Connections that a secondary remembers the translation of
    #[arg(long, value_name = "N", default_value_t = FLOWS)]
    #[serde(default = "flows")]
    pub flows: Whole<1, 4_194_304>,
    /// How long to look for more before sleeping, in microseconds: spends CPU time on less latency
    #[arg(long, value_name = "US", default_value_t = BUSY_POLL)]
    #[serde(default = "busy_poll")]
    pub busy_poll: Whole<0, 1_000_000>,

    /// The comparator's limits.
    #[command(flatten)]
    #[serde(default)]
    pub engine: EngineArgs,
}

fn queue_frames() -> Whole<1, 1_000_000> {
    QUEUE_FRAMES
}

fn flows() -> Whole<1, 4_194_304> {
    FLOWS
}

fn busy_poll() -> Whole<0, 1_000_000> {
    BUSY_POLL
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self {
            nics: Vec::new(),
            name: None,
            mode: ModeOption::default(),
            notify: None,
            checkpoint_command: None,
            command_timeout: None,
            start: StartOption::default(),
            on_crash: CrashOption::default(),
            attach: AttachOption::default(),
            queues: None,
            queue_frames: QUEUE_FRAMES,
            flows: FLOWS,
            busy_poll: BUSY_POLL,
            engine: EngineArgs::default(),
        }
    }
}

/// Where files go, as it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct PlaceArgs {
    /// Where journals of what was set up and control sockets are [default: /run/colo-proxy]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// A BPF file system for the programs that stay; mounted there if it is none
    /// [default: /sys/fs/bpf]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
}

/// Reads a value that is a text in the file and has a parser of its own.
pub(super) fn text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(de::Error::custom)
}
