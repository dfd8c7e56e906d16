//! `xtask bench`: measurements, always side by side in one run, so that what counts is a ratio and
//! not the machine.

use crate::command::{self, cargo, say};
use crate::lab;
use crate::packages::{self, QEMU};
use anyhow::Result;
use clap::Subcommand;

/// Where the tables of the last published run are.
const DOC: &str = "docs/benchmarks.md";
const ENGINE_DOC: &str = "docs/benchmarks-engine.md";
const LIVE_DOC: &str = "docs/benchmarks-live.md";
const VMM_DOC: &str = "docs/benchmarks-vmm.md";
const CHECKPOINT_DOC: &str = "docs/benchmarks-checkpoint.md";
const BLOCK_DOC: &str = "docs/benchmarks-block.md";
const NATIVE_DOC: &str = "docs/benchmarks-checkpoint-native.md";

#[derive(Subcommand)]
pub(crate) enum What {
    /// The engine, then the whole comparator beside QEMU's colo-compare; writes docs/benchmarks*.md
    Compare {
        /// Handed on, such as --rounds N, --json FILE, --only NAME, --contenders a,b
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// A guest on real interfaces: plain bridge, mirrored, protected, QEMU; writes docs/benchmarks-live.md
    Live {
        /// Handed on, such as --rounds N, --seconds S, --proxy '--busy-poll 0'
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The VMM beside QEMU's microvm and q35, in a lab machine; writes docs/benchmarks-vmm.md
    Vmm {
        /// Handed on, such as --rounds N
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Checkpoints beside QEMU's COLO, in the lab; writes docs/benchmarks-checkpoint.md
    Checkpoint {
        /// Of a tiny guest instead, on this machine's KVM, beside a memory copy of the same pages; writes
        /// docs/benchmarks-checkpoint-native.md
        #[arg(long)]
        native: bool,
        /// Handed on, such as --rounds N, --seconds S, --hosts 2; with --native --rounds N, --pages N,N
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// What replication costs a guest's disk, beside QEMU's, in the lab; writes docs/benchmarks-block.md
    Block {
        /// Handed on, such as --rounds N, --subjects pair,qemu-colo, --sync none, --hosts 1
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The bare engine beside a memory comparison of the same bytes
    Engine {
        /// Handed on to the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

pub(crate) fn run(what: &What) -> Result<()> {
    match what {
        What::Compare { args } => {
            packages::ensure(&[QEMU])?;
            bench("bench-engine", &with_doc(&[], ENGINE_DOC))?;
            bench("bench-compare", &with_doc(args, DOC))
        }
        What::Live { args } => {
            packages::ensure(&packages::LAB)?;
            packages::ensure(&[QEMU])?;
            bench("bench-live", &with_doc(args, LIVE_DOC))
        }
        What::Vmm { args } => {
            lab::build_released()?;
            bench("bench-vmm", &with_doc(args, VMM_DOC))
        }
        What::Checkpoint { native: true, args } => bench("bench-native", &with_doc(args, NATIVE_DOC)),
        What::Checkpoint { native: false, args } => {
            lab::build_released()?;
            bench("bench-checkpoint", &with_doc(args, CHECKPOINT_DOC))
        }
        What::Block { args } => {
            packages::ensure(&packages::LIMITS)?;
            lab::build_released()?;
            bench("bench-block", &with_doc(args, BLOCK_DOC))
        }
        What::Engine { args } => bench("bench-engine", &with_doc(args, ENGINE_DOC)),
    }
}

/// The arguments with a page to write, unless they name one.
fn with_doc(args: &[String], page: &str) -> Vec<String> {
    let mut args = args.to_vec();
    if !args.iter().any(|arg| arg == "--doc" || arg.starts_with("--doc=")) {
        args.extend(["--doc".to_owned(), page.to_owned()]);
    }
    args
}

/// Builds everything first, so that no compiler runs beside a measurement.
fn bench(name: &str, args: &[String]) -> Result<()> {
    command::run(cargo(["build", "--release", "--package", "colo-proxy", "--bins"]))?;
    command::run(cargo(["build", "--release", "--package", "colo-tests", "--bin", name]))?;
    say(&format!("measuring: {name}; leave the machine alone until it ends"));
    let mut command = cargo(["run", "--quiet", "--release", "--package", "colo-tests", "--bin", name, "--"]);
    command.args(args);
    command::run(command)
}
