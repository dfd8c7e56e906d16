//! What it costs to know which pages a guest wrote, on this machine's KVM.

use anyhow::{Result, ensure};
use clap::Parser;
use colo_tests::bench_dirty::{run, table};
use colo_vmm::dirty::Tracking;
use std::io::Write as _;

/// Measures each tracker beside a copy of the pages, and beside a guest that nobody tracks.
#[derive(Parser)]
struct Args {
    /// Rounds; medians are taken over them
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How many pages the guest writes
    #[arg(long, value_delimiter = ',', default_values_t = [0, 100, 10_000, 100_000])]
    pages: Vec<u32>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.rounds >= 5, "a median of less than 5 rounds says little");
    let mut failures = Vec::new();
    let rows = run(&[Tracking::Log, Tracking::RING], &args.pages, args.rounds, &mut failures)?;
    let mut out = std::io::stdout();
    write!(out, "{}", table(&rows))?;
    for failure in failures {
        writeln!(out, "{failure}")?;
    }
    Ok(())
}
