//! `cargo xtask bench checkpoint`: what a checkpoint costs, beside QEMU's COLO, with the same guest in the lab.
//!
//! ```text
//!   primary's host:   measure.py ──► VMM ── checkpoints ──► VMM ◄── measure.py   :secondary's host
//!                        │            ▲ its guest: a load    │        │
//!                        │            └ QMP, ftrace, ss       └ guest  └ /proc/PID/status
//!                        └─ per phase: pauses, bytes, checkpoints per second
//! ```
//!
//! Both may be one machine: a pause is then longer by what the other side's guest takes of its CPU, for both
//! subjects alike.

pub mod native;
pub mod report;
pub mod subject;

use crate::bench::stats::median;
use crate::lab::{Host, Job, Lab};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use subject::{GUEST_MIB, Guest, Side, Subject};

const MEASURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bench_checkpoint/measure.py");
const PORT: u16 = 9998;
/// How long a round may take; a tenth of it will do where nothing else runs.
const PATIENCE: Duration = Duration::from_mins(15);

/// How often checkpoints are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// A word for it.
    pub name: &'static str,
    /// For the table.
    pub what: &'static str,
    /// From one checkpoint's beginning to the next one's.
    pub delay_ms: u32,
}

/// What a guest does, and the phases of its checkpoints.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What it runs.
    pub script: &'static str,
    /// One after the other.
    pub phases: &'static [Phase],
}

/// Each has a new pair of guests.
pub const LOADS: [Load; 3] = [
    Load {
        script: "sleep 10000",
        phases: &[
            Phase { name: "idle", what: "idle, a checkpoint each second", delay_ms: 1000 },
            Phase { name: "often", what: "idle, one after the other", delay_ms: 1 },
        ],
    },
    Load {
        script: "colo-load --every 1 dirty 10 100",
        phases: &[Phase { name: "10", what: "10 MB/s rewritten, a checkpoint each second", delay_ms: 1000 }],
    },
    Load {
        script: "colo-load --every 1 dirty 100 100",
        phases: &[Phase {
            name: "100",
            what: "up to 100 MB/s rewritten, a checkpoint each second",
            delay_ms: 1000,
        }],
    },
];

/// What is told of each phase: key, text, unit, and whether more is better.
pub const FIGURES: [(&str, &str, &str, Option<bool>); 6] = [
    ("pause", "pause of the primary", "ms", Some(false)),
    ("worst", "longest pause", "ms", Some(false)),
    ("absence", "vCPU outside KVM_RUN", "ms", Some(false)),
    ("bytes", "sent per checkpoint", "KiB", Some(false)),
    ("rate", "checkpoints", "/s", None),
    ("dirtied", "rewritten by the guest, in its own time", "MB/s", None),
];

/// What is told of a pair.
pub const OF_A_PAIR: [(&str, &str, &str); 2] = [
    ("attached", "from the command to the first checkpoint", "s"),
    ("memory", "the secondary's resident memory, of the guest's", "×"),
];

/// The figures of one pair, `PHASE FIGURE` or one of [`OF_A_PAIR`].
pub type Round = BTreeMap<String, f64>;

/// Where the two sides are.
#[derive(Debug)]
pub struct Place<'a> {
    primary: &'a Host,
    secondary: &'a Host,
    address: &'static str,
}

impl<'a> Place<'a> {
    /// On the lab's machines, or both on its only one.
    pub fn of(lab: &'a Lab) -> Self {
        match lab.hosts() {
            [primary, secondary, ..] => Self { primary, secondary, address: "10.77.2.2" },
            _ => Self { primary: lab.a(), secondary: lab.a(), address: "127.0.0.1" },
        }
    }
}

/// All loads, each phase watched for some seconds.
pub fn round(place: &Place<'_>, subject: Subject, guest: &Guest, seconds: u64) -> Result<Round> {
    let mut round = Round::new();
    for load in LOADS {
        let figures = pair(place, subject, guest, load, seconds);
        let figures = figures.with_context(|| format!("{}, {:?}", subject.name(), load.script))?;
        // Of the pair itself the idle one is told: it comes first.
        figures.into_iter().for_each(|(name, value)| _ = round.entry(name).or_insert(value));
    }
    Ok(round)
}

