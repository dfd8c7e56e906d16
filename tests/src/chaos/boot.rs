//! What a guest is: what it boots, and the loads that it runs and checks from its beginning on.

use clap::Args;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// Where a guest with a card is.
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The address of its card where it has to be the same on both hosts.
const MAC: &str = "02:00:00:00:09:02";
/// Where it gives back what comes.
pub(super) const PORT: u16 = 7;

/// A guest, as both sides of a pair have it.
#[derive(Args, Clone, Debug)]
pub struct BootArgs {
    /// The program
    #[arg(long)]
    pub colo_vm: PathBuf,
    /// The guest's kernel
    #[arg(long)]
    pub kernel: PathBuf,
    /// Its initramfs
    #[arg(long)]
    pub initrd: PathBuf,
    /// The disk of a Debian guest, which is only read: what it writes stays in memory
    #[arg(long)]
    pub disk: Option<PathBuf>,
    /// Its vCPUs
    #[arg(long, default_value_t = 1)]
    pub cpus: u8,
    /// Its memory
    #[arg(long, default_value = "160M")]
    pub memory: String,
    /// MB that are rewritten each second
    #[arg(long, default_value_t = 2)]
    pub dirty: u32,
}

/// A guest with its loads.
#[derive(Clone, Debug)]
pub struct Boot {
    args: BootArgs,
    loads: Vec<(&'static str, String)>,
    /// A disk with what it does instead of starting a Debian or its loads.
    script: Option<PathBuf>,
    /// Images that it writes, with their serial numbers.
    disks: Vec<(PathBuf, &'static str)>,
    /// What a card is, for `--net`.
    card: Option<String>,
    /// Words for a side of a pair.
    of_pair: Vec<String>,
}

impl Boot {
    /// What `args` say. No clock of the guest may step by more than `step`.
    pub fn new(args: BootArgs, step: Duration) -> Self {
        let mut loads = vec![
            ("check", "check 8".to_owned()),
            ("clock", format!("clock {}", step.as_millis())),
            ("dirty", format!("dirty {} 8", args.dirty)),
        ];
        if args.disk.is_some() {
            loads.push(("bank", "bank /var/tmp/bank".to_owned()));
        }
        Self { args, loads, script: None, disks: Vec::new(), card: None, of_pair: Vec::new() }
    }

    /// One that runs a script in the small guest, whose lines about `judges` say whether all is well. The script is
    /// on a disk, as it is too long for a kernel's command line. The Debian disk has the serial number `root`.
    pub(super) fn scripted(args: BootArgs, script: PathBuf, judges: &[&'static str]) -> Self {
        let loads = judges.iter().map(|judge| (*judge, String::new())).collect();
        Self { args, loads, script: Some(script), disks: Vec::new(), card: None, of_pair: Vec::new() }
    }

    /// With these images to write, and a card on `tap` that has the same address on whatever tap.
    #[must_use]
    pub(super) fn with(mut self, disks: Vec<(PathBuf, &'static str)>, tap: &str) -> Self {
        self.disks = disks;
        self.card = Some(format!("tap={tap},mac={MAC}"));
        self
    }

    /// With more words for a side of a pair.
    #[must_use]
    pub(super) fn in_pair(mut self, words: Vec<String>) -> Self {
        self.of_pair = words;
        self
    }

    /// With a network card on `tap`, at which it gives back what comes to [`PORT`].
    #[must_use]
    pub(super) fn on(mut self, tap: &'static str) -> Self {
        self.card = Some(format!("tap={tap}"));
        self.loads.push(("echo", format!("echo {PORT}")));
        self
    }

    pub(super) fn colo_vm(&self) -> &PathBuf {
        &self.args.colo_vm
    }

    pub(super) fn of_pair(&self) -> &[String] {
        &self.of_pair
    }

    /// The loads that say whether all is well, by the first word of what they say.
    pub(super) fn judges(&self) -> impl Iterator<Item = &'static str> {
        self.loads.iter().map(|(name, _)| *name).filter(|name| !matches!(*name, "dirty" | "echo"))
    }

    /// All of it as words of `colo-vm`.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut word = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        word("kernel", self.args.kernel.display().to_string());
        word("initrd", self.args.initrd.display().to_string());
        word("cpus", self.args.cpus.to_string());
        word("memory", self.args.memory.clone());
        let mut told = vec!["console=ttyS0 quiet".to_owned()];
        if let Some(disk) = &self.args.disk {
            word("disk", format!("path={},format=raw,readonly,serial=root", disk.display()));
            if self.script.is_none() {
                told.push("lab.root=/dev/vda lab.overlay=1".to_owned());
            }
        }
        if let Some(script) = &self.script {
            word("disk", format!("path={},format=raw,readonly,serial=script", script.display()));
        }
        for (disk, serial) in &self.disks {
            word("disk", format!("path={},format=raw,serial={serial}", disk.display()));
        }
        if let Some(card) = &self.card {
            word("net", card.clone());
            told.push(format!("lab.ip={GUEST}/24"));
        }
        if self.script.is_none() {
            told.push(crate::lab::images::run_argument(&self.loads_script()));
        }
        word("cmdline", told.join(" "));
        words
    }

    fn loads_script(&self) -> String {
        let loads: Vec<String> = self.loads.iter().map(|(_, load)| format!("'{load}'")).collect();
        format!("for load in {}; do colo-load --every 1 $load & done; wait", loads.join(" "))
    }
}
