//! `cargo xtask bench live`: see `docs/benchmarks-live.md`.

use anyhow::{Context, Result};
use clap::Parser;
use colo_tests::bench::machine::Machine;
use colo_tests::bench_live::contender::{Contender, lab};
use colo_tests::bench_live::load::Load;
use colo_tests::bench_live::report::{Results, secondary_line};
use colo_tests::bench_live::{secondary, server};
use colo_tests::netns::lab::addresses;
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
    for round in 1..=if args.secondary { 0 } else { args.rounds } {
        for contender in Contender::ALL.into_iter().filter(|one| one.name().contains(&args.contender)) {
            let lab = lab()?;
            lab.twins(0).into_iter().try_for_each(server::start)?;
            let _live = contender.start(&lab, &args.proxy)?;
            for load in Load::ALL.into_iter().filter(|one| one.name().contains(&args.load)) {
                let time = Duration::from_secs_f64(args.seconds);
                let measured = load
                    .run(&lab.client, addresses(0, 0)[0], time)
                    .with_context(|| format!("{}, {}", contender.name(), load.name()))?;
                let mut out = std::io::stderr();
                writeln!(
                    out,
                    "{round} {:<13} {:<36} {:>10.2} {}",
                    contender.name(),
                    load.name(),
                    measured.value,
                    load.unit()
                )?;
                results.push(load, contender, measured);
            }
        }
    }
    let mut paths = Vec::new();
    for _ in 0..args.rounds {
        let paths_now = secondary::measure(&lab()?, Duration::from_secs_f64(args.seconds))?;
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
