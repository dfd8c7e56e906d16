//! The bare engine against memcmp of the same bytes, in one run on one core.
//!
//! Frames lie in memory the way they come from a socket: one after the other in large buffers that
//! are bigger than the caches, so that both contenders read them from memory. Each round feeds
//! pairs (primary, secondary) through a fresh engine; memcmp gets the very same payload bytes.

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use clap::Parser;
use colo_proxy::engine::{
    AckFrame, Config, Discard, Divergence, Engine, Frame, Input, Nanos, Side, Sink, Trigger,
};
use colo_proxy::packet::{FlowKey, Offload};
use colo_tests::bench::machine::Machine;
use colo_tests::frames::{ACK, Ends};
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

/// Counts what leaves, and nothing else.
#[derive(Default)]
struct Count {
    released: u64,
    triggers: u64,
}

/// A frame inside a large buffer.
struct Piece(BytesMut);

impl Frame for Piece {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Sink<Piece> for Count {
    fn release(&mut self, _: Option<&FlowKey>, frame: Piece, _: u32) {
        self.released += 1;
        drop(frame);
    }
    fn inject(&mut self, _: &FlowKey, _: AckFrame) {}
    fn discard(&mut self, _: Option<&FlowKey>, _: Side, _: Piece, _: Discard) {}
    fn divergence(&mut self, _: &Divergence<'_, Piece>) {}
    fn trigger(&mut self, _: Trigger) {
        self.triggers += 1;
    }
}

struct Workload {
    name: &'static str,
    payload: usize,
    flows: u16,
    /// Pairs per round.
    pairs: usize,
    /// How many frames of one side come before those of the other.
    run: usize,
    udp: bool,
}

const WORKLOADS: &[Workload] = &[
    Workload { name: "TCP 64 B, 1 flow", payload: 64, flows: 1, pairs: 400_000, run: 32, udp: false },
    Workload { name: "TCP 64 B, 100 flows", payload: 64, flows: 100, pairs: 400_000, run: 32, udp: false },
    Workload {
        name: "TCP 64 B, 10 000 flows",
        payload: 64,
        flows: 10_000,
        pairs: 400_000,
        run: 32,
        udp: false,
    },
    Workload { name: "TCP 1448 B, 1 flow", payload: 1448, flows: 1, pairs: 60_000, run: 32, udp: false },
    Workload { name: "TCP 60 000 B, 1 flow", payload: 60_000, flows: 1, pairs: 1_500, run: 4, udp: false },
    Workload { name: "UDP 64 B, 100 flows", payload: 64, flows: 100, pairs: 400_000, run: 32, udp: true },
];

impl Workload {
    /// One side's frames, in one buffer, with their lengths.
    fn frames(&self, filler: u8) -> (Vec<u8>, Vec<usize>) {
        let (mut buffer, mut lens) = (Vec::new(), Vec::with_capacity(self.pairs));
        let mut payload = vec![0; self.payload];
        for n in 0..self.pairs {
            payload.iter_mut().zip(n..).for_each(|(byte, at)| *byte = (at * 31 / 7) as u8);
            let ends = Ends::v4().peer_port(1024 + (n % usize::from(self.flows)) as u16);
            let seq = (n / usize::from(self.flows) * self.payload) as u32;
            let mut frame =
                if self.udp { ends.udp(&payload) } else { ends.tcp(ACK, seq, 501).payload(&payload).frame() };
            frame[18] = filler; // The IP identification: what two guests do not share.
            lens.push(frame.len());
            buffer.extend(frame);
        }
        (buffer, lens)
    }
}

/// Nanoseconds per pair: the engine's, and memcmp's.
fn round(workload: &Workload, sides: &[(Vec<u8>, Vec<usize>); 2]) -> Result<(f64, f64)> {
    let cut = |(buffer, lens): &(Vec<u8>, Vec<usize>)| {
        let mut rest = BytesMut::from(Bytes::from(buffer.clone()));
        // The rest keeps the buffer alive: giving memory back to the kernel is not the engine's work.
        (lens.iter().map(|&len| Piece(rest.split_to(len))).collect::<Vec<_>>(), rest)
    };
    let [(primary, _alive), (secondary, _alive_too)] = [cut(&sides[0]), cut(&sides[1])];
    let (mut primary, mut secondary) = (primary.into_iter(), secondary.into_iter());
    let mut engine = Engine::new(Config::default());
    let mut count = Count::default();
    let epoch = engine.epoch();
    let start = Instant::now();
    for run in 0..workload.pairs.div_ceil(workload.run) {
        let at = Nanos(run as u64 * 1000);
        for (side, frames) in [(Side::Primary, &mut primary), (Side::Secondary, &mut secondary)] {
            for frame in frames.take(workload.run) {
                engine.frame(Input { side, frame, offload: Offload::default(), at, epoch }, &mut count);
            }
        }
    }
    let engine_ns = start.elapsed().as_nanos() as f64 / workload.pairs as f64;
    ensure!(count.released == workload.pairs as u64 && count.triggers == 0, "not all pairs matched");
    let [(a, lens), (b, _)] = sides;
    let (mut at, mut equal) = (0, 0_usize);
    let start = Instant::now();
    for len in lens {
        let end = at + len;
        let payload = end - workload.payload..end;
        equal += usize::from(black_box(&a[payload.clone()]) == black_box(&b[payload]));
        at = end;
    }
    let memcmp_ns = start.elapsed().as_nanos() as f64 / workload.pairs as f64;
    ensure!(equal == workload.pairs, "the payloads are equal");
    Ok((engine_ns, memcmp_ns))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The table's line for one workload.
fn measure(workload: &Workload, rounds: usize) -> Result<String> {
    let sides = [workload.frames(1), workload.frames(2)];
    let results: Vec<_> = (0..rounds).map(|_| round(workload, &sides)).collect::<Result<_>>()?;
    let (mut engine, mut memcmp): (Vec<_>, Vec<_>) = results.into_iter().unzip();
    let (engine, memcmp) = (median(&mut engine), median(&mut memcmp));
    let bytes = workload.payload as f64;
    Ok(format!(
        "| {} | {:.2} | {:.0} | {:.2} | {:.2} | {:.0} % |\n",
        workload.name,
        1000.0 / engine,
        engine,
        bytes / engine,
        bytes / memcmp,
        100.0 * memcmp / engine
    ))
}

const HEAD: &str = "\
| workload | engine, M pairs/s | engine, ns/pair | engine, GB/s | memcmp, GB/s | engine / memcmp |
|---|--:|--:|--:|--:|--:|
";

const PAGE: &str = "\
# The bare engine

The comparator's engine without sockets, on one core, against `memcmp` of the same payload bytes in the
same run: `cargo xtask bench engine`. Medians of the rounds. GB/s count one side's payload; both
contenders read both sides from memory (the buffers are larger than the caches). Frames come in runs of
32 per side (GSO: 4), as reads from a socket bring them.
";

/// Measures the bare engine against memcmp of the same bytes.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds; medians are reported
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Only workloads whose name contains this
    #[arg(long, default_value = "", hide_default_value = true)]
    only: String,
    /// Write a page with the table to this file
    #[arg(long, value_name = "FILE")]
    doc: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut table = HEAD.to_owned();
    print!("{HEAD}");
    for workload in WORKLOADS.iter().filter(|workload| workload.name.contains(&args.only)) {
        let line = measure(workload, usize::from(args.rounds))?;
        print!("{line}");
        table += &line;
    }
    if let Some(file) = args.doc {
        let machine = Machine::look();
        let page = format!(
            "{PAGE}\n{table}\nMeasured on: {}, {} CPUs, Linux {}, {}.\n",
            machine.cpu, machine.cpus, machine.kernel, machine.date
        );
        std::fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
