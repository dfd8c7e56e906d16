//! `colo-proxy replay`.

use clap::Args as ClapArgs;
use colo_proxy::engine::{PassRules, RuleError};
use colo_proxy::replay::{self, Mac, Options, ReplayError, Report};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

const DIFFER: u8 = 1;
const TROUBLE: u8 = 2;
/// From this many bytes on it is worth showing how far the replay is.
const LARGE: u64 = 32 << 20;

/// Compare two captures of what the two runs of a guest sent.
#[derive(Debug, ClapArgs)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[command(after_help = "\
Examples:
  colo-proxy replay --primary pvm.pcap --secondary svm.pcap
  colo-proxy replay --primary pvm.pcap --secondary svm.pcap --guest-mac 52:54:00:12:34:56 --json
  colo-proxy replay --primary a.pcapng --secondary b.pcapng --align-start --divergence out.pcapng
  colo-proxy replay --primary pvm.pcap --secondary svm.pcap --pass 'udp guest :3389'

Exit codes:
  0  every flow matches, or is passed through by a rule
  1  a flow diverged or is incomplete
  2  the captures cannot be read or compared, or the command is wrong")]
pub(super) struct Args {
    /// What the primary sent (pcap or pcapng, Ethernet, whole frames)
    #[arg(long, value_name = "FILE")]
    primary: PathBuf,

    /// What the secondary sent
    #[arg(long, value_name = "FILE")]
    secondary: PathBuf,

    /// Only frames from this address are the guest's; without it, all are
    #[arg(long, value_name = "MAC")]
    guest_mac: Option<Mac>,

    /// How long output may wait for its twin
    #[arg(long, value_name = "MS", default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,

    /// Write one JSON object instead of text
    #[arg(long)]
    json: bool,

    /// Write the frames of each divergence to this file, with a comment on each
    #[arg(long, value_name = "OUT.pcapng")]
    divergence: Option<PathBuf>,

    /// End at the first divergence
    #[arg(long)]
    stop_at_first: bool,

    /// Take the first frame of each capture for time 0
    #[arg(long)]
    align_start: bool,

    /// Do not compare these flows: [pass|compare] PROTO [guest ADDR[/LEN][:PORT[-PORT]]] [peer …];
    /// can be repeated, the first rule that matches counts
    #[arg(long, value_name = "RULE", value_parser = rule)]
    pass: Vec<String>,

    /// List all flows, not only those that do not match
    #[arg(short, long, conflicts_with = "json")]
    verbose: bool,
}

/// A rule as the engine reads it. The option's name says `pass` already.
fn rule(text: &str) -> Result<String, RuleError> {
    let rule = match text.split_whitespace().next() {
        Some("pass" | "compare") => text.to_owned(),
        _ => format!("pass {text}"),
    };
    PassRules::parse(&[&rule]).map(|_| rule)
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        match self.replay() {
            Ok(report) => {
                for warning in &report.warnings {
                    complain("warning", warning);
                }
                match self.write(&report) {
                    Ok(()) => verdict(&report),
                    // Whoever reads has seen enough.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => verdict(&report),
                    Err(error) => {
                        complain("error", &format!("cannot write the report to standard output: {error}"));
                        ExitCode::from(TROUBLE)
                    }
                }
            }
            Err(error) => {
                complain("error", &error.to_string());
                ExitCode::from(TROUBLE)
            }
        }
    }

    fn replay(&self) -> Result<Report, ReplayError> {
        let options = Options {
            primary: self.primary.clone(),
            secondary: self.secondary.clone(),
            guest_mac: self.guest_mac,
            timeout_ms: self.timeout,
            divergence: self.divergence.clone(),
            stop_at_first: self.stop_at_first,
            align_start: self.align_start,
            // Each was read once already.
            pass: PassRules::parse(&self.pass).unwrap_or_default(),
        };
        let bar = self.progress_bar();
        let report = replay::run(&options, |read, _| bar.set_position(read));
        bar.finish_and_clear();
        report
    }

    fn progress_bar(&self) -> ProgressBar {
        let files = [&self.primary, &self.secondary];
        let total = files.iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum();
        if total < LARGE || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style =
            ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left");
        ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }

    fn write(&self, report: &Report) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        if self.json {
            serde_json::to_writer(&mut out, report)?;
            writeln!(out)?;
        } else {
            replay::write_text(report, self.verbose, &mut out)?;
        }
        out.flush()
    }
}

fn verdict(report: &Report) -> ExitCode {
    if report.agrees() { ExitCode::SUCCESS } else { ExitCode::from(DIFFER) }
}

/// Says something on standard error, which may be closed.
fn complain(kind: &str, what: &str) {
    let _ = writeln!(io::stderr(), "{kind}: {what}");
}
