//! `cargo xtask bench block`: what replication costs a guest's disk, beside QEMU's, with the same guest in the lab.
//!
//! ```text
//!   primary's host:   measure.py ──► VMM ── writes, checkpoints ──► VMM ◄── measure.py   :secondary's host
//!                        │            ▲ its guest: fio               │
//!                        │            └ a line on its console        ▼
//!                     fio's JSON       for each job            the secondary's disk: equal in the end?
//!
//!   alone / pair:  this VMM without and with a secondary      qemu / qemu-colo:  QEMU, likewise
//! ```
//!
//! Each is told the same jobs, one after the other, in turns, on a new disk that has all its blocks.

pub mod report;
pub mod subject;

use crate::bench_checkpoint::Place;
use crate::bench_checkpoint::subject::Side;
use crate::lab::{Host, Job};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use subject::{DATA, Guest, OVERLAYS, SECOND, Subject};

const MEASURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bench_block/measure.py");
const PORT: u16 = 9998;
/// How long a subject may take for a round; a tenth of it will do where nothing else runs.
const PATIENCE: Duration = Duration::from_mins(15);
/// How long a secondary has to bring its image up to date, once its guest does nothing.
const SETTLED: Duration = Duration::from_mins(1);
/// The disk's size in MiB.
const DISK_MIB: u32 = 256;
/// What the guest does: a job for each line that is typed, with the fio of a Debian that is only read. What fio says is
/// told with its checksum, and once more if that is asked for.
const SCRIPT: &str = "
for disk in /sys/block/vd*; do ln -s /dev/${disk##*/} /dev/disk-$(cat $disk/serial); done
mkdir /new
mount -t ext4 -o ro /dev/disk-root /new
for dir in dev proc sys; do mount --bind /$dir /new/$dir; done
for dir in run tmp; do mount -t tmpfs tmpfs /new/$dir; done
stty -echo
echo bench: waits
while read -r name words; do
if [ \"$name\" != again ]; then
job=$name
echo \"begin $job $(cut -d' ' -f1 /proc/uptime)\"
chroot /new fio FIO $words | tr -d ' \\t\\r\\n' > /new/tmp/said
echo \"end $job $(cut -d' ' -f1 /proc/uptime)\"
fi
echo \"fio $job $(md5sum < /new/tmp/said | cut -c 1-32) $(cat /new/tmp/said)\"
done";
/// Of all jobs.
const FIO: &str = "--name=a --direct=1 --ioengine=io_uring --time_based --ramp_time=1 --norandommap --clat_percentiles=0 \
                   --lat_percentiles=1 --percentile_list=50:99 --output-format=json";

/// What is told of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// MiB per second.
    Bytes,
    /// Requests per second.
    Requests,
}

impl Rate {
    /// For the table.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Bytes => "MiB/s",
            Self::Requests => "/s",
        }
    }
}

/// What fio does for some seconds.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// A word for it.
    pub name: &'static str,
    /// For the table.
    pub what: &'static str,
    /// Its words for fio.
    pub words: &'static str,
    /// In what its rate is told.
    pub rate: Rate,
    /// Whose latencies are told: `read`, `write`, `sync`.
    pub sides: &'static [&'static str],
}

/// Sequential ones first, so that all blocks are in the guest's and the host's caches alike.
pub const WORK: [Work; 5] = [
    Work {
        name: "seqwrite",
        what: "128 KiB sequential writes, depth 8",
        words: "--rw=write --bs=128k --iodepth=8",
        rate: Rate::Bytes,
        sides: &["write"],
    },
    Work {
        name: "seqread",
        what: "128 KiB sequential reads, depth 8",
        words: "--rw=read --bs=128k --iodepth=8",
        rate: Rate::Bytes,
        sides: &["read"],
    },
    Work {
        name: "randwrite",
        what: "4 KiB random writes, depth 16",
        words: "--rw=randwrite --bs=4k --iodepth=16",
        rate: Rate::Requests,
        sides: &["write"],
    },
    Work {
        name: "mixed",
        what: "4 KiB random, 70 % reads, 30 % writes, depth 16",
        words: "--rw=randrw --rwmixread=70 --bs=4k --iodepth=16",
        rate: Rate::Requests,
        sides: &["read", "write"],
    },
    Work {
        name: "fsync",
        what: "4 KiB random writes with an fsync after each, depth 1",
        words: "--rw=randwrite --bs=4k --iodepth=1 --fsync=1",
        rate: Rate::Requests,
        sides: &["write", "sync"],
    },
];

/// How all jobs of a run are done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long each is measured; a second before that is not.
    pub seconds: u64,
    /// Milliseconds between checkpoints.
    pub delay_ms: u32,
}

/// What was seen of one subject in one round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    /// `WORK rate`, `WORK SIDE p50`, `WORK SIDE p99` (µs), `WORK checkpoints`, `WORK clock`.
    pub figures: BTreeMap<String, f64>,
    /// Whether the secondary's disk had the primary's bytes in the end; nothing of one that is alone.
    pub is_equal: Option<bool>,
}

