//! Records and derives the captures in `pcaps/`.

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use colo_tests::pcaps::live::{self, SCENES};
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
    /// Record on the live path, what the comparator reads of two protected guests; needs root. Prints each pair's row.
    RecordLive {
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
    /// The same for the live path.
    ListLive,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Record { out, names } => {
            each(SCENARIOS, |scenario| scenario.name, &names, |scenario| record::record(scenario, &out))
        }
        Command::RecordLive { out, names } => {
            each(SCENES, |scene| scene.name, &names, |scene| live::record(scene, &out))
        }
        Command::Derive { dir } => derive(&dir),
        Command::Judge { dir } => judge(&dir),
        Command::List => {
            list(PACKAGES, SCENARIOS.iter().map(|scenario| scenario.name));
            Ok(())
        }
        Command::ListLive => {
            list(live::PACKAGES, SCENES.iter().map(|scene| scene.name));
            Ok(())
        }
    }
}

fn list<'a>(packages: &str, names: impl Iterator<Item = &'a str>) {
    println!("packages: {packages}");
    names.for_each(|name| println!("{name}"));
}

/// Makes every recording that is wanted, whatever becomes of the others.
fn each<T>(
    all: &[T],
    name_of: impl Fn(&T) -> &'static str,
    wanted: &[String],
    record: impl Fn(&T) -> Result<()>,
) -> Result<()> {
    let known = |name: &String| all.iter().any(|one| name_of(one) == name);
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        anyhow::bail!("there is no recording `{unknown}`");
    }
    let mut failed = 0;
    for one in all.iter().filter(|one| wanted.is_empty() || wanted.iter().any(|name| name == name_of(one))) {
        if let Err(error) = record(one) {
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
