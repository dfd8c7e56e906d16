//! The rules for everything but TCP, one by one; docs/rules.md has the table.

use colo_proxy::engine::{Cause, Config, Discard, Nanos, Neighbours, PassRules, Side};
use colo_proxy::packet::{Gso, Offload};
use colo_tests::frames::{Ends, GUEST_MAC, PEER_MAC, arp, ether, fragments_v4, fragments_v6, padded};
use colo_tests::log::{Bench, Verdict};

const NONE: [Cause; 0] = [];

/// Feeds one frame on each side and says what came of it: released, or the cause of the trigger
/// after the reorder wait.
fn verdict(ours: &[u8], theirs: &[u8]) -> Result<(), Cause> {
    let mut bench = Bench::default();
    bench.primary(ours).secondary(theirs).wait(25);
    let verdicts = bench.verdicts();
    let trigger = verdicts.iter().find_map(|verdict| match verdict {
        Verdict::Trigger(cause) => Some(*cause),
        _ => None,
    });
    match trigger {
        Some(cause) => Err(cause),
        None if bench.held() == 0 => Ok(()),
        None => panic!("held without a reason: {verdicts:?}"),
    }
}

#[test]
fn udp_payload_counts_and_its_checksum_does_not() {
    for ends in [Ends::v4(), Ends::v6(), Ends::v4().vlan(100)] {
        let ours = ends.udp(b"answer");
        assert_eq!(verdict(&ours, &ours), Ok(()));
        assert_eq!(verdict(&ours, &ends.udp(b"answeR")), Err(Cause::Payload));
        assert_eq!(verdict(&ours, &ends.udp(b"answer!")), Err(Cause::Length));
        let mut unsummed = ours.clone();
        let at = unsummed.len() - 6 - 2;
        unsummed[at..at + 2].fill(0);
        assert_eq!(verdict(&ours, &unsummed), Ok(()));
    }
}

