//! A configuration in the making: what one place says, with the same words on the command line and in
//! a file.

use super::{
    ColoDraft, Config, Console, Cpus, Disk, Endpoint, Memory, Name, Net, OnReset, SeccompMode, User,
};
use clap::{ArgAction, Args};
use colo_proxy::live::config::{MetricsAddress, MetricsError};
use serde::Deserialize;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

/// What is said so far. The comments are the command line's help.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Draft {
    /// What the guest is called in reports and by QMP [default: guest]
    #[arg(long)]
    pub name: Option<Name>,
    /// Its kernel: a bzImage such as /boot/vmlinuz-*, or an ELF file with a PVH entry
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Its initial RAM file system
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// What its kernel is told, such as "console=ttyS0 root=/dev/vda1" [default: console=ttyS0]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// Its RAM, such as 512M or 2G [default: 512M]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Memory>,
    /// Its vCPUs, 1 to 16 [default: 1]
    #[arg(long, value_name = "N")]
    pub cpus: Option<Cpus>,
    /// A disk, vda first.
    #[arg(
        long,
        help = "A disk, vda first: path=FILE[,format=raw|qcow2][,readonly][,serial=TEXT]\
                [,cache=writeback|writethrough|none][,record=FILE]. Without a format the file's name (*.qcow2 or \
                not) and its first bytes have to agree; the record says what the other host of a pair may not \
                have [default: beside the image, FILE.colo]",
        value_name = "path=FILE,…",
        action = ArgAction::Append
    )]
    pub disk: Vec<Disk>,
    /// A network card on a tap.
    #[arg(
        long,
        help = "A network card on a tap: tap=NAME[,mac=02:00:00:00:00:01][,queues=N]. Without a mac it follows \
                from the tap's name, the same each time",
        value_name = "tap=NAME,…",
        action = ArgAction::Append
    )]
    pub net: Vec<Net>,
    /// Where its first serial port leads.
    #[arg(
        long,
        help = "Where its first serial port leads: stdio, pty, file:PATH, unix:PATH or none [default: stdio]",
        value_name = "WHERE"
    )]
    pub console: Option<Console>,
    /// Speak QMP on this socket: unix:PATH; can be said several times
    #[arg(long, value_name = "unix:PATH", action = ArgAction::Append)]
    pub qmp: Vec<Endpoint>,
    /// Whether it has a virtio source of randomness [default: true]
    #[arg(long, value_name = "true|false", action = ArgAction::Set)]
    pub rng: Option<bool>,
    /// What its reset does: reboot, or exit with code 3 [default: reboot]
    #[arg(long, value_name = "reboot|exit")]
    pub on_reset: Option<OnReset>,
    /// What a system call that a thread has no business with does: on ends the process, log writes it
    /// to the audit log, off lets it pass [default: on]
    #[arg(long, value_name = "on|log|off")]
    pub seccomp: Option<SeccompMode>,
    /// Who to be once everything is open, by name or number
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<User>,
    /// Serve metrics for Prometheus at this address and port [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<Metrics>,
    /// How it is kept level with a guest on another host, if it is.
    #[arg(skip)]
    pub colo: ColoDraft,
}

/// Where metrics are served: an address and a port, or `localhost:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Metrics(SocketAddr);

impl FromStr for Metrics {
    type Err = MetricsError;
    fn from_str(text: &str) -> Result<Self, MetricsError> {
        text.parse().map(|MetricsAddress(address)| Self(address))
    }
}

super::value::from_text!(Metrics);

/// What makes a draft no configuration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Incomplete {
    /// There is nothing to boot.
    #[error("no kernel is named; write --kernel FILE, or kernel = \"FILE\" in the configuration")]
    Kernel,
    /// A file without a name.
    #[error("the {0} has an empty path; write the file's name, or leave it out")]
    Path(&'static str),
    /// One tap, two cards.
    #[error("two network cards are on the tap {0}; give each a tap of its own")]
    Tap(String),
    /// One address, two cards.
    #[error("two network cards have the address {0}; give one another with mac=…")]
    Mac(super::Mac),
    /// One socket, two listeners.
    #[error("{0} is named twice; one socket is one place")]
    Socket(Endpoint),
    /// More than the PCI bus has places for.
    #[error("{count} disks and network cards are more than the {most} that a guest has places for")]
    TooMany {
        /// How many were asked for.
        count: usize,
        /// How many there can be.
        most: usize,
    },
    /// More than a kernel reads.
    #[error("the kernel command line has {0} bytes; a kernel reads no more than 2047")]
    Cmdline(usize),
    /// A zero byte would end it early.
    #[error("the kernel command line has a zero byte; take it out")]
    CmdlineZero,
}

/// Places on the PCI bus for disks and cards: 32, without the host bridge, the source of randomness and
/// two that are kept back.
const MOST_DEVICES: usize = 28;
/// Without it nothing would be seen of a kernel.
const CMDLINE: &str = "console=ttyS0";
/// `COMMAND_LINE_SIZE` of x86 is 2048, with the zero at the end.
const MOST_CMDLINE: usize = 2047;

