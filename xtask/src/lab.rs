//! `xtask lab`: machines with a true KVM. The lab itself, its options and its help are the `colo-lab`
//! binary of `tests/`, which tests use too; this installs what it needs and becomes it.

use crate::command::{self, cargo, root};
use crate::packages;
use anyhow::{Context, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// [--hosts N] [--memory M] [--timeout S] [--keep] -- COMMAND…, or `images`, or `boot`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    _args: Vec<OsString>,
}

pub(crate) fn run(_: &Args) -> Result<()> {
    packages::ensure(&packages::MACHINES)?;
    command::run_quietly(cargo(["build", "--quiet", "--package", "colo-tests", "--bin", "colo-lab"]))?;
    let mut lab = with_what_is_built(after_the_chore(std::env::args_os()));
    // In place of this process, so that signals and the exit status are the command's.
    Err(lab.exec()).context("cannot start colo-lab")
}

/// The lab, as it was built last.
pub(crate) fn with_what_is_built<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut lab = Command::new(target_dir().join("debug").join("colo-lab"));
    lab.args(args);
    lab
}

/// What measurements and trials in lab machines need, built so that they show the VMM at its best: the lab's agent,
/// and the VMM itself.
pub(crate) fn build_released() -> Result<()> {
    packages::ensure(&packages::MACHINES)?;
    command::run(cargo(["build", "--release", "--package", "colo-tests", "--bin", "colo-lab"]))?;
    command::run(cargo(["build", "--release", "--package", "colo-vmm", "--bins"]))
}

/// What follows `lab`, as it was typed: the parser would take the first `--` for its own.
fn after_the_chore(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    args.skip(1).skip_while(|arg| arg != "lab").skip(1)
}

fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_handed_on_as_it_is() {
        let typed = ["xtask", "lab", "--", "bash", "-c", "lab -- x"].map(OsString::from);
        let handed: Vec<OsString> = after_the_chore(typed.into_iter()).collect();
        assert_eq!(handed, ["--", "bash", "-c", "lab -- x"]);
    }
}
