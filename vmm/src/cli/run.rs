//! `colo-vm run`.

use crate::devices::rng::Rng;
use crate::machine::{ExitReason, Machine, MachineError, Setup};
use clap::Args;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

/// The guest wants to begin anew, and this process does not do that by itself.
const RESET: u8 = 3;

/// Runs a guest on KVM, with its console here. Ends with 0 when the guest powers off, with 3 when it resets,
/// with 1 when it cannot run.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// The kernel: a bzImage, or an ELF file with a PVH entry
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Its initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Its command line
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0")]
    cmdline: String,
    /// Its memory: bytes, or with K, M, G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = size)]
    memory: u64,
    /// How many CPUs it has
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::machine::MOST_CPUS)))]
    cpus: u32,
}

impl Run {
    pub(super) fn run(self) -> ExitCode {
        match self.try_run() {
            Ok(ExitReason::PowerOff | ExitReason::Quit) => ExitCode::SUCCESS,
            Ok(ExitReason::Reset { .. }) => ExitCode::from(RESET),
            Err(error) => {
                eprintln!("colo-vm: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn try_run(self) -> Result<ExitReason, MachineError> {
        let Self { kernel, initrd, cmdline, memory, cpus } = self;
        let console = Box::new(io::stdout());
        let machine = Machine::new(Setup {
            kernel,
            initrd,
            cmdline,
            memory,
            cpus,
            console,
            devices: vec![Box::<Rng>::default()],
        })?;
        let serial = machine.serial();
        // It ends with the process: a read cannot be interrupted otherwise.
        std::thread::spawn(move || {
            let mut bytes = [0; 256];
            while let Ok(len @ 1..) = io::stdin().lock().read(&mut bytes) {
                serial.input(&bytes[..len]);
            }
        });
        machine.run()
    }
}

fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err("one unit is enough: 512M, 2G".to_owned()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "write it like 512M or 2G".to_owned())
}
