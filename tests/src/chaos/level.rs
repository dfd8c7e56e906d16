//! Many checkpoints of one guest, then its primary is killed and the secondary goes on.

use super::boot::Boot;
use super::node::Node;
use super::say;
use anyhow::{Context as _, Result};
use clap::Args;
use colo_vmm::config::Mode;
use std::path::Path;
use std::time::Instant;

/// How many.
#[derive(Args, Clone, Debug)]
pub struct Level {
    /// How many checkpoints
    #[arg(long, default_value_t = 10_000)]
    pub checkpoints: u64,
    /// What the secondary's guest does between two of them
    #[arg(long, default_value = "periodic")]
    pub mode: Mode,
    /// Milliseconds between them
    #[arg(long, default_value_t = 50)]
    pub delay: u32,
}

/// Between two reports.
const STEP: u64 = 500;

/// Makes so many, and promotes the secondary.
pub fn level(level: &Level, boot: &Boot, dir: &Path) -> Result<()> {
    let begun = Instant::now();
    let how = (level.mode, level.delay);
    let mut secondary = Node::secondary(dir, "secondary", boot, how)?;
    let mut primary = Node::primary(dir, "primary", boot, how, None)?;
    primary.well().context("the guest in its beginning")?;
    secondary.level()?;
    say(begun, "the guest works, and its secondary is level");
    let mut next = 0;
    while next < level.checkpoints {
        next = level.checkpoints.min(next + STEP);
        let status =
            primary.until("has its checkpoints", |status| status.epoch >= next || status.sessions > 1)?;
        anyhow::ensure!(status.sessions == 1, "the link failed: {status:?}");
        say(begun, &format!("{} checkpoints, the last: {:?}", status.epoch, status.last));
        primary.well()?;
    }
    primary.kill()?;
    secondary.take_over()?;
    let words = secondary.well().context("the secondary after its promotion")?;
    say(begun, &format!("promoted: {words:#?}"));
    Ok(())
}
