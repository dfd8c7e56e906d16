//! `colo-vm`: runs a guest.
#![forbid(unsafe_code)]

use colo_vmm::cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args_os(), cli::assemble).into()
}
