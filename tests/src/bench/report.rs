//! From runs to medians, tables, a page and JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::contender::{Contender, Setting};
use super::feeder::{Outcome, Run};
use super::latency::Trips;
use super::machine::Machine;
use super::plan::{AGAIN, Cell, DISTURBED, Plan};
use super::stats::median;
use super::workload::Workload;

/// The medians of one contender's throughput with its best window.
#[derive(Clone, Debug)]
pub struct Throughput {
    /// The workload.
    pub workload: &'static Workload,
    /// The contender.
    pub contender: Contender,
    /// The window it does best with.
    pub window: usize,
    /// Pairs per second.
    pub rate: f64,
    /// Ethernet bytes of the primary per second.
    pub bytes: f64,
    /// CPU time of the contender per pair, in µs.
    pub cpu: f64,
    /// Which part of the time the contender was running.
    pub busy: f64,
    /// Which part of the time the feeder was moving bytes.
    pub feeder_busy: f64,
    /// Frames per 100 000 that came after a later one of their flow.
    pub reordered: f64,
    /// The same in the worst run, whatever its window.
    pub reordered_worst: f64,
    /// Requests for a checkpoint per run.
    pub checkpoints: f64,
    /// The same in the worst run, whatever its window.
    pub checkpoints_worst: f64,
    /// Which part of the two CPUs others had.
    pub foreign: f64,
    /// Runs that stalled or put out something else than went in.
    pub failed: usize,
    /// Pairs per second of each round, with each window.
    pub all: Vec<(usize, Vec<f64>)>,
}

/// The medians of one contender's latency, in µs.
#[derive(Clone, Debug)]
pub struct Latency {
    /// The workload.
    pub workload: &'static Workload,
    /// The contender.
    pub contender: Contender,
    /// Median and 99th percentile from before the primary's frame is written.
    pub round: (f64, f64),
    /// The same from before the secondary's frame is written.
    pub after_secondary: (f64, f64),
    /// CPU time of the contender per pair.
    pub cpu: f64,
    /// Which part of the two CPUs others had.
    pub foreign: f64,
    /// Runs that stalled or put out something else than went in.
    pub failed: usize,
}

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Throughput, by workload and contender.
    pub throughput: Vec<Throughput>,
    /// Latency, by workload and contender.
    pub latency: Vec<Latency>,
}

impl Rows {
    /// Takes the medians.
    pub fn of(cells: &[Cell]) -> Self {
        let mut rows = Self::default();
        for cell in cells {
            if !cell.trips.is_empty() {
                rows.latency.push(Latency::of(cell));
            } else if let Some(row) = Throughput::of(cell) {
                rows.throughput.push(row);
            }
        }
        rows
    }

    /// The tables, in Markdown.
    pub fn tables(&self) -> String {
        let mut text = String::new();
        if !self.throughput.is_empty() {
            text += "| workload | contender | window | k pairs/s | MB/s | CPU µs/pair | comparer busy | feeder busy | foreign load \
                     | reordered /100k (worst) | checkpoints (worst) | failed runs |\n\
                     |---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
            self.throughput.iter().for_each(|row| row.line(&mut text));
            text += "\n";
        }
        if !self.latency.is_empty() {
            text += "| workload | contender | round trip p50 µs | p99 µs | after secondary p50 µs | p99 µs \
                     | CPU µs/pair | foreign load | failed runs |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n";
            self.latency.iter().for_each(|row| row.line(&mut text));
            text += "\n";
        }
        if let Some(ratios) = self.ratios() {
            text += &ratios;
        }
        text
    }

    /// Ours against the others: more is better for throughput, less for latency.
    fn ratios(&self) -> Option<String> {
        let mut text = "| colo-proxy against | qemu | relay-framed | relay |\n|---|--:|--:|--:|\n".to_owned();
        let others = [Contender::Qemu, Contender::RelayFramed, Contender::Relay];
        let mut any = false;
        let mut line = |title: String, figure: &dyn Fn(Contender) -> Option<f64>| {
            let Some(ours) = figure(Contender::ColoProxy) else { return };
            any = true;
            let ratio =
                |other| figure(other).map_or("–".to_owned(), |theirs| format!("{:.2}", ours / theirs));
            let _ = writeln!(text, "| {title} | {} |", others.map(ratio).join(" | "));
        };
        for row in self.throughput.iter().filter(|row| row.contender == Contender::ColoProxy) {
            let find = |contender| self.throughput.iter().find(|r| r.is(row.workload, contender));
            line(format!("{}: pairs/s", row.workload.name), &|contender| find(contender).map(|row| row.rate));
            line(format!("{}: CPU/pair", row.workload.name), &|contender| find(contender).map(|row| row.cpu));
        }
        for row in self.latency.iter().filter(|row| row.contender == Contender::ColoProxy) {
            let find = |contender| self.latency.iter().find(|r| r.is(row.workload, contender));
            line(format!("{}: p50", row.workload.name), &|contender| find(contender).map(|row| row.round.0));
            line(format!("{}: p99", row.workload.name), &|contender| find(contender).map(|row| row.round.1));
        }
        any.then_some(text)
    }

