//! Measures comparers side by side: QEMU's, ours and a bare relay, with the same feeder and frames.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use colo_tests::bench::contender::{Contender, Setting};
use colo_tests::bench::machine::{Machine, qemu_version};
use colo_tests::bench::plan::{self, Plan};
use colo_tests::bench::workload::{self, Workload};
use colo_tests::bench::{relay, report};

/// Measures comparers side by side, each on a CPU of its own, and prints a table.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Hidden>,
    #[command(flatten)]
    compare: Compare,
}

#[derive(Subcommand)]
enum Hidden {
    #[command(hide = true)]
    Relay(RelayArgs),
}

#[derive(Args)]
struct Compare {
    /// How often everything is measured; medians are reported.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each throughput run.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Round trips of each latency run.
    #[arg(long, default_value_t = 20_000)]
    trips: u64,
    /// Only these workloads.
    #[arg(long, value_delimiter = ',', value_parser = parse_workload)]
    only: Vec<&'static Workload>,
    /// Only these contenders: qemu, colo-proxy, relay-framed, relay.
    #[arg(long, value_delimiter = ',', value_parser = parse_contender)]
    contenders: Vec<Contender>,
    /// Windows, in pairs, instead of each workload's own.
    #[arg(long, value_delimiter = ',')]
    windows: Option<Vec<usize>>,
    /// Write every figure to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write a page with the machine's facts, the method and the tables to this file.
    #[arg(long)]
    doc: Option<PathBuf>,
    /// Our binary; the one beside this if not given.
    #[arg(long)]
    colo_proxy: Option<PathBuf>,
    /// More options for `colo-proxy compare`, separated by blanks.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    colo_proxy_args: String,
    /// More options for the relay, separated by blanks.
    #[arg(long, default_value = "", allow_hyphen_values = true, hide = true)]
    relay_args: String,
    /// The CPU of the comparers.
    #[arg(long, default_value_t = 0)]
    comparer_cpu: usize,
    /// The CPU of the feeder.
    #[arg(long, default_value_t = 1)]
    feeder_cpu: usize,
    /// The nice value of feeder and comparers; below 0 (root only) favours them over others of their session.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-20..20))]
    nice: i32,
    /// The comparers' limit of queued frames per flow and side.
    #[arg(long, default_value_t = 1024)]
    max_queue_size: usize,
    /// How long, in µs, the feeder of a throughput run looks again before it sleeps.
    #[arg(long, default_value_t = 50)]
    feeder_spin: u64,
    /// `SO_SNDBUF` of the feeder's inputs; the system's default if not given.
    #[arg(long)]
    feeder_send_buffer: Option<usize>,
}

#[derive(Args)]
struct RelayArgs {
    primary: PathBuf,
    secondary: PathBuf,
    out: PathBuf,
    notify: PathBuf,
    #[arg(long)]
    framed: bool,
    #[arg(long)]
    vnet_hdr_support: bool,
    #[arg(long, default_value_t = 256 << 10)]
    read_size: usize,
    #[arg(long, default_value_t = 1 << 20)]
    write_size: usize,
    #[arg(long)]
    send_buffer: Option<usize>,
    #[arg(long, default_value_t = 50)]
    spin_us: u64,
}

fn parse_workload(name: &str) -> Result<&'static Workload, String> {
    workload::by_name(name).ok_or_else(|| {
        let names: Vec<_> = workload::ALL.iter().map(|workload| workload.name).collect();
        format!("one of {}", names.join(", "))
    })
}

fn parse_contender(name: &str) -> Result<Contender, String> {
    Contender::by_name(name).ok_or_else(|| {
        let names = Contender::ALL.map(Contender::name);
        format!("one of {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Hidden::Relay(args)) => relay(args).map(|()| ExitCode::SUCCESS),
        None => compare(cli.compare),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bench-compare: {error:#}");
        ExitCode::FAILURE
    })
}

fn relay(args: RelayArgs) -> Result<()> {
    relay::run(&relay::Options {
        paths: [args.primary, args.secondary, args.out, args.notify],
        framed: args.framed,
        vnet: args.vnet_hdr_support,
        read_size: args.read_size,
        write_size: args.write_size,
        send_buffer: args.send_buffer,
        spin: Duration::from_micros(args.spin_us),
    })
}

fn compare(args: Compare) -> Result<ExitCode> {
    let own = std::env::current_exe().context("where this binary is")?;
    let setting = Setting {
        colo_proxy: args.colo_proxy.unwrap_or_else(|| own.with_file_name("colo-proxy")),
        colo_proxy_args: words(&args.colo_proxy_args),
        relay: own,
        relay_args: words(&args.relay_args),
        comparer_cpu: args.comparer_cpu,
        feeder_cpu: args.feeder_cpu,
        nice: args.nice,
        max_queue: args.max_queue_size,
    };
    let plan = Plan {
        workloads: if args.only.is_empty() { workload::ALL.iter().collect() } else { args.only },
        contenders: if args.contenders.is_empty() { Contender::ALL.to_vec() } else { args.contenders },
        rounds: args.rounds as usize,
        duration: Duration::try_from_secs_f64(args.seconds).context("--seconds")?,
        trips: args.trips,
        windows: args.windows,
        spin: Duration::from_micros(args.feeder_spin),
        send_buffer: args.feeder_send_buffer,
    };
    if plan.contenders.contains(&Contender::Qemu) && qemu_version().is_none() {
        eprintln!("bench-compare: no qemu-system-x86_64; install the Debian package qemu-system-x86,");
        eprintln!("or leave it out with --contenders colo-proxy,relay-framed,relay");
        return Ok(ExitCode::from(2));
    }
    if plan.contenders.contains(&Contender::ColoProxy) && !setting.colo_proxy.exists() {
        eprintln!("bench-compare: no {}; build it first:", setting.colo_proxy.display());
        eprintln!("cargo build --release -p colo-proxy");
        return Ok(ExitCode::from(2));
    }
    let cells = plan::run(&plan, &setting, |text| eprintln!("{text}"))?;
    let rows = report::Rows::of(&cells);
    let machine = Machine::look();
    print!("{}", rows.tables());
    if let Some(path) = args.json {
        let text = format!("{:#}\n", rows.json(&machine, &plan, &setting));
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = args.doc {
        let text = rows.page(&machine, &plan, &setting);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
