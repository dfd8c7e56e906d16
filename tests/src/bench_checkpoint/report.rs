//! The tables.

use super::subject::Subject;
use super::{FIGURES, LOADS, MEMORY_GOAL, PARTS, Round};
use crate::bench::machine::Machine;
use crate::bench::stats::median;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const HEAD: &str = "\
# Checkpoints

`cargo xtask bench checkpoint`: checkpoints by a timer, beside QEMU's COLO on KVM without its comparer, with the
same guest: Debian's cloud kernel with one vCPU and 256 MiB, an initramfs of busybox and `colo-load`
(`tests/load`), which rewrites whole pages at a steady rate. Each round starts a new pair of guests for
each subject and load, in turns. Figures are medians over the rounds, of a round's pauses the median; the 95 % are
over all pauses of all rounds. Quotients are medians of the rounds' own, with the smallest and the largest.

**The pause** is the time for which the primary's vCPUs stand, as the VMM says it itself: QEMU from its event STOP to
RESUME, `colo-vm` in `query-colo-status`, `last.stood.total`, from the order to the first vCPU to stand to the last
vCPU's going on. The line below it tells the same anew, for all of them in the same way, as the kernel saw it by
tracepoints: from the vCPU's last exit to its next KVM_RUN, the longest of as many as there were checkpoints. QEMU's
guests both run between checkpoints, and so do those of `colo-vm` (mode `colo`); in the column \"periodic\" the
secondary's stands. Bytes are the TCP connection's own counter. The secondary's memory is its process's resident
memory at its highest, without files: the guest and all copies of it. A guest that is emulated cannot rewrite as
much as a real one; what it reached (per second of the host's) is told, too. `colo-vm` sends pages ahead of their
checkpoint when it pays: bytes per checkpoint have those.

To reach: a pause of at most 0.1 of QEMU's, and 1.2 × the guest's memory.
";

/// What goes into a page.
#[derive(Debug)]
pub struct Page<'a> {
    /// Each round's figures.
    pub rounds: &'a [BTreeMap<Subject, Round>],
    /// For how long each phase was watched.
    pub seconds: u64,
    /// Lab machines.
    pub hosts: u8,
    /// Whether they are emulated.
    pub software: bool,
    /// Where they ran.
    pub machine: &'a Machine,
    /// How many processes of that wanted to run at the beginning and at the end.
    pub load: [f64; 2],
}

impl Page<'_> {
    /// The page.
    pub fn text(&self) -> String {
        let mut page = HEAD.to_owned();
        let machine = self.machine;
        let how =
            if self.software { "the lab in software (TCG, nested SVM)" } else { "the lab on nested KVM" };
        let place =
            if self.hosts == 1 { "both sides on one lab machine" } else { "a lab machine for each side" };
        let qemu = machine.qemu.as_deref().unwrap_or("no QEMU");
        // Writing into a String does not fail.
        let _ = writeln!(
            page,
            "\nOne run on {}: {} CPUs ({}), Linux {}, {how}, {place}; {qemu}; colo-vm {}. {} rounds, each phase watched for \
             {} s. Load averages of the machine before and after: {:.1}, {:.1}.\n",
            machine.date,
            machine.cpus,
            machine.cpu,
            machine.kernel,
            env!("CARGO_PKG_VERSION"),
            self.rounds.len(),
            self.seconds,
            self.load[0],
            self.load[1],
        );
        let mut head = ["| | unit | QEMU |".to_owned(), "|---|---|---:|".to_owned()];
        for subject in self.rivals() {
            let _ = write!(head[0], " {0} | {0} / QEMU |", subject.title());
            head[1].push_str("---:|---:|");
        }
        let _ = writeln!(page, "{}\n{}", head[0], head[1]);
        for phase in LOADS.iter().flat_map(|load| load.phases) {
            for figure in FIGURES {
                let what = format!("{}: {}", phase.what, figure.what);
                if figure.key == "p95" {
                    self.row(&mut page, &what, figure.unit, None, |subject| self.tail(subject, phase.name));
                } else {
                    let key = format!("{} {}", phase.name, figure.key);
                    self.row(&mut page, &what, figure.unit, figure.goal, |subject| self.of(subject, &key));
                }
            }
        }
        for load in LOADS {
            let key = format!("{} attached", load.name);
            let what = format!("{}: until the first checkpoint", load.what);
            self.row(&mut page, &what, "s", None, |subject| self.of(subject, &key));
        }
        self.memory(&mut page);
        self.parts(&mut page);
        page
    }

    /// Who is compared to QEMU.
    fn rivals(&self) -> Vec<Subject> {
        let was = |subject: &Subject| self.rounds.iter().any(|round| round.contains_key(subject));
        [Subject::Ours, Subject::Periodic].into_iter().filter(was).collect()
    }

    /// A figure in each round; the order is that of the rounds.
    fn of(&self, subject: Subject, key: &str) -> Vec<Option<f64>> {
        self.rounds.iter().map(|round| round.get(&subject)?.figures.get(key).copied()).collect()
    }

    /// What 95 % of the pauses of a phase do not exceed, in all rounds together.
    fn tail(&self, subject: Subject, phase: &str) -> Vec<Option<f64>> {
        let rounds = self.rounds.iter().filter_map(|round| round.get(&subject)?.pauses.get(phase));
        let mut all: Vec<f64> = rounds.flatten().copied().collect();
        all.sort_by(f64::total_cmp);
        let rank = (all.len() * 95).div_ceil(100);
        vec![rank.checked_sub(1).and_then(|last| all.get(last)).copied()]
    }

    fn row(
        &self,
        page: &mut String,
        what: &str,
        unit: &str,
        goal: Option<f64>,
        of: impl Fn(Subject) -> Vec<Option<f64>>,
    ) {
        let qemu = of(Subject::Qemu);
        let mut cells = format!("{} |", value(&qemu));
        let mut is_told = qemu.iter().any(Option::is_some);
        for subject in self.rivals() {
            let own = of(subject);
            is_told |= own.iter().any(Option::is_some);
            let quotients = quotients(&own, &qemu);
            let is_missed = !quotients.is_empty() && goal.is_some_and(|goal| median(&quotients) > goal);
            let missed = if is_missed { " (missed)" } else { "" };
            let _ = write!(cells, " {} | {}{missed} |", value(&own), spread(&quotients));
        }
        if is_told {
            let _ = writeln!(page, "| {what} | {unit} | {cells}");
        }
    }

    fn memory(&self, page: &mut String) {
        for load in LOADS {
            let key = format!("{} memory", load.name);
            let _ = write!(page, "| {}: the secondary's memory, of its guest's | × |", load.what);
            let qemu = self.of(Subject::Qemu, &key);
            let _ = write!(page, " {} |", value(&qemu));
            for subject in self.rivals() {
                let own = self.of(subject, &key);
                let known: Vec<f64> = own.iter().copied().flatten().collect();
                let missed = if median(&known) > MEMORY_GOAL { " (missed)" } else { "" };
                let _ = write!(page, " {}{missed} | {} |", value(&own), spread(&quotients(&own, &qemu)));
            }
            page.push('\n');
        }
    }

    /// Where the time goes.
    fn parts(&self, page: &mut String) {
        let rivals = self.rivals();
        if rivals.is_empty() {
            return;
        }
        let _ = write!(
            page,
            "\n## What a checkpoint of colo-vm consists of\n\nMedians of the rounds' medians. The pause, in milliseconds: \
             until the vCPU stood and its devices were drained; reading and rearming the log of dirty pages; their copy; \
             the state of vCPU and devices; until the vCPU went on. Then, while it runs: until the secondary had everything \
             (transfer), and had loaded it. Pages: those that were copied in the pause, those among them that only the \
             secondary's guest had written (foreign), and those that were sent before (ahead).\n\n| | | {} |\n|---|---|{}\n",
            PARTS.join(" | "),
            "---:|".repeat(PARTS.len())
        );
        for phase in LOADS.iter().flat_map(|load| load.phases) {
            for subject in &rivals {
                let _ = write!(page, "| {} | {} |", phase.what, subject.title());
                for part in PARTS {
                    let _ =
                        write!(page, " {} |", value(&self.of(*subject, &format!("{} {part}", phase.name))));
                }
                page.push('\n');
            }
        }
    }
}

