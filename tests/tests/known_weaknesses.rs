//! What the best existing comparer was measured to get wrong, row by row, and what this one does.
//!
//! The rows that are about sockets (back-pressure, zero-length and oversized frames, disconnects,
//! a vanished outlet) are in `proxy/tests/compare*.rs`; docs/rules.md has the whole table.

use colo_proxy::engine::{Cause, Config, Limit, Side};
use colo_tests::frames::{
    ACK, Ends, FIN, GUEST_MAC, PEER_MAC, RST, SYN, ack_of, arp, fragments_v4, fragments_v6, padded,
};
use colo_tests::log::Bench;

const NONE: [Cause; 0] = [];

fn data(ends: Ends, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    ends.tcp(ACK, seq, ack).payload(payload).frame()
}

fn v4(seq: u32, payload: &[u8]) -> Vec<u8> {
    data(Ends::v4(), seq, 501, payload)
}

/// What a pair of frames comes to: frames out, and triggers after a while.
fn pair(ours: &[u8], theirs: &[u8]) -> (usize, Vec<Cause>) {
    let mut bench = Bench::default();
    bench.primary(ours).secondary(theirs).wait(25);
    (bench.engine.stats().released as usize, bench.triggers())
}

#[test]
fn ipv6_vlan_and_arp_are_compared() {
    for ends in [Ends::v6(), Ends::v4().vlan(7), Ends::v6().vlan(7)] {
        let ours = data(ends, 1, 501, b"same");
        assert_eq!(pair(&ours, &ours), (1, vec![]));
        assert_eq!(pair(&ours, &data(ends, 1, 501, b"sane")), (0, vec![Cause::Payload]));
    }
    let reply = |mac| arp(2, (mac, [10, 77, 0, 2]), (PEER_MAC, [10, 77, 0, 1]));
    assert_eq!(pair(&reply(GUEST_MAC), &reply([2; 6])), (0, vec![Cause::Fields]));
}

#[test]
fn syn_fin_and_rst_are_events_that_must_agree() {
    let segment = |flags, seq| Ends::v4().tcp(flags, seq, 501).frame();
    assert_eq!(pair(&segment(SYN | ACK, 9), &segment(RST | ACK, 0)), (0, vec![Cause::Rst]));
    assert_eq!(pair(&segment(RST | ACK, 1), &segment(RST | ACK, 1)), (1, vec![]));
    for (ours, theirs, cause) in [
        (segment(FIN | ACK, 4), v4(4, b"more"), Cause::Fin),
        (segment(RST | ACK, 4), v4(4, b"more"), Cause::Rst),
    ] {
        let mut bench = Bench::default();
        bench.both(&v4(1, b"abc"));
        bench.out();
        bench.primary(&ours).secondary(&theirs);
        assert_eq!(bench.triggers(), [cause]);
        assert_eq!(bench.held(), 1);
    }
    // FIN against nothing.
    let mut bench = Bench::default();
    bench.both(&v4(1, b"abc")).primary(&segment(FIN | ACK, 4)).wait(3001);
    assert_eq!(bench.triggers(), [Cause::Age]);
    assert_eq!(bench.held(), 1);
}

#[test]
fn equal_bytes_at_places_4000_apart_do_not_match() {
    let mut bench = Bench::default();
    bench.both(&v4(1, b"abc"));
    bench.out();
    bench.primary(&v4(4, b"same")).secondary(&v4(4004, b"same"));
    assert_eq!(bench.out().len(), 0);
}

#[test]
fn reordering_across_sides_needs_no_checkpoint() {
    let mut bench = Bench::default();
    bench.primary(&v4(1, b"abc")).primary(&v4(4, b"def"));
    bench.secondary(&v4(4, b"def")).secondary(&v4(1, b"abc"));
    assert_eq!(bench.out(), [v4(1, b"abc"), v4(4, b"def")]);
    bench.wait(0);
    assert_eq!(bench.triggers(), NONE);
}

#[test]
fn an_overlapping_retransmission_needs_no_checkpoint() {
    let mut bench = Bench::default();
    bench.primary(&v4(1, b"abc")).primary(&v4(1, b"abcdef"));
    bench.secondary(&v4(1, b"abcd")).secondary(&v4(3, b"cdef"));
    assert_eq!(bench.engine.stats().released, 2);
    assert_eq!(bench.triggers(), NONE);
}

#[test]
fn a_retransmission_does_not_wait_for_the_secondary() {
    let mut bench = Bench::default();
    bench.both(&v4(1, b"abc"));
    bench.out();
    bench.primary(&v4(1, b"abc"));
    assert_eq!(bench.out().len(), 1);
}

#[test]
fn pure_acks_do_not_wait_for_one_each() {
    let ack = |number| Ends::v4().tcp(ACK, 1, number).frame();
    let mut bench = Bench::default();
    bench.secondary(&ack(900));
    for number in [501, 600, 700, 700, 900] {
        bench.primary(&ack(number));
    }
    assert_eq!(bench.out().len(), 5);
    bench.wait(60_000);
    assert_eq!(bench.triggers(), NONE);
}

#[test]
fn padding_neither_hides_nor_makes_a_difference() {
    let ours = padded(v4(1, b"abcdef"), 0);
    assert_eq!(pair(&ours, &v4(1, b"abcdef")), (1, vec![]));
    // A padded acknowledgement, then six bytes that differ.
    let mut bench = Bench::default();
    bench.both(&padded(Ends::v4().tcp(ACK, 1, 501).frame(), 0));
    bench.out();
    bench.primary(&ours).secondary(&v4(1, b"abcdeX"));
    assert_eq!(bench.triggers(), [Cause::Payload]);
}