/// One pair of guests.
fn pair(place: &Place<'_>, subject: Subject, guest: &Guest, load: Load, seconds: u64) -> Result<Round> {
    let phases = load.phases.iter();
    let plan: Vec<Value> = phases
        .map(|phase| json!({"name": phase.name, "delay_ms": phase.delay_ms, "seconds": seconds}))
        .collect();
    let peer = format!("{}:{PORT}", place.address);
    let job = |side: Side<'_>, more: &[String]| {
        let name = if matches!(side, Side::Primary(_)) { "primary" } else { "secondary" };
        let words = ["/usr/bin/python3", MEASURE, subject.name(), name].map(str::to_owned).into_iter();
        let words = words.chain(more.iter().cloned()).chain(subject.words(guest, load.script, side));
        Job::new(words).timeout(PATIENCE)
    };
    let secondary = place.secondary.start(job(Side::Secondary(PORT), &[PORT.to_string()]))?;
    secondary.until_said("waits")?;
    let plan = Value::from(plan).to_string();
    let output = place.primary.run(job(Side::Primary(&peer), &[peer.clone(), plan]))?;
    secondary.signal(Signal::TERM)?;
    let theirs = secondary.wait()?;
    let what =
        || format!("{}{}\nsecondary: {}{}", output.stdout, output.stderr, theirs.stdout, theirs.stderr);
    ensure!(output.status == 0 && theirs.status == 0, "{}", what());
    let last = |text: &str| serde_json::from_str(text.lines().last().unwrap_or_default());
    let (ours, theirs): (Value, Value) =
        (last(&output.stdout).with_context(what)?, last(&theirs.stdout).with_context(what)?);
    figures(&ours, &theirs).with_context(what)
}

fn figures(primary: &Value, secondary: &Value) -> Result<Round> {
    let number =
        |value: &Value, name: &str| value[name].as_f64().with_context(|| format!("no figure {name}"));
    let mut round = Round::new();
    round.insert("attached".into(), number(primary, "attached")?);
    let guest_kib = f64::from(GUEST_MIB) * 1024.0;
    round.insert("memory".into(), number(secondary, "resident_kib")? / guest_kib);
    for phase in primary["phases"].as_array().context("no phases")? {
        let name = phase["name"].as_str().context("a phase without a name")?;
        let list = |key: &str| -> Vec<f64> {
            phase[key].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
        };
        let (pauses, absences) = (list("pauses_ms"), list("absences_ms"));
        ensure!(!pauses.is_empty(), "no checkpoint in the phase {name}");
        let count = pauses.len() as f64;
        let mut put = |key: &str, value: f64| round.insert(format!("{name} {key}"), value);
        put("pause", median(&pauses));
        put("worst", pauses.iter().copied().fold(0.0, f64::max));
        put("absence", median(&absences));
        put("bytes", number(phase, "bytes")? / 1024.0);
        put("rate", count / number(phase, "seconds")?);
        if let Some(rate) = phase["dirtied"].as_f64() {
            put("dirtied", rate);
        }
    }
    Ok(round)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp, reason = "exact by construction")]
    fn what_was_seen_becomes_figures() {
        let phase = json!({"name": "idle", "seconds": 2.0, "pauses_ms": [1.0, 9.0, 2.0, 4.0],
                           "absences_ms": [2.0, 4.0], "bytes": 2048, "dirtied": null});
        let primary = json!({"attached": 3.5, "phases": [phase]});
        let secondary = json!({"resident_kib": 524_288});
        let round = figures(&primary, &secondary).unwrap();
        let expected = [
            ("attached", 3.5),
            ("idle absence", 3.0),
            ("idle bytes", 2.0),
            ("idle pause", 3.0),
            ("idle rate", 2.0),
            ("idle worst", 9.0),
            ("memory", 2.0),
        ];
        assert_eq!(round, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }

    #[test]
    fn a_phase_without_a_checkpoint_is_no_result() {
        let phase = json!({"name": "idle", "seconds": 2.0, "pauses_ms": [], "absences_ms": [], "bytes": 0});
        let primary = json!({"attached": 3.5, "phases": [phase]});
        assert!(figures(&primary, &json!({"resident_kib": 1})).is_err());
    }
}
