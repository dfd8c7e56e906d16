//! Who is measured, and how each is told to run the same guest with the same disk.

use super::script;
use crate::bench_checkpoint::subject::{GUEST_MIB, Side};
use crate::lab::images;
use std::path::PathBuf;

/// The disk that fio works on; of a pair, the primary's.
pub const DATA: &str = "/tmp/bench-data.raw";
/// The secondary's, which may be on the same machine.
pub const SECOND: &str = "/tmp/bench-second.raw";
/// What QEMU's secondary keeps of its own writes, and of what its primary overwrote.
pub const OVERLAYS: [&str; 2] = ["/tmp/bench-active.qcow2", "/tmp/bench-hidden.qcow2"];

/// A VMM, with or without a secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Subject {
    /// This VMM, alone
    Alone,
    /// This VMM as a pair; both guests run, as QEMU's do
    Pair,
    /// This VMM as a pair; the secondary's guest stands between checkpoints
    Periodic,
    /// QEMU, alone
    Qemu,
    /// QEMU's COLO with its replication driver and NBD
    QemuColo,
}

/// The guest of all of them.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initrd.
    pub initrd: PathBuf,
    /// The Debian whose fio it runs; only read.
    pub root: PathBuf,
    /// This VMM's program.
    pub colo_vm: PathBuf,
    /// Words for a pair of this VMM, such as `--sync none`.
    pub pair_words: String,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Alone, Self::Pair, Self::Periodic, Self::Qemu, Self::QemuColo];

    /// Its name for `measure.py`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Pair => "pair",
            Self::Periodic => "periodic",
            Self::Qemu => "qemu",
            Self::QemuColo => "qemu-colo",
        }
    }

    /// Its name in the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Alone => "colo-vm alone",
            Self::Pair => "colo-vm pair",
            Self::Periodic => "colo-vm pair, periodic",
            Self::Qemu => "QEMU alone",
            Self::QemuColo => "QEMU COLO",
        }
    }

    /// Whether it has a secondary.
    pub fn is_pair(self) -> bool {
        matches!(self, Self::Pair | Self::Periodic | Self::QemuColo)
    }

    /// The command line of a side. QEMU's machine is `pc`, as its COLO does not know `q35`. A peer that says
    /// nothing for seconds is not dead where both share a CPU in software.
    pub fn words(self, guest: &Guest, side: Side<'_>) -> Vec<String> {
        let cmdline = format!("console=ttyS0 quiet reboot=t panic=-1 {}", images::run_argument(&script()));
        let line = match self {
            Self::Qemu | Self::QemuColo => self.qemu(guest, side),
            Self::Alone | Self::Pair | Self::Periodic => self.ours(guest, side),
        };
        line.split_whitespace().map(str::to_owned).chain([cmdline]).collect()
    }

    fn ours(self, guest: &Guest, side: Side<'_>) -> String {
        let Guest { kernel, initrd, root, colo_vm, pair_words } = guest;
        let data = if matches!(side, Side::Secondary(_)) { SECOND } else { DATA };
        let verb = match side {
            _ if !self.is_pair() => "run".to_owned(),
            Side::Primary(peer) => format!("primary --peer {peer}"),
            Side::Secondary(port) => format!("secondary --listen 0.0.0.0:{port}"),
        };
        let mode = if self == Self::Periodic { "periodic" } else { "colo" };
        let pair = if self.is_pair() {
            format!("--mode {mode} --peer-timeout 20000 --phase-timeout 60000 {pair_words}")
        } else {
            String::new()
        };
        format!(
            "{} {verb} {pair} --memory {GUEST_MIB}M --cpus 1 --disk path={},format=raw,readonly,serial=root \
             --disk path={data},format=raw,serial=data --kernel {} --initrd {} --cmdline",
            colo_vm.display(),
            root.display(),
            kernel.display(),
            initrd.display()
        )
    }

    fn qemu(self, guest: &Guest, side: Side<'_>) -> String {
        let Guest { kernel, initrd, root, .. } = guest;
        let file = |id: &str, path: &str| {
            format!(
                "-drive if=none,id={id},format=raw,file.driver=file,file.filename={path},file.aio=io_uring"
            )
        };
        let data = match side {
            _ if self == Self::Qemu => file("data", DATA),
            Side::Primary(_) => format!(
                "-drive if=none,id=data,driver=quorum,read-pattern=fifo,vote-threshold=1,children.0.driver=raw,\
                 children.0.file.driver=file,children.0.file.filename={DATA},children.0.file.aio=io_uring"
            ),
            Side::Secondary(_) => {
                let [active, hidden] = OVERLAYS;
                format!(
                    "{} -drive if=none,id=childs0,driver=replication,mode=secondary,top-id=data,file.driver=qcow2,\
                     file.file.filename={active},file.backing.driver=qcow2,file.backing.file.filename={hidden},\
                     file.backing.backing=parent0 \
                     -drive if=none,id=data,driver=quorum,read-pattern=fifo,vote-threshold=1,children.0=childs0 \
                     -incoming defer",
                    file("parent0", SECOND)
                )
            }
        };
        format!(
            "qemu-system-x86_64 -M pc -accel kvm -cpu host -m {GUEST_MIB} -smp 1 -nodefaults -no-user-config \
             -display none -no-reboot -serial stdio -device virtio-rng-pci \
             -drive if=none,id=root,format=raw,readonly=on,file.driver=file,file.filename={},file.locking=off \
             -device virtio-blk-pci,drive=root,serial=root {data} -device virtio-blk-pci,drive=data,serial=data \
             -kernel {} -initrd {} -append",
            root.display(),
            kernel.display(),
            initrd.display()
        )
    }
}
