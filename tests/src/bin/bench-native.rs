//! `cargo xtask bench checkpoint --native`: see `docs/benchmarks-checkpoint-native.md`.

use anyhow::Result;
use clap::Parser;
use colo_tests::bench::machine::Machine;
use colo_tests::bench_checkpoint::native::{FOLLOW, follow, page, run};
use std::io::Write as _;
use std::path::PathBuf;

/// Measures what checkpoints of a tiny guest cost, on any machine with KVM.
#[derive(Parser)]
struct Args {
    /// Rounds; medians are taken over them
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// How many pages the guest writes
    #[arg(long, value_delimiter = ',', default_values_t = [0, 100, 10_000, 100_000])]
    pages: Vec<u64>,
    /// How many it writes where packings are compared
    #[arg(long, default_value_t = 10_000, value_name = "PAGES")]
    packed: u64,
    /// Write the table to this file as well
    #[arg(long)]
    doc: Option<PathBuf>,
}

fn main() -> Result<()> {
    if std::env::args().nth(1).is_some_and(|word| word == FOLLOW) {
        return follow();
    }
    let args = Args::parse();
    let figures = run(args.rounds, &args.pages, args.packed)?;
    let page = page(&figures, args.rounds, &Machine::look());
    writeln!(std::io::stdout(), "{page}")?;
    if let Some(doc) = &args.doc {
        std::fs::write(doc, page)?;
    }
    Ok(())
}
