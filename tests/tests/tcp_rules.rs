//! TCP's rules one by one; docs/rules.md has the table.

use colo_proxy::engine::{Cause, Config, Discard, Side};
use colo_proxy::packet::{Gso, Offload};
use colo_tests::frames::{ACK, Ends, FIN, PSH, RST, SYN, ack_of, checksums_are_right, window_of};
use colo_tests::log::{Bench, Verdict};

const NONE: [Cause; 0] = [];

fn v4() -> Ends {
    Ends::v4()
}

/// A connection that the client opened; both sides have answered with their own ISNs.
fn open(bench: &mut Bench, ours: u32, theirs: u32) {
    let syn = |isn| v4().tcp(SYN | ACK, isn, 501).window(64_000).mss(1460).scale(7).timestamps(9, 8).frame();
    bench.primary(&syn(ours)).secondary(&syn(theirs));
    assert_eq!(bench.out().len(), 1, "the SYN has left");
    bench.secondary(&v4().tcp(ACK, theirs.wrapping_add(1), 501).frame());
}

fn data(seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    v4().tcp(ACK | PSH, seq, ack).payload(payload).frame()
}

#[test]
fn syns_with_other_isns_make_one_stream() {
    for (ours, theirs) in [(1000, 77_000), (u32::MAX, 5), (5, 5)] {
        let mut bench = Bench::default();
        open(&mut bench, ours, theirs);
        bench.primary(&data(ours.wrapping_add(1), 600, b"hello"));
        bench.secondary(&data(theirs.wrapping_add(1), 600, b"hello"));
        assert_eq!(bench.out().len(), 1);
        assert_eq!(bench.held(), 0);
    }
}

#[test]
fn a_syn_that_would_make_another_connection_diverges() {
    let syn = || v4().tcp(SYN | ACK, 1, 501);
    let ours = syn().mss(1460).scale(7).timestamps(1, 1).sack_permitted().frame();
    for (theirs, tolerated) in [
        (syn().mss(1460).scale(6).timestamps(1, 1).sack_permitted().frame(), false),
        (syn().mss(1460).timestamps(1, 1).sack_permitted().frame(), false),
        (syn().mss(1460).scale(7).sack_permitted().frame(), false),
        (v4().tcp(SYN, 1, 0).mss(1460).scale(7).timestamps(1, 1).sack_permitted().frame(), false),
        (syn().mss(1200).scale(7).timestamps(5, 7).sack_permitted().frame(), true),
        (syn().mss(1460).scale(7).timestamps(1, 1).frame(), true),
        (syn().mss(1460).scale(7).timestamps(99, 98).sack_permitted().ttl(3).frame(), true),
    ] {
        let mut bench = Bench::default();
        bench.primary(&ours).secondary(&theirs);
        let verdicts = bench.verdicts();
        let left = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Release(..)));
        let syn = verdicts.contains(&Verdict::Trigger(Cause::Syn));
        assert_eq!((left, syn), (tolerated, !tolerated), "{theirs:?}");
    }
}

#[test]
fn a_syn_on_one_side_only_is_found() {
    let syn = v4().tcp(SYN | ACK, 1000, 501).frame();
    let mut bench = Bench::default();
    bench.secondary(&syn).primary(&data(7000, 600, b"x"));
    assert_eq!(bench.triggers(), [Cause::Syn]);
    let mut bench = Bench::default();
    bench.primary(&syn).wait(3001);
    assert_eq!(bench.triggers(), [Cause::Age]);
}

#[test]
fn fin_stands_in_the_stream() {
    let fin = |seq, payload: &[u8]| v4().tcp(ACK | FIN, seq, 501).payload(payload).frame();
    // With the last data on one side, alone on the other.
    let mut bench = Bench::default();
    bench.primary(&fin(1, b"bye")).secondary(&data(1, 501, b"bye"));
    assert_eq!(bench.out().len(), 0);
    bench.secondary(&fin(4, b""));
    assert_eq!(bench.out().len(), 1);
    // FIN against data, either way round.
    for swapped in [false, true] {
        let mut bench = Bench::default();
        bench.both(&data(1, 501, b"abc"));
        bench.out();
        let (ours, theirs) =
            if swapped { (data(4, 501, b"d"), fin(4, b"")) } else { (fin(4, b""), data(4, 501, b"d")) };
        bench.primary(&ours).secondary(&theirs);
        assert_eq!(bench.verdicts().iter().filter(|v| matches!(v, Verdict::Release(..))).count(), 0);
        bench.wait(0);
        assert_eq!(bench.engine.stats().divergences.get(Cause::Fin as usize), 1);
    }
    // FIN on one side only.
    let mut bench = Bench::default();
    bench.both(&data(1, 501, b"abc")).primary(&fin(4, b""));
    bench.out();
    bench.wait(3001);
    assert_eq!(bench.triggers(), [Cause::Age]);
}

