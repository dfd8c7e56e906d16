//! `xtask chaos`: trials that take too long for `xtask test`, which has a short form of each.

use crate::command::{self, cargo};
use crate::lab;
use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum What {
    /// Checkpoints: `chaos checkpoint --help` has the trials, and examples
    #[command(disable_help_flag = true)]
    Checkpoint {
        /// Handed on, such as `kills --rounds 500`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
}

pub(crate) fn run(what: &What) -> Result<()> {
    let What::Checkpoint { args } = what;
    lab::build_released()?;
    let mut trial =
        cargo(["run", "--quiet", "--release", "--package", "colo-tests", "--bin", "chaos-checkpoint", "--"]);
    trial.args(args);
    command::run(trial)
}
