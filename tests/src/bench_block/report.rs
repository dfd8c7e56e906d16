//! The table.

use super::subject::Subject;
use super::{Plan, Rate, Round, WORK, Work};
use crate::bench::machine::Machine;
use crate::bench::stats::median;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const HEAD: &str = "\
# Block replication

`cargo xtask bench block`: what replication costs a guest's disk, beside QEMU's, with the same guest in the lab:
Debian's cloud kernel with one vCPU and 256 MiB, an initramfs of busybox, and the fio of a Debian on a disk that is
only read. It works on a raw image of 256 MiB all of whose blocks are there, with O_DIRECT and io_uring; the VMMs
serve it through io_uring and the page cache. Each round starts each subject anew, in turns, on new images. Figures are
medians over the rounds; quotients are medians of the rounds' own, with the smallest and the largest.

* **colo-vm alone**, **QEMU alone**: `colo-vm run`, and `qemu-system-x86_64 -M pc` with one raw file.
* **colo-vm pair**: `colo-vm primary` and `secondary`, whose guests both run between checkpoints (mode `colo`), as
  QEMU's do; **periodic**: the secondary's stands.
* **QEMU COLO**: the documented graph of its block replication. The primary's disk is a quorum of the local file and of
  the replication driver over an NBD client; the secondary's NBD server writes into its file, below an active and a
  hidden qcow2 overlay; checkpoints by its timer, without its comparer. Nobody's output is held.

The images are in memory (tmpfs), so that a flush costs nothing by itself, and whatever replication does shows: beside
a real medium its part is smaller. Latencies are fio's, from submission to completion (`lat`), of all requests of a
job, those included that met a checkpoint. A guest's clock may stand while its guest does, as QEMU's does at a
checkpoint: rates are told in the host's time, latencies in the guest's, which is in QEMU's favour; how fast the guest's
clock went is told, too. The last column is the lab machine without any guest: fio on the file, and
a TCP stream to the secondary's host, which bounds what a guest can write for long when all of it is replicated.

To reach: with a secondary at least 0.90 of the rate alone, latencies of which 99 % are at most 1.2 times as long, and 3
times the rate of QEMU's COLO.
";

/// Of what alone does, at least.
const OF_ALONE: f64 = 0.9;
/// Of the latencies alone, at most.
const OF_LATENCY: f64 = 1.2;
/// Of what QEMU's COLO does, at least.
const OF_QEMU: f64 = 3.0;

/// What a quotient should be.
#[derive(Clone, Copy, Debug)]
enum Goal {
    None,
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_missed(self, value: f64) -> bool {
        match self {
            Self::None => false,
            Self::AtLeast(goal) => value < goal,
            Self::AtMost(goal) => value > goal,
        }
    }
}

/// A column: one subject, or the quotient of two.
#[derive(Clone, Copy, Debug)]
enum Column {
    Of(Subject),
    Ratio(Subject, Subject),
}

const COLUMNS: [Column; 11] = [
    Column::Of(Subject::Alone),
    Column::Of(Subject::Pair),
    Column::Ratio(Subject::Pair, Subject::Alone),
    Column::Of(Subject::Periodic),
    Column::Ratio(Subject::Periodic, Subject::Alone),
    Column::Of(Subject::Qemu),
    Column::Of(Subject::QemuColo),
    Column::Ratio(Subject::QemuColo, Subject::Qemu),
    Column::Ratio(Subject::Alone, Subject::Qemu),
    Column::Ratio(Subject::Pair, Subject::QemuColo),
    Column::Ratio(Subject::Periodic, Subject::QemuColo),
];

impl Column {
    fn title(self) -> String {
        match self {
            Self::Of(subject) => subject.title().to_owned(),
            Self::Ratio(of, to) => format!("{} / {}", of.title(), to.title()),
        }
    }
}