#[test]
fn rst_must_stand_at_the_same_place() {
    let rst = |seq| v4().tcp(RST | ACK, seq, 501).frame();
    let mut bench = Bench::default();
    bench.both(&data(1, 501, b"abc")).both(&rst(4));
    assert_eq!(bench.out().len(), 2);
    assert_eq!(bench.triggers(), NONE);
    // Another place, or data, or a SYN where the other has a RST.
    for (ours, theirs) in [(rst(4), rst(5)), (rst(4), data(4, 501, b"d")), (data(4, 501, b"d"), rst(4))] {
        let mut bench = Bench::default();
        bench.both(&data(1, 501, b"abc"));
        assert_eq!(bench.out().len(), 1);
        bench.primary(&ours).secondary(&theirs);
        assert_eq!(bench.triggers(), [Cause::Rst]);
    }
    let syn = v4().tcp(SYN | ACK, 1000, 501).frame();
    let refuse = v4().tcp(RST | ACK, 0, 501).frame();
    for (ours, theirs) in [(&syn, &refuse), (&refuse, &syn)] {
        let mut bench = Bench::default();
        bench.primary(ours).secondary(theirs);
        assert_eq!(bench.triggers(), [Cause::Rst]);
    }
    let mut bench = Bench::default();
    bench.both(&data(1, 501, b"abc")).primary(&rst(4)).wait(3001);
    assert_eq!(bench.engine.stats().triggers.get(Cause::Age as usize), 1);
}

#[test]
fn a_closed_port_refuses_again_and_again() {
    let mut bench = Bench::default();
    for ack in [501, 90_001, 5] {
        bench.both(&v4().tcp(RST | ACK, 0, ack).frame());
        assert_eq!(bench.out().len(), 1, "{ack}");
    }
    // The same refusal, but of another SYN, is not the same.
    bench.primary(&v4().tcp(RST | ACK, 0, 7).frame()).secondary(&v4().tcp(RST | ACK, 0, 8).frame());
    assert_eq!(bench.out().len(), 0);
}

#[test]
fn retransmissions_of_what_has_left_leave_at_once() {
    let mut bench = Bench::default();
    bench.both(&data(1, 501, b"abcdef"));
    bench.out();
    bench.primary(&data(1, 501, b"abcdef")).primary(&data(3, 501, b"cd"));
    assert_eq!(bench.out().len(), 2);
    // One that reaches into the new is held for the new.
    bench.primary(&data(3, 501, b"cdefgh"));
    assert_eq!(bench.out().len(), 0);
    bench.secondary(&data(7, 501, b"gh"));
    assert_eq!(bench.out().len(), 1);
}

#[test]
fn a_primary_that_contradicts_itself_diverges() {
    let mut bench = Bench::default();
    bench.primary(&data(1, 501, b"abc")).primary(&data(1, 501, b"abX"));
    assert_eq!(bench.triggers(), [Cause::Payload]);
    let mut bench = Bench::default();
    bench.primary(&data(10, 501, b"jkl")).primary(&data(8, 501, b"hijk")).primary(&data(12, 501, b"lmn"));
    assert_eq!(bench.triggers(), NONE);
    bench.primary(&data(9, 501, b"iXkl"));
    assert_eq!(bench.triggers(), [Cause::Payload]);
}