#[test]
fn udp_order_does_not_count_within_the_window_and_release_is_fifo() {
    let mut bench = Bench::default();
    let datagram = |n: u8| Ends::v4().udp(&[n; 30]);
    for n in 0..10 {
        bench.primary(&datagram(n));
    }
    for n in [3, 1, 0, 2, 9, 8, 7, 6, 5, 4] {
        bench.secondary(&datagram(n));
    }
    let out = bench.out();
    assert_eq!(out.iter().map(|frame| frame[50]).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert_eq!(bench.engine.stats().reordered, 7);
    bench.wait(25);
    assert_eq!(bench.triggers(), NONE);
}

#[test]
fn the_secondary_may_be_ahead() {
    let mut bench = Bench::default();
    let datagram = |n: u8| Ends::v4().udp(&[n; 30]);
    for n in 0..200 {
        bench.secondary(&datagram(n));
    }
    for n in 0..200 {
        bench.primary(&datagram(n));
    }
    assert_eq!(bench.out().len(), 200);
}

#[test]
fn a_window_of_others_is_a_divergence() {
    let mut bench = Bench::default();
    bench.primary(&Ends::v4().udp(b"never"));
    for n in 0..40_u8 {
        bench.secondary(&Ends::v4().udp(&[n; 5]));
    }
    assert_eq!(bench.triggers(), [Cause::Payload]);
}

#[test]
fn identical_datagrams_are_counted_not_merged() {
    let mut bench = Bench::default();
    let same = Ends::v4().udp(b"tick");
    bench.primary(&same).primary(&same).secondary(&same);
    assert_eq!(bench.out().len(), 1);
    bench.secondary(&same);
    assert_eq!(bench.out().len(), 1);
}

#[test]
fn echo_replies_by_id_sequence_and_payload() {
    for ends in [Ends::v4(), Ends::v6()] {
        let ours = ends.echo_reply(7, 1, b"ping data");
        assert_eq!(verdict(&ours, &ends.echo_reply(7, 1, b"ping data")), Ok(()));
        assert_eq!(verdict(&ours, &ends.echo_reply(7, 2, b"ping data")), Err(Cause::Payload));
        assert_eq!(verdict(&ours, &ends.echo_reply(7, 1, b"ping dat4")), Err(Cause::Payload));
        // Another identifier is another flow: late, not different.
        let mut bench = Bench::default();
        bench.primary(&ours).secondary(&ends.echo_reply(8, 1, b"ping data")).wait(3001);
        assert_eq!(bench.engine.stats().divergences.get(Cause::Age as usize), 2);
    }
}

#[test]
fn icmp_errors_by_what_they_say_of_which_packet() {
    let quoted = Ends::v4().tcp(0x10, 77, 88).payload(b"more than eight bytes").frame();
    let error = |kind: u8, mtu: u8, ttl: u8, ack: u8| {
        let mut body = vec![kind, 4, 0, 0, 0, 0, 5, mtu];
        body.extend(&quoted[14..]);
        body[16] = ttl;
        body[8 + 20 + 11] = ack;
        Ends::v4().other_ip(1, 64, &body)
    };
    let ours = error(3, 100, 60, 1);
    assert_eq!(verdict(&ours, &error(3, 100, 60, 1)), Ok(()));
    assert_eq!(verdict(&ours, &error(3, 100, 59, 2)), Ok(()), "the quoted TTL and ack are the path's");
    assert_eq!(verdict(&ours, &error(3, 101, 60, 1)), Err(Cause::Payload), "the MTU counts");
    assert_eq!(verdict(&ours, &error(11, 100, 60, 1)), Err(Cause::Fields), "the type counts");
}

/// A neighbour solicitation or advertisement with a link-layer option and perhaps a nonce.
fn nd(kind: u8, target: u8, mac: u8, nonce: Option<u8>) -> Vec<u8> {
    let mut body = vec![kind, 0, 0xaa, 0xbb, 0x60, 0, 0, 0];
    body.extend([0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, target]);
    body.extend([kind - 134, 1, 0, 0, 0, 0, 0, mac]);
    if let Some(nonce) = nonce {
        body.extend([14, 1, nonce, nonce, nonce, nonce, nonce, nonce]);
    }
    Ends::v6().other_ip(58, 255, &body)
}

#[test]
fn neighbour_discovery_by_target_and_link_layer_address() {
    for kind in [135, 136] {
        let ours = nd(kind, 1, 1, Some(5));
        assert_eq!(verdict(&ours, &nd(kind, 1, 1, Some(6))), Ok(()), "the nonce is chance");
        assert_eq!(verdict(&ours, &nd(kind, 1, 1, None)), Ok(()));
        assert_eq!(verdict(&ours, &nd(kind, 2, 1, Some(5))), Err(Cause::Fields));
        assert_eq!(verdict(&ours, &nd(kind, 1, 2, Some(5))), Err(Cause::Fields));
    }
}

#[test]
fn arp_by_operation_sender_and_target() {
    let (guest, peer) = ([10, 77, 0, 2], [10, 77, 0, 1]);
    let request = arp(1, (GUEST_MAC, guest), ([0; 6], peer));
    let garbage = arp(1, (GUEST_MAC, guest), ([9; 6], peer));
    let reply = arp(2, (GUEST_MAC, guest), (PEER_MAC, peer));
    assert_eq!(verdict(&request, &request), Ok(()));
    assert_eq!(verdict(&request, &padded(garbage, 0xee)), Ok(()), "what is asked for, and padding");
    assert_eq!(verdict(&request, &reply), Err(Cause::Fields));
    assert_eq!(verdict(&reply, &arp(2, ([1; 6], guest), (PEER_MAC, peer))), Err(Cause::Fields));
}

#[test]
fn neighbours_can_be_ignored_or_made_a_checkpoint() {
    let request = arp(1, (GUEST_MAC, [10, 77, 0, 2]), ([0; 6], [10, 77, 0, 1]));
    let with = |arp| Bench::new(Config { arp, nd: arp, ..Config::default() });
    for frame in [request, nd(135, 1, 1, None)] {
        let mut bench = with(Neighbours::Ignore);
        bench.primary(&frame).secondary(&frame).wait(5000);
        let passed = Verdict::Discard(Side::Secondary, Discard::PassedThrough);
        assert_eq!(bench.verdicts(), [Verdict::Release(frame.clone(), 0), passed]);
        let mut bench = with(Neighbours::Checkpoint);
        bench.secondary(&frame).primary(&frame);
        let dropped = Verdict::Discard(Side::Secondary, Discard::Compared);
        assert_eq!(bench.verdicts(), [dropped, Verdict::Trigger(Cause::Fields)]);
        assert_eq!(bench.held(), 1);
        bench.checkpoint();
        assert_eq!(bench.out(), [frame]);
    }
}

#[test]
fn other_ip_by_payload_alone() {
    for ends in [Ends::v4(), Ends::v6()] {
        let ours = ends.other_ip(47, 64, b"GRE payload");
        assert_eq!(verdict(&ours, &ends.other_ip(47, 9, b"GRE payload")), Ok(()), "TTL and checksum");
        assert_eq!(verdict(&ours, &ends.other_ip(47, 64, b"GRE paylo4d")), Err(Cause::Payload));
    }
}

#[test]
fn other_ethertypes_by_payload_without_padding() {
    let ours = ether(0x88cc, b"LLDP");
    assert_eq!(verdict(&ours, &padded(ours.clone(), 0)), Ok(()));
    assert_eq!(verdict(&ours, &ether(0x88cc, b"LLDp")), Err(Cause::Payload));
    let long = |last: u8| ether(0x88cc, &[&[7; 80][..], &[last]].concat());
    assert_eq!(verdict(&long(0), &ether(0x88cc, &[7; 80])), Err(Cause::Length), "no padding up here");
}

#[test]
fn ethernet_padding_never_counts() {
    let ours = Ends::v4().udp(b"x");
    assert_eq!(verdict(&padded(ours.clone(), 0), &padded(ours.clone(), 0xff)), Ok(()));
    assert_eq!(verdict(&ours, &padded(ours.clone(), 0xff)), Ok(()));
    let ours = Ends::v4().tcp(0x10, 1, 501).payload(b"a").frame();
    assert_eq!(verdict(&padded(ours.clone(), 1), &padded(ours.clone(), 2)), Ok(()));
}

#[test]
fn how_a_datagram_is_fragmented_does_not_count() {
    let payload: Vec<u8> = (0..3000_u32).map(|n| n as u8).collect();
    let ours = Ends::v4().udp(&payload);
    let mut bench = Bench::default();
    let mut theirs = fragments_v4(&ours, 800, 99);
    theirs.reverse();
    for frame in fragments_v4(&ours, 1480, 7) {
        bench.primary(&frame);
    }
    theirs.iter().for_each(|frame| bench.feed(Side::Secondary, frame));
    assert_eq!(bench.out(), fragments_v4(&ours, 1480, 7), "the primary's fragments, in their order");
    let ours = Ends::v6().udp(&payload);
    let mut bench = Bench::default();
    bench.primary(&ours);
    fragments_v6(&ours, 1232, 5).iter().for_each(|frame| bench.feed(Side::Secondary, frame));
    assert_eq!(bench.out(), [ours]);
    assert_eq!(bench.engine.stats().reassembled, 1);
}

#[test]
fn fragments_that_overlap_are_void() {
    let frames = fragments_v4(&Ends::v4().udp(&[1; 3000]), 1480, 7);
    let mut shifted = frames[1].clone();
    shifted[21] -= 1; // eight bytes earlier
    let mut bench = Bench::default();
    bench.primary(&frames[0]).primary(&shifted).primary(&frames[2]);
    let void = Verdict::Discard(Side::Primary, Discard::BadFragments);
    assert_eq!(bench.verdicts(), [void.clone(), void.clone(), void]);
    assert_eq!(bench.held(), 0);
    // An exact repetition is no overlap.
    let mut bench = Bench::default();
    bench.primary(&frames[0]).primary(&frames[0]).primary(&frames[1]).primary(&frames[2]);
    frames.iter().for_each(|frame| bench.feed(Side::Secondary, frame));
    assert_eq!(bench.out().len(), 4);
}

#[test]
fn fragments_whose_rest_never_comes_need_a_checkpoint() {
    let frames = fragments_v4(&Ends::v4().udp(&[1; 3000]), 1480, 7);
    let mut bench = Bench::default();
    bench.primary(&frames[0]).secondary(&frames[0]).wait(3001);
    let late = Verdict::Discard(Side::Secondary, Discard::FragmentTimeout);
    assert_eq!(bench.verdicts(), [late, Verdict::Trigger(Cause::Age)]);
    bench.checkpoint();
    assert_eq!(bench.out(), [frames[0].clone()]);
}

#[test]
fn too_many_reassemblies_are_a_trigger_not_a_drop() {
    let mut bench = Bench::default();
    for id in 0..65 {
        let frames = fragments_v4(&Ends::v4().udp(&[1; 3000]), 1480, id);
        bench.primary(&frames[0]).secondary(&frames[0]);
    }
    let full = Verdict::Discard(Side::Secondary, Discard::FragmentTimeout);
    assert_eq!(bench.verdicts(), [Verdict::Trigger(Cause::Overflow), full]);
    assert_eq!(bench.held(), 65);
    bench.checkpoint();
    assert_eq!(bench.out().len(), 65);
}

#[test]
fn uso_frames_are_messages_cut_at_a_size() {
    let frame = Ends::v4().udp(&[1; 3000]);
    let offload =
        |size| Offload { partial_checksum: true, gso: Gso::UdpDatagrams { size }, ..Offload::default() };
    for (theirs, out) in [(1000, 1), (1500, 0)] {
        let mut bench = Bench::default();
        let epoch = bench.engine.epoch();
        bench.feed_in(epoch, Side::Primary, &frame, offload(1000));
        bench.feed_in(epoch, Side::Secondary, &frame, offload(theirs));
        assert_eq!(bench.out().len(), out);
    }
}

#[test]
fn vlans_separate_flows() {
    let mut bench = Bench::default();
    bench.primary(&Ends::v4().vlan(5).udp(b"x")).secondary(&Ends::v4().vlan(6).udp(b"x"));
    assert_eq!(bench.out().len(), 0);
    bench.secondary(&Ends::v4().vlan(5).udp(b"x"));
    assert_eq!(bench.out().len(), 1);
}

#[test]
fn malformed_frames_are_dropped_and_counted() {
    let good = Ends::v4().udp(b"payload");
    let mut bench = Bench::default();
    let mut fed = 0;
    for cut in 0..good.len() {
        bench.primary(&good[..cut]);
        fed += 1;
    }
    for (at, value) in [(14, 0x65), (14, 0x41), (16, 0xff), (17, 10), (38, 0xff), (39, 3)] {
        let mut bad = good.clone();
        bad[at] = value;
        bench.primary(&bad);
        fed += 1;
    }
    assert_eq!(bench.engine.stats().primary.discards.get(Discard::Malformed as usize), fed);
    assert_eq!(bench.held(), 0);
}

#[test]
fn pass_through_is_by_rule_in_order_and_counted() {
    let pass =
        PassRules::parse(&["compare udp peer 10.77.0.1:53", "pass udp", "pass tcp guest :3389"]).unwrap();
    let mut bench = Bench::new(Config { pass, ..Config::default() });
    bench.primary(&Ends::v4().udp(b"clock")).secondary(&Ends::v4().udp(b"other"));
    assert_eq!(bench.out().len(), 1);
    bench.primary(&Ends::v4().peer_port(53).udp(b"name"));
    assert_eq!(bench.out().len(), 0, "the first rule that matches decides");
    assert_eq!(bench.engine.stats().passed_through, 1);
}

#[test]
fn settle_finds_what_will_never_match() {
    let mut bench = Bench::default();
    bench.primary(&Ends::v4().udp(b"one")).secondary(&Ends::v4().udp(b"two"));
    bench.engine.settle(Nanos::from_millis(1000), &mut bench.log);
    assert_eq!(bench.triggers(), [Cause::Payload]);
}
