//! `xtask lab`: machines with a true KVM. The lab itself, its options and its help are the `colo-lab`
//! binary of `tests/`, which tests use too; this installs what it needs and becomes it.

use crate::command::{self, cargo, root};
use crate::packages;
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// [--hosts N] [--memory M] [--timeout S] [--keep] -- COMMAND…, or `images`, or `boot`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    packages::ensure(&packages::MACHINES)?;
    command::run_quietly(cargo(["build", "--quiet", "--package", "colo-tests", "--bin", "colo-lab"]))?;
    let mut lab = Command::new(target_dir().join("debug").join("colo-lab"));
    lab.args(&args.args);
    // In place of this process, so that signals and the exit status are the command's.
    Err(lab.exec()).context("cannot start colo-lab")
}

fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}
