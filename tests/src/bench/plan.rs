//! What is run, in which order: contenders take turns within a round, so that a slow minute hits them all.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::set_socket_send_buffer_size;

use super::contender::{Contender, Running, Setting};
use super::feeder::{self, Outcome, Pace, Run};
use super::latency::{self, Trips};
use super::ring::Ring;
use super::workload::{Measure, Workload};

/// A run is repeated if others had more than this part of its two CPUs.
pub const DISTURBED: f64 = 0.05;
/// So many times at most; then the least disturbed one counts.
pub const AGAIN: u32 = 2;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The workloads, in order.
    pub workloads: Vec<&'static Workload>,
    /// The contenders, in order.
    pub contenders: Vec<Contender>,
    /// How often everything is run.
    pub rounds: usize,
    /// How long each throughput run lasts.
    pub duration: Duration,
    /// How long the feeder of a throughput run looks again before it sleeps.
    pub spin: Duration,
    /// Round trips of each latency run.
    pub trips: u64,
    /// Windows to use instead of each workload's own.
    pub windows: Option<Vec<usize>>,
    /// `SO_SNDBUF` of the feeder's inputs, if not the system's.
    pub send_buffer: Option<usize>,
}

/// The runs of one contender under one workload.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The workload.
    pub workload: &'static Workload,
    /// The contender.
    pub contender: Contender,
    /// Throughput runs by window, one for each round.
    pub runs: Vec<(usize, Vec<Run>)>,
    /// Latency runs, one for each round.
    pub trips: Vec<Trips>,
}

/// Runs the plan; `note` hears of each run.
pub fn run(plan: &Plan, setting: &Setting, mut note: impl FnMut(&str)) -> Result<Vec<Cell>> {
    setting.pin_feeder()?;
    let mut cells = Vec::new();
    for workload in &plan.workloads {
        let first = cells.len();
        let windows = plan.windows.as_deref().unwrap_or(workload.windows);
        for window in windows {
            let fits = (1..=workload.frames / 4).contains(window);
            ensure!(fits, "{}: a window is from 1 to {}", workload.name, workload.frames / 4);
        }
        cells.extend(plan.contenders.iter().map(|contender| Cell {
            workload,
            contender: *contender,
            runs: windows.iter().map(|window| (*window, Vec::new())).collect(),
            trips: Vec::new(),
        }));
        for round in 1..=plan.rounds {
            for cell in &mut cells[first..] {
                let place = format!("{} · {} · round {round}", workload.name, cell.contender.name());
                one(plan, setting, cell, &mut |text| note(&format!("{place} · {text}")))
                    .with_context(|| place.clone())?;
            }
        }
    }
    Ok(cells)
}

fn one(plan: &Plan, setting: &Setting, cell: &mut Cell, note: &mut dyn FnMut(&str)) -> Result<()> {
    let start = || -> Result<(Running, Ring)> {
        let ring = Ring::build(cell.workload)?;
        let running = Running::start(cell.contender, setting, cell.workload.vnet())?;
        if let Some(size) = plan.send_buffer {
            set_socket_send_buffer_size(&running.sockets.primary, size).context("SO_SNDBUF")?;
            set_socket_send_buffer_size(&running.sockets.secondary, size).context("SO_SNDBUF")?;
        }
        Ok((running, ring))
    };
    match cell.workload.measure {
        Measure::Latency => {
            let trips = undisturbed(
                note,
                |trips: &Trips| trips.foreign,
                || {
                    let (running, mut ring) = start()?;
                    latency::measure(&running, &mut ring, plan.trips)
                },
            )?;
            let p50 = trips.round.p50 as f64 / 1e3;
            note(&format!("{p50:.1} µs · foreign {:.2}{}", trips.foreign, ending(&trips.outcome)));
            cell.trips.push(trips);
        }
        Measure::Throughput => {
            for (window, runs) in &mut cell.runs {
                let pace = Pace { window: *window, duration: plan.duration, spin: plan.spin };
                let run = undisturbed(
                    note,
                    |run: &Run| run.foreign,
                    || {
                        let (running, mut ring) = start()?;
                        feeder::feed(&running, &mut ring, pace)
                    },
                )?;
                let rate = run.rate() / 1e3;
                let (foreign, ending) = (run.foreign, ending(&run.outcome));
                note(&format!("window {window} · {rate:.0} k pairs/s · foreign {foreign:.2}{ending}"));
                runs.push(run);
            }
        }
    }
    Ok(())
}

/// Measures until nobody else had much of the CPUs, or often enough; gives the least disturbed run.
fn undisturbed<T>(
    note: &mut dyn FnMut(&str),
    foreign: impl Fn(&T) -> f64,
    measure: impl Fn() -> Result<T>,
) -> Result<T> {
    let mut best = measure()?;
    for _ in 0..AGAIN {
        if foreign(&best) <= DISTURBED {
            break;
        }
        note(&format!("repeated: others had {:.2} of the CPUs", foreign(&best)));
        let again = measure()?;
        if foreign(&again) < foreign(&best) {
            best = again;
        }
    }
    Ok(best)
}

fn ending(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Complete => String::new(),
        Outcome::Stalled(owed) => format!(" · stalled, {owed} frames owed"),
        Outcome::Corrupt(fault) => format!(" · {fault}"),
    }
}