#[test]
fn data_leaves_with_a_lowered_ack_and_the_rest_of_it_later() {
    let mut bench = Bench::default();
    open(&mut bench, 0, 0);
    bench.primary(&data(1, 900, b"abc")).secondary(&data(1, 700, b"abc"));
    let out = bench.out();
    assert_eq!(out.len(), 1);
    assert!(checksums_are_right(&out[0]));
    assert_eq!(ack_of(&out[0]), 700);
    // 1000·128 was the edge at 900; it does not move back.
    assert_eq!(u32::from(window_of(&out[0])), 1000);
    bench.secondary(&v4().tcp(ACK, 4, 899).frame());
    let out = bench.out();
    assert_eq!(out.len(), 1, "as far as the secondary is, in a frame of the engine's own");
    assert_eq!((ack_of(&out[0]), out[0].len()), (899, 54));
    assert!(checksums_are_right(&out[0]));
    bench.secondary(&v4().tcp(ACK, 4, 950).frame());
    let out = bench.out();
    assert_eq!(out.len(), 1, "an acknowledgement of the engine's own");
    assert_eq!((ack_of(&out[0]), out[0].len()), (900, 54));
    assert!(checksums_are_right(&out[0]));
    bench.secondary(&v4().tcp(ACK, 4, 999).frame());
    assert_eq!(bench.out().len(), 0, "it leaves once");
    assert_eq!(bench.engine.stats().acks_lowered, 1);
    assert_eq!(bench.engine.stats().acks_injected, 2);
}

#[test]
fn what_the_secondary_missed_is_acknowledged_piece_by_piece() {
    let ack = |number| v4().tcp(ACK, 1, number).frame();
    let mut bench = Bench::default();
    bench.primary(&ack(501)).secondary(&ack(501));
    bench.out();
    // The client's next four segments did not reach the secondary; it sends them again one by one,
    // and sends the next when it hears that the last one arrived.
    bench.primary(&ack(901));
    assert_eq!(bench.out().len(), 0, "the secondary has none of it");
    for number in [601, 701, 801] {
        bench.secondary(&ack(number));
        let out = bench.out();
        assert_eq!(out.iter().map(|frame| ack_of(frame)).collect::<Vec<_>>(), [number]);
        assert!(checksums_are_right(&out[0]));
    }
    bench.secondary(&ack(901));
    assert_eq!(bench.out().iter().map(|frame| ack_of(frame)).collect::<Vec<_>>(), [901]);
    assert_eq!((bench.engine.stats().acks_injected, bench.held()), (3, 0));
}

/// An acknowledgement with timestamps, and the blocks behind a gap.
fn stamped(ack: u32, stamps: (u32, u32), blocks: &[(u32, u32)]) -> Vec<u8> {
    let segment = v4().tcp(ACK, 1, ack).timestamps(stamps.0, stamps.1);
    blocks.iter().fold(segment, |segment, &(left, right)| segment.sack(left, right)).frame()
}

/// Acknowledgement, timestamps and blocks.
type Said = (u32, (u32, u32), Vec<(u32, u32)>);

/// What left.
fn said(bench: &mut Bench) -> Vec<Said> {
    let read = |frame: &Vec<u8>| {
        assert!(checksums_are_right(frame));
        let transport =
            etherparse::SlicedPacket::from_ethernet(frame).ok().and_then(|sliced| sliced.transport);
        let Some(etherparse::TransportSlice::Tcp(tcp)) = transport else { panic!("not TCP") };
        let (mut stamps, mut blocks) = ((0, 0), Vec::new());
        for option in tcp.options_iterator().filter_map(Result::ok) {
            match option {
                etherparse::TcpOptionElement::Timestamp(value, echo) => stamps = (value, echo),
                etherparse::TcpOptionElement::SelectiveAcknowledgement(first, more) => {
                    blocks = [Some(first)].into_iter().chain(more).flatten().collect();
                }
                _ => {}
            }
        }
        (tcp.acknowledgment_number(), stamps, blocks)
    };
    bench.out().iter().map(read).collect()
}

