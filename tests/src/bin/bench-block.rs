//! `cargo xtask bench block`: see `docs/benchmarks-block.md`.

use anyhow::{Context as _, Result};
use clap::Parser;
use colo_tests::bench::machine::{Machine, load_average};
use colo_tests::bench_block::report::Page;
use colo_tests::bench_block::subject::{Guest, Subject};
use colo_tests::bench_block::{Plan, Round, limits, round};
use colo_tests::bench_checkpoint::Place;
use colo_tests::binary;
use colo_tests::lab::{Accel, Kernel, Lab, Options, images, store};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Measures what block replication costs a guest.
#[derive(Parser)]
#[command(after_help = "The environment's COLO_VM names another colo-vm to measure, by its whole path.")]
struct Args {
    /// Rounds; medians are taken over them
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Who is measured, by turns
    #[arg(long, value_enum, value_delimiter = ',', default_value = "alone,pair,qemu,qemu-colo")]
    subjects: Vec<Subject>,
    /// How long each job is measured
    #[arg(long, default_value_t = 4, value_name = "S")]
    seconds: u64,
    /// Milliseconds between checkpoints, for all pairs
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    delay: u32,
    /// How the disks of a pair of colo-vm are made equal, which they are; without it as colo-vm does by itself
    #[arg(long, value_name = "full|verify|none")]
    sync: Option<String>,
    /// Lab machines: 1 for both sides, or 2 with one CPU each
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    hosts: u8,
    /// Write the table to this file as well
    #[arg(long)]
    doc: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let guest = Guest {
        kernel: store::kernel(Kernel::Cloud)?.image,
        initrd: images::busybox(Kernel::Cloud)?,
        root: images::disk()?.raw,
        colo_vm: binary::colo_vm()?,
        pair_words: args.sync.map_or_else(String::new, |sync| format!("--sync {sync}")),
    };
    let lab = Lab::start(&Options {
        hosts: args.hosts,
        memory_mib: 3072,
        lifetime: Duration::from_hours(3),
        name: "bench-block".to_owned(),
        ..Options::default()
    })?;
    let place = Place::of(&lab);
    let plan = Plan { seconds: args.seconds, delay_ms: args.delay };
    // Nobody is to pay for what the machines get from this one only when it is first used.
    for host in lab.hosts() {
        host.shell("set -e; head -c 1300M /dev/zero > /tmp/touch; rm /tmp/touch")?;
        host.shell(&format!("cat {} > /dev/null", guest.root.display()))?;
    }
    let before = load_average();
    let limits = limits(&place, plan).context("no limits")?;
    writeln!(std::io::stderr(), "no guest {:.2?}", limits.figures)?;
    let mut rounds = Vec::new();
    for number in 0..args.rounds {
        let mut all = BTreeMap::<Subject, Round>::new();
        // Each is first and last as often as the others.
        let mut turns = args.subjects.clone();
        turns.rotate_left(number % args.subjects.len());
        for subject in turns {
            let round = round(&place, subject, &guest, plan).with_context(|| subject.title())?;
            writeln!(std::io::stderr(), "{} {:<9} {round:.2?}", number + 1, subject.name())?;
            all.insert(subject, round);
        }
        rounds.push(all);
    }
    let page = Page {
        rounds: &rounds,
        limits: &limits,
        plan,
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
