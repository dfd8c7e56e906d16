//! `xtask fuzz`: the targets under `tests/fuzz/`, on the stable toolchain.
//!
//! The sanitizer flags that cargo-fuzz passes are for nightly compilers; `RUSTC_BOOTSTRAP` lets the
//! stable one take them, so that no second toolchain is needed.

use crate::command::{self, cargo, root, say};
use crate::packages::{self, CXX};
use anyhow::{Result, bail};
use std::process::Command;

/// The targets, in the order in which they run.
const TARGETS: [&str; 17] = [
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
    "replication_bitmap",
    "nbd_server",
    "nbd_client",
];
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
            fuzz(target, args.seconds, Build::Fast)
        }
        None => every_target(args.seconds, Build::Fast),
    }
}

/// What is to be fast: the targets, or their compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// For a long run.
    Fast,
    /// For a short one.
    Cheap,
}

/// Runs each target for so long.
pub(crate) fn every_target(seconds: u64, build: Build) -> Result<()> {
    prepare()?;
    TARGETS.iter().try_for_each(|target| fuzz(target, seconds, build))
}

/// Builds all targets, which is quicker than one after the other.
pub(crate) fn build(build: Build) -> Result<()> {
    prepare()?;
    command::run(cargo_fuzz("build", build))
}

/// Makes sure that there is what they are built with.
fn prepare() -> Result<()> {
    packages::ensure(&[CXX])?;
    packages::ensure_subcommand("fuzz", "cargo-fuzz", "it builds and runs the fuzz targets")
}

fn cargo_fuzz(verb: &str, build: Build) -> Command {
    let mut command = cargo(["fuzz", verb, "--fuzz-dir", DIR]);
    if build == Build::Cheap {
        command.arg("--dev");
    }
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-D warnings");
    command
}

fn fuzz(target: &str, seconds: u64, build: Build) -> Result<()> {
    if !root().join(DIR).join("fuzz_targets").join(target).with_extension("rs").exists() {
        bail!("there is no fuzz target {target} in {DIR}/fuzz_targets");
    }
    say(&format!("fuzzing {target} for {seconds} s"));
    let corpus = format!("{DIR}/corpus/{target}");
    let seeds = format!("{DIR}/seeds/{target}");
    std::fs::create_dir_all(root().join(&corpus))?;
    let mut command = cargo_fuzz("run", build);
    command.args([target, &corpus, &seeds, "--"]);
    command.args([
        format!("-max_total_time={seconds}"),
        "-timeout=10".to_owned(),
        "-rss_limit_mb=2048".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]);
    command::run(command)
}
