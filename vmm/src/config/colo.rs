//! A guest on two hosts: who the other one is, and how the two are kept level.
//!
//! ```text
//!   colo-vm primary --peer HOST:PORT … ──┐
//!   colo-vm secondary --listen ADDR:PORT ┴► ColoDraft ── over the file's [colo] ── primary, secondary ──► Colo
//! ```
//!
//! One file can serve both hosts: each takes what concerns its side.

use super::value::words;
use super::{Listen, Millis, Name, Peer};
use crate::checkpoint::ram::pack;
use crate::checkpoint::status;
use crate::replication::primary::How;
use clap::Args;
use serde::Deserialize;
use std::path::PathBuf;
use thiserror::Error;

words! {
    /// What the secondary's guest does between two checkpoints.
    Mode {
        /// It runs, and what it sends is compared.
        Colo = "colo",
        /// It stands.
        Periodic = "periodic",
    }
}

words! {
    /// What is done to pages before they are sent.
    Packing {
        /// Nothing.
        None = "none",
        /// Zero pages are named and not sent.
        Zeros = "zeros",
        /// And others are compressed.
        Lz4 = "lz4",
        /// And of pages that change again and again the difference is sent.
        Delta = "delta",
    }
}

words! {
    /// Whether pages are sent between two checkpoints, ahead of the next one.
    Background {
        /// Never.
        Off = "off",
        /// When that makes the guest stand for a shorter time.
        Auto = "auto",
    }
}

words! {
    /// How it is known which pages the guest has written.
    Dirty {
        /// KVM's log, a bit for each page.
        Log = "log",
        /// KVM's ring, an entry for each page that was written.
        Ring = "ring",
        /// What is best on this host.
        Auto = "auto",
    }
}

words! {
    /// What happens when the peer is lost.
    PeerLoss {
        /// Nothing, until somebody who knows says what to do.
        Wait = "wait",
        /// A primary goes on alone.
        GoOn = "go-on",
        /// A secondary takes over.
        TakeOver = "take-over",
    }
}

words! {
    /// How a secondary's disk is made equal when nobody knows what differs.
    DiskSync {
        /// Everything is sent.
        Full = "full",
        /// Both are hashed, and what differs is sent.
        Verify = "verify",
        /// They are equal already.
        None = "none",
    }
}

impl From<DiskSync> for How {
    fn from(sync: DiskSync) -> Self {
        match sync {
            DiskSync::Full => Self::Full,
            DiskSync::Verify => Self::Verify,
            DiskSync::None => Self::None,
        }
    }
}

impl From<Mode> for status::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Colo => Self::Colo,
            Mode::Periodic => Self::Periodic,
        }
    }
}

impl From<Packing> for pack::Packing {
    fn from(packing: Packing) -> Self {
        match packing {
            Packing::None => Self::None,
            Packing::Zeros => Self::Zeros,
            Packing::Lz4 => Self::Lz4,
            Packing::Delta => Self::Delta,
        }
    }
}

/// A side of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Colo {
    /// Which, and what only it knows.
    pub side: Side,
    /// What the secondary's guest does between two checkpoints.
    pub mode: Mode,
    /// The time between two checkpoints that nothing else asks for.
    pub delay: Millis,
    /// What both sides call this guest.
    pub vm_id: Name,
    /// How often each side says that it lives.
    pub heartbeat: Millis,
    /// For how long a peer may say nothing before it is lost.
    pub peer_timeout: Millis,
    /// How long each wait in a checkpoint may take.
    pub phase_timeout: Millis,
    /// What is done to pages before they are sent.
    pub packing: Packing,
    /// Whether pages are sent ahead.
    pub background: Background,
    /// How written pages are known.
    pub dirty: Dirty,
    /// How the two make sure of each other; without it they do not, and everybody can listen in.
    pub tls: Option<Tls>,
}

/// What only one side knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// Its guest serves.
    Primary {
        /// Where the secondary is.
        peer: Peer,
        /// How a secondary's disk is made equal when nobody knows what differs.
        sync: DiskSync,
        /// Whether what is on the secondary's disks may be lost.
        force: bool,
    },
    /// Its guest is kept level.
    Secondary {
        /// Where it waits for the primary.
        listen: Listen,
        /// Whether it takes over once that is lost. Nobody else makes sure then that only one serves.
        takes_over: bool,
        /// Where pages of an epoch that is not complete wait when they are too many for memory.
        spill: Option<PathBuf>,
    },
}

