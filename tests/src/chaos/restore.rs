//! A guest is saved under load (CPU, memory, a stream over its network card), goes on, is killed, and goes on from the file in a new process; from there again.

use super::boot::Boot;
use super::node::Node;
use super::say;
use super::wire::{Stream, TAP, Wire};
use anyhow::{Context as _, Result};
use clap::Args;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often.
#[derive(Args, Clone, Debug)]
pub struct Restores {
    /// How often it is saved
    #[arg(long, default_value_t = 10)]
    pub rounds: u32,
    /// Milliseconds that lie between a saved guest's end and its going on: time that it must not see
    #[arg(long, default_value_t = 0)]
    pub rest: u64,
}

/// Saves and restores so often.
pub fn restores(restores: &Restores, boot: &Boot, dir: &Path) -> Result<()> {
    let begun = Instant::now();
    let boot = &boot.clone().on(TAP);
    let _wire = Wire::new()?;
    let mut node = Node::alone(dir, "node0", boot, None)?;
    node.well().context("the guest in its beginning")?;
    say(begun, "the guest works");
    for round in 1..=restores.rounds {
        let file = dir.join("state");
        let stream = Stream::begin()?;
        node.save(&file).with_context(|| format!("round {round}"))?;
        node.well().with_context(|| format!("round {round}: after it was saved"))?;
        let bytes =
            stream.end().with_context(|| format!("round {round}: the stream of a guest that is saved"))?;
        node.kill()?;
        std::thread::sleep(Duration::from_millis(restores.rest));
        node = Node::alone(dir, &format!("node{round}"), boot, Some(&file))?;
        let words = node.well().with_context(|| format!("round {round}: from the file"))?;
        say(
            begun,
            &format!(
                "{round} of {}: saved, {bytes} bytes echoed meanwhile, and restored: {words:?}",
                restores.rounds
            ),
        );
    }
    Stream::begin()?.end().context("the last guest's network")?;
    Ok(())
}
