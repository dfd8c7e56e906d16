//! Random segments of one connection: what the programs in the kernel make of them is what the shared
//! crate says, segment by segment.
#![allow(clippy::unwrap_used, reason = "what a test needs is there, or the test fails")]

use colo_ebpf_shared::layout::{Nic, Role};
use colo_ebpf_shared::translate::{self, Flow, Outcome, tcp};
use colo_tests::kernel::segment::{Segment, sack, timestamps};
use colo_tests::kernel::{NEXT, Programs};
use colo_tests::property_cases;
use proptest::prelude::*;
use std::cell::RefCell;

const MARK: u32 = 9;
const GENERATION: u32 = 4;

/// A segment: its way, flags, numbers, whether there is a timestamps option, its numbers, NOPs before
/// it, SACK blocks.
#[derive(Clone, Debug)]
struct Step {
    out: bool,
    flags: u8,
    seq: u32,
    ack: u32,
    times: Option<(u32, u32)>,
    nops: usize,
    blocks: Vec<(u32, u32)>,
    payload: Vec<u8>,
}

impl Step {
    fn segment(&self, numbers: translate::Segment, by: u32) -> Segment {
        let mut options = vec![1; self.nops];
        if self.times.is_some() {
            options.extend(timestamps(numbers.tsval, numbers.tsecr));
        }
        if !self.blocks.is_empty() {
            let lower = |(left, right): &(u32, u32)| (left.wrapping_sub(by), right.wrapping_sub(by));
            options.extend(sack(&self.blocks.iter().map(lower).collect::<Vec<_>>()));
        }
        let segment = Segment { out: self.out, ..Segment::outwards(self.flags, numbers.seq, numbers.ack) };
        segment.options(&options).payload(&self.payload)
    }

    fn numbers(&self) -> translate::Segment {
        let (tsval, tsecr) = self.times.unwrap_or((0, 0));
        let timestamps = self.times.is_some();
        translate::Segment { seq: self.seq, ack: self.ack, flags: self.flags, timestamps, tsval, tsecr }
    }
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0..3_u32, any::<u32>(), Just(u32::MAX)]
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        4 => Just(tcp::ACK), 2 => Just(tcp::SYN | tcp::ACK), 2 => Just(tcp::SYN),
        1 => Just(tcp::RST), 1 => Just(tcp::RST | tcp::ACK), 1 => Just(0),
    ];
    let times = prop::option::of((number(), number()));
    let blocks = prop::collection::vec((any::<u32>(), any::<u32>()), 0..4);
    let payload = prop::collection::vec(any::<u8>(), 0..20);
    (any::<bool>(), flags, number(), number(), times, 0..5_usize, blocks, payload).prop_map(
        |(out, flags, seq, ack, times, nops, blocks, payload)| {
            // Forty bytes of options: four NOPs, the times, and three blocks are too many.
            let blocks = if times.is_some() && nops > 4 { Vec::new() } else { blocks };
            let room = 40 - nops - if times.is_some() { 10 } else { 0 };
            let blocks: Vec<_> = blocks.into_iter().take((room - 2) / 8).collect();
            Step { out, flags, seq, ack, times, nops, blocks, payload }
        },
    )
}

/// What the shared crate says of a segment, and by how much SACK blocks are lowered.
fn model(flow: &mut Option<Flow>, step: &Step) -> (translate::Segment, u32) {
    let old = step.numbers();
    let mut new = old;
    let Some(known) = flow else {
        if step.out && step.flags & tcp::SYN != 0 {
            *flow = Some(translate::begin(GENERATION, &old));
        }
        return (old, 0);
    };
    let outcome =
        if step.out { translate::outwards(known, &mut new) } else { translate::inwards(known, &mut new) };
    match outcome {
        Outcome::Translated if step.out => (new, 0),
        Outcome::Translated => (new, known.offset),
        Outcome::Untouched => (old, 0),
        Outcome::Another => {
            *flow = Some(translate::begin(GENERATION, &old));
            (old, 0)
        }
    }
}

#[test]
fn the_kernel_does_what_the_shared_crate_says() {
    let programs = RefCell::new(Programs::load(0, 64).unwrap());
    let nic = |generation| Nic {
        role: Role::Secondary as u32,
        generation,
        mark: MARK,
        forward: 1,
        forward_frame: 1514,
        ..Nic::default()
    };
    let ports = RefCell::new(0_u16);
    programs.borrow_mut().set_nic(nic(GENERATION)).unwrap();
    let config =
        ProptestConfig { cases: property_cases(300), failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..12), v6 in any::<bool>())| {
        let mut programs = programs.borrow_mut();
        let mut port = ports.borrow_mut();
        *port = port.wrapping_add(1);
        let mut flow = None;
        for step in &steps {
            let place = |segment: Segment| Segment { peer_port: *port, v6, ..segment };
            let before = place(step.segment(step.numbers(), 0));
            let (numbers, by) = model(&mut flow, step);
            let after = place(step.segment(numbers, by));
            let (program, mark) = if step.out { ("vif_ingress", 0) } else { ("vif_egress", MARK) };
            let ran = programs.run(program, &before.frame(), mark).unwrap();
            prop_assert!(step.out || ran.verdict == NEXT);
            prop_assert_eq!(alike(ran.frame), alike(after.frame()), "{:?}", step);
            prop_assert_eq!(programs.flow(before.key()).unwrap(), flow);
        }
    });
}

/// The checksum has two zeros; a receiver takes either.
fn alike(mut frame: Vec<u8>) -> Vec<u8> {
    let at = if frame[12] == 8 { 14 + 20 + 16 } else { 14 + 40 + 16 };
    if frame[at..at + 2] == [0xff, 0xff] {
        frame[at..at + 2].fill(0);
    }
    frame
}
