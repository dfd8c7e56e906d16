//! The tables.

use super::{Figures, Row, STEADY_DELAY, memory};
use crate::bench::machine::Machine;
use colo_vmm::checkpoint::primary::Ahead;
use std::fmt::Write as _;

const HEAD: &str = "\
# Checkpoints at native speed

`cargo xtask bench checkpoint --native`: a guest of 512 MiB and a few instructions writes to n pages between two
checkpoints; its secondary is another process on the same host, behind a TCP connection over loopback. In the
same run: a freeze in which nothing is done, and a memcpy of the same pages, page by page, from the guest's memory
into memory that was touched before, while the guest stands; \"empty with memcpy\" is how long it stood for that alone, as hosts with
other work let a guest wait until it goes on. Medians; times in milliseconds. The goal is a pause of at most the
empty one + 1.5 × the memcpy + 1 ms.

The secondary stands between checkpoints (periodic mode). Its memory is its process's at the highest so far,
without files, of the guest's, all of which was touched: the pages of an epoch wait until the epoch is complete.
";

/// The page.
pub fn page(figures: &Figures, rounds: usize, machine: &Machine) -> String {
    let mut page = HEAD.to_owned();
    // Writing into a String does not fail.
    let _ = write!(
        page,
        "\nOne run on {}: {} CPUs ({}), Linux {}{}. {rounds} rounds.\n\n\
         | pages | empty | memcpy | empty with memcpy | pause | goal | (pause − empty) / memcpy | stop | log | copy | state | resume | transfer | load | KiB sent | secondary's memory |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        machine.date,
        machine.cpus,
        machine.cpu,
        machine.kernel,
        if machine.guest { ", itself a virtual machine" } else { "" },
    );
    for row in &figures.plain {
        let ratio = if row.pages < 100 { "–".to_owned() } else { format!("{:.2}", row.ratio()) };
        let met = if row.pause <= row.goal() { "" } else { " (missed)" };
        let _ = write!(
            page,
            "| {} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3}{met} | {ratio} |",
            row.pages,
            row.empty,
            row.memcpy,
            row.copied,
            row.pause,
            row.goal()
        );
        row.parts.iter().for_each(|part| _ = write!(page, " {part:.3} |"));
        let _ = writeln!(page, " {} |", tail(row));
    }
    page.push_str(
        "\n## Packing\n\nEach page is half noise, half a pattern; one word of each was written since the last checkpoint. \
         Packing is part of the transfer.\n\n\
         | packing | pages | pause | transfer | load | KiB sent | secondary's memory |\n|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for (name, row) in &figures.packed {
        let _ = writeln!(page, "| {name} | {} | {:.3} | {} |", row.pages, row.pause, tail(row));
    }
    let _ = write!(
        page,
        "\n## Pages sent ahead\n\nA guest that never stops writing (64 pages each 5 ms and more, over 60 000), a checkpoint \
         each {} ms.\n\n| background transfer | pause | pages in the checkpoint | pages before | KiB in the checkpoint |\n\
         |---|---:|---:|---:|---:|\n",
        STEADY_DELAY.as_millis()
    );
    for steady in &figures.steady {
        let name = if steady.ahead == Ahead::Off { "off" } else { "auto" };
        let _ = writeln!(
            page,
            "| {name} | {:.3} | {:.0} | {:.0} | {:.0} |",
            steady.pause,
            steady.pages,
            steady.before,
            steady.bytes / 1024.0
        );
    }
    memory::section(&mut page, &figures.memory);
    page
}

fn tail(row: &Row) -> String {
    format!("{:.3} | {:.3} | {:.1} | {:.2} ×", row.transfer, row.load, row.bytes / 1024.0, row.memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_that_is_missed_is_told() {
        let row = |pages, pause| Row {
            pages,
            empty: 0.5,
            memcpy: 4.0,
            copied: 4.5,
            pause,
            parts: [0.25; 5],
            transfer: 9.0,
            load: 1.0,
            bytes: 2048.0,
            memory: 1.5,
        };
        let figures = Figures { plain: vec![row(10_000, 7.5), row(0, 7.75)], ..Figures::default() };
        let machine = Machine {
            cpu: "a CPU".into(),
            cpus: 2,
            guest: true,
            kernel: "6".into(),
            qemu: None,
            date: "2026-11-22".into(),
        };
        let page = page(&figures, 9, &machine);
        assert!(page.contains("| 10000 | 0.500 | 4.000 | 4.500 | 7.500 | 7.500 | 1.75 | 0.250 |"), "{page}");
        assert!(page.contains("| 0 | 0.500 | 4.000 | 4.500 | 7.750 | 7.500 (missed) | – |"), "{page}");
        assert!(page.contains("9.000 | 1.000 | 2.0 | 1.50 × |"), "{page}");
    }
}