/// What the guest runs. What is typed is short: it goes through a serial port.
pub fn script() -> String {
    SCRIPT.replace("FIO", &format!("{FIO} --filename=/dev/disk-data --size={DISK_MIB}M"))
}

fn fio_words(work: &Work, seconds: u64) -> String {
    format!("--runtime={seconds} {}", work.words)
}

/// New disks, zeros in every block: who comes first is not to pay for memory that the others find.
fn renew(place: &Place<'_>, subject: Subject) -> Result<()> {
    let [active, hidden] = OVERLAYS;
    let all = format!("rm -f {DATA} {SECOND} {active} {hidden}; sync");
    let fill = |path: &str| format!("head -c {DISK_MIB}M /dev/zero > {path}");
    place.secondary.shell(&all)?;
    place.primary.shell(&format!("set -e; {all}; {}", fill(DATA)))?;
    if subject.is_pair() {
        place.secondary.shell(&format!("set -e; {}", fill(SECOND)))?;
    }
    if subject == Subject::QemuColo {
        let create = "qemu-img create -q -f qcow2";
        let size = format!("{DISK_MIB}M");
        place.secondary.shell(&format!("set -e; {create} {active} {size}; {create} {hidden} {size}"))?;
    }
    Ok(())
}

/// One round of one subject.
pub fn round(place: &Place<'_>, subject: Subject, guest: &Guest, plan: Plan) -> Result<Round> {
    renew(place, subject)?;
    let work: Vec<Value> = WORK
        .iter()
        .map(|work| {
            let words = fio_words(work, plan.seconds);
            json!({"name": work.name, "words": words, "seconds": plan.seconds})
        })
        .collect();
    let peer = format!("{}:{PORT}", place.address);
    let job = |side: Side<'_>, more: &[String]| {
        let name = if matches!(side, Side::Primary(_)) { "primary" } else { "secondary" };
        let words = ["/usr/bin/python3", MEASURE, subject.name(), name].map(str::to_owned).into_iter();
        Job::new(words.chain(more.iter().cloned()).chain(subject.words(guest, side))).timeout(PATIENCE)
    };
    let secondary = subject.is_pair().then(|| {
        let secondary = place.secondary.start(job(Side::Secondary(PORT), &[PORT.to_string()]))?;
        secondary.until_said("waits")?;
        Ok::<_, anyhow::Error>(secondary)
    });
    let secondary = secondary.transpose()?;
    let told = [peer.clone(), plan.delay_ms.to_string(), Value::from(work).to_string()];
    let primary = place.primary.start(job(Side::Primary(&peer), &told))?;
    primary.until_said("all done").with_context(|| match &secondary {
        Some(secondary) => format!("the secondary had said {}", secondary.said()),
        None => String::new(),
    })?;
    let is_equal = secondary.is_some().then(|| become_equal(place)).transpose()?;
    primary.signal(Signal::TERM)?;
    let ours = primary.wait()?;
    let what = || format!("{}{}", ours.stdout, ours.stderr);
    if let Some(secondary) = secondary {
        secondary.signal(Signal::TERM)?;
        let theirs = secondary.wait()?;
        let last: Value = serde_json::from_str(theirs.stdout.lines().last().unwrap_or_default())
            .with_context(|| format!("the secondary says {theirs:?}"))?;
        ensure!(last["ended"] == false, "the secondary ended too early: {theirs:?}");
    }
    let said = ours.stdout.lines().next().unwrap_or_default();
    let mut round = figures(&serde_json::from_str(said).with_context(what)?).with_context(what)?;
    round.is_equal = is_equal;
    Ok(round)
}

/// Whether the secondary's disk has the primary's bytes, at once or soon: its guest does nothing any more.
fn become_equal(place: &Place<'_>) -> Result<bool> {
    let sum = |host: &Host, path: &str| -> Result<String> {
        let said = host.shell(&format!("sha256sum {path}"))?;
        Ok(said.split(' ').next().unwrap_or_default().to_owned())
    };
    let (begun, ours) = (Instant::now(), sum(place.primary, DATA)?);
    loop {
        if sum(place.secondary, SECOND)? == ours {
            return Ok(true);
        }
        if begun.elapsed() > SETTLED {
            return Ok(false);
        }
    }
}

/// What the machines do without any guest: fio on the file, and a stream from one host to the other (MiB/s).
pub fn limits(place: &Place<'_>, plan: Plan) -> Result<Round> {
    renew(place, Subject::Alone)?;
    let mut round = Round::default();
    for work in &WORK {
        // Files in memory cannot be opened for direct I/O.
        let fio = FIO.replace("--direct=1 ", "");
        let words = format!("{fio} --filename={DATA} --size={DISK_MIB}M {}", fio_words(work, plan.seconds));
        let output = place.primary.run(Job::shell(&format!("fio {words}")).timeout(PATIENCE))?;
        let said: Value = serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))?;
        of_work(work, &said, &mut round.figures)?;
    }
    let server = place.secondary.start(Job::new(["iperf3", "-s", "-1", "--forceflush"]))?;
    server.until_said("listening")?;
    let words = ["iperf3", "-J", "-t", "4", "-c", place.address];
    let output = place.primary.run(Job::new(words))?;
    let said: Value = serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))?;
    let bits = said["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 gives no figure")?;
    round.figures.insert("link".to_owned(), bits / 8.0 / 1_048_576.0);
    Ok(round)
}

