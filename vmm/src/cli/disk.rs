//! `colo-vm disk status`: how the disks of a guest on two hosts are getting on.
//!
//! ```text
//!   DEVICE      SIZE  STATE        MISSING  UNSENT   MOVED  TROUBLE
//!   vda      8.0 GiB  replicating  1.2 MiB     0 B  40 MiB
//! ```

use super::status::view::Bytes;
use super::{Failure, status};
use crate::checkpoint::disks::{Phase, Status};
use crate::config::Endpoint;
use crate::qmp::client::Client;
use colo_proxy::control::render::clean;
use std::io::{self, Write as _};

/// The words of `disk`.
#[derive(clap::Args, Debug)]
pub(super) struct Disk {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Say what each disk does, and what the other host may not have of it
    Status(Shown),
}

/// The words of `disk status`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  colo-vm disk status --qmp unix:/run/web.qmp
  colo-vm disk status --qmp unix:/run/web.qmp --json | jq .[0].unsent

States of a primary's disk: unprotected (nobody follows), connecting, syncing (the secondary is sent what it lacks),
replicating (at each checkpoint it has everything). Of a secondary's: connecting, syncing, following, and once its
guest has taken over, committing (what waited is being written into the image) and promoted.

Exit codes: 0 done, 1 the guest does not answer or has no secondary, 2 wrong usage.")]
struct Shown {
    /// The guest's QMP socket: what its --qmp says
    #[arg(long, value_name = "unix:PATH")]
    qmp: Endpoint,
    /// Write all that is known, a line of JSON, instead of text
    #[arg(long)]
    json: bool,
}

impl Disk {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let Command::Status(shown) = &self.command;
        let mut client = Client::connect(shown.qmp.path())?;
        let status = status::ask(&mut client)?.ok_or(
            "this guest runs on this host alone, and so do its disks; colo-vm primary and colo-vm secondary keep two level",
        )?;
        let text =
            if shown.json { serde_json::to_string(&status.disks)? + "\n" } else { table(&status.disks) };
        // Who reads no more has seen enough.
        let _ = io::stdout().lock().write_all(text.as_bytes());
        Ok(())
    }
}

fn table(disks: &[Status]) -> String {
    if disks.is_empty() {
        return "this guest has no disk that it can write\n".to_owned();
    }
    let head = ["DEVICE", "SIZE", "STATE", "MISSING", "UNSENT", "WAITING", "MOVED", "TROUBLE"];
    let mut rows = vec![head.map(str::to_owned)];
    for disk in disks {
        let bytes = |bytes: u64| Bytes(bytes).to_string();
        let secondary = matches!(disk.phase, Phase::Following | Phase::Committing | Phase::Promoted);
        rows.push([
            clean(&disk.device),
            bytes(disk.size),
            state(disk.phase).to_owned(),
            if secondary { "-".to_owned() } else { bytes(disk.missing) },
            if secondary { "-".to_owned() } else { bytes(disk.unsent) },
            bytes(disk.pending + disk.own + disk.left),
            bytes(disk.moved),
            disk.trouble.as_deref().map_or_else(String::new, clean),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let line = |row: &[String; 8]| {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            0 | 2 | 7 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// As JSON says it.
pub(super) const fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Unprotected => "unprotected",
        Phase::Connecting => "connecting",
        Phase::Syncing => "syncing",
        Phase::Replicating => "replicating",
        Phase::Following => "following",
        Phase::Committing => "committing",
        Phase::Promoted => "promoted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_shown_in_columns() {
        let disk = Status {
            device: "vda".to_owned(),
            phase: Phase::Replicating,
            size: 8 << 30,
            generation: None,
            missing: 3 << 16,
            unsent: 0,
            pending: 4096,
            moved: 5 << 20,
            same: 0,
            own: 0,
            left: 0,
            spilled: 0,
            waits: 0,
            errors: 0,
            trouble: None,
        };
        let other = Status {
            device: "vdb".to_owned(),
            phase: Phase::Committing,
            left: 1 << 30,
            trouble: Some("disk\x1b[2J full".to_owned()),
            ..disk.clone()
        };
        let text = table(&[disk, other]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "DEVICE     SIZE  STATE          MISSING   UNSENT  WAITING    MOVED  TROUBLE");
        assert_eq!(lines[1], "vda     8.0 GiB  replicating  192.0 KiB  0 bytes  4.0 KiB  5.0 MiB");
        assert!(lines[2].contains("committing") && lines[2].contains("1.0 GiB"), "{text}");
        assert!(lines[2].contains("full") && !lines[2].contains('\x1b'), "{text}");
        assert!(table(&[]).contains("no disk"));
        for phase in
            [Phase::Unprotected, Phase::Connecting, Phase::Syncing, Phase::Following, Phase::Promoted]
        {
            assert_eq!(serde_json::to_value(phase).unwrap(), state(phase));
        }
    }
}
