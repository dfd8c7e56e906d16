//! Frames whose headers are not, or not all, in the linear part of the kernel's buffer, as a VMM hands
//! over large ones without saying how long their headers are; and frames whose checksum is partial.
//!
//! ```text
//!   tap ─ vif_ingress ─► bridge ─► veth ─ vif_egress ─► its other end
//!   a vnet header says how many bytes are linear          what came of the frame
//! ```
#![allow(clippy::unwrap_used, reason = "what a test needs is there, or the test fails")]

use aya::programs::TcAttachType;
use colo_ebpf_shared::layout::{Counter, Nic, Role};
use colo_ebpf_shared::translate::{Flow, flags};
use colo_proxy::link::{Tap, VNET_HDR};
use colo_tests::frames::{ACK, GUEST_MAC, PEER_MAC, PSH};
use colo_tests::kernel::Programs;
use colo_tests::kernel::segment::{Extension, Segment, sack, timestamps};
use colo_tests::netns::{PacketSocket, Space, until};

const GENERATION: u32 = 3;
const OFFSET: u32 = 0xfff0_1234;
const TS_OFFSET: u32 = 99_999;

/// More than a page: with less a tap makes everything linear.
const PAYLOAD: usize = 5001;

/// How often it is looked for a frame before it is waited for.
const LOOKS: u32 = 1000;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;

struct Wire {
    space: Space,
    tap: Tap,
    end: PacketSocket,
    programs: Programs,
}

impl Wire {
    fn new() -> Self {
        let space = Space::alone().unwrap();
        let tap = space.enter(|| Tap::make("vif%d")).unwrap();
        for line in [
            "ip link add br0 mtu 9000 type bridge",
            "ip link add out mtu 9000 type veth peer name end mtu 9000",
            &format!("ip link set dev {} mtu 9000 master br0 up", tap.name()),
            // Frames of both ends come in at the tap.
            &format!("bridge link set dev {} learning off", tap.name()),
            "ip link set dev out master br0 up",
            "ip link set dev end up",
            "ip link set dev br0 up",
        ] {
            space.run(line).unwrap();
        }
        let mut programs = Programs::load(0, 1024).unwrap();
        let nic = Nic { role: Role::Promoted as u32, generation: GENERATION, mark: 7, ..Nic::default() };
        programs.set_nic(nic).unwrap();
        for (name, device, way) in
            [("vif_ingress", tap.name(), TcAttachType::Ingress), ("vif_egress", "out", TcAttachType::Egress)]
        {
            let program = programs.program(name).unwrap();
            space.enter(|| program.attach(device, way)).unwrap();
        }
        let end = PacketSocket::listener(&space, "end").unwrap();
        Self { space, tap, end, programs }
    }

    /// Sends a frame of which so many bytes are linear, and returns what came of it.
    fn send(&mut self, frame: &[u8], linear: usize, checksum: Option<usize>) -> Vec<u8> {
        let mut vnet = [0; VNET_HDR];
        vnet[2..4].copy_from_slice(&(linear as u16).to_le_bytes());
        if let Some(tcp) = checksum {
            vnet[0] = NEEDS_CHECKSUM;
            vnet[6..8].copy_from_slice(&(tcp as u16).to_le_bytes());
            vnet[8..10].copy_from_slice(&16_u16.to_le_bytes());
        }
        self.tap.write(&[&vnet, frame].concat()).unwrap();
        let Self { space, end, .. } = self;
        until("the frame arrives", || {
            // The bridge has things to say as well.
            let of_ours = |source| [GUEST_MAC, PEER_MAC].contains(&source);
            for _ in 0..LOOKS {
                if let Some(frame) = end.receive(9000)?
                    && !frame.outgoing
                    && frame.source().is_some_and(of_ours)
                {
                    return Ok(Some(frame.bytes));
                }
                std::thread::yield_now();
            }
            Ok(None)
        })
        .unwrap_or_else(|error| panic!("{} with {linear} bytes: {error}", space.name()))
    }

    fn know(&mut self, segment: &Segment) {
        let known = flags::LEARNED | flags::ANSWERED | flags::TIMESTAMPS | flags::TS_LEARNED;
        let flow = Flow { generation: GENERATION, flags: known, isn: 1, offset: OFFSET, ..Flow::default() };
        self.programs.set_flow(segment.key(), Flow { ts_offset: TS_OFFSET, ..flow }).unwrap();
    }
}

