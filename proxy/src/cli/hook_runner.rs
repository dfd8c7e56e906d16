//! `colo-proxy hook-runner`: not for people. `run` starts it to have a process with privileges.

use super::{CANNOT, complain};
use colo_proxy::live::hook;
use std::process::ExitCode;
use std::time::Duration;

/// Options of `hook-runner`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How long the command may take
    #[arg(long, value_name = "MS")]
    timeout_ms: u64,
    /// For /bin/sh -c
    command: String,
}

impl Args {
    pub(super) fn run(&self) -> ExitCode {
        match hook::run(&self.command, Duration::from_millis(self.timeout_ms)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error);
                ExitCode::from(CANNOT)
            }
        }
    }
}