impl Colo {
    /// Which side this is.
    pub const fn role(&self) -> status::Role {
        match self.side {
            Side::Primary { .. } => status::Role::Primary,
            Side::Secondary { .. } => status::Role::Secondary,
        }
    }

    /// What the user should know before it is too late, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let (open, place) = match &self.side {
            Side::Primary { peer, .. } => (!peer.is_loopback(), peer.to_string()),
            Side::Secondary { listen, .. } => (!listen.address().ip().is_loopback(), listen.to_string()),
        };
        if open && self.tls.is_none() {
            warnings.push(format!(
                "checkpoints pass {place} without TLS: who reaches that network can read the guest's memory and \
                 stand in for the peer; write --tls-cert, --tls-key and --tls-peer or --tls-ca"
            ));
        }
        if let Side::Secondary { takes_over: true, .. } = self.side {
            warnings.push(
                "a lost link alone makes this secondary take over, while the primary may still serve; fence the \
                 other host, or write --on-peer-loss wait"
                    .to_owned(),
            );
        }
        warnings
    }
}

/// How the two make sure of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// This side's certificate, with those between it and its CA.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Whom it believes.
    pub trust: Trust,
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// This one alone.
    Peer(PathBuf),
    /// Those that this authority signed.
    Authority(PathBuf),
}

/// What is said so far: options, or a file's table `[colo]`. The comments are the command line's help.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ColoDraft {
    /// Where the secondary is.
    #[arg(skip)]
    pub peer: Option<Peer>,
    /// Where the primary is waited for.
    #[arg(skip)]
    pub listen: Option<Listen>,
    /// What the secondary's guest does between two checkpoints: colo, it runs and its output is
    /// compared; or periodic, it stands [default: colo]
    #[arg(long, value_name = "colo|periodic", help_heading = HEADING)]
    pub mode: Option<Mode>,
    /// Milliseconds between two checkpoints that nothing else asks for [default: 20000; 100 if periodic]
    #[arg(long, value_name = "MS", help_heading = HEADING)]
    pub checkpoint_delay: Option<Millis>,
    /// What both sides call this guest [default: its --name]
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    pub vm_id: Option<Name>,
    /// How often each side says that it lives, in milliseconds [default: 100]
    #[arg(long, value_name = "MS", help_heading = HEADING)]
    pub heartbeat_interval: Option<Millis>,
    /// For how long a peer may say nothing before it is lost, in milliseconds [default: 1000]
    #[arg(long, value_name = "MS", help_heading = HEADING)]
    pub peer_timeout: Option<Millis>,
    /// How long each wait in a checkpoint may take, in milliseconds [default: 10000]
    #[arg(long, value_name = "MS", help_heading = HEADING)]
    pub phase_timeout: Option<Millis>,
    /// What is done to pages before they are sent: none; zeros, zero pages are only named; lz4, others
    /// are compressed, too; delta, and of pages that change again only the difference [default: zeros]
    #[arg(long, value_name = "none|zeros|lz4|delta", help_heading = HEADING)]
    pub packing: Option<Packing>,
    /// Whether pages are sent ahead, between two checkpoints [default: auto]
    #[arg(long, value_name = "off|auto", help_heading = HEADING)]
    pub background: Option<Background>,
    /// How written pages are known: KVM's log, KVM's ring, or what is best here [default: auto]
    #[arg(long, value_name = "log|ring|auto", help_heading = HEADING)]
    pub dirty: Option<Dirty>,
    /// What happens when the peer is lost: go-on, a primary serves alone; wait, a secondary does nothing
    /// until "colo-vm takeover" says so; take-over, a secondary serves, though the primary may, too
    /// [default: go-on for a primary, wait for a secondary]
    #[arg(long, value_name = "wait|go-on|take-over", help_heading = HEADING)]
    pub on_peer_loss: Option<PeerLoss>,
    /// How a primary makes its secondary's disk equal when nobody knows what differs: full, everything is
    /// sent; verify, both are hashed, and what differs is sent; none, somebody has made them equal, and no
    /// guest has written to either since [default: full]
    #[arg(long, value_name = "full|verify|none", help_heading = HEADING)]
    pub sync: Option<DiskSync>,
    /// A primary may overwrite what its secondary's disks have and its own have not
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", help_heading = HEADING)]
    pub sync_force: Option<bool>,
    /// A secondary's directory, on a disk, where pages of a checkpoint that is not complete wait once they are
    /// more than an eighth of the guest's memory, and writes to a disk once they are more than 256 MiB
    /// [default: pages wait in memory, writes beside the image]
    #[arg(long, value_name = "DIRECTORY", help_heading = HEADING)]
    pub spill: Option<PathBuf>,
    /// This side's certificate (PEM), with those between it and its CA
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub tls_key: Option<PathBuf>,
    /// The peer's certificate (PEM): this one alone is believed
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub tls_peer: Option<PathBuf>,
    /// The authority (PEM) whose certificates are believed
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub tls_ca: Option<PathBuf>,
}