    /// Every figure, for programs.
    pub fn json(&self, machine: &Machine, plan: &Plan, setting: &Setting) -> Value {
        json!({
            "machine": {
                "cpu": machine.cpu, "cpus": machine.cpus, "guest": machine.guest,
                "kernel": machine.kernel, "qemu": machine.qemu, "date": machine.date,
            },
            "rounds": plan.rounds,
            "seconds": plan.duration.as_secs_f64(),
            "trips": plan.trips,
            "max_queue_size": setting.max_queue,
            "throughput": self.throughput.iter().map(Throughput::json).collect::<Vec<_>>(),
            "latency": self.latency.iter().map(Latency::json).collect::<Vec<_>>(),
        })
    }

    /// A page that stands for itself.
    pub fn page(&self, machine: &Machine, plan: &Plan, setting: &Setting) -> String {
        let virtual_machine = if machine.guest { ", itself a virtual machine" } else { "" };
        let names: Vec<_> = plan.contenders.iter().map(|contender| contender.name()).collect();
        format!(
            "# Comparers side by side\n\n\
             Written by `cargo xtask bench compare`.\n\n\
             | | |\n|---|---|\n| CPU | {}, {} CPUs{virtual_machine} |\n| kernel | {} |\n| QEMU | {} |\n| date | {} |\n\n\
             ## What was measured\n\n\
             Each contender ({}) is a process on CPU {} behind four unix stream sockets: the primary's frames in, the \
             secondary's frames in, what may leave out, and requests for a checkpoint out. One feeder thread on CPU {} \
             writes prebuilt frames to both inputs, reads the output and checks it: as many frames out as pairs in, \
             byte for byte those of the primary, and in order within each flow. The secondary's frames equal the \
             primary's but for the IP identification. Sequence numbers run on without a gap.\n\n\
             * **Throughput**: {:.1} s each, in lock step: at most a window of pairs has been written and not come out. \
             (QEMU's comparer loses frames silently when a side gets more than `max_queue_size` ahead, {} here; without \
             a window it can stall.) Every contender runs with the same windows; the best one of each counts and is named. \
             The feeder looks again for {} µs before it sleeps, which helps every contender, QEMU's by a quarter: \
             writing to a reader that is awake is cheaper. \
             MB/s are bytes of the primary's Ethernet frames.\n\
             * **Latency**: {} pairs, one at a time: primary's frame, then secondary's, then the feeder sleeps in poll \
             until all of the frame has come out. *After secondary* counts from before the secondary's frame is \
             written; the relay that looks at nothing does not wait for that frame, so only its round trip means \
             something.\n\
             * {} rounds, contenders interleaved, a new process for every run; medians. CPU time is user and system \
             of all the process's threads. *Foreign load* is the part of both CPUs that anything else had; a run with more \
             than {DISTURBED} of it is repeated, up to {AGAIN} times.\n\
             * `relay` reads both inputs and passes the primary's bytes on unseen: the machine's limit for one thread \
             behind such sockets. It reads and writes up to 256 KiB at a time, and looks again for 50 µs before it \
             sleeps. `relay-framed` also walks the length fields and lets a frame go when the secondary \
             has delivered as many. *Comparer busy* includes the time in which a \
             contender looks again; *feeder busy* is only the time in which the feeder moved bytes. Where that is near \
             1.00, the feeder is the limit, not the contender. *Worst* is the worst run of any window.\n\n\
             ## Result\n\n{}",
            machine.cpu,
            machine.cpus,
            machine.kernel,
            machine.qemu.as_deref().unwrap_or("none"),
            machine.date,
            names.join(", "),
            setting.comparer_cpu,
            setting.feeder_cpu,
            plan.duration.as_secs_f64(),
            setting.max_queue,
            plan.spin.as_micros(),
            plan.trips,
            plan.rounds,
            self.tables(),
        )
    }
}

fn medians<T>(runs: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    median(&runs.iter().map(figure).collect::<Vec<_>>())
}

fn worst(cell: &Cell, figure: impl Fn(&Run) -> f64) -> f64 {
    cell.runs.iter().flat_map(|(_, runs)| runs).map(figure).fold(0.0, f64::max)
}

