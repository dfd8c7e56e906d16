//! What the programs in the kernel do to a secondary's frames, byte for byte: run by the kernel itself
//! on frames of ours.
#![allow(clippy::unwrap_used, reason = "what a test needs is there, or the test fails")]

use colo_ebpf_shared::layout::{Counter, Nic, Role};
use colo_ebpf_shared::translate::{Flow, flags};
use colo_tests::frames::{ACK, PSH, RST, SYN};
use colo_tests::kernel::segment::{Extension, Segment, sack, timestamps};
use colo_tests::kernel::{DROP, NEXT, Programs, REDIRECT};

const INDEX: u32 = 42;
const MARK: u32 = 0xc010;
const GENERATION: u32 = 7;
const OFFSET: u32 = 0xfff0_1234;
const TS_OFFSET: u32 = 99_999;

const IN: &str = "vif_egress";
const OUT: &str = "vif_ingress";

fn nic(role: Role) -> Nic {
    Nic {
        role: role as u32,
        epoch: 5,
        oldest: 5,
        generation: GENERATION,
        mark: MARK,
        vif: 1,
        forward: 1,
        capture: 1,
        forward_frame: 1514,
        flags: 0,
        stale_since: 0,
        reserved: 0,
    }
}

fn programs(role: Role) -> Programs {
    let mut programs = Programs::load(INDEX, 128).unwrap();
    programs.set_nic(nic(role)).unwrap();
    programs
}

/// A connection whose offsets are known.
fn known() -> Flow {
    Flow {
        generation: GENERATION,
        flags: flags::LEARNED | flags::ANSWERED | flags::TIMESTAMPS | flags::TS_LEARNED,
        isn: 1,
        offset: OFFSET,
        ts_offset: TS_OFFSET,
        ..Flow::default()
    }
}

/// Every stack of headers that a segment may come in.
fn stacks(segment: &Segment) -> Vec<(&'static str, Segment)> {
    use Extension::{Destination, Fragment, HopByHop, Routing};
    let v4 = || segment.clone();
    let v6 = || segment.clone().v6();
    vec![
        ("IPv4", v4()),
        ("IPv4 with options", Segment { ip_options: vec![1; 8], ..v4() }),
        ("IPv4 in a VLAN", v4().tags(&[(0x8100, 0x2005)])),
        ("IPv4 in QinQ", v4().tags(&[(0x88a8, 5), (0x8100, 6)])),
        ("IPv6", v6()),
        ("IPv6 in a VLAN", v6().tags(&[(0x8100, 4094)])),
        ("IPv6 in QinQ", v6().tags(&[(0x88a8, 5), (0x8100, 6)])),
        ("IPv6, hop-by-hop", v6().extensions(&[HopByHop])),
        ("IPv6, six extensions", {
            v6().extensions(&[HopByHop, Destination(3), Routing, Fragment(0), Destination(1), Destination(2)])
        }),
    ]
}