const HEADING: &str = "The pair";

/// Every key of a file's table `[colo]`.
pub const COLO_KEYS: [&str; 19] = [
    "peer",
    "listen",
    "mode",
    "checkpoint-delay",
    "vm-id",
    "heartbeat-interval",
    "peer-timeout",
    "phase-timeout",
    "packing",
    "background",
    "dirty",
    "on-peer-loss",
    "sync",
    "sync-force",
    "spill",
    "tls-cert",
    "tls-key",
    "tls-peer",
    "tls-ca",
];

/// What makes a draft no pair.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ColoError {
    /// Nobody to be kept level.
    #[error("the secondary is not named; write --peer HOST:PORT, or peer = \"HOST:PORT\" in [colo]")]
    NoPeer,
    /// Nowhere to wait.
    #[error(
        "where to wait for the primary is not said; write --listen ADDR:PORT, or listen = \"ADDR:PORT\" in [colo]"
    )]
    NoListen,
    /// The other side's word.
    #[error("a {role} does not {written} when its peer is lost; write --on-peer-loss {right}")]
    PeerLoss {
        /// Which side this is.
        role: &'static str,
        /// What was written.
        written: PeerLoss,
        /// What can be.
        right: &'static str,
    },
    /// A peer that is lost between two of its heartbeats.
    #[error(
        "--peer-timeout {timeout} is less than two --heartbeat-interval ({interval} each): one late heartbeat \
         would end the pair; make it {least} ms or more"
    )]
    Heartbeat {
        /// When a peer is lost.
        timeout: Millis,
        /// How often it says that it lives.
        interval: Millis,
        /// What would do.
        least: u64,
    },
    /// Half of what TLS needs.
    #[error(
        "TLS needs {missing}; write --tls-cert FILE, --tls-key FILE and one of --tls-peer FILE and --tls-ca FILE"
    )]
    Tls {
        /// What is not there.
        missing: &'static str,
    },
    /// Two ways to believe.
    #[error("--tls-peer believes one certificate and --tls-ca every one of an authority; write one of them")]
    Trust,
    /// A file without a name.
    #[error("{0} has an empty path; write the file's name, or leave it out")]
    Path(&'static str),
}