/// What goes into a page.
#[derive(Debug)]
pub struct Page<'a> {
    /// Each round's figures.
    pub rounds: &'a [BTreeMap<Subject, Round>],
    /// The machines without guests.
    pub limits: &'a Round,
    /// How the jobs were done.
    pub plan: Plan,
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
        // Writing into a String does not fail.
        let _ = writeln!(
            page,
            "\nOne run on {}: {} CPUs ({}), Linux {}, {how}, {place}; {}; colo-vm {}. {} rounds, each job measured for {} s, \
             a checkpoint every {} ms. Load averages of the machine before and after: {:.1}, {:.1}.\n",
            machine.date,
            machine.cpus,
            machine.cpu,
            machine.kernel,
            machine.qemu.as_deref().unwrap_or("no QEMU"),
            env!("CARGO_PKG_VERSION"),
            self.rounds.len(),
            self.plan.seconds,
            self.plan.delay_ms,
            self.load[0],
            self.load[1],
        );
        let columns = self.columns();
        let titles: Vec<String> = columns.iter().map(|column| column.title()).collect();
        let _ = writeln!(page, "| | unit | {} | no guest |", titles.join(" | "));
        let _ = writeln!(page, "|---|---|{}", "---:|".repeat(columns.len() + 1));
        for work in &WORK {
            self.rate(&mut page, work);
            for side in work.sides {
                let whose = match *side {
                    "read" => "a read",
                    "sync" => "an fsync",
                    _ => "a write",
                };
                for (key, part) in [("p50", "50"), ("p99", "99")] {
                    let what = format!("{}: {part} % of {whose} take at most", work.what);
                    let what = what.replace("% of a", "% of the latencies of a");
                    let goal = if key == "p99" { Goal::AtMost(OF_LATENCY) } else { Goal::None };
                    self.row(
                        &mut page,
                        &what,
                        "µs",
                        &format!("{} {side} {key}", work.name),
                        [goal, Goal::None],
                    );
                }
            }
        }
        self.row(&mut page, "until the first checkpoint", "s", "attached", [Goal::None; 2]);
        self.row(&mut page, "TCP from host to host", "MiB/s", "link", [Goal::None; 2]);
        self.equality(&mut page);
        page
    }

    fn rate(&self, page: &mut String, work: &Work) {
        let unit = Rate::unit(work.rate);
        let goals = [Goal::AtLeast(OF_ALONE), Goal::AtLeast(OF_QEMU)];
        self.row(page, work.what, unit, &format!("{} rate", work.name), goals);
        self.row(
            page,
            &format!("{}: checkpoints meanwhile", work.what),
            "",
            &format!("{} checkpoints", work.name),
            [Goal::None; 2],
        );
        self.row(
            page,
            &format!("{}: seconds of the guest's clock in one of the host's", work.what),
            "s",
            &format!("{} clock", work.name),
            [Goal::None; 2],
        );
    }

    fn columns(&self) -> Vec<Column> {
        let was = |subject| self.rounds.iter().any(|round| round.contains_key(&subject));
        let is_told = |column: &Column| match *column {
            Column::Of(subject) => was(subject),
            Column::Ratio(of, to) => was(of) && was(to),
        };
        COLUMNS.into_iter().filter(is_told).collect()
    }

    fn row(&self, page: &mut String, what: &str, unit: &str, key: &str, [of_alone, of_qemu]: [Goal; 2]) {
        let cells = self.columns().into_iter().map(|column| match column {
            Column::Of(subject) => value(&self.of(subject, key)),
            Column::Ratio(of, to) => {
                let goal = match (of, to) {
                    (Subject::Pair | Subject::Periodic, Subject::Alone) => of_alone,
                    (_, Subject::QemuColo) => of_qemu,
                    _ => Goal::None,
                };
                spread(&quotients(&self.of(of, key), &self.of(to, key)), goal)
            }
        });
        let cells: Vec<String> = cells.collect();
        let limit = value(&[self.limits.figures.get(key).copied()]);
        let _ = writeln!(page, "| {what} | {unit} | {} | {limit} |", cells.join(" | "));
    }

    /// A figure in each round; the order is that of the rounds.
    fn of(&self, subject: Subject, key: &str) -> Vec<Option<f64>> {
        self.rounds.iter().map(|round| round.get(&subject)?.figures.get(key).copied()).collect()
    }

    /// Whether what was measured was a replication.
    fn equality(&self, page: &mut String) {
        page.push('\n');
        for subject in Subject::ALL.into_iter().filter(|subject| subject.is_pair()) {
            let rounds = self.rounds.iter().filter_map(|round| round.get(&subject)?.is_equal);
            let all: Vec<bool> = rounds.collect();
            if !all.is_empty() {
                let _ = writeln!(
                    page,
                    "{}: in {} of {} rounds the secondary's image had the primary's bytes in the end.",
                    subject.title(),
                    all.iter().filter(|is_equal| **is_equal).count(),
                    all.len()
                );
            }
        }
    }
}

