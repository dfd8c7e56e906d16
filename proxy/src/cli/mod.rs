//! The command line.

mod checkpoint;
mod compare;
mod hook_runner;
mod live_args;
mod promote;
mod replay;
mod run;
mod status;
mod teardown;
mod top;

use clap::{Parser, Subcommand};
use colo_proxy::control::status::NodeStatus;
use colo_proxy::privilege::{self, Capability};
use colo_proxy::setup;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

/// It was understood, but cannot be done.
const CANNOT: u8 = 1;

/// It was not understood.
const USAGE: u8 = 2;

/// Compares what two runs of one guest send, connection by connection, and lets out what agrees.
#[derive(Debug, Parser)]
#[command(name = "colo-proxy", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Protect guests on their real interfaces until a signal comes
    Run(Box<run::RunArgs>),
    /// Protect guests, and leave it running
    Setup(Box<run::SetupArgs>),
    /// End what run or setup left, and nothing else
    Teardown(teardown::Args),
    /// Make the guest that follows here the one that serves
    Promote(promote::Args),
    /// Ask for a checkpoint, as an operator
    Checkpoint(checkpoint::Args),
    /// Say what is protected here, what is held, and what that waits for
    Status(status::Args),
    /// Watch it live
    Top(top::Args),
    /// Compare two captures, flow by flow
    Replay(replay::Args),
    /// Compare two streams of frames behind four sockets, as QEMU's comparer object does
    Compare(Box<compare::Args>),
    /// Run checkpoint commands for the process that started this one
    #[command(hide = true)]
    HookRunner(hook_runner::Args),
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            Command::Run(args) => args.run(),
            Command::Setup(args) => args.run(),
            Command::Teardown(args) => args.run(),
            Command::Promote(args) => args.run(),
            Command::Checkpoint(args) => args.run(),
            Command::Status(args) => args.run(&unattended),
            Command::Top(args) => args.run(unattended),
            Command::Replay(args) => args.run(),
            Command::Compare(args) => compare::run(&args),
            Command::HookRunner(args) => args.run(),
        }
    }
}

/// The set-ups below this run directory that no process looks after. One that cannot be read is
/// said to be so; it must not hide the others.
fn unattended(run: &Path) -> Vec<NodeStatus> {
    setup::unattended(run).unwrap_or_else(|error| {
        complain(&error);
        Vec::new()
    })
}

/// Whether we may change what is set up here; says so if not. Without that, what is there may look as if
/// it were not.
fn may_change() -> Result<(), ExitCode> {
    privilege::require(&[Capability::NetAdmin, Capability::Bpf]).map_err(|error| {
        complain(&format_args!("permission denied: {error}"));
        ExitCode::from(CANNOT)
    })
}

/// Says why something cannot be done. A stderr that is gone is no reason to stop.
fn complain(error: &dyn Display) {
    let _ = writeln!(io::stderr(), "error: {error}");
}

/// What was done, a line each, or why not.
fn finish<E: Display>(outcome: Result<Vec<String>, E>) -> ExitCode {
    match outcome {
        Ok(lines) => {
            for line in lines {
                // It is done, whether or not somebody reads it.
                let _ = writeln!(io::stdout(), "{line}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error);
            ExitCode::from(CANNOT)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_not_known_is_met_with_a_suggestion() {
        for (line, suggestion) in [
            (["colo-proxy", "teerdown", "--all"], "teardown"),
            (["colo-proxy", "teardown", "--al"], "--all"),
            (["colo-proxy", "promote", "--viff"], "--vif"),
        ] {
            let error = Cli::try_parse_from(line).unwrap_err().to_string();
            assert!(error.contains(suggestion), "{error}");
        }
    }

    #[test]
    fn every_subcommand_shows_examples_or_says_where_they_are() {
        for command in Cli::command().get_subcommands_mut().filter(|command| !command.is_hide_set()) {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{help}");
        }
    }
}
