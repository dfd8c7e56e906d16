//! `cargo xtask bench checkpoint`: see `docs/benchmarks-checkpoint.md`.

use anyhow::Result;
use clap::Parser;
use colo_tests::bench::machine::Machine;
use colo_tests::bench_checkpoint::subject::{Guest, Subject};
use colo_tests::bench_checkpoint::{Place, report, round};
use colo_tests::binary;
use colo_tests::lab::{Accel, Kernel, Lab, Options, images, store};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Measures what checkpoints cost.
#[derive(Parser)]
struct Args {
    /// Rounds; medians are taken over them
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Who is measured, by turns
    #[arg(long, value_enum, value_delimiter = ',', default_value = "qemu")]
    subjects: Vec<Subject>,
    /// How long each phase is watched
    #[arg(long, default_value_t = 10, value_name = "S")]
    seconds: u64,
    /// Lab machines: 1 for both sides, or 2 with one CPU each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    hosts: u8,
    /// Write the table to this file as well
    #[arg(long)]
    doc: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let guest = Guest {
        kernel: store::kernel(Kernel::Cloud)?.image,
        initrd: images::loaded(Kernel::Cloud)?,
        colo_vm: if args.subjects.contains(&Subject::Ours) { binary::colo_vm()? } else { PathBuf::new() },
    };
    let lab = Lab::start(&Options {
        hosts: args.hosts,
        memory_mib: 2560,
        lifetime: Duration::from_hours(2),
        name: "bench-checkpoint".to_owned(),
        ..Options::default()
    })?;
    let place = Place::of(&lab);
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let mut all = BTreeMap::new();
        for &subject in &args.subjects {
            let figures = round(&place, subject, &guest, args.seconds)?;
            writeln!(std::io::stderr(), "{number} {:<8} {figures:.1?}", subject.name())?;
            all.insert(subject, figures);
        }
        rounds.push(all);
    }
    let page = report::page(&rounds, args.hosts, lab.accel == Accel::Tcg, &Machine::look());
    writeln!(std::io::stdout(), "{page}")?;
    if let Some(doc) = &args.doc {
        std::fs::write(doc, page)?;
    }
    Ok(())
}
