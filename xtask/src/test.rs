//! `xtask test`: everything that must hold before a change is merged.

use crate::command::{self, cargo, say};
use crate::{ebpf, fuzz, lint, packages};
use anyhow::{Result, bail};
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds of fuzzing for each target at the end; 0 leaves it out
    #[arg(long, default_value_t = 2, value_name = "N")]
    fuzz_seconds: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    packages::ensure(&packages::LAB)?;
    packages::ensure(&packages::JUDGES)?;
    packages::ensure(&packages::MACHINES)?;
    let mut skipped = 0;
    for kind in ["--all-targets", "--doc"] {
        command::run_and_read(cargo_test(kind), |line| skipped += ignored(line))?;
    }
    if skipped > 0 {
        bail!("{skipped} tests were skipped; a test that cannot run here is a failure");
    }
    ebpf::test()?;
    lint::run()?;
    if args.fuzz_seconds > 0 {
        fuzz::every_target(args.fuzz_seconds)?;
    }
    say("every test, lint and fuzz target passed");
    Ok(())
}

fn cargo_test(kind: &str) -> Command {
    let mut command = cargo(["test", "--workspace", "--no-fail-fast", kind]);
    command.env("RUSTFLAGS", "-D warnings");
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