fn figures(said: &Value) -> Result<Round> {
    let mut round = Round::default();
    let number = |value: &Value, what: &str| value.as_f64().with_context(|| format!("no figure: {what}"));
    round.figures.insert("attached".to_owned(), number(&said["attached"], "attached")?);
    for work in &WORK {
        let done = said["jobs"].as_array().into_iter().flatten().find(|done| done["name"] == work.name);
        let done = done.with_context(|| format!("{} was not done", work.name))?;
        of_work(work, &done["fio"], &mut round.figures)?;
        // A guest's clock may stand with its guest: what counts is what it did in the host's time.
        let clock = number(&done["clock"], "clock")?;
        round.figures.entry(format!("{} rate", work.name)).and_modify(|rate| *rate *= clock);
        round.figures.insert(format!("{} clock", work.name), clock);
        let checkpoints = number(&done["checkpoints"], "checkpoints")?;
        round.figures.insert(format!("{} checkpoints", work.name), checkpoints);
    }
    Ok(round)
}

/// The figures of a job in what its fio says.
fn of_work(work: &Work, fio: &Value, figures: &mut BTreeMap<String, f64>) -> Result<()> {
    let job = &fio["jobs"][0];
    ensure!(job["error"] == 0, "{}: fio failed: {job}", work.name);
    let number = |value: &Value| value.as_f64().with_context(|| format!("{}: fio says {job}", work.name));
    let mut rate = 0.0;
    for side in ["read", "write"] {
        rate += match work.rate {
            Rate::Bytes => number(&job[side]["bw_bytes"])? / 1_048_576.0,
            Rate::Requests => number(&job[side]["iops"])?,
        };
    }
    ensure!(rate > 0.0, "{}: nothing was done: {job}", work.name);
    figures.insert(format!("{} rate", work.name), rate);
    for side in work.sides {
        for (name, key) in [("p50", "50.000000"), ("p99", "99.000000")] {
            let micros = number(&job[side]["lat_ns"]["percentile"][key])? / 1e3;
            figures.insert(format!("{} {side} {name}", work.name), micros);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fio 3.33 says, as far as it is read.
    fn fio(bytes: u64, iops: f64, nanos: u64) -> Value {
        let side = json!({"bw_bytes": bytes, "iops": iops, "lat_ns": {"percentile": {"50.000000": nanos, "99.000000": 3 * nanos}}});
        json!({"jobs": [{"error": 0, "read": side, "write": side, "sync": {"lat_ns": side["lat_ns"]}}]})
    }

    fn said() -> Value {
        let done =
            WORK.map(|work| json!({"name": work.name, "fio": fio(1 << 20, 10.0, 2000), "checkpoints": 4, "clock": 0.5}));
        json!({"attached": 1.5, "jobs": done})
    }

    #[test]
    fn what_fio_says_becomes_figures() {
        let round = figures(&said()).unwrap();
        for (name, value) in [
            ("attached", 1.5),
            ("seqwrite rate", 1.0),
            ("seqread read p50", 2.0),
            ("mixed rate", 10.0),
            ("mixed write p99", 6.0),
            ("fsync sync p99", 6.0),
            ("fsync checkpoints", 4.0),
        ] {
            assert!((round.figures[name] - value).abs() < 1e-9, "{name}: {}", round.figures[name]);
        }
        // Of each job its rate, its clock, its checkpoints, and two latencies of each of its sides.
        assert_eq!(round.figures.len(), 1 + 5 * 3 + 2 * (1 + 1 + 1 + 2 + 2));
    }

    /// The kernel takes 2048 bytes, of which some are others'.
    #[test]
    fn the_script_fits_into_a_kernels_command_line() {
        assert!(crate::lab::images::run_argument(&script()).len() < 1800);
    }

    #[test]
    fn a_job_that_failed_did_nothing_or_is_missing_is_no_result() {
        for spoil in [
            |said: &mut Value| said["jobs"][2]["fio"]["jobs"][0]["error"] = 5.into(),
            |said: &mut Value| said["jobs"][2]["fio"] = fio(0, 0.0, 1),
            |said: &mut Value| said["jobs"][2]["name"] = "other".into(),
            |said: &mut Value| said["jobs"][4]["fio"]["jobs"][0]["sync"] = Value::Null,
        ] {
            let mut spoilt = said();
            spoil(&mut spoilt);
            assert!(figures(&spoilt).is_err(), "{spoilt}");
        }
    }
}
