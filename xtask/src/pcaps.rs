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
            let names = packages_of_the_recorder()?;
            let why = "the programs that are recorded, and their network";
            let packages: Vec<Package<'_>> = names.iter().map(|name| Package { name, why }).collect();
            packages::ensure(&packages)?;
            command::run(pcaps("record", args))
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

/// The recorder knows best what it runs: its list begins with `packages: A B C`.
fn packages_of_the_recorder() -> Result<Vec<String>> {
    let output = pcaps("list", &[]).output().context("cannot run the recorder")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("packages: "));
    let line = line.context("the recorder does not say which packages it needs")?;
    Ok(line.split_whitespace().map(str::to_owned).collect())
}
