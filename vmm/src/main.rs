//! `colo-vm`: runs a guest.
#![forbid(unsafe_code)]

use colo_vmm::cli::{self, Assembled, Failure, Launch};
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args_os(), assemble).into()
}

/// The machine has not landed yet.
fn assemble(_: Launch<'_>) -> Result<Assembled, Failure> {
    Err("this build has no machine yet".into())
}
