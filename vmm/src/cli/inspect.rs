//! `colo-vm inspect`.

use super::{Exit, Failure, complain};
use crate::stream::inspect::inspect;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;

const HELP: &str = "\
Examples:
  colo-vm inspect web.vm
      sections, memory, and every field of every device
  colo-vm inspect --json web.vm | jq '.devices[] | select(.name == \"cpu\") | .fields'
      the same for programs

It reads what colo-vm saved, and QEMU's migrations to a file (version 3) as far as they describe themselves.

Exit codes: 0 the file is whole, 1 it cannot be read or is bad (said with offset and section), 2 wrong usage.";

/// Its words.
#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// A saved machine
    file: PathBuf,
    /// Print JSON, with all bytes of every buffer
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> Exit {
        match self.show() {
            Ok(()) => Exit::Done,
            Err(error) => {
                complain(&*error);
                Exit::Failed
            }
        }
    }

    fn show(&self) -> Result<(), Failure> {
        let path = self.file.display();
        let file = File::open(&self.file).map_err(|error| format!("cannot open {path}: {error}"))?;
        let report = inspect(file).map_err(|error| format!("{path}: {error}"))?;
        let text = if self.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_string() };
        match io::stdout().write_all(text.as_bytes()) {
            // A pager that was left, or `head`, has what it wants.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }
}
