//! `cargo xtask bench vmm`: see `docs/benchmarks-vmm.md`.

use anyhow::Result;
use clap::Parser;
use colo_tests::bench::machine::Machine;
use colo_tests::bench_vmm::contender::{Contender, Guest};
use colo_tests::bench_vmm::{limits, prepare, report, round, warm_up};
use colo_tests::binary;
use colo_tests::lab::{Accel, Kernel, Lab, Options, images, store};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Measures this VMM beside QEMU's microvm and q35.
#[derive(Parser)]
struct Args {
    /// Rounds; medians are taken over them
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Write the table to this file as well
    #[arg(long)]
    doc: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let disk = images::disk()?;
    let colo_vm = binary::colo_vm()?;
    let small = Guest {
        kernel: store::kernel(Kernel::Cloud)?.image,
        initrd: images::busybox(Kernel::Cloud)?,
        cmdline: String::new(),
        devices: false,
        colo_vm,
    };
    let loaded = Guest { cmdline: "lab.ip=10.9.0.2/24".to_owned(), devices: true, ..small.clone() };
    let lab = Lab::start(&Options {
        memory_mib: 3072,
        lifetime: Duration::from_hours(2),
        name: "bench-vmm".to_owned(),
        ..Options::default()
    })?;
    prepare(lab.a(), &disk)?;
    let limits = limits(lab.a())?;
    warm_up(lab.a(), &small)?;
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let mut all = BTreeMap::new();
        // Each is first, in the middle and last as often as the others.
        let mut turns = Contender::ALL;
        turns.rotate_left((number - 1) % Contender::ALL.len());
        for contender in turns {
            let figures = round(lab.a(), contender, &small, &loaded)?;
            writeln!(std::io::stderr(), "{number} {:<13} {figures:.2?}", contender.name())?;
            all.insert(contender, figures);
        }
        rounds.push(all);
    }
    let page = report::page(&rounds, &limits, lab.accel == Accel::Tcg, &Machine::look());
    writeln!(std::io::stdout(), "{page}")?;
    if let Some(doc) = &args.doc {
        std::fs::write(doc, page)?;
    }
    Ok(())
}
