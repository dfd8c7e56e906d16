//! The command line.

mod run;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A small KVM VMM.
#[derive(Debug, Parser)]
#[command(name = "colo-vm", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
}

/// What `colo-vm` does.
#[must_use]
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .init();
    match Cli::parse().command {
        Command::Run(run) => run.run(),
    }
}
