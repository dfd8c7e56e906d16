//! `kill -9` at random instants: whichever of two is left goes on, and becomes one of two again.
//!
//! ```text
//!   primary ═══ secondary
//!      │ killed, at any time once they are level     │ killed, at any time, the first transfer included
//!      ▼                                             ▼
//!   the secondary takes over, its loads are right    the primary goes on, its loads are right
//!      │ save ─► a new primary from the file         │
//!      └──────────── a new secondary ◄───────────────┘
//! ```
//!
//! It is the same guest from the first round to the last: what one round spoils the next ones see.

use super::boot::Boot;
use super::node::Node;
use super::say;
use anyhow::{Context as _, Result};
use clap::Args;
use colo_vmm::config::Mode;
use fastrand::Rng;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often, and when.
#[derive(Args, Clone, Debug)]
pub struct Kills {
    /// How often one is killed
    #[arg(long, default_value_t = 500)]
    pub rounds: u32,
    /// What the secondary's guest does between two checkpoints
    #[arg(long, default_value = "periodic")]
    pub mode: Mode,
    /// Milliseconds between checkpoints
    #[arg(long, default_value_t = 50)]
    pub delay: u32,
    /// A kill comes within so many milliseconds
    #[arg(long, default_value_t = 2500)]
    pub within: u64,
    /// What the instants follow from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

struct Pair<'a> {
    dir: &'a Path,
    boot: &'a Boot,
    how: (Mode, u32),
    /// How many nodes there were: each has a name of its own.
    nodes: u32,
}

impl Pair<'_> {
    fn secondary(&mut self) -> Result<Node> {
        self.nodes += 1;
        Node::secondary(self.dir, &format!("node{}", self.nodes), self.boot, self.how)
    }

    fn primary(&mut self, restore: Option<&Path>) -> Result<Node> {
        self.nodes += 1;
        Node::primary(self.dir, &format!("node{}", self.nodes), self.boot, self.how, restore)
    }
}

/// Kills so often; an error says what was wrong in which round.
pub fn kills(kills: &Kills, boot: &Boot, dir: &Path) -> Result<()> {
    let begun = Instant::now();
    let mut random = Rng::with_seed(kills.seed);
    let mut pair = Pair { dir, boot, how: (kills.mode, kills.delay), nodes: 0 };
    let mut secondary = pair.secondary()?;
    let mut primary = pair.primary(None)?;
    primary.well().context("the guest in its beginning")?;
    say(begun, "the guest works");
    let (mut of_primary, mut of_secondary, mut unlevel) = (0, 0, 0);
    for round in 1..=kills.rounds {
        let after = Duration::from_millis(random.u64(0..=kills.within));
        let context = |who: &str| format!("round {round}: the {who} was killed after {after:?}");
        let epoch;
        if random.bool() {
            secondary.level().with_context(|| format!("round {round}, before"))?;
            std::thread::sleep(after);
            epoch = secondary.status()?.epoch;
            primary.kill()?;
            let words = || context("primary");
            secondary.take_over().with_context(words)?;
            secondary.well().with_context(words)?;
            let file = dir.join("state");
            secondary.save(&file).with_context(words)?;
            secondary.kill()?;
            primary = pair.primary(Some(&file)).with_context(words)?;
            secondary = pair.secondary().with_context(words)?;
            of_primary += 1;
        } else {
            // Half of them in their first transfer, or soon after it.
            if random.bool() {
                secondary.level().with_context(|| format!("round {round}, before"))?;
            }
            std::thread::sleep(after);
            let status = secondary.status()?;
            epoch = status.epoch;
            unlevel += u32::from(epoch == 0);
            secondary.kill()?;
            primary.well().with_context(|| context("secondary"))?;
            secondary = pair.secondary()?;
            of_secondary += 1;
        }
        if round % 10 == 0 || round == kills.rounds {
            say(
                begun,
                &format!(
                    "{round} of {}: {of_primary} primaries, {of_secondary} secondaries ({unlevel} of them in their \
                     first transfer) killed, each time the other went on; last after epoch {epoch}",
                    kills.rounds
                ),
            );
        }
    }
    let words = primary.well().context("in the end")?;
    say(begun, &format!("in the end: {words:#?}"));
    Ok(())
}