impl Draft {
    /// This draft, and what another says where this one says nothing. Of what there can be several of,
    /// the other's come first.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        fn both<T>(mut first: Vec<T>, then: Vec<T>) -> Vec<T> {
            first.extend(then);
            first
        }
        Self {
            name: self.name.or(base.name),
            kernel: self.kernel.or(base.kernel),
            initrd: self.initrd.or(base.initrd),
            cmdline: self.cmdline.or(base.cmdline),
            memory: self.memory.or(base.memory),
            cpus: self.cpus.or(base.cpus),
            disk: both(base.disk, self.disk),
            net: both(base.net, self.net),
            console: self.console.or(base.console),
            qmp: both(base.qmp, self.qmp),
            rng: self.rng.or(base.rng),
            on_reset: self.on_reset.or(base.on_reset),
            seccomp: self.seccomp.or(base.seccomp),
            user: self.user.or(base.user),
            metrics: self.metrics.or(base.metrics),
            colo: self.colo.over(base.colo),
        }
    }

    /// The configuration.
    pub fn finish(self) -> Result<Config, Incomplete> {
        self.contradictions()?;
        Ok(Config {
            name: self.name.unwrap_or_else(Name::unnamed),
            kernel: self.kernel.filter(|path| !path.as_os_str().is_empty()).ok_or(Incomplete::Kernel)?,
            initrd: self.initrd,
            cmdline: self.cmdline.unwrap_or_else(|| CMDLINE.to_owned()),
            memory: self.memory.unwrap_or(Memory::DEFAULT),
            cpus: self.cpus.unwrap_or(Cpus::ONE),
            disks: self.disk,
            nets: self.net,
            console: self.console.unwrap_or(Console::Stdio),
            qmp: self.qmp,
            rng: self.rng.unwrap_or(true),
            on_reset: self.on_reset.unwrap_or(OnReset::Reboot),
            seccomp: self.seccomp.unwrap_or(SeccompMode::On),
            user: self.user,
            metrics: self.metrics.map(|Metrics(address)| address),
        })
    }

    /// Things that are right each for itself.
    fn contradictions(&self) -> Result<(), Incomplete> {
        let count = self.disk.len() + self.net.len();
        if count > MOST_DEVICES {
            return Err(Incomplete::TooMany { count, most: MOST_DEVICES });
        }
        let empty = |path: &PathBuf| path.as_os_str().is_empty();
        if self.initrd.as_ref().is_some_and(empty) {
            return Err(Incomplete::Path("initrd"));
        }
        if self.disk.iter().any(|disk| empty(&disk.path)) {
            return Err(Incomplete::Path("disk"));
        }
        if let Some(cmdline) = &self.cmdline {
            if cmdline.len() > MOST_CMDLINE {
                return Err(Incomplete::Cmdline(cmdline.len()));
            }
            if cmdline.contains('\0') {
                return Err(Incomplete::CmdlineZero);
            }
        }
        let (mut taps, mut macs) = (HashSet::new(), HashSet::new());
        for net in &self.net {
            if !taps.insert(&net.tap) {
                return Err(Incomplete::Tap(net.tap.to_string()));
            }
            if !macs.insert(net.mac) {
                return Err(Incomplete::Mac(net.mac));
            }
        }
        let console = match &self.console {
            Some(Console::Unix(endpoint)) => Some(endpoint),
            _ => None,
        };
        let mut sockets = HashSet::new();
        match self.qmp.iter().chain(console).find(|endpoint| !sockets.insert(*endpoint)) {
            Some(endpoint) => Err(Incomplete::Socket(endpoint.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft {
        Draft { kernel: Some("bzImage".into()), ..Draft::default() }
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = draft().finish().unwrap();
        assert_eq!((config.memory.bytes(), config.cpus.get(), config.name.as_str()), (512 << 20, 1, "guest"));
        assert_eq!(
            (config.console, config.on_reset, config.seccomp),
            (Console::Stdio, OnReset::Reboot, SeccompMode::On)
        );
        assert!(config.rng && config.user.is_none() && config.cmdline == "console=ttyS0");
        assert_eq!(Draft::default().finish(), Err(Incomplete::Kernel));
    }

    #[test]
    fn the_later_word_counts_and_lists_grow() {
        let base = Draft {
            memory: Some("1G".parse().unwrap()),
            cpus: Some("2".parse().unwrap()),
            disk: vec!["path=a".parse().unwrap()],
            ..draft()
        };
        let over = Draft {
            memory: Some("2G".parse().unwrap()),
            disk: vec!["path=b".parse().unwrap()],
            ..Draft::default()
        };
        let config = over.over(base).finish().unwrap();
        assert_eq!((config.memory.bytes(), config.cpus.get()), (2 << 30, 2));
        let paths: Vec<_> = config.disks.iter().map(|disk| disk.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["a", "b"]);
    }

    #[test]
    fn contradictions_are_found() {
        let net = |text: &str| text.parse::<Net>().unwrap();
        let refused = |draft: Draft| draft.finish().unwrap_err().to_string();
        let twice = Draft { net: vec![net("tap=a"), net("tap=a,mac=02:00:00:00:00:01")], ..draft() };
        assert!(refused(twice).contains("two network cards are on the tap a"));
        let mac = "mac=02:00:00:00:00:01";
        let same = Draft { net: vec![net(&format!("tap=a,{mac}")), net(&format!("tap=b,{mac}"))], ..draft() };
        assert!(refused(same).contains("have the address 02:00:00:00:00:01"));
        let many = Draft { disk: vec!["path=a".parse().unwrap(); 29], ..draft() };
        assert!(refused(many).contains("29 disks and network cards"));
        let socket = Draft {
            qmp: vec!["unix:/a".parse().unwrap()],
            console: Some("unix:/a".parse().unwrap()),
            ..draft()
        };
        assert!(refused(socket).contains("unix:/a is named twice"));
        assert!(
            refused(Draft { initrd: Some("".into()), ..draft() }).contains("the initrd has an empty path")
        );
        assert!(refused(Draft { cmdline: Some("x".repeat(2048)), ..draft() }).contains("2048 bytes"));
        assert!(refused(Draft { cmdline: Some("a\0b".into()), ..draft() }).contains("zero byte"));
    }
}
