//! Long trials of checkpoints with guests that check themselves; see `colo_tests::chaos`.

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use colo_tests::chaos::{
    Boot, BootArgs, Disks, Guest, Kills, Level, Restores, Trial, disks, in_labs, kills, level, restores,
};
use std::path::Path;
use std::time::Duration;

/// Kills, keeps level, saves and restores guests that check themselves, in lab machines.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo xtask chaos checkpoint kills --rounds 500 --labs 2
  cargo xtask chaos checkpoint level --checkpoints 10000
  cargo xtask chaos checkpoint --guest debian --cpus 4 level --mode colo --delay 250 --checkpoints 1000
  cargo xtask chaos checkpoint --guest debian restore --rounds 20 --rest 5000
  cargo xtask chaos checkpoint disks --rounds 200 --labs 2 --sync none")]
struct Cli {
    #[command(flatten)]
    lab: InLab,
    #[command(subcommand)]
    what: What,
}

#[derive(Args)]
struct InLab {
    /// What the guest is
    #[arg(long, value_enum, default_value = "small")]
    guest: Guest,
    /// Its vCPUs
    #[arg(long, default_value_t = 1)]
    cpus: u8,
    /// MB that it rewrites each second, beside its other loads
    #[arg(long, default_value_t = 2)]
    dirty: u32,
    /// The lab machines' kernels take their time stamp counters for unstable, as a host's may at any time
    #[arg(long)]
    unstable: bool,
    /// How many lab machines share the work, each of which wants a CPU
    #[arg(long, default_value_t = 1)]
    labs: u8,
    /// All of it ends after so many minutes, whatever happens
    #[arg(long, default_value_t = 180)]
    minutes: u64,
}

#[derive(Subcommand)]
enum What {
    /// One of two is killed at random instants, over and over
    Kills(Kills),
    /// Many checkpoints, then the secondary is promoted
    Level(Level),
    /// The guest is saved under load and restored, over and over
    Restore(Restores),
    /// The primary dies, and what its clients saw is looked for on the secondary's disks (the guest is the Debian)
    Disks(Disks),
    /// What a lab machine does: the same, here
    #[command(hide = true)]
    Here {
        #[command(flatten)]
        boot: BootArgs,
        #[command(subcommand)]
        what: Here,
    },
}

#[derive(Subcommand)]
enum Here {
    Kills(Kills),
    Level(Level),
    Restore(Restores),
    Disks(Disks),
}

/// A guest that is restored has missed the time since its last checkpoint, and waits for a busy machine.
const STEP: Duration = Duration::from_mins(2);

fn main() -> Result<()> {
    let Cli { mut lab, what } = Cli::parse();
    let words = |name: &str, options: &[(&str, String)]| {
        let options = options.iter().flat_map(|(name, value)| [format!("--{name}"), value.clone()]);
        [name.to_owned()].into_iter().chain(options).collect::<Vec<_>>()
    };
    let trials: Vec<Vec<String>> = match what {
        What::Here { boot, what } => return here(&boot, &what),
        What::Kills(Kills { rounds, mode, delay, within, seed }) => (0..lab.labs.max(1))
            .map(|number| {
                let share = share(rounds, lab.labs.max(1), number);
                let options = [
                    ("rounds", share.to_string()),
                    ("mode", mode.to_string()),
                    ("delay", delay.to_string()),
                    ("within", within.to_string()),
                    ("seed", (seed + u64::from(number)).to_string()),
                ];
                words("kills", &options)
            })
            .collect(),
        What::Level(Level { checkpoints, mode, delay }) => {
            let options = [
                ("checkpoints", checkpoints.to_string()),
                ("mode", mode.to_string()),
                ("delay", delay.to_string()),
            ];
            vec![words("level", &options); lab.labs.max(1).into()]
        }
        What::Disks(trial) => {
            lab.guest = Guest::Debian;
            (0..lab.labs.max(1))
                .map(|number| {
                    let own = [
                        ("rounds", share(trial.rounds, lab.labs.max(1), number).to_string()),
                        ("seed", (trial.seed + u64::from(number)).to_string()),
                    ];
                    [words("disks", &own), trial.words()].concat()
                })
                .collect()
        }
        What::Restore(Restores { rounds, rest }) => {
            let options = [("rounds", rounds.to_string()), ("rest", rest.to_string())];
            vec![words("restore", &options); lab.labs.max(1).into()]
        }
    };
    let trial = |number: u8, words: Vec<String>| Trial {
        name: format!("lab{number}"),
        words,
        unstable: lab.unstable,
    };
    let trials: Vec<Trial> = (1..).zip(trials).map(|(number, words)| trial(number, words)).collect();
    in_labs(&trials, &lab.guest.boot(lab.cpus, lab.dirty)?, Duration::from_mins(lab.minutes))
}

/// What the `number`-th of `labs` has of so many rounds.
fn share(rounds: u32, labs: u8, number: u8) -> u32 {
    let labs = u32::from(labs);
    rounds / labs + u32::from(u32::from(number) < rounds % labs)
}

fn here(boot: &BootArgs, what: &Here) -> Result<()> {
    let dir = Path::new("/tmp/chaos");
    std::fs::create_dir_all(dir).context("cannot make /tmp/chaos")?;
    let checked = || Boot::new(boot.clone(), STEP);
    match what {
        Here::Disks(words) => disks(words, boot.clone(), dir),
        Here::Kills(words) => kills(words, &checked(), dir),
        Here::Level(words) => level(words, &checked(), dir),
        Here::Restore(words) => restores(words, &checked(), dir),
    }
}
