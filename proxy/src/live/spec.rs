//! What is to be protected: parsed, so that nothing behind it has to check it again.
//!
//! ```text
//!   command line ─┐
//!   TOML file    ─┼─► Spec { guests: [Guest { nics: [Nic] }] } ─► setup, run, teardown
//!   environment  ─┘
//! ```

use crate::engine;
use crate::socket::Endpoint;
use colo_ebpf_shared::tag::MAX_INDEX;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;

/// The name of a network interface: 1 to 15 bytes, no `/`, no white space, not `.` or `..`
/// (`dev_valid_name` of Linux), and in ASCII, because it is shown and used in paths.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// A name that no interface can have.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} cannot be the name of a network interface: 1 to 15 characters, without spaces, '/' and ':'")]
pub struct IfNameError(String);

impl IfName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = IfNameError;
    fn from_str(name: &str) -> Result<Self, IfNameError> {
        let fits = (1..16).contains(&name.len()) && name != "." && name != "..";
        if fits && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':') {
            Ok(Self(name.to_owned()))
        } else {
            Err(IfNameError(name.to_owned()))
        }
    }
}

impl TryFrom<String> for IfName {
    type Error = IfNameError;
    fn try_from(name: String) -> Result<Self, IfNameError> {
        name.parse()
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a protected NIC on its forward device: 0 to 100 (seed 000: R-000-4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "u64", into = "u8")]
pub struct Index(u8);

/// An index that is none.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("index overflow: it goes from 0 to 100")]
pub struct IndexError;

impl Index {
    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u64> for Index {
    type Error = IndexError;
    fn try_from(number: u64) -> Result<Self, IndexError> {
        u8::try_from(number).ok().filter(|&index| index <= MAX_INDEX).map(Self).ok_or(IndexError)
    }
}

impl From<Index> for u8 {
    fn from(index: Index) -> Self {
        index.0
    }
}

impl FromStr for Index {
    type Err = IndexError;
    /// Decimal digits and nothing else.
    fn from_str(text: &str) -> Result<Self, IndexError> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(IndexError);
        }
        text.parse::<u64>().map_err(|_| IndexError)?.try_into()
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a node is to a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The guest here serves.
    #[default]
    Primary,
    /// The guest here follows.
    Secondary,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        })
    }
}

/// One NIC of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The host end of the guest's NIC (tap or veth).
    pub vif: IfName,
    /// The device to the other node.
    pub forward: IfName,
    /// Its number on that device.
    pub index: Index,
    /// The bridge that it is, or is to be, a port of; none leaves that as it is.
    pub bridge: Option<IfName>,
}

/// What happens to a guest's output when the comparator dies without a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCrash {
    /// Nothing leaves until a comparator runs again, or the set-up is torn down.
    #[default]
    Closed,
    /// The guest goes on unprotected.
    Open,
}

/// How programs are attached to devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// As TCX links where the kernel has them, else as filters.
    #[default]
    Auto,
    /// As TCX links (Linux 6.6).
    Tcx,
    /// As filters of a `clsact` qdisc.
    Clsact,
}

/// What a primary's output is worth at the start; from the first complete checkpoint on it is held
/// until it is compared in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// It is held until it is compared.
    #[default]
    Protected,
    /// It passes, and input is copied to the secondary already.
    Mirrored,
    /// It passes, and nothing is copied.
    Unprotected,
}

/// Queues of a capture tap, and threads that compare what is in them: 1 to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues(u8);

impl Queues {
    /// One: a thread for all of a guest's frames.
    pub const ONE: Self = Self(1);

    /// The most that there can be.
    pub const MOST: u8 = 16;

    /// So many; none if it is not 1 to 16.
    pub const fn new(number: u8) -> Option<Self> {
        if number >= 1 && number <= Self::MOST { Some(Self(number)) } else { None }
    }

    /// What suits this machine: one where there are few CPUs, else half of them, but not more than four.
    pub fn of_this_machine() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self::for_cpus(cpus)
    }

    fn for_cpus(cpus: usize) -> Self {
        if cpus < 4 { Self::ONE } else { Self((cpus / 2).min(4) as u8) }
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// Who is asked for checkpoints. Without either, what differs stays held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoints {
    /// A toolstack that speaks the notify protocol (`docs/rules.md`, `socket::notify`).
    pub notify: Option<Endpoint>,
    /// A command for `/bin/sh -c`: exit status 0 says that the checkpoint is complete.
    pub command: Option<String>,
    /// How long the command may take before it is killed with its process group.
    pub command_timeout: Duration,
}

/// One guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name in reports: given, or that of its first vif.
    pub name: String,
    /// What this node is to it.
    pub mode: Mode,
    /// Its NICs, at least one; no vif twice, and no index twice on one forward device.
    pub nics: Vec<Nic>,
    /// Who is asked for checkpoints.
    pub checkpoints: Checkpoints,
    /// What a primary's output is worth until the first complete checkpoint.
    pub start: Start,
    /// What happens when the comparator dies.
    pub on_crash: OnCrash,
    /// How programs are attached.
    pub attach: Attach,
    /// Queues of each capture tap. What the kernel and the comparator hold in all is divided among them.
    pub queues: Queues,
    /// Frames that may wait for the comparator before the kernel drops them.
    pub queue_frames: u32,
    /// Connections that a secondary remembers.
    pub flows: u32,
    /// How long to look for more before sleeping.
    pub busy_poll: Duration,
    /// The comparator's settings.
    pub engine: engine::Config,
}

/// Where the program keeps what outlives a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Journals of what was set up, and control sockets. Default `/run/colo-proxy`.
    pub run: PathBuf,
    /// A mounted BPF file system; mounted there if it is none. Default `/sys/fs/bpf`.
    pub bpffs: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { run: "/run/colo-proxy".into(), bpffs: "/sys/fs/bpf".into() }
    }
}

/// The name of a guest's file with this extension. A guest may have any name, a file may not.
pub(crate) fn file_of(guest: &str, extension: &str) -> String {
    format!("{}.{extension}", guest.replace('/', "_"))
}

/// All that one process protects.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The guests, at least one; names differ.
    pub guests: Vec<Guest>,
    /// Where files go.
    pub places: Places,
    /// Where metrics are served, `HOST:PORT`.
    pub metrics: Option<std::net::SocketAddr>,
}

impl Spec {
    /// The name of a file of the process that protects all this: it is called after its first guest.
    pub fn file(&self, extension: &str) -> String {
        file_of(self.guests.first().map_or("colo-proxy", |guest| guest.name.as_str()), extension)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_queues_as_a_machine_has_cpus_for() {
        let of = |cpus| Queues::for_cpus(cpus).get();
        assert_eq!([1, 2, 3, 4, 5, 6, 8, 64].map(of), [1, 1, 1, 2, 2, 3, 4, 4]);
        assert_eq!([0, 1, 16, 17].map(|number| Queues::new(number).is_some()), [false, true, true, false]);
    }
}
