//! What a guest is: what it boots, and the loads that it runs and checks from its beginning on.

use clap::Args;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// Where a guest with a card is.
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
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
    /// The tap that its card is on.
    tap: Option<&'static str>,
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
        Self { args, loads, tap: None }
    }

    /// With a network card on `tap`, at which it gives back what comes to [`PORT`].
    #[must_use]
    pub(super) fn on(mut self, tap: &'static str) -> Self {
        self.tap = Some(tap);
        self.loads.push(("echo", format!("echo {PORT}")));
        self
    }

    pub(super) fn colo_vm(&self) -> &PathBuf {
        &self.args.colo_vm
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
            word("disk", format!("path={},format=raw,readonly", disk.display()));
            told.push("lab.root=/dev/vda lab.overlay=1".to_owned());
        }
        if let Some(tap) = self.tap {
            word("net", format!("tap={tap}"));
            told.push(format!("lab.ip={GUEST}/24"));
        }
        told.push(crate::lab::images::run_argument(&self.script()));
        word("cmdline", told.join(" "));
        words
    }

    fn script(&self) -> String {
        let loads: Vec<String> = self.loads.iter().map(|(_, load)| format!("'{load}'")).collect();
        format!("for load in {}; do colo-load --every 1 $load & done; wait", loads.join(" "))
    }
}