#[test]
fn the_client_hears_of_what_only_the_secondary_misses() {
    let mut bench = Bench::default();
    bench.primary(&stamped(501, (10, 20), &[])).secondary(&stamped(501, (10, 20), &[]));
    bench.primary(&stamped(901, (14, 24), &[]));
    assert_eq!(said(&mut bench), [(501, (10, 20), vec![])]);
    // The second of four segments was lost on its way to the secondary.
    bench.secondary(&stamped(601, (12, 21), &[]));
    assert_eq!(said(&mut bench), [(601, (14, 21), vec![])]);
    bench.secondary(&stamped(601, (13, 21), &[(701, 801)]));
    assert_eq!(said(&mut bench), [(601, (14, 21), vec![(701, 801)])], "as its own duplicate");
    bench.secondary(&stamped(601, (14, 21), &[(701, 951)]));
    assert_eq!(said(&mut bench), [(601, (14, 21), vec![(701, 901)])], "the primary has no more");
    // The client sends it again; the secondary is where the primary is.
    bench.secondary(&stamped(901, (16, 26), &[]));
    assert_eq!(said(&mut bench), [(901, (14, 26), vec![])], "the round trip is the repetition's");
    assert_eq!((bench.engine.stats().gaps_told, bench.held()), (2, 0));
    bench.secondary(&stamped(901, (17, 26), &[(1001, 1101)]));
    assert_eq!(said(&mut bench), [], "the primary misses that as well, and says so itself");
}

#[test]
fn a_secondary_that_was_first_and_then_misses_something_is_heard() {
    let mut bench = Bench::default();
    bench.primary(&stamped(501, (1, 1), &[])).secondary(&stamped(501, (1, 1), &[]));
    bench.secondary(&stamped(701, (2, 2), &[]));
    assert_eq!(said(&mut bench).len(), 1, "the primary has not said that yet");
    // And then it says more than that.
    bench.primary(&stamped(901, (3, 3), &[]));
    assert_eq!(said(&mut bench), [(701, (3, 3), vec![])]);
    bench.secondary(&stamped(701, (4, 2), &[(801, 901)]));
    assert_eq!(said(&mut bench), [(701, (3, 2), vec![(801, 901)])]);
}

#[test]
fn a_secondary_that_repeats_itself_is_not_repeated_without_end() {
    let mut bench = Bench::default();
    bench.primary(&stamped(501, (1, 1), &[])).secondary(&stamped(501, (1, 1), &[]));
    bench.primary(&stamped(901, (1, 1), &[]));
    bench.out();
    for _ in 0..100 {
        bench.secondary(&stamped(501, (1, 1), &[]));
    }
    assert_eq!(bench.out().len(), 3, "three duplicates make a client send again");
    bench.secondary(&data(1, 501, b"data is no duplicate"));
    assert_eq!(bench.out().len(), 0);
    for _ in 0..100 {
        bench.secondary(&stamped(501, (1, 1), &[(601, 701)]));
    }
    assert_eq!(bench.out().len(), 3);
}

#[test]
fn of_acknowledgements_that_say_the_same_one_waits() {
    let mut bench = Bench::default();
    bench.primary(&stamped(501, (1, 1), &[])).secondary(&stamped(501, (1, 1), &[]));
    bench.out();
    // The client repeats what the secondary misses, and the primary answers each time.
    for tick in 2..50 {
        bench.primary(&stamped(901, (tick, tick), &[]));
    }
    assert_eq!(
        (bench.held(), bench.engine.stats().primary.discards.get(Discard::AckSuperseded as usize)),
        (1, 47)
    );
    bench.secondary(&stamped(901, (60, 70), &[]));
    assert_eq!(said(&mut bench), [(901, (49, 70), vec![])]);
}

#[test]
fn timestamps_that_leave_never_go_back() {
    let mut bench = Bench::default();
    bench.primary(&stamped(501, (10, 1), &[])).secondary(&stamped(501, (10, 1), &[]));
    bench.primary(&stamped(901, (20, 2), &[]));
    let segment = |value| v4().tcp(ACK, 1, 501).timestamps(value, 3).payload(b"data").frame();
    bench.primary(&segment(30)).secondary(&segment(25));
    assert_eq!(said(&mut bench), [(501, (10, 1), vec![]), (501, (30, 3), vec![])]);
    bench.secondary(&stamped(901, (31, 4), &[]));
    assert_eq!(said(&mut bench), [(901, (30, 4), vec![])], "an older word than what has left");
    // A clock that is far behind is another clock.
    bench.primary(&stamped(901, (30_u32.wrapping_sub(1 << 25), 5), &[]));
    assert_eq!(said(&mut bench), [(901, (30_u32.wrapping_sub(1 << 25), 5), vec![])]);
}

