//! The table.

use super::subject::Subject;
use super::{FIGURES, LOADS, OF_A_PAIR, Round};
use crate::bench::machine::Machine;
use crate::bench::stats::median;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const HEAD: &str = "\
# Checkpoints

`cargo xtask bench checkpoint`: checkpoints by a timer, beside QEMU's COLO on KVM without its comparer, with the
same guest: Debian's cloud kernel with one vCPU and 256 MiB, an initramfs of busybox and `colo-load`
(`tests/load`), which rewrites whole pages at a steady rate. Each round starts a new pair of guests for
each load. Figures are medians over the rounds; of a round's pauses, the median and the longest
count. Quotients are medians of the rounds' own, with the smallest and the largest.

The pause is what the VMM says itself (QEMU: from its event STOP to RESUME); the line below tells it anew as the
kernel saw it, by tracepoints: from the vCPU's last exit to its next KVM_RUN. Bytes are the TCP connection's own
counter. The secondary's memory is its process's resident memory without files, guest and all copies of it, at
its highest. A guest that is emulated cannot rewrite as much as a real one, so what it reached is told, too.
";

/// The page.
pub fn page(rounds: &[BTreeMap<Subject, Round>], hosts: u8, software: bool, machine: &Machine) -> String {
    let mut page = HEAD.to_owned();
    let how = if software { "the lab in software (TCG, nested SVM)" } else { "the lab on nested KVM" };
    let place = if hosts == 1 { "both sides on one lab machine" } else { "a lab machine for each side" };
    let qemu = machine.qemu.as_deref().unwrap_or("no QEMU");
    // Writing into a String does not fail.
    let _ = writeln!(
        page,
        "\nOne run on {}: {} CPUs ({}), Linux {}, {how}, {place}; {qemu}. {} rounds.\n",
        machine.date,
        machine.cpus,
        machine.cpu,
        machine.kernel,
        rounds.len()
    );
    let _ = writeln!(page, "| | unit | QEMU | colo-vm | colo-vm / QEMU |");
    let _ = writeln!(page, "|---|---|---|---|---|");
    let mut row = |key: &str, what: &str, unit: &str| {
        let of = |subject| -> Vec<f64> {
            rounds.iter().filter_map(|round| round.get(&subject)?.get(key).copied()).collect()
        };
        let value = |subject| match &of(subject)[..] {
            [] => "–".to_owned(),
            all => format!("{:.1}", median(all)),
        };
        let quotients: Vec<f64> = rounds
            .iter()
            .filter_map(|round| {
                Some(round.get(&Subject::Ours)?.get(key)? / round.get(&Subject::Qemu)?.get(key)?)
            })
            .collect();
        let (qemu, ours) = (value(Subject::Qemu), value(Subject::Ours));
        let _ = writeln!(page, "| {what} | {unit} | {qemu} | {ours} | {} |", spread(&quotients));
    };
    for phase in LOADS.iter().flat_map(|load| load.phases) {
        for (key, what, unit, better) in FIGURES {
            let key = format!("{} {key}", phase.name);
            let is_told = rounds.iter().any(|round| round.values().any(|figures| figures.contains_key(&key)));
            if is_told {
                let better = match better {
                    Some(true) => ", more is better",
                    Some(false) => ", less is better",
                    None => "",
                };
                row(&key, &format!("{}: {what}{better}", phase.what), unit);
            }
        }
    }
    for (key, what, unit) in OF_A_PAIR {
        row(key, what, unit);
    }
    page
}

/// The median, the smallest and the largest.
fn spread(all: &[f64]) -> String {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted[..] {
        [] => "–".to_owned(),
        [one] => format!("{one:.2}"),
        [first, .., last] => format!("{:.2} ({first:.2}–{last:.2})", median(&sorted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_measured_has_a_dash_and_who_was_a_quotient() {
        let figures = |pause: f64| Round::from([("idle pause".to_owned(), pause)]);
        let round =
            |qemu, ours| BTreeMap::from([(Subject::Qemu, figures(qemu)), (Subject::Ours, figures(ours))]);
        let machine = Machine {
            cpu: "a CPU".into(),
            cpus: 2,
            guest: true,
            kernel: "6".into(),
            qemu: None,
            date: "2026-11-21".into(),
        };
        let both = page(&[round(100.0, 10.0), round(200.0, 10.0), round(400.0, 10.0)], 1, true, &machine);
        assert!(both.contains("less is better | ms | 200.0 | 10.0 | 0.05 (0.03–0.10) |"), "{both}");
        let alone = page(&[BTreeMap::from([(Subject::Qemu, figures(7.0))])], 1, true, &machine);
        assert!(alone.contains("| ms | 7.0 | – | – |"), "{alone}");
    }
}