/// Options of all sorts, with the place of what is translated, and with what it becomes inwards.
fn option_lists(tsval: u32, tsecr: u32, by: u32) -> Vec<(&'static str, Vec<u8>)> {
    let ts = || timestamps(tsval, tsecr);
    let blocks: Vec<(u32, u32)> =
        (1..=4).map(|n| (n * 1000 - by, (n * 1000 + 500).wrapping_sub(by))).collect();
    let sack = |count: usize| sack(&blocks[..count]);
    vec![
        ("none", vec![]),
        ("aligned", [vec![1, 1], ts()].concat()),
        ("bare", ts()),
        ("at an odd place", [vec![1], ts()].concat()),
        ("behind others", [vec![2, 4, 5, 0xb4, 4, 2], ts(), vec![3, 3, 7]].concat()),
        ("aligned, 1 block", [vec![1, 1], ts(), vec![1, 1], sack(1)].concat()),
        ("aligned, 3 blocks", [vec![1, 1], ts(), vec![1, 1], sack(3)].concat()),
        ("4 blocks", [vec![1, 1], sack(4)].concat()),
        ("2 blocks at an odd place", [vec![1, 1, 1], sack(2)].concat()),
        ("1 block, then the time", [sack(1), ts()].concat()),
        ("behind the end of the list", vec![0, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("longer than the header", vec![8, 10, 1, 2, 3, 4, 5, 44]),
        ("of no length", vec![5, 0, 0, 0, 0, 0, 0, 0]),
    ]
}

fn check(programs: &mut Programs, program: &str, what: &str, before: &Segment, after: &Segment) {
    programs.set_flow(before.key(), known()).unwrap();
    let translated = programs.count(Counter::Translated).unwrap();
    let ran = programs.run(program, &before.frame(), 0).unwrap();
    assert_eq!(ran.verdict, NEXT, "{what}");
    // Checksum and all: the wanted frame's is computed anew, by `etherparse`.
    assert_eq!(ran.frame, after.frame(), "{what}");
    assert_eq!(programs.count(Counter::Translated).unwrap(), translated + 1, "{what}");
}

#[test]
fn outwards_the_sequence_number_and_the_time_change_and_nothing_else() {
    let mut programs = programs(Role::Promoted);
    for ((list, before), (_, after)) in
        option_lists(700, 9, 0).into_iter().zip(option_lists(700 + TS_OFFSET, 9, 0))
    {
        let build = |seq: u32, options: &[u8]| {
            Segment::outwards(ACK | PSH, seq, 0x0a0b_0c0d)
                .options(options)
                .payload(b"a payload of odd length")
        };
        let (before, after) = (build(100, &before), build(100_u32.wrapping_add(OFFSET), &after));
        for ((stack, before), (_, after)) in stacks(&before).into_iter().zip(stacks(&after)) {
            check(&mut programs, OUT, &format!("{stack}, {list}"), &before, &after);
        }
    }
}

#[test]
fn inwards_the_acknowledgement_the_blocks_and_the_echo_change_and_nothing_else() {
    let mut programs = programs(Role::Promoted);
    let far = 0x8000_0000;
    let lists = option_lists(3, far, 0).into_iter().zip(option_lists(3, far - TS_OFFSET, 0));
    for ((list, before), (_, after)) in lists {
        let after = with_lower_blocks(after);
        let build = |ack: u32, options: &[u8]| {
            Segment::inwards(ACK, 0x0a0b_0c0d, ack).options(options).payload(b"even")
        };
        let (before, after) = (build(100, &before), build(100_u32.wrapping_sub(OFFSET), &after));
        for ((stack, before), (_, after)) in stacks(&before).into_iter().zip(stacks(&after)) {
            check(&mut programs, IN, &format!("{stack}, {list}"), &before, &after);
        }
    }
}

/// Options whose SACK edges are lowered, found by another walk than the program's.
fn with_lower_blocks(mut options: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while at < options.len() && options[at] != 0 {
        if options[at] == 1 {
            at += 1;
            continue;
        }
        let length = usize::from(options[at + 1]);
        if length < 2 || at + length > options.len() {
            break;
        }
        if options[at] == 5 {
            for edge in options[at + 2..at + length].chunks_exact_mut(4) {
                let value = u32::from_be_bytes(edge.try_into().unwrap()).wrapping_sub(OFFSET);
                edge.copy_from_slice(&value.to_be_bytes());
            }
        }
        at += length;
    }
    options
}

#[test]
fn a_connection_is_learned_from_its_handshake_and_counted_once() {
    let mut programs = programs(Role::Secondary);
    let syn = Segment::inwards(SYN, 500, 0);
    assert_eq!(programs.run(IN, &syn.frame(), MARK).unwrap().frame, syn.frame());
    assert_eq!(programs.flow(syn.key()).unwrap(), None, "nothing begins with the client's SYN");
    let answer = Segment::outwards(SYN | ACK, 10_000, 501).timestamps(40, 9);
    let ran = programs.run(OUT, &answer.frame(), 0).unwrap();
    assert_eq!((ran.verdict, ran.frame), (REDIRECT, answer.frame()));
    let ack = Segment::inwards(ACK, 501, 70_001).timestamps(10, 90);
    let ran = programs.run(IN, &ack.frame(), MARK).unwrap();
    assert_eq!((ran.verdict, ran.mark), (NEXT, 0));
    assert_eq!(ran.frame, Segment::inwards(ACK, 501, 10_001).timestamps(10, 40).frame());
    let data = Segment::outwards(ACK, 10_001, 501).timestamps(45, 10).payload(b"hello");
    let ran = programs.run(OUT, &data.frame(), 0).unwrap();
    assert_eq!(ran.frame, Segment::outwards(ACK, 70_001, 501).timestamps(95, 10).payload(b"hello").frame());
    assert_eq!(programs.count(Counter::Learned).unwrap(), 1);
    assert_eq!(programs.flow(syn.key()).unwrap().unwrap().offset, 60_000);

    // A checkpoint makes the guests one: what was known is forgotten.
    programs.set_nic(Nic { generation: GENERATION + 1, ..nic(Role::Secondary) }).unwrap();
    assert_eq!(programs.run(OUT, &data.frame(), 0).unwrap().frame, data.frame());
    assert_eq!(programs.run(IN, &ack.frame(), MARK).unwrap().frame, ack.frame());
}

#[test]
fn what_a_serving_guest_begins_is_in_its_own_numbers() {
    let mut programs = programs(Role::Promoted);
    let syn = Segment::outwards(SYN, 10_000, 0);
    programs.set_flow(syn.key(), known()).unwrap();
    assert_eq!(programs.run(OUT, &syn.frame(), 0).unwrap().frame, syn.frame());
    assert_eq!(programs.flow(syn.key()).unwrap(), None);
    let answer = Segment::inwards(SYN | ACK, 900, 10_001);
    assert_eq!(programs.run(IN, &answer.frame(), 0).unwrap().frame, answer.frame());
}

#[test]
fn what_is_no_segment_of_a_known_connection_passes_untouched() {
    let mut programs = programs(Role::Promoted);
    let data = Segment::outwards(ACK, 1, 2).timestamps(1, 2).payload(&[7; 40]);
    programs.set_flow(data.key(), known()).unwrap();
    programs.set_flow(data.clone().v6().key(), known()).unwrap();
    let mut frames = vec![
        Segment { peer_port: 9, ..data.clone() }.frame(),
        Segment { fragment: 3, ..data.clone() }.frame(),
        data.clone().v6().extensions(&[Extension::Fragment(3)]).frame(),
        data.clone().v6().extensions(&[Extension::Destination(1); 7]).frame(),
        data.clone().tags(&[(0x8100, 5)]).frame(),
        Segment::outwards(RST | ACK, 0, 9).frame(),
        data.clone().tags(&[(0x8100, 1), (0x8100, 2), (0x8100, 3)]).frame(),
    ];
    let whole = data.frame();
    // The kernel does not run programs on less than an IP header; cut in it is another ethertype's frame.
    frames.extend((34..34 + 20).map(|length| whole[..length].to_vec()));
    let other = |at: usize, value: u8| {
        let mut frame = whole.clone();
        frame[at] = value;
        frame
    };
    frames.extend((15..24).map(|length| other(12, 9)[..length].to_vec()));
    frames.extend([other(12, 9), other(23, 17), other(14, 0x44)]);
    for frame in frames {
        let ran = programs.run(OUT, &frame, 0).unwrap();
        assert_eq!((ran.verdict, &ran.frame), (NEXT, &frame));
    }
    assert_eq!(programs.count(Counter::Translated).unwrap(), 0);
}

/// A role, a program, a frame's mark and the frame; the verdict, and what is counted.
type Case<'a> = (Role, &'a str, u32, &'a [u8], i32, &'a [&'a str]);

#[test]
fn roles_decide_what_becomes_of_a_frame() {
    let data = Segment::outwards(ACK, 1, 2).payload(&[7; 40]).frame();
    let long = Segment::outwards(ACK, 1, 2).payload(&[7; 1500]).frame();
    let cases: [Case<'_>; 13] = [
        (Role::None, OUT, 0, &data, NEXT, &[]),
        (Role::Unprotected, OUT, 0, &data, NEXT, &[]),
        (Role::Unprotected, IN, 0, &data, NEXT, &[]),
        (Role::Primary, OUT, 0, &data, REDIRECT, &["captured"]),
        (Role::Primary, OUT, MARK, &data, NEXT, &[]),
        (Role::Primary, IN, 0, &long, NEXT, &["too-long"]),
        (Role::Secondary, OUT, 0, &data, REDIRECT, &["forwarded"]),
        (Role::Secondary, OUT, MARK, &data, REDIRECT, &["forwarded"]),
        (Role::Secondary, OUT, 0, &long, DROP, &["too-long"]),
        (Role::Secondary, IN, 0, &data, DROP, &["not-forwarded"]),
        (Role::Secondary, IN, MARK, &data, NEXT, &["delivered"]),
        (Role::Promoted, OUT, 0, &data, NEXT, &["served"]),
        (Role::Promoted, IN, 0, &data, NEXT, &[]),
    ];
    for (role, program, mark, frame, verdict, counted) in cases {
        let mut programs = programs(role);
        let ran = programs.run(program, frame, mark).unwrap();
        assert_eq!(ran.verdict, verdict, "{role:?} {program} {mark}");
        assert_eq!(ran.frame, frame, "{role:?} {program} {mark}");
        let names: Vec<_> = programs.counted().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, counted, "{role:?} {program} {mark}");
        let keeps = verdict == NEXT && matches!(role, Role::None | Role::Unprotected | Role::Promoted);
        assert!(keeps || verdict != NEXT || ran.mark == 0, "{role:?} {program}: no mark of ours goes on");
    }
}

#[test]
fn a_promotion_is_one_write_and_translation_goes_on() {
    let mut programs = programs(Role::Secondary);
    let data = Segment::outwards(ACK, 1000, 2).payload(b"x");
    programs.set_flow(data.key(), known()).unwrap();
    let wanted = Segment { seq: 1000_u32.wrapping_add(OFFSET), ..data.clone() }.frame();
    let before = programs.run(OUT, &data.frame(), 0).unwrap();
    programs.set_nic(nic(Role::Promoted)).unwrap();
    let after = programs.run(OUT, &data.frame(), 0).unwrap();
    assert_eq!((before.verdict, &before.frame), (REDIRECT, &wanted));
    assert_eq!((after.verdict, &after.frame), (NEXT, &wanted));
}

#[test]
fn released_frames_are_marked_and_sent_on() {
    let mut programs = programs(Role::Primary);
    let data = Segment::outwards(ACK, 1000, 2).frame();
    let ran = programs.run("capture_ingress", &data, 0).unwrap();
    assert_eq!((ran.verdict, ran.mark, ran.frame), (REDIRECT, MARK, data));
    assert_eq!(programs.counted().unwrap(), [("released", 1)]);
}

#[test]
fn a_forgotten_connection_is_never_translated_by_anothers_numbers() {
    const ROOM: u32 = 8;
    let mut programs = Programs::load(INDEX, ROOM).unwrap();
    programs.set_nic(nic(Role::Promoted)).unwrap();
    let of = |port: u16| Segment { peer_port: port, ..Segment::outwards(ACK, 1000, 2) };
    for port in 1..=500_u16 {
        let flow = Flow { offset: u32::from(port) << 8, ..known() };
        programs.set_flow(of(port).key(), flow).unwrap();
    }
    let mut translated = 0;
    for port in 1..=500_u16 {
        let ran = programs.run(OUT, &of(port).frame(), 0).unwrap();
        let own = Segment { seq: 1000 + (u32::from(port) << 8), ..of(port) }.frame();
        assert!(ran.frame == own || ran.frame == of(port).frame(), "port {port}");
        translated += u32::from(ran.frame == own);
    }
    assert!(translated > 0 && translated < 500, "{translated} of 500 were remembered");
    assert!(programs.flows().unwrap() < 500);
}

#[test]
fn addresses_that_the_guest_uses_are_remembered_with_their_vlans() {
    let mut programs = programs(Role::Secondary);
    let syn = Segment::outwards(SYN, 1, 0).tags(&[(0x8100, 5)]);
    programs.run(OUT, &syn.frame(), 0).unwrap();
    programs.run(OUT, &Segment::outwards(ACK, 1, 0).v6().frame(), 0).unwrap();
    let of_peer = Segment::inwards(SYN, 1, 0).frame();
    programs.run(IN, &of_peer, MARK).unwrap();
    let seen = programs.addresses().unwrap();
    assert_eq!(seen.len(), 1, "data tells nothing that the SYN did not, and input is not the guest's");
    assert_eq!((seen[0].0.address, seen[0].0.vlans), (syn.key().guest, [5, 0xffff]));
    assert_eq!(seen[0].1.mac, colo_tests::frames::GUEST_MAC);
    let arp =
        colo_tests::frames::arp(1, (colo_tests::frames::GUEST_MAC, [10, 77, 0, 9]), ([0; 6], [10, 77, 0, 1]));
    programs.run(OUT, &arp, 0).unwrap();
    assert_eq!(programs.addresses().unwrap().len(), 2);
}