#[test]
fn what_is_verified_of_a_segment_leaves_without_the_rest_after_a_moment() {
    let payload = |frame: &[u8]| match etherparse::SlicedPacket::from_ethernet(frame).unwrap().transport {
        Some(etherparse::TransportSlice::Tcp(tcp)) => {
            (tcp.sequence_number(), tcp.psh(), tcp.fin(), tcp.payload().to_vec())
        }
        other => panic!("not TCP: {other:?}"),
    };
    for ends in [v4(), Ends::v6(), v4().vlan(5), Ends::v6().vlan(5)] {
        let segment = |seq, bytes: &[u8], flags| {
            ends.tcp(ACK | flags, seq, 501).timestamps(1, 1).payload(bytes).frame()
        };
        let mut bench = Bench::default();
        bench.primary(&segment(1, b"hello, world", PSH | FIN)).secondary(&segment(1, b"hello", 0));
        assert_eq!(bench.out().len(), 0, "the rest may be under way");
        bench.wait(1);
        let out = bench.out();
        assert_eq!(out.len(), 1);
        assert!(checksums_are_right(&out[0]));
        assert_eq!(payload(&out[0]), (1, false, false, b"hello".to_vec()));
        bench.wait(1);
        assert_eq!((bench.out().len(), bench.held()), (0, 1), "nothing more is verified");
        bench.secondary(&segment(6, b", world", PSH | FIN));
        let out = bench.out();
        assert!(checksums_are_right(&out[0]));
        assert_eq!(payload(&out[0]), (6, true, true, b", world".to_vec()));
        assert_eq!(
            (bench.held(), bench.engine.stats().frames_cut, bench.engine.stats().verified_bytes),
            (0, 1, 12)
        );
    }
}

#[test]
fn both_parts_of_a_segment_with_a_partial_checksum_have_the_sum_of_their_own_pseudo_header() {
    let mut bench = Bench::default();
    let offload = Offload { partial_checksum: true, gso: Gso::Tcp, ..Offload::default() };
    let mut whole = data(1, 501, b"hello, world");
    let pseudo = |tcp_len: u16| {
        let sum = colo_proxy::packet::Checksum::default();
        !sum.sum(&[10, 77, 0, 2, 10, 77, 0, 1, 0, 6]).sum(&tcp_len.to_be_bytes()).finish()
    };
    whole[50..52].copy_from_slice(&pseudo(32).to_be_bytes());
    bench.feed_in(bench.engine.epoch(), Side::Primary, &whole, offload);
    bench.secondary(&data(1, 501, b"hello")).wait(1);
    bench.secondary(&data(6, 501, b", world"));
    let out = bench.out();
    assert_eq!((out.len(), out[0].len(), out[1].len()), (2, 54 + 5, 54 + 7));
    assert_eq!([&out[0][50..52], &out[1][50..52]], [pseudo(25).to_be_bytes(), pseudo(27).to_be_bytes()]);
    assert_eq!([&out[0][16..18], &out[1][16..18]], [45_u16.to_be_bytes(), 47_u16.to_be_bytes()]);
}

#[test]
fn a_padded_frame_is_not_cut() {
    let mut bench = Bench::default();
    bench
        .primary(&colo_tests::frames::padded(data(1, 501, b"abc"), 0))
        .secondary(&data(1, 501, b"a"))
        .wait(5);
    assert_eq!((bench.out().len(), bench.held()), (0, 1));
    bench.secondary(&data(2, 501, b"bc"));
    assert_eq!((bench.out().len(), bench.engine.stats().frames_cut), (1, 0));
}

#[test]
fn an_owed_ack_keeps_timestamps_and_vlan_and_loses_sack_blocks() {
    let ends = Ends::v6().vlan(7);
    let segment = |ack, payload: &[u8]| {
        ends.tcp(ACK, 1, ack).timestamps(5, 6).sack(2000, 3000).payload(payload).frame()
    };
    let mut bench = Bench::default();
    bench.primary(&segment(900, b"abc")).secondary(&segment(700, b"abc"));
    bench.secondary(&ends.tcp(ACK, 4, 900).frame());
    let out = bench.out();
    assert_eq!(out.len(), 2);
    assert!(out.iter().all(|frame| checksums_are_right(frame)));
    let sliced = etherparse::SlicedPacket::from_ethernet(&out[1]).unwrap();
    assert_eq!(sliced.vlan_ids().len(), 1);
    let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
    assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number(), tcp.payload().len()), (4, 900, 0));
    let options: Vec<_> = tcp.options_iterator().filter_map(Result::ok).collect();
    assert!(options.contains(&etherparse::TcpOptionElement::Timestamp(5, 6)));
    assert!(!options.iter().any(|o| matches!(o, etherparse::TcpOptionElement::SelectiveAcknowledgement(..))));
}

