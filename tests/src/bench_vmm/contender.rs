//! Who is measured, and how each is told to run the same guest.

use crate::lab::images;
use std::path::PathBuf;

/// The root disk of the loads' guest, in the lab machine.
pub const ROOT: &str = "/tmp/bench-root.qcow2";
/// A disk that fio works on.
pub const RAW: &str = "/tmp/bench-data.raw";
/// The other.
pub const QCOW2: &str = "/tmp/bench-data.qcow2";

/// A VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// This one.
    ColoVm,
    /// QEMU's machine for fast starts: virtio over MMIO.
    Microvm,
    /// QEMU's usual PC.
    Q35,
}

/// A guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initrd.
    pub initrd: PathBuf,
    /// What its kernel is told besides the console and the script.
    pub cmdline: String,
    /// Whether it has the tap and both disks.
    pub devices: bool,
    /// This VMM's program.
    pub colo_vm: PathBuf,
}

impl Contender {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ColoVm, Self::Microvm, Self::Q35];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::ColoVm => "colo-vm",
            Self::Microvm => "QEMU microvm",
            Self::Q35 => "QEMU q35",
        }
    }

    /// Its command line.
    pub fn words(self, guest: &Guest, script: &str) -> Vec<String> {
        let script = if script.is_empty() { String::new() } else { images::run_argument(script) };
        let cmdline = format!("console=ttyS0 quiet reboot=t panic=-1 {} {script}", guest.cmdline);
        let (kernel, initrd) = (guest.kernel.display(), guest.initrd.display());
        let line = match self {
            Self::ColoVm => {
                let devices = if guest.devices {
                    format!(
                        " --net tap=bench,mac=02:00:00:00:00:01 --disk path={ROOT},serial=root \
                         --disk path={RAW},format=raw,serial=raw --disk path={QCOW2},serial=qcow2"
                    )
                } else {
                    String::new()
                };
                format!(
                    "{} run --kernel {kernel} --initrd {initrd} --memory 256M{devices} --cmdline",
                    guest.colo_vm.display()
                )
            }
            Self::Microvm | Self::Q35 => {
                let (machine, bus) = match self {
                    Self::Microvm => ("microvm,rtc=on", "device"),
                    _ => ("q35", "pci"),
                };
                let disk = |name, format, file| {
                    format!(
                        " -drive if=none,id={name},format={format},file={file},cache=writeback,aio=io_uring \
                         -device virtio-blk-{bus},drive={name},serial={name}"
                    )
                };
                let devices = if guest.devices {
                    format!(
                        " -netdev tap,id=net,ifname=bench,script=no,downscript=no,vhost=off \
                         -device virtio-net-{bus},netdev=net,mac=02:00:00:00:00:01"
                    ) + &disk("root", "qcow2", ROOT)
                        + &disk("raw", "raw", RAW)
                        + &disk("qcow2", "qcow2", QCOW2)
                } else {
                    String::new()
                };
                format!(
                    "qemu-system-x86_64 -M {machine} -accel kvm -cpu host -m 256 -smp 1 -nodefaults -no-user-config \
                     -display none -no-reboot -serial stdio -kernel {kernel} -initrd {initrd} \
                     -device virtio-rng-{bus}{devices} -append"
                )
            }
        };
        line.split_whitespace().map(str::to_owned).chain([cmdline]).collect()
    }
}
