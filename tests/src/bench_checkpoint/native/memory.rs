//! What a secondary needs besides its guest's memory, for epochs of any size.
//!
//! ```text
//!   a pair for each way ─► epochs of 10⁴, 5 · 10⁴, 10⁵ pages, one after the other ─► the process's highest after each
//! ```

use super::pair::Pair;
use super::{NEVER, Plan, guest};
use anyhow::Result;
use colo_vmm::checkpoint::primary::Ahead;
use colo_vmm::checkpoint::ram::pack::Packing;
use std::fmt::Write as _;

/// How many pages the guest writes; the highest memory can only grow.
const SIZES: [u64; 3] = [10_000, 50_000, 100_000];
/// How often each, so that what is kept between epochs counts.
const TIMES: usize = 3;

/// A way, and the highest memory of the secondary after each size, of its guest's.
#[derive(Clone, Debug)]
pub struct Memory {
    what: &'static str,
    content: &'static str,
    highest: Vec<f64>,
}

/// All ways.
pub(super) fn run() -> Result<Vec<Memory>> {
    // A guest that is never interrupted: each size is one epoch, which is the worst that can be.
    let whole = Plan { most: u64::MAX, ..Plan::usual() };
    let early = Plan { most: guest::MEMORY / guest::PAGE / 10, ..whole };
    let ways = [
        ("one epoch", whole),
        ("one epoch, lz4", Plan { packing: Packing::Lz4, ..whole }),
        ("one epoch, --spill", Plan { spill: true, ..whole }),
        ("a checkpoint once a tenth is dirty", early),
        ("both", Plan { spill: true, ..early }),
    ];
    let mut all = Vec::new();
    for (content, noise) in [("half noise", false), ("noise", true)] {
        for (what, plan) in ways {
            let pair = Pair::start(Plan { noise, ..plan })?;
            let highest = SIZES.iter().map(|pages| epochs(&pair, *pages)).collect::<Result<_>>()?;
            all.push(Memory { what, content, highest });
        }
    }
    Ok(all)
}

fn epochs(pair: &Pair, pages: u64) -> Result<f64> {
    for _ in 0..TIMES {
        guest::write(&pair.ram, 0, pages)?;
        // One that came by itself may have left little.
        pair.checkpoint()?;
    }
    pair.memory_of_secondary()
}

/// The table.
pub(super) fn section(page: &mut String, all: &[Memory]) {
    page.push_str(
        "\n## The secondary's memory\n\nThe highest of its process after epochs of so many pages (of 131 072), of its \
         guest's memory, all of which was touched. What waits for the rest of an epoch is in memory, or beyond an \
         eighth of the guest's in a file (`--spill`).\n\n| way | contents | 10 000 | 50 000 | 100 000 |\n|---|---|---:|---:|---:|\n",
    );
    for Memory { what, content, highest } in all {
        let _ = write!(page, "| {what} | {content} |");
        highest.iter().for_each(|share| _ = write!(page, " {share:.2} × |"));
        page.push('\n');
    }
}

impl Plan {
    /// Checkpoints when they are asked for, of pages as they are.
    pub(super) const fn usual() -> Self {
        Self {
            packing: Packing::None,
            ahead: Ahead::Off,
            delay: NEVER,
            most: u64::MAX,
            noise: false,
            spill: false,
        }
    }
}
