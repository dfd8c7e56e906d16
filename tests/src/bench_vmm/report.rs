//! The table.

use super::contender::Contender;
use super::{FIGURES, Round};
use crate::bench::machine::Machine;
use crate::bench::stats::median;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const HEAD: &str = "\
# The VMM

`cargo xtask bench vmm`: this VMM beside Debian's QEMU, in one lab machine (`tests/src/lab`), by turns. The
guest is Debian's cloud kernel with one vCPU and 256 MiB and an initramfs of busybox; under load its programs are
those of a Debian on a qcow2 disk. Cards are on a tap without vhost, disks are served through io_uring and
the page cache, for all three; fio in the guest uses O_DIRECT. Where the lab runs in software the figures are
far below a real host's: the quotients are what counts, each being the median of the rounds' own quotients,
with the smallest and the largest.

Start to first guest instruction is from before fork(2) to KVM's first entry into the guest. Memory beside the
guest's is the sum of the process's proportional set sizes (`Pss` of smaps) over all mappings but the guest's
memory, once the guest is at its init. The last column is the lab machine itself, without any guest: fio on the
raw file, iperf3 through a pair of its own cards.
";

/// The page.
pub fn page(
    rounds: &[BTreeMap<Contender, Round>],
    limits: &Round,
    software: bool,
    machine: &Machine,
) -> String {
    let mut page = HEAD.to_owned();
    let how = if software { "the lab in software (TCG, nested SVM)" } else { "the lab on nested KVM" };
    let qemu = machine.qemu.as_deref().unwrap_or("no QEMU");
    // Writing into a String does not fail.
    let _ = writeln!(
        page,
        "\nOne run on {}: {} CPUs ({}), Linux {}, {how}; {qemu}. {} rounds; medians.\n",
        machine.date,
        machine.cpus,
        machine.cpu,
        machine.kernel,
        rounds.len()
    );
    let _ =
        writeln!(page, "| | unit | colo-vm | microvm | q35 | colo-vm / microvm | colo-vm / q35 | no guest |");
    let _ = writeln!(page, "|---|---|---|---|---|---|---|---|");
    for (name, what, unit, more) in FIGURES {
        let value = |contender| {
            let all: Vec<f64> =
                rounds.iter().filter_map(|round| round.get(&contender)?.get(name).copied()).collect();
            median(&all)
        };
        let quotient = |other| {
            let mut all: Vec<f64> = rounds
                .iter()
                .filter_map(|round| {
                    Some(round.get(&Contender::ColoVm)?.get(name)? / round.get(&other)?.get(name)?)
                })
                .collect();
            all.sort_by(f64::total_cmp);
            match all[..] {
                [] => "–".to_owned(),
                [first, .., last] => format!("{:.2} ({first:.2}–{last:.2})", median(&all)),
                [one] => format!("{one:.2}"),
            }
        };
        let [ours, micro, q35] = Contender::ALL.map(value);
        let limit = limits.get(name).map_or_else(|| "–".to_owned(), |value| format!("{value:.1}"));
        let better = if more { "more is better" } else { "less is better" };
        let _ = writeln!(
            page,
            "| {what}, {better} | {unit} | {ours:.1} | {micro:.1} | {q35:.1} | {} | {} | {limit} |",
            quotient(Contender::Microvm),
            quotient(Contender::Q35)
        );
    }
    page
}
