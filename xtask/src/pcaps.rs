//! `xtask pcaps`: the captures under `pcaps/`, recorded and derived by the `pcaps` binary of `tests/`.

use crate::command::{self, cargo};
use crate::packages::{self, Package};
use anyhow::{Context, Result};
use clap::Subcommand;
use std::process::Command;

#[derive(Subcommand)]
pub(crate) enum What {
    /// Record captures of real programs, as root, in network namespaces of their own
    Record {
        /// Where the captures go, and which recordings; without names, all
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Record what the comparator reads of two protected guests, as root, in the lab of network
    /// namespaces; prints the row of each pair
    RecordLive {
        /// Where the captures go, and which recordings; without names, all
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Make every derived capture anew, as its row in pcaps/README.md says
    Derive {
        /// Handed on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

pub(crate) fn run(what: &What) -> Result<()> {
    match what {
        What::Record { args } => {
            packages_of("list")?;
            command::run(pcaps("record", args))
        }
        What::RecordLive { args } => {
            packages_of("list-live")?;
            command::run(cargo(["build", "--release", "--package", "colo-proxy", "--bins"]))?;
            command::run(pcaps("record-live", args))
        }
        What::Derive { args } => command::run(pcaps("derive", args)),
    }
}

fn pcaps(verb: &str, args: &[String]) -> Command {
    let mut command =
        cargo(["run", "--quiet", "--release", "--package", "colo-tests", "--bin", "pcaps", "--", verb]);
    command.args(args);
    command
}

/// Installs what the recorder needs. It knows best: its list begins with `packages: A B C`.
fn packages_of(list: &str) -> Result<()> {
    let output = pcaps(list, &[]).output().context("cannot run the recorder")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("packages: "));
    let line = line.context("the recorder does not say which packages it needs")?;
    let why = "the programs that are recorded, and their network";
    let packages: Vec<Package<'_>> = line.split_whitespace().map(|name| Package { name, why }).collect();
    packages::ensure(&packages)
}