#[test]
fn a_partial_checksum_stays_as_it_is_when_an_ack_is_lowered() {
    let mut bench = Bench::default();
    let offload = Offload { partial_checksum: true, gso: Gso::Tcp, ..Offload::default() };
    let frame = data(1, 900, b"abc");
    bench.feed_in(bench.engine.epoch(), Side::Primary, &frame, offload);
    bench.secondary(&data(1, 700, b"abc"));
    let out = bench.out();
    assert_eq!(ack_of(&out[0]), 700);
    assert_eq!(out[0][50..52], frame[50..52], "the pseudo-header's sum did not change");
}

#[test]
fn pure_acks_wait_for_the_secondarys_and_no_longer() {
    let ack = |number| v4().tcp(ACK, 1, number).frame();
    let mut bench = Bench::default();
    bench.secondary(&ack(501)).primary(&ack(501));
    assert_eq!(bench.out().len(), 1);
    // How many there are on each side does not matter.
    bench.primary(&ack(600)).primary(&ack(700)).secondary(&ack(800));
    assert_eq!(bench.out().iter().map(|frame| ack_of(frame)).collect::<Vec<_>>(), [600, 700]);
    bench.primary(&ack(800)).primary(&ack(800)).primary(&ack(800));
    assert_eq!(bench.out().len(), 3, "duplicates say something too");
    // A secondary that never acknowledges as much is a reason for a checkpoint.
    bench.primary(&ack(900)).wait(3001);
    assert_eq!(bench.triggers(), [Cause::Age]);
}

#[test]
fn windows_never_exceed_the_secondarys() {
    let mut bench = Bench::default();
    open(&mut bench, 0, 0);
    let segment =
        |payload: &[u8], seq, window| v4().tcp(ACK, seq, 600).window(window).payload(payload).frame();
    bench.primary(&segment(b"abc", 1, 500)).secondary(&segment(b"abc", 1, 0));
    let out = bench.out();
    // The edge of the secondary is 501 + 1000·128 from its first acknowledgement.
    assert_eq!(window_of(&out[0]), 500);
    let mut bench = Bench::default();
    let syn = v4().tcp(SYN | ACK, 0, 501).window(100).scale(0).frame();
    bench.both(&syn);
    bench.primary(&segment(b"abc", 1, 500)).secondary(&segment(b"abc", 1, 0));
    let out = bench.out();
    assert_eq!(window_of(&out[1]), 1, "501 + 100 - 600");
    bench.secondary(&segment(b"", 4, 500));
    let out = bench.out();
    assert_eq!((out.len(), window_of(&out[0])), (1, 500), "the window update follows");
}

#[test]
fn a_reused_port_pair_starts_a_new_stream() {
    let syn = |isn, ack| v4().tcp(SYN | ACK, isn, ack).frame();
    let mut bench = Bench::default();
    bench.both(&syn(100_000, 501)).both(&data(100_001, 501, b"first"));
    assert_eq!(bench.out().len(), 2);
    // A lower ISN, and the sides enter it at different times.
    bench.primary(&syn(5, 9)).primary(&data(6, 9, b"second"));
    bench.secondary(&data(100_001, 501, b"first"));
    assert_eq!(bench.out().len(), 0);
    bench.secondary(&syn(5, 9)).secondary(&data(6, 9, b"secXnd"));
    assert_eq!(bench.out().len(), 1, "the SYN");
    assert_eq!(bench.engine.stats().divergences.get(Cause::Payload as usize), 1);
    assert_eq!(bench.engine.stats().streams_restarted, 1);
}

