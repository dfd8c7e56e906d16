//! `colo-lab`: lab machines and guest images for people. `cargo xtask lab` installs what it needs and
//! runs it; lab machines run it as their agent.

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use colo_tests::lab::{Accel, Host, Job, Kernel, Lab, Options, Output, Stream, agent, images, store};
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
COMMAND runs as root in the machine, which sees this machine's root (what it writes there is forgotten)
and the folder /results (what it writes there is kept with --results or --keep). Its environment tells
LAB_HOST=a or b and LAB_RESULTS=/results. Interfaces: client0 10.77.0.1 (b: .2; clients outside: .254),
and with two hosts fwd0 10.77.1.x (MTU up to 9000) and repl0 10.77.2.x. The exit status is COMMAND's;
with two hosts the first that is not 0.

Examples:
  cargo xtask lab -- uname -r                          a stock Debian kernel, in about 10 s
  cargo xtask lab -- target/debug/colo-vm run …        this tree's binaries, with a true KVM
  cargo xtask lab --keep -- cp /proc/cpuinfo /results
  cargo xtask lab --hosts 2 -- bash -c 'ping -c 3 10.77.1.$([ $LAB_HOST = a ] && echo 2 || echo 1)'
  cargo xtask lab images                               build guests; prints where they are
  cargo xtask lab boot                                 the Debian guest in plain QEMU, to its login

Serial logs are in target/lab/logs/, packages and images in target/lab/.";

/// Lab machines: one or two hosts with a true KVM, on any machine.
#[derive(Parser)]
#[command(name = "cargo xtask lab", bin_name = "cargo xtask lab", after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Verb {
    /// Fetch kernels and build guest images, and say where they are
    Images {
        /// The small guests only
        #[arg(long)]
        no_disk: bool,
    },
    /// Boot the Debian guest in plain QEMU until its login
    Boot {
        /// Give up after so many seconds
        #[arg(long, default_value_t = 300, value_name = "S")]
        timeout: u64,
    },
    /// Serve a port inside a lab machine
    #[command(hide = true)]
    Agent {
        /// The virtio-serial port
        port: String,
    },
}

#[derive(Args)]
struct Run {
    /// How many machines
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
    hosts: u8,
    /// Memory of each, in MiB
    #[arg(long, default_value_t = 2048, value_name = "M", value_parser = clap::value_parser!(u32).range(512..))]
    memory: u32,
    /// Everything ends after so many seconds
    #[arg(long, default_value_t = 600, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Keep what the hosts write to /results, under target/lab/results/
    #[arg(long)]
    keep: bool,
    /// Keep it in this folder
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// What runs in each machine
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.verb {
        Some(Verb::Agent { port }) => agent::serve(port).map(|()| 0),
        Some(Verb::Images { no_disk }) => show_images(!no_disk).map(|()| 0),
        Some(Verb::Boot { timeout }) => boot(Duration::from_secs(*timeout)).map(|()| 0),
        None => run(&cli.run),
    };
    match done {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("lab: {error:#}");
            // Not one of COMMAND's own, as with `timeout` and `env`.
            ExitCode::from(125)
        }
    }
}