impl ColoDraft {
    /// This draft, and what another says where this one says nothing.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            peer: self.peer.or(base.peer),
            listen: self.listen.or(base.listen),
            mode: self.mode.or(base.mode),
            checkpoint_delay: self.checkpoint_delay.or(base.checkpoint_delay),
            vm_id: self.vm_id.or(base.vm_id),
            heartbeat_interval: self.heartbeat_interval.or(base.heartbeat_interval),
            peer_timeout: self.peer_timeout.or(base.peer_timeout),
            phase_timeout: self.phase_timeout.or(base.phase_timeout),
            packing: self.packing.or(base.packing),
            background: self.background.or(base.background),
            dirty: self.dirty.or(base.dirty),
            on_peer_loss: self.on_peer_loss.or(base.on_peer_loss),
            sync: self.sync.or(base.sync),
            sync_force: self.sync_force.or(base.sync_force),
            spill: self.spill.or(base.spill),
            tls_cert: self.tls_cert.or(base.tls_cert),
            tls_key: self.tls_key.or(base.tls_key),
            tls_peer: self.tls_peer.or(base.tls_peer),
            tls_ca: self.tls_ca.or(base.tls_ca),
        }
    }

    /// The primary of a guest of this name.
    pub fn primary(self, name: &Name) -> Result<Colo, ColoError> {
        let peer = self.peer.clone().ok_or(ColoError::NoPeer)?;
        let (sync, force) = (self.sync.unwrap_or(DiskSync::Full), self.sync_force.unwrap_or(false));
        match self.on_peer_loss {
            None | Some(PeerLoss::GoOn) => self.finish(Side::Primary { peer, sync, force }, name),
            // None of its output is held back yet, so there would be nothing to wait with.
            Some(written @ (PeerLoss::TakeOver | PeerLoss::Wait)) => {
                Err(ColoError::PeerLoss { role: "primary", written, right: "go-on" })
            }
        }
    }

    /// The secondary of a guest of this name.
    pub fn secondary(self, name: &Name) -> Result<Colo, ColoError> {
        let listen = self.listen.ok_or(ColoError::NoListen)?;
        let takes_over = match self.on_peer_loss {
            None | Some(PeerLoss::Wait) => false,
            Some(PeerLoss::TakeOver) => true,
            Some(written @ PeerLoss::GoOn) => {
                return Err(ColoError::PeerLoss { role: "secondary", written, right: "wait or take-over" });
            }
        };
        let spill = self.spill.clone();
        if spill.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            return Err(ColoError::Path("--spill"));
        }
        self.finish(Side::Secondary { listen, takes_over, spill }, name)
    }

    fn finish(self, side: Side, name: &Name) -> Result<Colo, ColoError> {
        let mode = self.mode.unwrap_or(Mode::Colo);
        let usual = match mode {
            Mode::Colo => 20_000,
            Mode::Periodic => 100,
        };
        let heartbeat = self.heartbeat_interval.unwrap_or(const { Millis::of(100) });
        let peer_timeout = self.peer_timeout.unwrap_or(const { Millis::of(1000) });
        let least = 2 * u64::from(heartbeat.get());
        if u64::from(peer_timeout.get()) < least {
            return Err(ColoError::Heartbeat { timeout: peer_timeout, interval: heartbeat, least });
        }
        let tls = tls(self.tls_cert, self.tls_key, self.tls_peer, self.tls_ca)?;
        Ok(Colo {
            side,
            mode,
            delay: self.checkpoint_delay.unwrap_or(Millis::of(usual)),
            vm_id: self.vm_id.unwrap_or_else(|| name.clone()),
            heartbeat,
            peer_timeout,
            phase_timeout: self.phase_timeout.unwrap_or(const { Millis::of(10_000) }),
            packing: self.packing.unwrap_or(Packing::Zeros),
            background: self.background.unwrap_or(Background::Auto),
            dirty: self.dirty.unwrap_or(Dirty::Auto),
            tls,
        })
    }
}

fn tls(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    peer: Option<PathBuf>,
    ca: Option<PathBuf>,
) -> Result<Option<Tls>, ColoError> {
    let named = [("--tls-cert", &cert), ("--tls-key", &key), ("--tls-peer", &peer), ("--tls-ca", &ca)];
    let empty = |path: &&Option<PathBuf>| path.as_ref().is_some_and(|path| path.as_os_str().is_empty());
    if let Some((option, _)) = named.iter().find(|(_, path)| empty(path)) {
        return Err(ColoError::Path(option));
    }
    let missing = |missing| ColoError::Tls { missing };
    let trust = match (peer, ca) {
        (Some(_), Some(_)) => return Err(ColoError::Trust),
        (Some(peer), None) => Some(Trust::Peer(peer)),
        (None, Some(ca)) => Some(Trust::Authority(ca)),
        (None, None) => None,
    };
    if trust.is_none() && cert.is_none() && key.is_none() {
        return Ok(None);
    }
    let cert = cert.ok_or(missing("this side's certificate"))?;
    let key = key.ok_or(missing("the certificate's private key"))?;
    let trust = trust.ok_or(missing("to know whom to believe"))?;
    Ok(Some(Tls { cert, key, trust }))
}

#[cfg(test)]
mod tests;
