//! `cargo xtask bench checkpoint --native`: what a checkpoint costs at native speed, beside a copy of the same pages.
//!
//! ```text
//!   each round:   an empty freeze
//!                 guest writes n pages ─► freeze: memcpy of these, page by page, into memory that was touched
//!                 guest writes n pages ─► checkpoint: pause and its parts, transfer, load, bytes
//! ```

mod guest;
mod memory;
mod pair;
mod report;

pub use memory::Memory;
pub use pair::{FOLLOW, Plan, follow};
pub use report::page;

use crate::bench::stats::median;
use anyhow::{Result, anyhow, ensure};
use colo_vmm::checkpoint::primary::Ahead;
use colo_vmm::checkpoint::ram::pack::Packing;
use colo_vmm::checkpoint::status::Epoch;
use colo_vmm::machine::{After, Time};
use colo_vmm::memory::{GuestRam, new as new_memory};
use pair::Pair;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vm_memory::{GuestAddress, GuestMemoryBackend as _};

/// Nobody waits so long: a checkpoint is made when it is asked for.
const NEVER: Duration = Duration::from_hours(24);
/// What the guest that is never done writes: so many pages every few milliseconds, round and round in its window.
const STEADY: (u64, Duration, u64) = (64, Duration::from_millis(5), 60_000);
/// Between two checkpoints of that guest.
pub(crate) const STEADY_DELAY: Duration = Duration::from_millis(500);

/// Medians over the rounds; milliseconds.
#[derive(Clone, Debug)]
pub struct Row {
    /// How many pages the guest wrote.
    pub pages: u64,
    /// How long it stands if nothing is done.
    pub empty: f64,
    /// A copy of the pages.
    pub memcpy: f64,
    /// How long it stands for that copy and nothing else.
    pub copied: f64,
    /// How long it stood for the checkpoint.
    pub pause: f64,
    /// Of that: until it stood, knowing what is dirty, copying that, reading its state, going on.
    pub parts: [f64; 5],
    /// Until the secondary has everything.
    pub transfer: f64,
    /// And until it has loaded that.
    pub load: f64,
    /// Bytes on the wire.
    pub bytes: f64,
    /// The secondary's memory, of the guest's.
    pub memory: f64,
}

impl Row {
    /// The pause beyond an empty one, of the memcpy.
    pub fn ratio(&self) -> f64 {
        (self.pause - self.empty) / self.memcpy
    }

    /// What is to be reached: 1.5 × the memcpy, and 1 ms.
    pub fn goal(&self) -> f64 {
        self.empty + 1.5 * self.memcpy + 1.0
    }
}

/// A guest that writes without end.
#[derive(Clone, Debug)]
pub struct Steady {
    /// Whether pages are sent ahead.
    pub ahead: Ahead,
    /// The pause; milliseconds.
    pub pause: f64,
    /// Pages that were sent with the checkpoint.
    pub pages: f64,
    /// Pages that were sent before it.
    pub before: f64,
    /// Bytes of the checkpoint, those sent ahead not counted.
    pub bytes: f64,
}

/// All that was measured.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Pages as they are.
    pub plain: Vec<Row>,
    /// Each packing.
    pub packed: Vec<(&'static str, Row)>,
    /// With and without background transfer.
    pub steady: Vec<Steady>,
    /// What the secondary needs.
    pub memory: Vec<Memory>,
}

/// Measures everything.
pub fn run(rounds: usize, pages: &[u64], packed_pages: u64) -> Result<Figures> {
    ensure!(rounds >= 3, "a median of less than 3 rounds says nothing");
    let most = pages.iter().copied().max().unwrap_or(0).max(packed_pages);
    ensure!(most <= guest::PAGES, "the guest has {} pages to write to", guest::PAGES);
    let buffer = Arc::new(new_memory((most * guest::PAGE).max(2 << 20))?);
    let mut figures = Figures::default();
    let plan = Plan::usual();
    let pair = Pair::start(plan)?;
    for &pages in pages {
        figures.plain.push(row(&pair, pages, rounds, &buffer)?);
    }
    drop(pair);
    let packings = [
        ("none", Packing::None),
        ("zeros", Packing::Zeros),
        ("lz4", Packing::Lz4),
        ("delta", Packing::Delta),
    ];
    for (name, packing) in packings {
        let pair = Pair::start(Plan { packing, ..plan })?;
        figures.packed.push((name, row(&pair, packed_pages, rounds, &buffer)?));
    }
    for ahead in [Ahead::Off, Ahead::Auto] {
        figures.steady.push(steady(ahead, rounds)?);
    }
    figures.memory = memory::run()?;
    Ok(figures)
}