fn run(args: &Run) -> Result<i32> {
    let results = match (&args.results, args.keep) {
        (Some(dir), _) => Some(dir.clone()),
        (None, true) => Some(store::dir(&format!("results/{}", std::process::id()))?),
        (None, false) => None,
    };
    if let Some(dir) = &results {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let how = if Accel::probe() == Accel::Kvm { "nested KVM" } else { "TCG: slower by a factor of 10 or so" };
    eprintln!("lab: starting {} machine(s), {how}", args.hosts);
    let begin = Instant::now();
    let lifetime = Duration::from_secs(args.timeout);
    let lab = Lab::start(&Options {
        hosts: args.hosts,
        memory_mib: args.memory,
        lifetime,
        results: results.as_deref().map(std::path::Path::canonicalize).transpose()?,
        name: format!("lab-{}", std::process::id()),
        talk: true,
        ..Options::default()
    })?;
    // The machines have a deadline of their own; the command's comes a little earlier and says more.
    let left = lifetime.saturating_sub(begin.elapsed()).saturating_sub(Duration::from_secs(2));
    let both = args.hosts > 1;
    let outputs: Vec<Result<Output>> = thread::scope(|scope| {
        let one = |host: &'_ Host| {
            let mut print = Printer::new(both.then(|| host.name()));
            let dir = std::env::current_dir().unwrap_or_default().display().to_string();
            let job = Job::new(args.command.clone()).timeout(left).dir(&dir);
            host.run(job.live(move |stream, bytes| print.print(stream, bytes)))
        };
        let runs: Vec<_> = lab.hosts().iter().map(|host| scope.spawn(move || one(host))).collect();
        runs.into_iter().map(|run| run.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a bug")))).collect()
    });
    if let Some(dir) = &results {
        eprintln!("lab: /results of each host is in {}", dir.display());
    }
    eprintln!("lab: ended after {:.1} s", begin.elapsed().as_secs_f64());
    let statuses = outputs.into_iter().map(|output| Ok(output?.status)).collect::<Result<Vec<i32>>>()?;
    Ok(statuses.into_iter().find(|status| *status != 0).unwrap_or(0))
}

/// Prints what comes; with two hosts in whole lines, each with its host's name.
struct Printer {
    host: Option<char>,
    partial: [Vec<u8>; 2],
}

impl Printer {
    fn new(host: Option<char>) -> Self {
        Self { host, partial: [Vec::new(), Vec::new()] }
    }

    fn print(&mut self, stream: Stream, bytes: &[u8]) {
        let mut text = bytes.to_vec();
        if let Some(host) = self.host {
            let partial = &mut self.partial[usize::from(stream == Stream::Stderr)];
            partial.extend(bytes);
            let whole = partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            let lines: Vec<u8> = partial.drain(..whole).collect();
            text = lines
                .split_inclusive(|byte| *byte == b'\n')
                .flat_map(|line| [format!("{host}| ").as_bytes(), line].concat())
                .collect();
        }
        // Nobody may be reading; the command goes on.
        let _ = match stream {
            Stream::Stdout => io::stdout().write_all(&text).and_then(|()| io::stdout().flush()),
            Stream::Stderr => io::stderr().write_all(&text),
        };
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.partial[usize::from(stream == Stream::Stderr)].is_empty() {
                self.print(stream, b"\n");
            }
        }
    }
}

fn show_images(with_disk: bool) -> Result<()> {
    for kind in [Kernel::Generic, Kernel::Cloud] {
        let begin = Instant::now();
        let kernel = store::kernel(kind)?;
        println!("{} kernel\t{}", kind.name(), kernel.image.display());
        println!("{} busybox initramfs\t{}", kind.name(), images::busybox(kind)?.display());
        eprintln!("lab: {} in {:.1} s", kind.name(), begin.elapsed().as_secs_f64());
    }
    if with_disk {
        let begin = Instant::now();
        eprintln!("lab: the Debian guest; building it takes a few minutes…");
        let disk = images::disk()?;
        for (what, path) in [
            ("raw disk", &disk.raw),
            ("qcow2 disk", &disk.qcow2),
            ("kernel", &disk.kernel),
            ("initrd", &disk.initrd),
        ] {
            println!("debian {what}\t{}", path.display());
        }
        eprintln!("lab: debian in {:.1} s", begin.elapsed().as_secs_f64());
    }
    Ok(())
}

fn boot(patience: Duration) -> Result<()> {
    ensure!(patience > Duration::ZERO, "a boot needs some time");
    let disk = images::disk()?;
    let took = images::boot_to_login(&disk, patience, |line| println!("{line}"))?;
    eprintln!("lab: at the login after {:.1} s", took.as_secs_f64());
    Ok(())
}