/// Round by round.
fn quotients(of: &[Option<f64>], to: &[Option<f64>]) -> Vec<f64> {
    of.iter().zip(to).filter_map(|(of, to)| Some((*of)? / (*to).filter(|to| *to > 0.0)?)).collect()
}

fn value(all: &[Option<f64>]) -> String {
    let known: Vec<f64> = all.iter().copied().flatten().collect();
    let digits = if median(&known) < 10.0 { 2 } else { 1 };
    if known.is_empty() { "–".to_owned() } else { format!("{:.digits$}", median(&known)) }
}

/// The median, the smallest and the largest, and whether the goal is missed.
fn spread(all: &[f64], goal: Goal) -> String {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    let [first, .., last] = sorted[..] else {
        return sorted.first().map_or_else(|| "–".to_owned(), |one| mark(format!("{one:.2}"), *one, goal));
    };
    let middle = median(&sorted);
    mark(format!("{middle:.2} ({first:.2}–{last:.2})"), middle, goal)
}

fn mark(text: String, value: f64, goal: Goal) -> String {
    if goal.is_missed(value) { text + " (missed)" } else { text }
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
            date: "2026-11-22".into(),
        }
    }

    fn round(rate: f64, p99: f64, is_equal: Option<bool>) -> Round {
        let figures = [("seqwrite rate".to_owned(), rate), ("seqwrite write p99".to_owned(), p99)];
        Round { figures: figures.into(), is_equal }
    }

    fn text(rounds: &[BTreeMap<Subject, Round>]) -> String {
        let plan = Plan { seconds: 4, delay_ms: 1000 };
        let limits = round(500.0, 1.0, None);
        Page {
            rounds,
            limits: &limits,
            plan,
            hosts: 2,
            software: true,
            machine: &machine(),
            load: [0.5, 2.0],
        }
        .text()
    }

    #[test]
    fn a_quotient_is_of_one_round_and_a_missed_goal_is_told() {
        let rounds = [1.0, 2.0, 4.0].map(|of| {
            BTreeMap::from([
                (Subject::Alone, round(100.0 * of, 10.0, None)),
                (Subject::Pair, round(80.0 * of, 12.0, Some(true))),
                (Subject::QemuColo, round(20.0 * of, 99.0, Some(of < 2.0))),
            ])
        });
        let page = text(&rounds);
        for line in [
            "| | unit | colo-vm alone | colo-vm pair | colo-vm pair / colo-vm alone | QEMU COLO | colo-vm pair / QEMU COLO | no guest |",
            "depth 8 | MiB/s | 200.0 | 160.0 | 0.80 (0.80–0.80) (missed) | 40.0 | 4.00 (4.00–4.00) | 500.0 |",
            "99 % of the latencies of a write take at most | µs | 10.0 | 12.0 | 1.20 (1.20–1.20) | 99.0 | 0.12 (0.12–0.12) | 1.00 |",
            "colo-vm pair: in 3 of 3 rounds",
            "QEMU COLO: in 1 of 3 rounds",
        ] {
            assert!(page.contains(line), "{line}\nin\n{page}");
        }
    }

    #[test]
    fn a_goal_is_missed_on_its_own_side_only() {
        let marked = |value, goal| spread(&[value], goal).ends_with("(missed)");
        assert!(marked(0.89, Goal::AtLeast(0.9)) && !marked(0.9, Goal::AtLeast(0.9)));
        assert!(marked(1.21, Goal::AtMost(1.2)) && !marked(1.2, Goal::AtMost(1.2)));
        assert!(!marked(0.0, Goal::None));
        assert_eq!(spread(&[], Goal::AtLeast(1.0)), "–");
    }
}
