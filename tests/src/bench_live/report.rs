//! Medians, ratios and a page.

use super::contender::Contender;
use super::load::{Load, Measured};
use super::secondary::Paths;
use crate::bench::machine::Machine;
use crate::bench::stats::median;
use std::fmt::Write as _;

/// All rounds of all loads and contenders.
#[derive(Debug, Default)]
pub struct Results(Vec<(Load, Contender, Measured)>);

impl Results {
    /// Adds one.
    pub fn push(&mut self, load: Load, contender: Contender, measured: Measured) {
        self.0.push((load, contender, measured));
    }

    fn median_of(&self, load: Load, contender: Contender, what: impl Fn(&Measured) -> Option<f64>) -> f64 {
        let values: Vec<f64> = self
            .0
            .iter()
            .filter(|(one, other, _)| (*one, *other) == (load, contender))
            .filter_map(|(.., measured)| what(measured))
            .collect();
        median(&values)
    }

    fn value(&self, load: Load, contender: Contender) -> f64 {
        self.median_of(load, contender, |measured| Some(measured.value))
    }

    /// The page.
    pub fn page(&self, paths: &[Paths], rounds: usize, seconds: f64, machine: &Machine) -> String {
        let mut page = String::from(HEAD);
        let _ = writeln!(
            page,
            "One run on {}: {} CPUs ({}{}), Linux {}. {rounds} rounds by turns, {seconds} s for each load; \
             medians.\n",
            machine.date,
            machine.cpus,
            machine.cpu,
            if machine.guest { ", itself a virtual machine" } else { "" },
            machine.kernel
        );
        let names = Contender::ALL.map(Contender::name).join(" | ");
        let _ = writeln!(page, "| load | unit | {names} | protected / mirrored | protected / passed |");
        let _ = writeln!(page, "|---|---|---|---|---|---|---|---|");
        for load in Load::ALL {
            self.row(&mut page, load);
        }
        self.latency(&mut page);
        self.cpu(&mut page);
        let _ = write!(page, "\n{}", secondary_line(paths));
        page
    }

    fn row(&self, page: &mut String, load: Load) {
        let values = Contender::ALL.map(|contender| show(self.value(load, contender))).join(" | ");
        let ratio = |other| {
            let (ours, theirs) = (self.value(load, Contender::Protected), self.value(load, other));
            if load.is_latency() {
                format!("+{:.1} µs", ours - theirs)
            } else {
                format!("{:.0} %", 100.0 * ours / theirs)
            }
        };
        let (mirrored, passed) = (ratio(Contender::Mirrored), ratio(Contender::Passed));
        let _ = writeln!(page, "| {} | {} | {values} | {mirrored} | {passed} |", load.name(), load.unit());
    }

    fn latency(&self, page: &mut String) {
        let p99 = Contender::ALL
            .map(|contender| show(self.median_of(Load::RoundTrip, contender, |measured| measured.p99)));
        let _ = writeln!(page, "| round trip, 99th percentile | µs | {} | | |", p99.join(" | "));
    }

    fn cpu(&self, page: &mut String) {
        for load in [Load::Down(1), Load::Up(1)] {
            let cpu = Contender::ALL
                .map(|contender| show(self.median_of(load, contender, |measured| measured.cpu)));
            let _ = writeln!(page, "| {}, CPU | s/GB | {} | | |", load.name(), cpu.join(" | "));
        }
    }
}

/// What is said of the secondary's path.
pub fn secondary_line(paths: &[Paths]) -> String {
    let all = |of: fn(&Paths) -> f64| median(&paths.iter().map(of).collect::<Vec<_>>());
    let (translated, plain) = (all(|paths| paths.translated), all(|paths| paths.plain));
    let ratio = 100.0 * all(|paths| paths.ratio);
    format!(
        "The secondary's path in the kernel, segments of 130 bytes from one thread in the guest: {} a second \
         translated (sequence number, timestamp, checksum), {} a second of the same tagged and redirected and \
         nothing else: {ratio:.0} %.\n",
        show(translated),
        show(plain)
    )
}

fn show(value: f64) -> String {
    match value {
        value if value >= 1000.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

const HEAD: &str = "\
# The live path

What it costs to protect a guest, measured on veth pairs between network namespaces with
`cargo xtask bench live`: client, switch, two hosts, two guests and the comparator, all on the same
CPUs. Both guests run the same server; the client talks to one address.

* **plain bridge**: no protection, the machine's limit.
* **mirrored**: the input is copied to the second guest, which runs along with its numbers translated;
  the first guest's output passes in the kernel and nothing is compared.
* **passed**: the output goes through the comparator process, where a rule lets it pass.
* **protected**: the output is held until both guests have sent the same.

Where nothing is compared nothing waits for the second guest: on CPUs that all share it falls behind,
its connections stall, and its work is not done. So *mirrored* and *passed* are upper bounds, and
*protected* is the only one of the three in which both guests have sent every byte.

";
