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
/// What the guest of the loads does: its disk first, then it serves.
const LOADS: &str = "
fio --name=a --filename=/dev/vdb --rw=randrw --bs=4k --direct=1 --ioengine=io_uring --iodepth=16 --runtime=5 \
    --time_based --size=256M --output-format=json > /run/fio.json
field() { grep -o \"\\\"$1\\\" : [0-9]*\" /run/fio.json | sed \"$2q;d\" | grep -o '[0-9]*$'; }
echo fio read=$(field iops 1) write=$(field iops 2) errors=$(field error 1)
echo serving now
for turn in 1 2; do iperf3 -s -1 > /dev/null; done";

/// What is measured, with its unit, and whether more is better.
pub const FIGURES: [(&str, &str, &str, bool); 8] = [
    ("entry", "start to first guest instruction", "ms", false),
    ("init", "start to init", "s", false),
    ("overhead", "memory beside the guest's", "MiB", false),
    ("to_guest", "TCP to the guest (iperf3)", "Mbit/s", true),
    ("from_guest", "TCP from the guest (iperf3)", "Mbit/s", true),
    ("requests", "HTTP requests, one connection (nginx)", "/s", true),
    ("read", "4 KiB random reads, depth 16 (fio, half of a mix)", "/s", true),
    ("write", "4 KiB random writes, depth 16 (fio, half of a mix)", "/s", true),
];

/// The figures of one round of one contender, in the report's units.
pub type Round = BTreeMap<String, f64>;

/// Makes the tap and the disks.
pub fn prepare(host: &Host, disk: &Disk) -> Result<()> {
    host.shell(&format!(
        "set -e; ip tuntap add bench mode tap vnet_hdr; ip addr add 10.9.0.1/24 dev bench; ip link set bench up
         qemu-img create -q -f qcow2 -F qcow2 -b {} {}; truncate -s 256M {}",
        disk.qcow2.display(),
        contender::ROOT,
        contender::DATA,
    ))
    .map(drop)
}

/// One round: each measurement on a fresh process.
pub fn round(host: &Host, contender: Contender, small: &Guest, debian: &Guest) -> Result<Round> {
    let mut figures = Round::new();
    for (what, guest, script) in [("entry", small, ""), ("start", small, "sleep 60"), ("load", debian, LOADS)]
    {
        let mut words = vec!["/usr/bin/python3".to_owned(), MEASURE.to_owned(), what.to_owned()];
        words.extend(contender.words(guest, script));
        if what == "load" {
            host.shell(&format!("rm -f {0}; truncate -s 256M {0}", contender::DATA))?;
        }
        let output = host.run(Job::new(words).timeout(Duration::from_mins(5)))?;
        ensure!(output.status == 0, "{}, {what}: {}{}", contender.name(), output.stdout, output.stderr);
        let value: Value =
            serde_json::from_str(&output.stdout).with_context(|| format!("{what} says {}", output.stdout))?;
        for (name, value) in value.as_object().into_iter().flatten() {
            let value = value.as_f64().with_context(|| format!("{name} is no figure"))?;
            let scale = match name.as_str() {
                "entry" => 1e3,
                "overhead" => 1.0 / 1024.0,
                _ => 1.0,
            };
            figures.insert(name.clone(), value * scale);
        }
    }
    Ok(figures)
}