fn row(pair: &Pair, pages: u64, rounds: usize, buffer: &Arc<GuestRam>) -> Result<Row> {
    let (mut empty, mut memcpy, mut copied, mut epochs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // The first is not counted: memory is touched, and huge pages are split, once.
    for round in 0..=rounds {
        empty.push(millis(pair.freezer.freeze(Time::GoesOn, |_| ((), After::AsBefore))?.1.total));
        guest::write(&pair.ram, 0, pages)?;
        let buffer = buffer.clone();
        let work = move |frozen: &mut colo_vmm::machine::Frozen<'_>| {
            (timed(|| copy(frozen.ram(), pages, &buffer)), After::AsBefore)
        };
        let (took, times) = pair.freezer.freeze(Time::GoesOn, work)?;
        memcpy.push(millis(took?));
        copied.push(millis(times.total));
        guest::write(&pair.ram, 0, pages)?;
        let epoch = pair.checkpoint()?;
        let near = pages..pages + 16;
        // What was written before the first one was never made clean.
        ensure!(round == 0 || near.contains(&epoch.pages), "{} pages, not {pages}", epoch.pages);
        epochs.push(epoch);
    }
    let of = |figure: &dyn Fn(&Epoch) -> Duration| {
        median(&epochs[1..].iter().map(|epoch| millis(figure(epoch))).collect::<Vec<_>>())
    };
    let bytes: Vec<f64> =
        epochs[1..].iter().map(|epoch| (epoch.ram_bytes + epoch.state_bytes) as f64).collect();
    Ok(Row {
        pages,
        empty: median(&empty[1..]),
        memcpy: median(&memcpy[1..]),
        copied: median(&copied[1..]),
        pause: of(&|epoch| epoch.stood.total),
        parts: [
            of(&|epoch| epoch.stood.stop),
            of(&|epoch| epoch.stood.log),
            of(&|epoch| epoch.stood.copy),
            of(&|epoch| epoch.stood.state),
            of(&|epoch| epoch.stood.resume),
        ],
        transfer: of(&|epoch| epoch.transfer),
        load: of(&|epoch| epoch.load),
        bytes: median(&bytes),
        memory: pair.memory_of_secondary()?,
    })
}

/// The copy that all is compared to.
fn copy(ram: &GuestRam, pages: u64, buffer: &GuestRam) -> Result<()> {
    for page in 0..pages {
        let from = ram.get_slice(guest::address(page), guest::PAGE as usize)?;
        let to = buffer.get_slice(GuestAddress(page * guest::PAGE), guest::PAGE as usize)?;
        from.copy_to_volatile_slice(to);
    }
    Ok(())
}

fn steady(ahead: Ahead, rounds: usize) -> Result<Steady> {
    let pair = Pair::start(Plan { ahead, delay: STEADY_DELAY, ..Plan::usual() })?;
    let (pages, every, window) = STEADY;
    let (mut first, mut done, mut epochs) = (0, pair.last().0, Vec::new());
    let begun = Instant::now();
    // The first two had to do with the sync.
    while epochs.len() < rounds + 2 {
        guest::write(&pair.ram, first, pages)?;
        first = (first + pages) % window;
        let (now, last) = pair.last();
        if now > done {
            done = now;
            epochs.extend(last);
        }
        ensure!(begun.elapsed() < STEADY_DELAY * (rounds as u32 + 60), "checkpoints do not come");
        std::thread::sleep(every);
    }
    let of = |figure: &dyn Fn(&Epoch) -> f64| median(&epochs[2..].iter().map(figure).collect::<Vec<_>>());
    Ok(Steady {
        ahead,
        pause: of(&|epoch| millis(epoch.stood.total)),
        pages: of(&|epoch| epoch.pages as f64),
        before: of(&|epoch| epoch.ahead as f64),
        bytes: of(&|epoch| epoch.ram_bytes as f64),
    })
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    work().map_err(|error| anyhow!("cannot copy: {error}"))?;
    Ok(begun.elapsed())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
