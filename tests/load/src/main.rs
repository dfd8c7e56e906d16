//! `colo-load`: what guests of the lab do while they are saved, copied and taken over. Each load knows what is
//! right and says on the console whether it is so.
//!
//! ```text
//!   colo-load check 64   every page of 64 MiB is rewritten over and over; each says what it should be
//!   colo-load dirty 10   10 MB of pages are rewritten each second
//!   colo-load clock 500  clocks never go back, on no CPU, nor ahead by 500 ms at once
//!   colo-load bank DIR   transfers in a database of sqlite3, whose sums are known
//!   colo-load files DIR  files made, renamed, overwritten and deleted, each step on the disk before it is told
//!   colo-load echo 7     gives back over TCP what comes; who sends it checks it
//!         │
//!         └─ a line every few seconds, one when "report" is typed, the last at the end
//! ```
//!
//! A load ends when `end` is typed or the file of `--until` appears; its exit status is 1 if anything was wrong.
//! It is one static file without dependencies: the same bytes run in an initramfs and in a Debian.

mod bank;
mod clock;
mod control;
mod dirty;
mod echo;
mod files;
mod pattern;
mod random;

use control::Control;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
colo-load [--every S] [--until FILE] LOAD

  check MIB [SEED]           rewrites a region in a random order and checks every page
  dirty RATE_MB [REGION_MB]  rewrites pages at a steady rate (MB/s)
  clock LIMIT_MS             reads the clocks on every CPU; a step of more than LIMIT_MS is an error
  bank DIR                   transfers in a database (needs sqlite3)
  files DIR [ADDRESS:PORT]   changes files step by step; each that is on the disk is told in a datagram
  echo PORT                  gives back over TCP what comes

  --every S     a line so often (default 5)
  --until FILE  end when this file is there
";

/// What a load was at, and whether it was right.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    /// For people and tests, one line.
    line: String,
    /// How often something was wrong.
    errors: u64,
}

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(report) => {
            say(&report.line);
            if report.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(words) => {
            say(&format!("colo-load: {words}"));
            ExitCode::from(2)
        }
    }
}

fn run(words: &[String]) -> Result<Report, String> {
    let (mut every, mut until, mut rest) = (Duration::from_secs(5), None, words);
    loop {
        match rest {
            [option, value, more @ ..] if option == "--every" => {
                every = Duration::from_secs(number(value)?.max(1));
                rest = more;
            }
            [option, value, more @ ..] if option == "--until" => {
                until = Some(value.into());
                rest = more;
            }
            _ => break,
        }
    }
    let control = |load: &str| {
        say(&format!("{load}: begins"));
        Control::new(every, until.clone())
    };
    let words: Vec<&str> = rest.iter().map(String::as_str).collect();
    match words[..] {
        ["check", mib] => pattern::check(number(mib)?, 1, &mut control("check")),
        ["check", mib, seed] => pattern::check(number(mib)?, number(seed)?, &mut control("check")),
        ["dirty", rate] => dirty::dirty(number(rate)?, 64, &mut control("dirty")),
        ["dirty", rate, region] => dirty::dirty(number(rate)?, number(region)?, &mut control("dirty")),
        ["clock", limit] => Ok(clock::clock(Duration::from_millis(number(limit)?), &mut control("clock"))),
        ["bank", dir] => bank::bank(dir.as_ref(), &mut control("bank")),
        ["files", dir] => files::files(dir.as_ref(), None, &mut control("files")),
        ["files", dir, outside] => files::files(dir.as_ref(), Some(outside), &mut control("files")),
        ["echo", port] => echo::echo(number(port)?, &mut control("echo")),
        _ => Err(format!("what is asked is not understood: {words:?}\n{USAGE}")),
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number\n{USAGE}"))
}

/// A line on the console. A console that is gone is no reason to end: the load goes on.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_said() {
        for line in ["", "check", "check many", "dirty 1 2 3", "--every", "--every x check 1", "sleep 1"] {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert!(run(&words).is_err_and(|words| words.contains("RATE_MB")), "{line}");
        }
    }
}