/// Stacks of headers of all lengths.
fn stacks(segment: &Segment) -> Vec<Segment> {
    let (v4, v6) = (|| segment.clone(), || segment.clone().v6());
    vec![
        v4(),
        Segment { ip_options: vec![1; 40], ..v4() },
        v4().tags(&[(0x8100, 5)]),
        v6(),
        v6().tags(&[(0x88a8, 5), (0x8100, 6)]),
        v6().extensions(&[Extension::HopByHop, Extension::Destination(3)]),
    ]
}

/// Options with these times: aligned, with SACK blocks behind them, and where nobody has them.
fn options(tsval: u32, tsecr: u32) -> [Vec<u8>; 3] {
    let blocks = [(5000, 6000), (7000, 8000)];
    let ts = || timestamps(tsval, tsecr);
    [[vec![1, 1], ts()].concat(), [vec![1, 1], ts(), vec![1, 1], sack(&blocks)].concat(), {
        [vec![1], ts(), vec![4, 2]].concat()
    }]
}

#[test]
fn headers_that_are_not_linear_are_translated_as_all_others() {
    let mut wire = Wire::new();
    let payload: Vec<u8> = (0..PAYLOAD).map(|place| (place * 7) as u8).collect();
    let far = 0x8000_0000;
    let out = |seq: u32, options: &[u8]| Segment::outwards(ACK | PSH, seq, 0x0a0b_0c0d).options(options);
    let inwards = |ack: u32, options: &[u8]| Segment::inwards(ACK, 0x0a0b_0c0d, ack).options(options);
    let mut pairs = Vec::new();
    for (before, after) in options(700, 9).iter().zip(&options(700 + TS_OFFSET, 9)) {
        pairs.push((out(100, before), out(100_u32.wrapping_add(OFFSET), after)));
    }
    // What is subtracted is the offset modulo 2³², and the blocks' numbers with it.
    let lower = |at: usize| {
        let mut list = options(3, far - TS_OFFSET)[at].clone();
        if at == 1 {
            for edge in list[16..32].chunks_exact_mut(4) {
                let number = u32::from_be_bytes(edge.try_into().unwrap()).wrapping_sub(OFFSET);
                edge.copy_from_slice(&number.to_be_bytes());
            }
        }
        list
    };
    for (at, before) in options(3, far).iter().enumerate() {
        pairs.push((inwards(100, before), inwards(100_u32.wrapping_sub(OFFSET), &lower(at))));
    }
    let mut sent = 0;
    for (before, after) in &pairs {
        for (before, after) in stacks(before).into_iter().zip(stacks(after)) {
            wire.know(&before);
            let headers = before.frame().len();
            let (before, after) = (before.payload(&payload).frame(), after.payload(&payload).frame());
            for linear in (14..headers + 4).step_by(3) {
                let got = wire.send(&before, linear, None);
                assert!(got == after, "{linear} of {headers} bytes: {:02x?}", &got[..headers]);
                sent += 1;
            }
        }
    }
    assert_eq!(wire.programs.count(Counter::Translated).unwrap(), sent);
    assert_eq!(wire.programs.count(Counter::Untranslatable).unwrap(), 0);
}

#[test]
fn a_partial_checksum_stays_what_it_is() {
    let mut wire = Wire::new();
    for payload in [[7; 100].as_slice(), &[7; PAYLOAD]] {
        for (tcp, v6) in [(34, false), (54, true)] {
            let of = |seq, tsval| Segment { v6, ..Segment::outwards(ACK, seq, 9) }.timestamps(tsval, 5);
            let (before, after) = (of(100, 1), of(100_u32.wrapping_add(OFFSET), 1 + TS_OFFSET));
            wire.know(&before);
            let [mut before, mut after] = [before, after].map(|segment| segment.payload(payload).frame());
            // The sum of the pseudo-header, which has no number of the segment's in it; that it is
            // not the right one does not matter where nobody finishes it.
            for frame in [&mut before, &mut after] {
                frame[tcp + 16..tcp + 18].copy_from_slice(&[0x12, 0x34]);
            }
            let got = wire.send(&before, tcp + 32, Some(tcp));
            assert!(got == after, "{:02x?}", &got[..tcp + 32]);
        }
    }
}