#[test]
fn a_reused_port_pair_with_a_lower_isn_is_compared() {
    let syn = |isn| Ends::v4().tcp(SYN | ACK, isn, 501).frame();
    let mut bench = Bench::default();
    bench.both(&syn(5_000_000)).both(&v4(5_000_001, b"first"));
    bench.both(&syn(10)).primary(&v4(11, b"abcd")).secondary(&v4(11, b"abcX"));
    assert_eq!(bench.engine.stats().released, 3);
    assert_eq!(bench.triggers(), [Cause::Payload]);
}

#[test]
fn the_ack_guard_holds_across_the_wrap_and_for_equal_segments() {
    for (ours, theirs, left) in
        [(5, u32::MAX - 5, u32::MAX - 5), (u32::MAX - 5, 5, u32::MAX - 5), (900, 501, 501)]
    {
        let mut bench = Bench::default();
        bench.primary(&data(Ends::v4(), 1, ours, b"abc")).secondary(&data(Ends::v4(), 1, theirs, b"abc"));
        let out = bench.out();
        assert_eq!(ack_of(&out[0]), left, "{ours} against {theirs}");
    }
}

#[test]
fn udp_is_first_in_first_out_and_lag_is_no_divergence() {
    let datagram = |n: u8| Ends::v4().udp(&[b'A' + n; 40]);
    let mut bench = Bench::default();
    (0..5).for_each(|n| bench.feed(Side::Primary, &datagram(n)));
    (0..5).for_each(|n| bench.feed(Side::Secondary, &datagram(n)));
    assert_eq!(bench.out(), (0..5).map(datagram).collect::<Vec<_>>());
    (0..5).for_each(|n| bench.feed(Side::Primary, &datagram(n)));
    bench.checkpoint();
    assert_eq!(bench.out(), (0..5).map(datagram).collect::<Vec<_>>());
    assert_eq!(bench.engine.stats().triggers.total(), 0);
}

#[test]
fn a_missing_udp_checksum_is_no_difference() {
    let ours = Ends::v4().udp(b"answer");
    let mut theirs = ours.clone();
    theirs[40..42].fill(0);
    assert_eq!(pair(&ours, &theirs), (1, vec![]));
}

#[test]
fn the_ip_identification_of_other_protocols_is_no_difference() {
    for proto in [47, 132, 50, 51, 33] {
        let ours = Ends::v4().other_ip(proto, 64, b"payload of sixteen");
        let mut theirs = ours.clone();
        theirs[18] ^= 0xff;
        assert_eq!(pair(&ours, &theirs), (1, vec![]), "protocol {proto}");
    }
}

#[test]
fn fragmentation_is_no_difference() {
    let payload: Vec<u8> = (0..4000_u32).map(|n| (n / 3) as u8).collect();
    let mut bench = Bench::default();
    let whole = Ends::v4().udp(&payload);
    fragments_v4(&whole, 1480, 1).iter().for_each(|frame| bench.feed(Side::Primary, frame));
    fragments_v4(&whole, 576, 2).iter().for_each(|frame| bench.feed(Side::Secondary, frame));
    let whole = Ends::v6().udp(&payload);
    fragments_v6(&whole, 1400, 1).iter().for_each(|frame| bench.feed(Side::Primary, frame));
    bench.secondary(&whole);
    assert_eq!(bench.engine.stats().released, 6);
    assert_eq!(bench.triggers(), NONE);
}

#[test]
fn a_full_queue_asks_for_a_checkpoint_and_drops_nothing() {
    let config = Config { flow_limit: Limit { frames: 64, bytes: 1 << 20 }, ..Config::default() };
    let mut bench = Bench::new(config);
    let frames: Vec<_> = (0..100).map(|n| v4(1 + 3 * n, b"abc")).collect();
    frames.iter().for_each(|frame| bench.feed(Side::Primary, frame));
    assert_eq!(bench.triggers(), [Cause::Overflow]);
    bench.checkpoint();
    assert_eq!(bench.out(), frames);
}

#[test]
fn many_flows_push_out_idle_ones_only() {
    let config = Config { max_flows: 1000, ..Config::default() };
    let mut bench = Bench::new(config);
    let segment = |port| data(Ends::v4().peer_port(port), 1, 501, b"abc");
    for port in 0..5000 {
        if port % 10 == 0 {
            bench.primary(&segment(port));
        } else {
            bench.both(&segment(port));
        }
    }
    assert_eq!(bench.held(), 500);
    assert!(bench.engine.flows() <= 1000);
    (0..5000).step_by(10).for_each(|port| bench.feed(Side::Secondary, &segment(port)));
    assert_eq!(bench.engine.stats().released, 5000);
    assert_eq!(bench.triggers(), NONE);
}

#[test]
fn a_flow_that_differs_asks_once() {
    let mut bench = Bench::default();
    for n in 0..1000 {
        bench.primary(&v4(1 + 3 * n, b"abc")).secondary(&v4(1 + 3 * n, b"abX")).wait(10);
    }
    assert_eq!(bench.triggers(), [Cause::Payload]);
}

#[test]
fn bytes_behind_the_datagram_do_not_count() {
    let ours = Ends::v4().udp(b"datagram");
    let theirs = [&ours[..], b"trailing bytes of a careless driver, longer than any padding"].concat();
    assert_eq!(pair(&ours, &theirs), (1, vec![]));
    let ours = v4(1, b"segment");
    let theirs = [&ours[..], &[0xee; 90]].concat();
    assert_eq!(pair(&ours, &theirs), (1, vec![]));
}