fn reordered(run: &Run) -> f64 {
    run.reordered as f64 * 1e5 / run.frames.max(1) as f64
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Throughput {
    fn of(cell: &Cell) -> Option<Self> {
        let failed = |runs: &[Run]| runs.iter().filter(|run| run.outcome != Outcome::Complete).count();
        // A window under which runs fail is best only if they fail under all.
        let merit = |runs: &[Run]| (failed(runs) == 0, medians(runs, Run::rate));
        let order = |a: &(bool, f64), b: &(bool, f64)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
        let (window, runs) = cell.runs.iter().max_by(|(_, a), (_, b)| order(&merit(a), &merit(b)))?;
        let part = |time: Duration, run: &Run| time.as_secs_f64() / run.elapsed.as_secs_f64().max(1e-9);
        let rate = medians(runs, Run::rate);
        Some(Self {
            workload: cell.workload,
            contender: cell.contender,
            window: *window,
            rate,
            bytes: rate * cell.workload.frame_bytes() as f64,
            cpu: medians(runs, |run| micros(run.comparer_cpu) / run.frames.max(1) as f64),
            busy: medians(runs, |run| part(run.comparer_cpu, run)),
            feeder_busy: medians(runs, |run| part(run.feeder_worked, run)),
            reordered: medians(runs, reordered),
            reordered_worst: worst(cell, reordered),
            foreign: medians(runs, |run| run.foreign),
            checkpoints: medians(runs, |run| run.checkpoints as f64),
            checkpoints_worst: worst(cell, |run| run.checkpoints as f64),
            failed: failed(runs),
            all: cell.runs.iter().map(|(w, runs)| (*w, runs.iter().map(Run::rate).collect())).collect(),
        })
    }

    fn is(&self, workload: &Workload, contender: Contender) -> bool {
        self.workload.name == workload.name && self.contender == contender
    }

    fn line(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.1} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} ({:.0}) | {:.0} ({:.0}) | {} |",
            self.workload.title,
            self.contender.name(),
            self.window,
            self.rate / 1e3,
            self.bytes / 1e6,
            self.cpu,
            self.busy,
            self.feeder_busy,
            self.foreign,
            self.reordered,
            self.reordered_worst,
            self.checkpoints,
            self.checkpoints_worst,
            self.failed,
        );
    }

    fn json(&self) -> Value {
        json!({
            "workload": self.workload.name, "contender": self.contender.name(), "window": self.window,
            "pairs_per_second": self.rate, "bytes_per_second": self.bytes, "cpu_us_per_pair": self.cpu,
            "comparer_busy": self.busy, "feeder_busy": self.feeder_busy, "foreign_load": self.foreign,
            "reordered_per_100k": self.reordered, "reordered_per_100k_worst": self.reordered_worst,
            "checkpoints": self.checkpoints, "checkpoints_worst": self.checkpoints_worst, "failed_runs": self.failed,
            "windows": self.all.iter()
                .map(|(window, rates)| json!({ "window": window, "pairs_per_second": rates }))
                .collect::<Vec<_>>(),
        })
    }
}

impl Latency {
    fn of(cell: &Cell) -> Self {
        let us = |figure: &dyn Fn(&Trips) -> u64| medians(&cell.trips, |trips| figure(trips) as f64 / 1e3);
        Self {
            workload: cell.workload,
            contender: cell.contender,
            round: (us(&|trips| trips.round.p50), us(&|trips| trips.round.p99)),
            after_secondary: (us(&|trips| trips.after_secondary.p50), us(&|trips| trips.after_secondary.p99)),
            cpu: medians(&cell.trips, |trips| micros(trips.comparer_cpu)),
            foreign: medians(&cell.trips, |trips| trips.foreign),
            failed: cell.trips.iter().filter(|trips| trips.outcome != Outcome::Complete).count(),
        }
    }

    fn is(&self, workload: &Workload, contender: Contender) -> bool {
        self.workload.name == workload.name && self.contender == contender
    }

    fn line(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {} |",
            self.workload.title,
            self.contender.name(),
            self.round.0,
            self.round.1,
            self.after_secondary.0,
            self.after_secondary.1,
            self.cpu,
            self.foreign,
            self.failed,
        );
    }

    fn json(&self) -> Value {
        json!({
            "workload": self.workload.name, "contender": self.contender.name(),
            "round_p50_us": self.round.0, "round_p99_us": self.round.1,
            "after_secondary_p50_us": self.after_secondary.0, "after_secondary_p99_us": self.after_secondary.1,
            "cpu_us_per_pair": self.cpu, "foreign_load": self.foreign, "failed_runs": self.failed,
        })
    }
}
