//! `xtask test`: everything that must hold before a change is merged.
//!
//! Most tests wait for something most of the time, and a lab machine keeps one processor busy. So what needs
//! no more than processors runs beside them, when they leave one idle:
//!
//! ```text
//!   build the tests ──► run them ──────────────► doc tests ──► run the fuzz targets
//!                  ├──► build the guests (the last of the tests boot them)      ▲
//!                  └──► the kernel's programs, lints, build the fuzz targets ───┘
//! ```

use crate::beside::{self, Beside};
use crate::command::{self, cargo, program, say};
use crate::fuzz::{self, Build};
use crate::{ebpf, lab, lint, packages};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Where the lints build what they need while cargo's usual folder is the tests'.
const LINT_DIR: &str = "target/lint";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds of fuzzing for each target at the end; 0 leaves it out
    #[arg(long, default_value_t = 2, value_name = "N")]
    fuzz_seconds: u64,
    /// What runs beside the tests, and only that
    #[arg(long, hide = true)]
    beside: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.beside {
        return checks(args);
    }
    let this = std::env::current_exe().context("this program cannot find itself")?;
    packages::ensure(&packages::LAB)?;
    packages::ensure(&packages::JUDGES)?;
    packages::ensure(&packages::MACHINES)?;
    if args.fuzz_seconds > 0 {
        packages::ensure(&[packages::CXX])?;
    }
    command::run(cargo_test(&["--tests", "--no-run"]))?;
    let guests = Beside::start("guests", lab::with_what_is_built(["images"]))?;
    let checks = Beside::start("checks", beside::idle(&again(&this, args)))?;
    // All are waited for, so that one run tells all that is wrong.
    let ends = [tests(), guests.wait(), checks.wait()];
    ends.into_iter().collect::<Result<()>>()?;
    if args.fuzz_seconds > 0 {
        fuzz::every_target(args.fuzz_seconds, Build::Cheap)?;
    }
    say("every test, lint and fuzz target passed");
    Ok(())
}

/// This program, for what runs beside.
fn again(this: &Path, args: &Args) -> Command {
    let mut again = program(this);
    again.args(["test", "--beside", "--fuzz-seconds"]).arg(args.fuzz_seconds.to_string());
    again
}

fn tests() -> Result<()> {
    let mut skipped = 0;
    for kind in ["--tests", "--doc"] {
        command::run_and_read(cargo_test(&[kind]), |line| skipped += ignored(line))?;
    }
    if skipped > 0 {
        bail!("{skipped} tests were skipped; a test that cannot run here is a failure");
    }
    Ok(())
}

fn checks(args: &Args) -> Result<()> {
    ebpf::test()?;
    lint::run_in(Some(LINT_DIR))?;
    if args.fuzz_seconds > 0 {
        fuzz::build(Build::Cheap)?;
    }
    Ok(())
}

/// Warnings are the lints' to refuse: flags for the compiler that only tests have would have everything
/// compiled twice.
fn cargo_test(args: &[&str]) -> Command {
    let mut command = cargo(["test", "--workspace", "--no-fail-fast"]);
    command.args(args);
    command
}

/// How many tests a closing line of the test harness reports as ignored.
fn ignored(line: &str) -> u64 {
    let Some(counts) = line.strip_prefix("test result: ") else { return 0 };
    let count = counts.split(';').find_map(|part| part.trim().strip_suffix(" ignored"));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_tells_what_was_skipped() {
        let line =
            "test result: ok. 41 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(ignored(line), 3);
        assert_eq!(ignored("test result: ok. 41 passed; 0 failed; 0 ignored; 0 measured"), 0);
        assert_eq!(ignored("test engine::tests::counts_what_is_ignored ... ok"), 0);
    }
}