#[test]
fn a_stream_left_with_unmatched_data_diverges() {
    let mut bench = Bench::default();
    bench.both(&v4().tcp(SYN | ACK, 100, 501).frame()).primary(&data(101, 501, b"lost"));
    bench.both(&v4().tcp(SYN | ACK, 900_000, 501).frame());
    assert_eq!(bench.triggers(), [Cause::Length]);
    assert_eq!(bench.held(), 1, "both have sent the new SYN; the old data waits");
    bench.checkpoint();
    assert_eq!(bench.out().len(), 1);
    bench.both(&data(900_001, 501, b"on"));
    assert_eq!(bench.out().len(), 1);
}

#[test]
fn what_the_path_changes_does_not_count() {
    let ours = v4().tcp(ACK | PSH, 1, 501).timestamps(1, 2).ttl(64).payload(b"same").frame();
    let mut theirs = v4().tcp(ACK, 1, 501).timestamps(900, 901).sack(7, 8).ttl(3).payload(b"same").frame();
    theirs[18..20].copy_from_slice(&[0xab, 0xcd]); // IP identification
    theirs[15] = 0x03; // ECN
    let mut bench = Bench::default();
    bench.primary(&ours).secondary(&theirs);
    assert_eq!(bench.out().len(), 1);
}

#[test]
fn seqs_that_do_not_line_up_do_not_match() {
    let mut bench = Bench::default();
    bench.both(&data(1, 501, b"abc"));
    bench.out();
    bench.primary(&data(4, 501, b"same bytes")).secondary(&data(4004, 501, b"same bytes"));
    assert_eq!(bench.out().len(), 0);
    bench.wait(3001);
    assert_eq!(bench.triggers(), [Cause::Age]);
}

#[test]
fn acks_of_a_reset_connection_are_dropped_and_counted() {
    let mut bench = Bench::default();
    bench.both(&data(1, 501, b"abc")).primary(&v4().tcp(ACK, 4, 800).frame());
    bench.both(&v4().tcp(RST, 4, 0).frame());
    let dropped = Verdict::Discard(Side::Primary, Discard::AckSuperseded);
    assert!(bench.verdicts().contains(&dropped));
    assert_eq!(bench.held(), 0);
}

#[test]
fn a_late_pair_of_flows_goes_the_longest_idle_way() {
    let config = Config { max_flows: 3, ..Config::default() };
    let mut bench = Bench::new(config);
    let segment = |port, payload: &[u8]| v4().peer_port(port).tcp(ACK, 1, 501).payload(payload).frame();
    bench.primary(&segment(1, b"held"));
    for port in 2..=9 {
        bench.both(&segment(port, b"through"));
    }
    assert_eq!(bench.engine.flows(), 3);
    assert_eq!(bench.engine.stats().flows_evicted, 6);
    assert_eq!(bench.held(), 1, "a flow that holds something is not forgotten");
    bench.secondary(&segment(1, b"held"));
    assert_eq!(bench.held(), 0);
    // Of flows 8 and 9 and 1 the longest idle goes first.
    bench.both(&segment(10, b"x"));
    bench.out();
    bench.primary(&segment(9, b"through"));
    assert_eq!(bench.out().len(), 1, "flow 9 is remembered: a retransmission");
    bench.primary(&segment(8, b"through"));
    assert_eq!(bench.out().len(), 0, "flow 8 is not");
}

#[test]
fn bytes_where_syn_or_fin_stood_are_no_repetition() {
    let mut bench = Bench::default();
    bench
        .both(&v4().tcp(SYN | ACK, 9, 501).frame())
        .both(&v4().tcp(ACK | FIN, 10, 501).payload(b"all").frame());
    assert_eq!(bench.out().len(), 2);
    // The SYN and the FIN themselves may be repeated.
    bench.primary(&v4().tcp(SYN | ACK, 9, 501).frame()).primary(&v4().tcp(ACK | FIN, 13, 501).frame());
    bench.secondary(&v4().tcp(SYN | ACK, 9, 501).frame()).secondary(&v4().tcp(ACK | FIN, 13, 501).frame());
    assert_eq!(bench.out().len(), 2);
    assert_eq!(bench.engine.held(Side::Secondary).frames, 0);
    bench.primary(&data(13, 501, b"X"));
    assert_eq!(bench.triggers(), [Cause::Fin]);
    let mut bench = Bench::default();
    bench.both(&v4().tcp(SYN | ACK, 9, 501).frame());
    bench.out();
    bench.primary(&data(9, 501, b"X"));
    assert_eq!(bench.out().len(), 0);
}
