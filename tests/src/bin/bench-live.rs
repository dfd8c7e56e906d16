//! `cargo xtask bench live`: see `docs/benchmarks-live.md`.

use anyhow::Result;
use clap::Parser;
use colo_tests::bench::machine::Machine;
use colo_tests::bench_live::contender::{Contender, Running};
use colo_tests::bench_live::load::Load;
use colo_tests::bench_live::report::{Results, Round, secondary_line};
use colo_tests::bench_live::{secondary, server};
use colo_tests::netns::lab::{Lab, addresses};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Measures a protected guest beside a plain bridge.
#[derive(Parser)]
struct Args {
    /// Rounds; medians are taken over them
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds for each load
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Options for the primary's colo-proxy, separated by spaces
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    proxy: String,
    /// Only loads whose name has this in it
    #[arg(long, default_value = "")]
    load: String,
    /// Only contenders whose name has this in it
    #[arg(long, default_value = "")]
    contender: String,
    /// Measure the secondary's path in the kernel and nothing else; no page is written
    #[arg(long)]
    secondary: bool,
    /// Write the table to this file as well
    #[arg(long)]
    doc: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut results = Results::default();
    for number in 1..=if args.secondary { 0 } else { args.rounds } {
        for contender in Contender::ALL.into_iter().filter(|one| one.name().contains(&args.contender)) {
            let mut scene = None;
            for load in Load::ALL.into_iter().filter(|one| one.name().contains(&args.load)) {
                let (running, lab) = match &mut scene {
                    Some(scene) => scene,
                    none => none.insert(start(contender, &args.proxy)?),
                };
                let round = run(contender, load, lab, running, args.seconds)?;
                let value = round.measured.map_or(f64::NAN, |measured| measured.value);
                writeln!(
                    std::io::stderr(),
                    "{number} {:<23} {:<36} {value:>10.2} {:<12} {} checkpoints",
                    contender.name(),
                    load.name(),
                    load.unit(),
                    round.checkpoints
                )?;
                if round.measured.is_none() {
                    // What still waits there would be in the next load's way.
                    scene = None;
                }
                results.push(round);
            }
        }
    }
    let mut paths = Vec::new();
    for _ in 0..args.rounds {
        let paths_now =
            secondary::measure(&Contender::Mirrored.lab()?, Duration::from_secs_f64(args.seconds))?;
        writeln!(std::io::stderr(), "the secondary's path: {paths_now:?}")?;
        paths.push(paths_now);
    }
    if args.secondary {
        write!(std::io::stdout(), "{}", secondary_line(&paths))?;
        return Ok(());
    }
    let page = results.page(&paths, args.rounds, args.seconds, &Machine::look());
    writeln!(std::io::stdout(), "{page}")?;
    if let Some(doc) = &args.doc {
        std::fs::write(doc, page)?;
    }
    Ok(())
}

/// What is between the guests and the client, and a lab with servers in both guests; dropped in this order.
fn start(contender: Contender, proxy: &str) -> Result<(Running, Lab)> {
    let lab = contender.lab()?;
    lab.twins(0).into_iter().try_for_each(server::start)?;
    let running = contender.start(&lab, proxy)?;
    Ok((running, lab))
}

/// One load. One that comes to nothing is a result; that something has ended is not.
fn run(contender: Contender, load: Load, lab: &Lab, running: &mut Running, seconds: f64) -> Result<Round> {
    let before = running.checkpoints()?;
    let measured = load.run(&lab.client, addresses(0, 0)[0], Duration::from_secs_f64(seconds));
    let checkpoints = running.checkpoints()? - before;
    if let Err(error) = &measured {
        writeln!(std::io::stderr(), "{}, {}: {error:#}", contender.name(), load.name())?;
    }
    Ok(Round { load, contender, measured: measured.ok(), checkpoints })
}
