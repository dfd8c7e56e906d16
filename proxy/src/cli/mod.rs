//! The command line.

mod compare;
mod replay;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Compares what two runs of one guest send, connection by connection, and lets out what agrees.
#[derive(Debug, Parser)]
#[command(name = "colo-proxy", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare two captures, flow by flow
    Replay(replay::Args),
    /// Compare two streams of frames behind four sockets, as QEMU's comparer object does
    Compare(Box<compare::Args>),
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            Command::Replay(args) => args.run(),
            Command::Compare(args) => compare::run(&args),
        }
    }
}
