//! What it costs to know which pages a guest wrote: for each tracker, and beside a copy of these pages.
//!
//! ```text
//!   guest writes n pages ─► stands ─► collect ─► copy ─► rearm ─► …
//!        (beside: untracked)             each is timed; medians over the rounds
//! ```

mod guest;

use crate::bench::stats::median;
use anyhow::{Result, ensure};
use colo_vmm::dirty::{PageSet, Tracking, choose};
use colo_vmm::memory::{self, GuestRam};
use guest::{Guest, PAGES};
use std::fmt::Write as _;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// How the written pages lie: one after the other, or far from each other. Odd, so that none comes twice.
const PATTERNS: [(&str, u32); 2] = [("in a row", 1), ("scattered", 1237)];

/// What one tracker needs for so many pages; in microseconds.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which tracker.
    pub tracker: &'static str,
    /// How the pages lie.
    pub pattern: &'static str,
    /// How many the guest wrote.
    pub pages: u32,
    /// How long it needed for that, tracked.
    pub writes: f64,
    /// And how long it needs if nobody tracks it.
    pub untracked: f64,
    /// Collecting them.
    pub collect: f64,
    /// Copying them into memory that is there, in huge pages.
    pub copy: f64,
    /// Rearming them.
    pub rearm: f64,
}

/// Measures each tracker with each number of pages. What one of them cannot do is said in `failures`.
pub fn run(
    trackers: &[Tracking],
    pages: &[u32],
    rounds: usize,
    failures: &mut Vec<String>,
) -> Result<Vec<Row>> {
    let most = pages.iter().copied().max().unwrap_or(0);
    ensure!(most < PAGES, "the guest has {PAGES} pages to write to");
    let buffer = memory::new((u64::from(most) * 4096).max(2 << 20))?;
    touch(&buffer)?;
    let mut rows = Vec::new();
    for tracking in trackers {
        for (pattern, stride) in PATTERNS {
            for pages in pages {
                // A guest of its own: a ring that lost pages is of no more use.
                let guest = Guest::new(*tracking)?;
                match measure(&guest, (pattern, stride), *pages, rounds, &buffer) {
                    Ok(row) => rows.push(row),
                    Err(error) => failures.push(format!("{tracking:?}, {pages} pages {pattern}: {error:#}")),
                }
            }
        }
    }
    Ok(rows)
}

fn measure(
    guest: &Guest,
    (pattern, stride): (&'static str, u32),
    pages: u32,
    rounds: usize,
    buffer: &GuestRam,
) -> Result<Row> {
    let mut tracker = choose(&guest.vm)?;
    // Every page is there, and was written by the guest, whatever is measured.
    guest.write(PAGES, 1, 0)?;
    let mut untracked = Vec::new();
    for round in 0..rounds {
        untracked.push(micros(guest.write(pages, stride, round as u32)?));
    }
    tracker.start()?;
    let mut set = PageSet::new(guest.vm.ram());
    tracker.collect(&mut set)?;
    tracker.rearm(&set)?;
    let (mut writes, mut collect, mut copy, mut rearm) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // The first round is not counted: KVM splits huge pages in it.
    for round in 0..=rounds {
        writes.push(micros(guest.write(pages, stride, round as u32)?));
        set.clear();
        collect.push(timed(|| Ok(tracker.collect(&mut set)?))?);
        ensure!(
            (u64::from(pages)..u64::from(pages) + 64).contains(&set.count()),
            "{} pages were collected, and the guest wrote {pages}",
            set.count()
        );
        copy.push(timed(|| copy_pages(guest.vm.ram(), &set, buffer))?);
        rearm.push(timed(|| Ok(tracker.rearm(&set)?))?);
    }
    tracker.stop()?;
    let middle = |values: &[f64]| median(values.get(1..).unwrap_or_default());
    Ok(Row {
        tracker: tracker.name(),
        pattern,
        pages,
        writes: middle(&writes),
        untracked: median(&untracked),
        collect: middle(&collect),
        copy: middle(&copy),
        rearm: middle(&rearm),
    })
}

/// Copies them one after the other, as far as the buffer goes: a guest may have written its stack, too.
fn copy_pages(ram: &GuestRam, set: &PageSet, buffer: &GuestRam) -> Result<()> {
    let room = buffer.last_addr().0 + 1;
    let mut at = 0;
    for run in set.runs() {
        let len = run.bytes().min(room - at);
        let from = ram.get_slice(GuestAddress(run.address()), len as usize)?;
        from.copy_to_volatile_slice(buffer.get_slice(GuestAddress(at), len as usize)?);
        at += len;
    }
    Ok(())
}

fn touch(buffer: &GuestRam) -> Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at <= buffer.last_addr().0 {
        at += buffer.write(&zeros, GuestAddress(at))? as u64;
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    work()?;
    Ok(micros(begin.elapsed()))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The rows as a table.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| tracker | pages | | collect, µs | copy, µs | rearm, µs | rearm per page, ns | writes, µs | untracked, µs |\n\
         |---|---:|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let per_page = row.rearm * 1e3 / f64::from(row.pages.max(1));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.1} | {:.1} | {:.1} | {per_page:.0} | {:.0} | {:.0} |",
            row.tracker, row.pages, row.pattern, row.collect, row.copy, row.rearm, row.writes, row.untracked
        );
    }
    text
}
