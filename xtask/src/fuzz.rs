//! `xtask fuzz`: the targets under `tests/fuzz/`, on the stable toolchain.
//!
//! The sanitizer flags that cargo-fuzz passes are for nightly compilers; `RUSTC_BOOTSTRAP` lets the
//! stable one take them, so that no second toolchain is needed.

use crate::command::{self, cargo, root, say};
use crate::packages::{self, CXX};
use anyhow::{Result, bail};

/// The targets, in the order in which they run.
const TARGETS: [&str; 14] = [
    "packet",
    "engine",
    "translate",
    "pci_config",
    "virtio_queues",
    "virtio_rng",
    "virtio_blk",
    "qcow2",
    "boot",
    "config",
    "qmp",
    "stream_load",
    "checkpoint_primary",
    "checkpoint_secondary",
];
/// Those that `xtask test` runs: the last three have not had their first long run yet.
const TRIED: usize = 11;
const DIR: &str = "tests/fuzz";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The target; without it each runs in turn
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.target {
        Some(target) => {
            prepare()?;
            fuzz(target, args.seconds)
        }
        None => every_target(args.seconds),
    }
}

/// Runs each target for so long.
pub(crate) fn every_target(seconds: u64) -> Result<()> {
    prepare()?;
    TARGETS[..TRIED].iter().try_for_each(|target| fuzz(target, seconds))
}

fn prepare() -> Result<()> {
    packages::ensure(&[CXX])?;
    packages::ensure_subcommand("fuzz", "cargo-fuzz", "it builds and runs the fuzz targets")
}

fn fuzz(target: &str, seconds: u64) -> Result<()> {
    if !root().join(DIR).join("fuzz_targets").join(target).with_extension("rs").exists() {
        bail!("there is no fuzz target {target} in {DIR}/fuzz_targets");
    }
    say(&format!("fuzzing {target} for {seconds} s"));
    let corpus = format!("{DIR}/corpus/{target}");
    let seeds = format!("{DIR}/seeds/{target}");
    std::fs::create_dir_all(root().join(&corpus))?;
    let mut command = cargo(["fuzz", "run", "--fuzz-dir", DIR, target, &corpus, &seeds, "--"]);
    command.args([
        format!("-max_total_time={seconds}"),
        "-timeout=10".to_owned(),
        "-rss_limit_mb=2048".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]);
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-D warnings");
    command::run(command)
}
