//! How long the programs in the kernel take for a frame, by `BPF_PROG_TEST_RUN`.
//!
//! A run changes the frame, and the next run sees the changed one, so translation goes on from there:
//! its cost does not depend on the numbers.

use anyhow::Result;
use colo_ebpf_shared::layout::{Nic, Role};
use colo_ebpf_shared::translate::{Flow, flags};
use colo_tests::frames::{ACK, Ends};
use colo_tests::kernel::Programs;
use colo_tests::kernel::segment::{Extension, Segment, sack};

const RUNS: u32 = 200_000;
const ROUNDS: usize = 9;

fn main() -> Result<()> {
    let mut programs = Programs::load(3, 1024)?;
    let nic =
        Nic { role: Role::Promoted as u32, generation: 7, mark: 9, forward_frame: 1514, ..Nic::default() };
    programs.set_nic(nic)?;
    let out = || Segment::outwards(ACK, 1000, 2000).payload(&[0; 1400]);
    let inwards = || Segment::inwards(ACK, 2000, 900_000).payload(&[0; 100]);
    let blocks = [(5000, 6000), (7000, 8000), (9000, 9500)];
    let with_sack =
        |count: usize| inwards().timestamps(5, 6).options(&[1, 1]).options(&sack(&blocks[..count]));
    let tags = [(0x8100, 5), (0x8100, 6)];
    let mut rows = vec![
        ("out, not TCP", "vif_ingress", Ends::v4().udp(&[0; 1400]), None),
        ("in, not TCP", "vif_egress", Ends::v4().udp(&[0; 1400]), None),
        (
            "out, TCP, no flow",
            "vif_ingress",
            Segment { peer_port: 9, ..out().timestamps(1, 2) }.frame(),
            None,
        ),
    ];
    let flows = [
        ("out, TCP, bare", "vif_ingress", out()),
        ("out, TCP, timestamps", "vif_ingress", out().timestamps(1, 2)),
        ("out, IPv6, timestamps", "vif_ingress", out().v6().timestamps(1, 2)),
        ("out, two VLANs, timestamps", "vif_ingress", out().tags(&tags).timestamps(1, 2)),
        ("in, TCP, timestamps", "vif_egress", inwards().timestamps(1, 2)),
        ("in, TCP, 1 SACK block", "vif_egress", with_sack(1)),
        ("in, TCP, 3 SACK blocks", "vif_egress", with_sack(3)),
        ("in, IPv6, 2 extensions", "vif_egress", {
            inwards().v6().extensions(&[Extension::HopByHop, Extension::Destination(2)]).timestamps(1, 2)
        }),
    ];
    for (what, program, segment) in flows {
        rows.push((what, program, segment.frame(), Some(segment.key())));
    }
    for (what, program, frame, key) in rows {
        if let Some(key) = key {
            let known = flags::LEARNED | flags::TIMESTAMPS | flags::TS_LEARNED;
            let flow =
                Flow { generation: 7, flags: known, isn: 1, offset: 77, ts_offset: 5, ..Flow::default() };
            programs.set_flow(key, flow)?;
        }
        let mut best = u128::MAX;
        for _ in 0..ROUNDS {
            best = best.min(programs.time(program, &frame, 0, RUNS)?.as_nanos());
        }
        println!("{what:<28} {best:>5} ns");
    }
    Ok(())
}
