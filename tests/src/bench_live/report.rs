//! Medians, ratios and a page.

use super::contender::Contender;
use super::load::{Load, Measured};
use super::secondary::Paths;
use crate::bench::machine::Machine;
use crate::bench::stats::median;
use std::fmt::Write as _;

/// One load on one way.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// What the client did.
    pub load: Load,
    /// The way.
    pub contender: Contender,
    /// What came of it; nothing if it stood still for too long.
    pub measured: Option<Measured>,
    /// Checkpoints asked for meanwhile.
    pub checkpoints: u64,
}

/// All rounds of all loads and contenders.
#[derive(Debug, Default)]
pub struct Results(Vec<Round>);

impl Results {
    /// Adds one.
    pub fn push(&mut self, round: Round) {
        self.0.push(round);
    }

    fn rounds(&self, load: Load, contender: Contender) -> impl Iterator<Item = &Round> {
        self.0.iter().filter(move |round| (round.load, round.contender) == (load, contender))
    }

    /// Not a number if there is none.
    fn median_of(&self, load: Load, contender: Contender, what: impl Fn(&Measured) -> Option<f64>) -> f64 {
        let measured = self.rounds(load, contender).filter_map(|round| round.measured.as_ref());
        let values: Vec<f64> = measured.filter_map(what).collect();
        if values.is_empty() { f64::NAN } else { median(&values) }
    }

    fn value(&self, load: Load, contender: Contender) -> f64 {
        self.median_of(load, contender, |measured| Some(measured.value))
    }

    /// The page.
    pub fn page(&self, paths: &[Paths], rounds: usize, seconds: f64, machine: &Machine) -> String {
        let mut page = String::from(HEAD);
        let _ = writeln!(
            page,
            "One run on {}: {} CPUs ({}{}), Linux {}, {}. {rounds} rounds by turns, {seconds} s for each load; \
             medians.\n",
            machine.date,
            machine.cpus,
            machine.cpu,
            if machine.guest { ", itself a virtual machine" } else { "" },
            machine.kernel,
            machine.qemu.as_deref().unwrap_or("no QEMU")
        );
        let names = Contender::ALL.map(Contender::name).join(" | ");
        let _ = writeln!(
            page,
            "| load | unit | {names} | protected / mirrored | protected / passed | plain / QEMU |"
        );
        let _ = writeln!(page, "|---|---|---|---|---|---|---|---|---|---|---|");
        for load in Load::ALL {
            self.row(&mut page, load);
        }
        self.latency(&mut page);
        self.cpu(&mut page);
        self.checkpoints(&mut page);
        let _ = write!(page, "\n{}", secondary_line(paths));
        page
    }

    fn row(&self, page: &mut String, load: Load) {
        let values = Contender::ALL.map(|contender| show(self.value(load, contender))).join(" | ");
        let ratio = |ours, theirs| {
            let (ours, theirs) = (self.value(load, ours), self.value(load, theirs));
            match (ours / theirs).is_finite() {
                false => "–".into(),
                true if load.is_latency() => format!("{:+.1} µs", ours - theirs),
                true if ours >= 2.0 * theirs => format!("{:.1} times", ours / theirs),
                true => format!("{:.0} %", 100.0 * ours / theirs),
            }
        };
        let ratios = [
            ratio(Contender::Protected, Contender::Mirrored),
            ratio(Contender::Protected, Contender::Passed),
            ratio(Contender::Plain, Contender::Qemu),
        ];
        let _ = writeln!(page, "| {} | {} | {values} | {} |", load.name(), load.unit(), ratios.join(" | "));
    }

    fn latency(&self, page: &mut String) {
        let p99 = Contender::ALL
            .map(|contender| show(self.median_of(Load::RoundTrip, contender, |measured| measured.p99)));
        let _ = writeln!(page, "| round trip, 99th percentile | µs | {} | | | |", p99.join(" | "));
    }

    fn cpu(&self, page: &mut String) {
        for load in [Load::Down(1), Load::Up(1)] {
            let cpu = Contender::ALL
                .map(|contender| show(self.median_of(load, contender, |measured| measured.cpu)));
            let _ = writeln!(page, "| {}, CPU | s/GB | {} | | | |", load.name(), cpu.join(" | "));
        }
    }

    /// What was let go by checkpoints and not by comparison, and what came to nothing.
    fn checkpoints(&self, page: &mut String) {
        let held = [Contender::Protected, Contender::Plain, Contender::Qemu];
        let names = held.map(Contender::name).join(" | ");
        let _ = writeln!(page, "\nCheckpoints that were asked for while a load ran, in all rounds:\n");
        let _ = writeln!(page, "| load | {names} |\n|---|---|---|---|");
        for load in Load::ALL {
            let cells = held.map(|contender| {
                let asked: u64 = self.rounds(load, contender).map(|round| round.checkpoints).sum();
                let rounds = self.rounds(load, contender).count();
                let failed = self.rounds(load, contender).filter(|round| round.measured.is_none()).count();
                let stood = format!(" ({failed} of {rounds} rounds stood still)");
                format!("{asked}{}", if failed > 0 { &stood } else { "" })
            });
            let _ = writeln!(page, "| {} | {} |", load.name(), cells.join(" | "));
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
        value if value.is_nan() => "–".into(),
        value if value >= 1000.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 0.1 => format!("{value:.2}"),
        value => format!("{value:.4}"),
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
* **protected, plain frames**: the same, with segmentation and checksum offload off on every cable.
* **QEMU**: QEMU's `filter-mirror`, `filter-redirector`, `filter-rewriter` and `colo-compare`, in one
  QEMU without a virtual machine on each host; each guest's NIC is a tap with QEMU at its other end.

Where nothing is compared nothing waits for the second guest: on CPUs that all share it falls behind,
its connections stall, and its work is not done. So *mirrored* and *passed* are upper bounds, and
*protected* is the only one of the three in which both guests have sent every byte.

QEMU's hub, which joins two taps where there is no virtual NIC, carries no vnet header: QEMU gets no
super-frames here, as it would from virtio-net with `vnet_hdr_support`. So its column stands beside
*plain frames*, where ours gets none either. In its favour, guests send no TCP timestamps in QEMU's
column (its rewriter leaves them as they are, and Linux refuses a handshake that echoes a foreign one),
and a checkpoint takes no time there either, as nothing is copied and the toolstack says at once that it
is done. With data towards the guest it waits for acknowledgements: it pairs those of one guest with
those of the other one by one, and two kernels do not send equally many.

";
