//! `colo-proxy teardown`.

use super::live_args::places;
use super::{finish, may_change};
use colo_proxy::live::options::{PlaceArgs, VifName};
use colo_proxy::setup::{self, Which};
use std::process::ExitCode;

/// Options of `teardown`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What others added to the same interfaces stays. A NIC that is not set up is no mistake: doing it twice
is as good as once.

Examples:
  colo-proxy teardown --vif tap0
  colo-proxy teardown --vif tap0 --vif tap1
  colo-proxy teardown --all                   everything in this network namespace

Exit codes: 0 torn down, 1 cannot be torn down, 2 wrong usage.")]
pub(super) struct Args {
    /// Host end of a NIC that is not to be protected any more; can be repeated
    #[arg(long, value_name = "VIF", required_unless_present = "all")]
    vif: Vec<VifName>,
    /// Every NIC that is set up in this network namespace
    #[arg(long, conflicts_with = "vif")]
    all: bool,
    #[command(flatten)]
    places: PlaceArgs,
}

impl Args {
    fn which(&self) -> Which {
        if self.all {
            Which::All
        } else {
            Which::Vifs(self.vif.iter().map(|vif| vif.interface().clone()).collect())
        }
    }

    pub(super) fn run(&self) -> ExitCode {
        if let Err(code) = may_change() {
            return code;
        }
        finish(setup::teardown(&places(&self.places), &self.which()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    fn which(line: &str) -> Result<Which, String> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Only::try_parse_from(words).map(|only| only.args.which()).map_err(|error| error.to_string())
    }

    #[test]
    fn some_or_all_and_not_both_or_none() {
        assert_eq!(which("--all"), Ok(Which::All));
        let two = Which::Vifs(vec!["vif1.0".parse().unwrap(), "tap0".parse().unwrap()]);
        assert_eq!(which("--vif 1.0 --vif tap0"), Ok(two));
        assert!(which("").unwrap_err().contains("--vif <VIF>"));
        assert!(which("--all --vif a").unwrap_err().contains("cannot be used with"));
    }
}
