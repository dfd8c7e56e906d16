//! Who is measured, and how each is told to run the same guest.

use crate::lab::images;
use std::path::PathBuf;

/// The guest's memory.
pub const GUEST_MIB: u32 = 256;

/// What keeps two guests level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Subject {
    /// QEMU's COLO.
    Qemu,
    /// This VMM; both guests run, as QEMU's do.
    #[value(name = "colo-vm")]
    Ours,
    /// This VMM; the secondary's guest stands between checkpoints.
    Periodic,
}

/// The guest of both sides.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initrd, with `colo-load`.
    pub initrd: PathBuf,
    /// This VMM's program, if it is measured.
    pub colo_vm: PathBuf,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side<'a> {
    /// The one that is protected, by the one at this address.
    Primary(&'a str),
    /// The one that takes over, listening at this port.
    Secondary(u16),
}

impl Subject {
    /// Its name in the table, and for `measure.py`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Ours => "colo-vm",
            Self::Periodic => "periodic",
        }
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU",
            Self::Ours => "colo-vm",
            Self::Periodic => "colo-vm, periodic",
        }
    }

    /// The command line of a side whose guest runs a script. QEMU's machine is `pc`, as its COLO does not know
    /// `q35`; whom it speaks to it is told later. Where both sides share a CPU in software, a peer that says
    /// nothing for seconds is not dead.
    pub fn words(self, guest: &Guest, script: &str, side: Side<'_>) -> Vec<String> {
        let (kernel, initrd) = (guest.kernel.display(), guest.initrd.display());
        let cmdline = format!("console=ttyS0 quiet reboot=t panic=-1 {}", images::run_argument(script));
        let line = match self {
            Self::Qemu => {
                let incoming = if matches!(side, Side::Secondary(_)) { "-incoming defer" } else { "" };
                format!(
                    "qemu-system-x86_64 -M pc -accel kvm -cpu host -m {GUEST_MIB} -smp 1 -nodefaults \
                     -no-user-config -display none -no-reboot -serial stdio -device virtio-rng-pci \
                     -kernel {kernel} -initrd {initrd} {incoming} -append"
                )
            }
            Self::Ours | Self::Periodic => {
                let side = match side {
                    Side::Primary(peer) => format!("primary --peer {peer} --checkpoint-delay 1000"),
                    Side::Secondary(port) => format!("secondary --listen 0.0.0.0:{port}"),
                };
                let mode = if self == Self::Periodic { "periodic" } else { "colo" };
                let colo_vm = guest.colo_vm.display();
                format!(
                    "{colo_vm} {side} --mode {mode} --peer-timeout 20000 --phase-timeout 60000 \
                     --memory {GUEST_MIB}M --cpus 1 --kernel {kernel} --initrd {initrd} --cmdline"
                )
            }
        };
        line.split_whitespace().map(str::to_owned).chain([cmdline]).collect()
    }
}