/// Round by round. A guest that stood all the time rewrote nothing: nothing can be divided by that.
fn quotients(own: &[Option<f64>], qemu: &[Option<f64>]) -> Vec<f64> {
    let rounds = own.iter().zip(qemu);
    rounds.filter_map(|(own, qemu)| Some((*own)? / (*qemu).filter(|qemu| *qemu > 0.0)?)).collect()
}

fn value(all: &[Option<f64>]) -> String {
    let known: Vec<f64> = all.iter().copied().flatten().collect();
    let digits = if median(&known) < 10.0 { 2 } else { 1 };
    if known.is_empty() { "–".to_owned() } else { format!("{:.digits$}", median(&known)) }
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

    fn machine() -> Machine {
        Machine {
            cpu: "a CPU".into(),
            cpus: 2,
            guest: true,
            kernel: "6".into(),
            qemu: None,
            date: "2026-11-21".into(),
        }
    }

    fn round(pause: f64, memory: f64) -> Round {
        Round {
            figures: [("idle pause".to_owned(), pause), ("idle memory".to_owned(), memory)].into(),
            pauses: [("idle".to_owned(), vec![pause; 2])].into(),
        }
    }

    fn text(rounds: &[BTreeMap<Subject, Round>]) -> String {
        Page { rounds, seconds: 5, hosts: 1, software: true, machine: &machine(), load: [0.5, 2.0] }.text()
    }

    #[test]
    fn a_quotient_is_of_one_round_and_a_missed_goal_is_told() {
        let rounds = [100.0, 200.0, 400.0].map(|qemu| {
            BTreeMap::from([
                (Subject::Qemu, round(qemu, 2.1)),
                (Subject::Ours, round(10.0, 1.1)),
                (Subject::Periodic, round(50.0, 1.3)),
            ])
        });
        let page = text(&rounds);
        for line in [
            "| | unit | QEMU | colo-vm | colo-vm / QEMU | colo-vm, periodic | colo-vm, periodic / QEMU |\n|---|---|---:|---:|---:|---:|---:|",
            "pause of the primary, median | ms | 200.0 | 10.0 | 0.05 (0.03–0.10) | 50.0 | 0.25 (0.12–0.50) (missed) |",
            "95 % are shorter | ms | 400.0 | 10.0 | 0.03 | 50.0 | 0.12 |",
            "of its guest's | × | 2.10 | 1.10 | 0.52 (0.52–0.52) | 1.30 (missed) | 0.62 (0.62–0.62) |",
        ] {
            assert!(page.contains(line), "{line}\nin\n{page}");
        }
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        assert_eq!(quotients(&[Some(1.0), Some(6.0), None], &[Some(0.0), Some(2.0), Some(1.0)]), [3.0]);
    }

    #[test]
    fn who_was_not_measured_has_no_column() {
        let page = text(&[BTreeMap::from([(Subject::Qemu, round(7.0, 2.0))])]);
        assert!(page.contains("median | ms | 7.00 |\n") && !page.contains("consists of"), "{page}");
    }
}
