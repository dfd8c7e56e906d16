//! Records and derives the captures in `pcaps/`.

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use colo_tests::pcaps::oracle::{Finding, Flow};
use colo_tests::pcaps::record::{self, PACKAGES, SCENARIOS};
use colo_tests::pcaps::{pairs, rows};
use std::path::{Path, PathBuf};

/// Captured pairs of real traffic: recording, deriving, checking.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Record real programs in network namespaces; needs root, and netem, 8021q, mirred and matchall in the kernel.
    Record {
        /// Where the captures go.
        out: PathBuf,
        /// Only these recordings.
        names: Vec<String>,
    },
    /// Make every derived capture anew, as its row in README.md says.
    Derive {
        /// The directory of the captures.
        #[arg(default_value_os_t = pairs::dir())]
        dir: PathBuf,
    },
    /// Say how each pair differs, by a plain comparison of whole streams.
    Judge {
        /// The directory of the captures.
        #[arg(default_value_os_t = pairs::dir())]
        dir: PathBuf,
    },
    /// List the recordings, and the packages they need.
    List,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Record { out, names } => record(&out, &names),
        Command::Derive { dir } => derive(&dir),
        Command::Judge { dir } => judge(&dir),
        Command::List => {
            println!("packages: {PACKAGES}");
            for scenario in SCENARIOS {
                println!("{}", scenario.name);
            }
            Ok(())
        }
    }
}

fn record(out: &Path, names: &[String]) -> Result<()> {
    let known = |name: &String| SCENARIOS.iter().any(|scenario| scenario.name == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        anyhow::bail!("there is no recording `{unknown}`");
    }
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let mut failed = 0;
    for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.name)) {
        if let Err(error) = record::record(scenario, out) {
            eprintln!("{error:#}");
            failed += 1;
        }
    }
    ensure!(failed == 0, "{failed} recordings failed");
    Ok(())
}

fn derive(dir: &Path) -> Result<()> {
    for row in rows::read(&dir.join("README.md"))? {
        for (name, bytes) in pairs::derived(dir, &row)? {
            std::fs::write(dir.join(&name), bytes)?;
        }
    }
    Ok(())
}

fn judge(dir: &Path) -> Result<()> {
    for row in rows::read(&dir.join("README.md"))? {
        let findings = pairs::judge(dir, &row)?;
        let count = |is: fn(&Flow) -> bool| findings.keys().filter(|flow| is(flow)).count();
        let (tcp, udp) = (count(|f| matches!(f, Flow::Tcp(..))), count(|f| matches!(f, Flow::Udp(..))));
        println!("{}: {} flows, {tcp} TCP, {udp} UDP", row.id, findings.len());
        for (flow, finding) in findings.iter().filter(|(_, finding)| **finding != Finding::Same) {
            println!("    {flow} {finding:?}");
        }
    }
    Ok(())
}
