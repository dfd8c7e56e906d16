//! `cargo xtask bench vmm`: this VMM beside Debian's QEMU, as hosts of the same guest in one lab machine.
//!
//! ```text
//!   lab machine ── measure.py ──► contender: the same kernel, initrd, disks, tap
//!                      │             ▲ console: "ready"
//!                      └─ ftrace, /proc/PID/smaps, HTTP, iperf3
//! ```

pub mod contender;
pub mod report;

use crate::lab::images::Disk;
use crate::lab::{Host, Job};
use anyhow::{Context, Result, ensure};
use contender::{Contender, Guest};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

const MEASURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bench_vmm/measure.py");
/// What the guest of the loads does: its disks first, then it serves, all with the programs of the Debian on
/// its root disk. Disks are told by their serial numbers, as virtio over MMIO is found in another order.
/// Sequential writes come first: they allocate what is new in qcow2.
const LOADS: &str = "
for disk in /sys/block/vd*; do ln -s /dev/${disk##*/} /dev/disk-$(cat $disk/serial); done
mkdir /new
mount -t ext4 /dev/disk-root /new
for dir in dev proc sys; do mount --bind /$dir /new/$dir; done
for dir in run tmp; do mount -t tmpfs tmpfs /new/$dir; done
mkdir /new/run/lock
for disk in raw qcow2; do for job in write:1M:4 randread:4k:16 randwrite:4k:16 read:1M:4; do
set -- $(echo $job | tr : ' ')
sync
echo \"fio $disk $1;$(chroot /new fio --name=a --filename=/dev/disk-$disk --rw=$1 --bs=$2 --iodepth=$3 \\
--direct=1 --ioengine=io_uring --runtime=3 --time_based --size=256M --minimal)\"
done; done
chroot /new nginx
echo serving now
chroot /new iperf3 -s > /dev/null";

/// What is measured, with its unit, and whether more is better.
pub const FIGURES: [(&str, &str, &str, bool); 14] = [
    ("entry", "start to first guest instruction", "ms", false),
    ("init", "start to init", "s", false),
    ("overhead", "memory beside the guest's", "MiB", false),
    ("to_guest", "TCP to the guest (iperf3)", "Mbit/s", true),
    ("from_guest", "TCP from the guest (iperf3)", "Mbit/s", true),
    ("requests", "HTTP requests, one connection (nginx)", "/s", true),
    ("raw randread", "raw: 4 KiB random reads, depth 16", "/s", true),
    ("raw randwrite", "raw: 4 KiB random writes, depth 16", "/s", true),
    ("raw read", "raw: 1 MiB reads, depth 4", "MiB/s", true),
    ("raw write", "raw: 1 MiB writes, depth 4", "MiB/s", true),
    ("qcow2 randread", "qcow2: 4 KiB random reads, depth 16", "/s", true),
    ("qcow2 randwrite", "qcow2: 4 KiB random writes, depth 16", "/s", true),
    ("qcow2 read", "qcow2: 1 MiB reads, depth 4", "MiB/s", true),
    ("qcow2 write", "qcow2: 1 MiB writes into a new file, depth 4", "MiB/s", true),
];

/// The figures of one round of one contender, in the report's units.
pub type Round = BTreeMap<String, f64>;

/// Makes the tap and the root disk, and touches the machine's memory: whoever comes first is not to pay
/// for what the host gives it only then.
pub fn prepare(host: &Host, disk: &Disk) -> Result<()> {
    host.shell(&format!(
        "set -e; head -c 1300M /dev/zero > /tmp/touch; rm /tmp/touch
         ip tuntap add bench mode tap vnet_hdr; ip addr add 10.9.0.1/24 dev bench; ip link set bench up
         qemu-img create -q -f qcow2 -F qcow2 -b {} {}",
        disk.qcow2.display(),
        contender::ROOT,
    ))
    .map(drop)
}

/// New disks for fio.
fn renew(host: &Host) -> Result<()> {
    host.shell(&format!(
        "set -e; rm -f {0} {1}; truncate -s 256M {0}; qemu-img create -q -f qcow2 {1} 256M",
        contender::RAW,
        contender::QCOW2
    ))
    .map(drop)
}

/// Starts each once, unmeasured: nobody is to pay for files that the machine has not read yet.
pub fn warm_up(host: &Host, small: &Guest) -> Result<()> {
    for contender in Contender::ALL {
        measure(host, "entry", &contender.words(small, ""))?;
    }
    Ok(())
}

/// What the machine does without any guest: fio on the raw file, iperf3 through a pair of cards.
pub fn limits(host: &Host) -> Result<Round> {
    renew(host)?;
    measure(host, "limits", &[contender::RAW.to_owned()])
}

fn measure(host: &Host, what: &str, more: &[String]) -> Result<Round> {
    let mut words = vec!["/usr/bin/python3".to_owned(), MEASURE.to_owned(), what.to_owned()];
    words.extend_from_slice(more);
    let output = host.run(Job::new(words).timeout(Duration::from_mins(8)))?;
    ensure!(output.status == 0, "{what}: {}{}", output.stdout, output.stderr);
    let value: Value =
        serde_json::from_str(&output.stdout).with_context(|| format!("{what} says {}", output.stdout))?;
    let mut figures = Round::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let value = value.as_f64().with_context(|| format!("{name} is no figure"))?;
        let scale = match name.as_str() {
            "entry" => 1e3,
            "overhead" => 1.0 / 1024.0,
            _ => 1.0,
        };
        figures.insert(name.clone(), value * scale);
    }
    Ok(figures)
}

/// One round: each measurement on a fresh process.
pub fn round(host: &Host, contender: Contender, small: &Guest, loaded: &Guest) -> Result<Round> {
    let mut figures = Round::new();
    for (what, guest, script) in [("entry", small, ""), ("start", small, "sleep 60"), ("load", loaded, LOADS)]
    {
        if what == "load" {
            renew(host)?;
        }
        let measured = measure(host, what, &contender.words(guest, script));
        figures.extend(measured.with_context(|| contender.name())?);
    }
    Ok(figures)
}
