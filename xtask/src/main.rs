//! The project's chores, as `cargo xtask CHORE`, or `./xtask/run CHORE` where a C linker may be
//! missing.
//!
//! Each chore installs what it needs (Debian packages, as root) and says what it installs.

mod bench;
mod beside;
mod chaos;
mod command;
mod demo;
mod ebpf;
mod fuzz;
mod lab;
mod lint;
mod packages;
mod pcaps;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  ./xtask/run demo                          what the comparator says of pairs of real captures
  ./xtask/run test                          everything that CI checks
  cargo xtask lint                          formatting, clippy, docs, and the rules of the tree
  cargo xtask bench compare --rounds 5      side by side with QEMU's colo-compare
  cargo xtask ebpf build                    rebuild the programs that run in the kernel
  cargo xtask fuzz engine --seconds 300     fuzz the engine for five minutes
  cargo xtask lab -- ls -l /dev/kvm         a command in a machine with a true KVM";

/// The chores of COLO for KVM.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run every test, the lints and a short fuzz; a test that is skipped is a failure
    Test(test::Args),
    /// Run the comparator on real captures and say what is seen
    Demo,
    /// Measure, side by side with what others have
    Bench {
        #[command(subcommand)]
        what: bench::What,
    },
    /// Check formatting, clippy, documentation, file sizes and the places of `unsafe`
    Lint,
    /// Fuzz one target, or each in turn
    Fuzz(fuzz::Args),
    /// Long trials in lab machines: guests that check themselves are killed, saved, kept level and taken over
    Chaos {
        #[command(subcommand)]
        what: chaos::What,
    },
    /// Run a command in one or two machines with a true KVM, or build guests; `lab --help` has examples
    Lab(lab::Args),
    /// Build, check or show the programs that run in the kernel
    Ebpf {
        #[command(subcommand)]
        what: ebpf::What,
    },
    /// Record captures, or derive pairs from them
    Pcaps {
        #[command(subcommand)]
        what: pcaps::What,
    },
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            command::say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    match &cli.chore {
        Chore::Test(args) => test::run(args),
        Chore::Demo => demo::run(),
        Chore::Bench { what } => bench::run(what),
        Chore::Lint => lint::run(),
        Chore::Fuzz(args) => fuzz::run(args),
        Chore::Chaos { what } => chaos::run(what),
        Chore::Lab(args) => lab::run(args),
        Chore::Ebpf { what } => ebpf::run_chore(what),
        Chore::Pcaps { what } => pcaps::run(what),
    }
}
