//! `cargo xtask bench checkpoint`: see `docs/benchmarks-checkpoint.md`.

use anyhow::{Context as _, Result};
use clap::Parser;
use colo_tests::bench::machine::{Machine, load_average};
use colo_tests::bench_checkpoint::report::Page;
use colo_tests::bench_checkpoint::subject::{Guest, Subject};
use colo_tests::bench_checkpoint::{LOADS, Place, Round, pair};
use colo_tests::binary;
use colo_tests::lab::{Accel, Kernel, Lab, Options, images, store};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Measures what checkpoints cost.
#[derive(Parser)]
#[command(after_help = "The environment's COLO_VM names another colo-vm to measure, by its whole path.")]
struct Args {
    /// Rounds; medians are taken over them
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Who is measured, by turns
    #[arg(long, value_enum, value_delimiter = ',', default_value = "qemu,colo-vm,periodic")]
    subjects: Vec<Subject>,
    /// With which loads
    #[arg(long, value_delimiter = ',', default_values = LOADS.map(|load| load.name), value_parser = LOADS.map(|load| load.name))]
    loads: Vec<String>,
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
        colo_vm: if args.subjects.iter().any(|&subject| subject != Subject::Qemu) {
            binary::colo_vm()?
        } else {
            PathBuf::new()
        },
    };
    let lab = Lab::start(&Options {
        hosts: args.hosts,
        memory_mib: 2560,
        lifetime: Duration::from_hours(2),
        name: "bench-checkpoint".to_owned(),
        ..Options::default()
    })?;
    let place = Place::of(&lab);
    let before = load_average();
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let mut all = BTreeMap::<Subject, Round>::new();
        for load in LOADS.into_iter().filter(|load| args.loads.iter().any(|name| name == load.name)) {
            for &subject in &args.subjects {
                let figures = all.entry(subject).or_default();
                pair(&place, subject, &guest, load, args.seconds, figures)
                    .with_context(|| format!("{}, {}", subject.title(), load.what))?;
                let of_load = figures.figures.range(load.name.to_owned()..);
                let of_load: Vec<_> = of_load.take_while(|(key, _)| key.starts_with(load.name)).collect();
                writeln!(std::io::stderr(), "{number} {:<8} {of_load:.2?}", subject.name())?;
            }
        }
        rounds.push(all);
    }
    let page = Page {
        rounds: &rounds,
        seconds: args.seconds,
        hosts: args.hosts,
        software: lab.accel == Accel::Tcg,
        machine: &Machine::look(),
        load: [before, load_average()],
    }
    .text();
    writeln!(std::io::stdout(), "{page}")?;
    if let Some(doc) = &args.doc {
        std::fs::write(doc, page)?;
    }
    Ok(())
}
