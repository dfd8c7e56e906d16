//! `colo-vm`: runs a guest.

use std::process::ExitCode;

fn main() -> ExitCode {
    colo_vmm::cli::main()
}
