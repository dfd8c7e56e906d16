//! `colo-vm`: runs a guest.

use clap::Parser;

/// Runs a guest on KVM.
#[derive(Parser)]
#[command(name = "colo-vm", version)]
struct Cli {}

fn main() {
    let Cli {} = Cli::parse();
}
