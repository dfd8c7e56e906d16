//! `cargo xtask bench checkpoint`: what a checkpoint costs, beside QEMU's COLO, with the same guest in the lab.
//!
//! ```text
//!   primary's host:   measure.py ──► VMM ── checkpoints ──► VMM ◄── measure.py   :secondary's host
//!                        │            ▲ its guest: a load    │        │
//!                        │            └ QMP, ftrace, ss       └ guest  └ /proc/PID/status
//!                        └─ per phase: pauses, bytes, checkpoints per second
//!   measure.py is the same for all; what differs from VMM to VMM is in vmms.py
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
    /// A word for it.
    pub name: &'static str,
    /// For the table.
    pub what: &'static str,
    /// What it runs.
    pub script: &'static str,
    /// One after the other.
    pub phases: &'static [Phase],
}

/// Each has a new pair of guests.
pub const LOADS: [Load; 3] = [
    Load {
        name: "idle",
        what: "idle",
        script: "sleep 10000",
        phases: &[
            Phase { name: "idle", what: "idle, a checkpoint each second", delay_ms: 1000 },
            Phase { name: "idle often", what: "idle, one after the other", delay_ms: 1 },
        ],
    },
    Load {
        name: "10",
        what: "10 MB/s rewritten",
        script: "colo-load --every 1 dirty 10 100",
        phases: &[
            Phase { name: "10", what: "10 MB/s rewritten, a checkpoint each second", delay_ms: 1000 },
            Phase { name: "10 often", what: "10 MB/s rewritten, one after the other", delay_ms: 1 },
        ],
    },
    Load {
        name: "100",
        what: "up to 100 MB/s rewritten",
        script: "colo-load --every 1 dirty 100 100",
        phases: &[
            Phase { name: "100", what: "up to 100 MB/s rewritten, a checkpoint each second", delay_ms: 1000 },
            Phase { name: "100 often", what: "up to 100 MB/s rewritten, one after the other", delay_ms: 1 },
        ],
    },
];

/// A figure of a phase.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// A word for it.
    pub key: &'static str,
    /// For the table.
    pub what: &'static str,
    /// In what.
    pub unit: &'static str,
    /// The most that it may be of QEMU's.
    pub goal: Option<f64>,
}

/// What is told of each phase.
pub const FIGURES: [Figure; 6] = [
    Figure { key: "pause", what: "pause of the primary, median", unit: "ms", goal: Some(0.1) },
    Figure { key: "p95", what: "pause, 95 % are shorter", unit: "ms", goal: None },
    Figure { key: "absence", what: "vCPU outside KVM_RUN, median", unit: "ms", goal: None },
    Figure { key: "bytes", what: "sent per checkpoint", unit: "KiB", goal: None },
    Figure { key: "rate", what: "checkpoints", unit: "/s", goal: None },
    Figure { key: "dirtied", what: "rewritten by the guest", unit: "MB/s", goal: None },
];

/// What a checkpoint of this VMM consists of: the parts of the pause, what comes after it, and its pages.
pub const PARTS: [&str; 10] =
    ["stop", "log", "copy", "state", "resume", "transfer", "load", "pages", "foreign", "ahead"];

/// The most that the secondary's memory may be, of its guest's.
pub const MEMORY_GOAL: f64 = 1.2;

/// What was seen of one subject in one round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    /// `PHASE FIGURE`, `PHASE PART`, `LOAD memory`, `LOAD attached`.
    pub figures: BTreeMap<String, f64>,
    /// Each pause of a phase, in milliseconds.
    pub pauses: BTreeMap<String, Vec<f64>>,
}

/// Where the two sides are.
#[derive(Debug)]
pub struct Place<'a> {
    /// The one that is protected.
    pub primary: &'a Host,
    /// The one that takes over.
    pub secondary: &'a Host,
    /// Where the first finds the second.
    pub address: &'static str,
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

/// Adds the figures of one pair of guests with one load to a round's; each phase is watched for some seconds.
pub fn pair(
    place: &Place<'_>,
    subject: Subject,
    guest: &Guest,
    load: Load,
    seconds: u64,
    round: &mut Round,
) -> Result<()> {
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
    figures(load.name, &ours, &theirs, round).with_context(what)
}

fn figures(load: &str, primary: &Value, secondary: &Value, round: &mut Round) -> Result<()> {
    let number =
        |value: &Value, name: &str| value[name].as_f64().with_context(|| format!("no figure {name}"));
    ensure!(secondary["ended"] == false, "the secondary ended too early");
    let guest_kib = f64::from(GUEST_MIB) * 1024.0;
    let figures = &mut round.figures;
    figures.insert(format!("{load} attached"), number(primary, "attached")?);
    figures.insert(format!("{load} memory"), number(secondary, "resident_kib")? / guest_kib);
    for phase in primary["phases"].as_array().context("no phases")? {
        let name = phase["name"].as_str().context("a phase without a name")?;
        let list = |values: &Value| -> Vec<f64> {
            values.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
        };
        let pauses = list(&phase["pauses_ms"]);
        ensure!(!pauses.is_empty(), "no checkpoint in the phase {name}");
        let mut put = |key: &str, value: f64| figures.insert(format!("{name} {key}"), value);
        put("pause", median(&pauses));
        put("absence", median(&list(&phase["absences_ms"])));
        put("bytes", number(phase, "bytes")? / 1024.0);
        put("rate", number(phase, "checkpoints")? / number(phase, "seconds")?);
        if let Some(rate) = phase["dirtied"].as_f64() {
            put("dirtied", rate);
        }
        for part in PARTS {
            let times = list(&phase["parts"][part]);
            if !times.is_empty() {
                put(part, median(&times));
            }
        }
        round.pauses.insert(name.to_owned(), pauses);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pauses: &[f64]) -> (Value, Value) {
        let parts = json!({"stop": [1.0, 3.0, 2.0], "copy": []});
        let phase = json!({"name": "idle often", "seconds": 2.0, "pauses_ms": pauses, "checkpoints": 8,
                           "parts": parts, "absences_ms": [2.0, 4.0], "bytes": 2048, "dirtied": null});
        (json!({"attached": 3.5, "phases": [phase]}), json!({"resident_kib": 524_288, "ended": false}))
    }

    #[test]
    fn what_was_seen_becomes_figures() {
        let (primary, secondary) = seen(&[1.0, 9.0, 2.0, 4.0]);
        let mut round = Round::default();
        figures("idle", &primary, &secondary, &mut round).unwrap();
        let expected = [
            ("idle attached", 3.5),
            ("idle memory", 2.0),
            ("idle often absence", 3.0),
            ("idle often bytes", 2.0),
            ("idle often pause", 3.0),
            ("idle often rate", 4.0),
            ("idle often stop", 2.0),
        ];
        assert_eq!(round.figures, expected.map(|(name, value)| (name.to_owned(), value)).into());
        assert_eq!(round.pauses["idle often"], [1.0, 9.0, 2.0, 4.0]);
    }

    #[test]
    fn a_phase_without_a_checkpoint_or_a_lost_secondary_is_no_result() {
        let (primary, secondary) = seen(&[]);
        assert!(figures("idle", &primary, &secondary, &mut Round::default()).is_err());
        let (primary, mut secondary) = seen(&[1.0]);
        secondary["ended"] = true.into();
        assert!(figures("idle", &primary, &secondary, &mut Round::default()).is_err());
    }
}
