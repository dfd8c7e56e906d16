//! Checkpoints, epochs, modes, triggers, ages and limits.

use colo_proxy::engine::{Cause, Config, Discard, Epoch, Limit, Mode, Nanos, Side};
use colo_proxy::packet::{self, Offload, Parsed};
use colo_tests::frames::{ACK, Ends, RST, SYN};
use colo_tests::log::{Bench, Verdict};

const NONE: [Cause; 0] = [];

fn data(seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    Ends::v4().tcp(ACK, seq, ack).payload(payload).frame()
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    Ends::v4().peer_port(port).udp(payload)
}

fn feed(bench: &mut Bench, epoch: u64, side: Side, frame: &[u8]) {
    bench.feed_in(Epoch(epoch), side, frame, Offload::default());
}

#[test]
fn a_checkpoint_releases_everything_in_its_first_order() {
    let mut bench = Bench::default();
    let frames = [
        data(4, 501, b"def"),
        udp(7, b"one"),
        data(1, 501, b"abc"),
        Ends::v4().tcp(ACK, 7, 900).frame(),
        udp(7, b"two"),
        Ends::v4().peer_port(9).tcp(RST, 7, 900).frame(),
    ];
    frames.iter().for_each(|frame| bench.feed(Side::Primary, frame));
    bench.secondary(&data(1, 501, b"X"));
    bench.verdicts();
    bench.checkpoint();
    assert_eq!(bench.out(), frames);
    assert_eq!(bench.engine.stats().released_by_checkpoint, 6);
    assert_eq!(bench.engine.epoch(), Epoch(2));
}

#[test]
fn after_a_checkpoint_both_sides_go_on_from_the_primarys_state() {
    let mut bench = Bench::default();
    bench.primary(&data(1, 900, b"abc")).secondary(&data(1, 501, b"abX"));
    bench.checkpoint();
    bench.verdicts();
    // The secondary, restored, repeats what was not acknowledged; that is old news.
    bench.secondary(&data(1, 900, b"abc"));
    bench.primary(&data(4, 900, b"new")).secondary(&data(4, 900, b"new"));
    assert_eq!(bench.out().len(), 1);
    // Its acknowledgement is the primary's: a pure one passes without another word from it.
    bench.primary(&Ends::v4().tcp(ACK, 7, 900).frame());
    assert_eq!(bench.out().len(), 1);
}

#[test]
fn a_lowered_ack_is_let_out_by_the_checkpoint() {
    let mut bench = Bench::default();
    bench.primary(&data(1, 900, b"abc")).secondary(&data(1, 501, b"abc"));
    assert_eq!(bench.out().len(), 1);
    bench.checkpoint();
    assert!(matches!(bench.verdicts()[..], [Verdict::Inject(_)]));
}

#[test]
fn frames_of_the_next_epoch_wait_for_it_and_stale_ones_go() {
    let mut bench = Bench::default();
    feed(&mut bench, 1, Side::Primary, &data(1, 501, b"abc"));
    bench.engine.checkpoint_begin();
    // The primary runs on while its state is on the way.
    feed(&mut bench, 2, Side::Primary, &data(4, 501, b"def"));
    // The old secondary still talks; that may still match.
    feed(&mut bench, 1, Side::Secondary, &data(1, 501, b"abc"));
    assert_eq!(bench.out().len(), 1);
    feed(&mut bench, 2, Side::Secondary, &data(4, 501, b"def"));
    assert_eq!(bench.out().len(), 0);
    assert_eq!(bench.held(), 1);
    bench.engine.checkpoint_done(bench.now, &mut bench.log);
    assert_eq!(bench.out().len(), 1);
    feed(&mut bench, 1, Side::Secondary, &data(7, 501, b"old"));
    assert_eq!(bench.verdicts(), [Verdict::Discard(Side::Secondary, Discard::Stale)]);
    // A primary frame of the old epoch that was late on its way is covered.
    feed(&mut bench, 1, Side::Primary, &data(7, 501, b"old"));
    assert_eq!(bench.out().len(), 1);
    feed(&mut bench, 2, Side::Primary, &data(10, 501, b"new"));
    feed(&mut bench, 2, Side::Secondary, &data(10, 501, b"new"));
    assert_eq!(bench.out().len(), 1);
}

#[test]
fn a_failed_checkpoint_releases_nothing_and_is_asked_for_again() {
    let mut bench = Bench::default();
    bench.primary(&data(1, 501, b"abc")).secondary(&data(1, 501, b"abX"));
    assert_eq!(bench.triggers(), [Cause::Payload]);
    bench.engine.checkpoint_begin();
    feed(&mut bench, 2, Side::Primary, &data(4, 501, b"def"));
    bench.engine.checkpoint_failed(bench.now, &mut bench.log);
    assert_eq!(bench.out().len(), 0);
    assert_eq!(bench.held(), 2);
    bench.wait(10);
    assert_eq!(bench.triggers(), [Cause::Payload]);
    bench.checkpoint();
    assert_eq!(bench.out().len(), 2);
}

#[test]
fn triggers_merge_and_keep_their_distance() {
    let mut bench = Bench::default();
    for port in 1..=20 {
        let segment = |payload: &[u8]| Ends::v4().peer_port(port).tcp(ACK, 1, 501).payload(payload).frame();
        bench.primary(&segment(b"abc")).secondary(&segment(b"abX")).primary(&segment(b"abc"));
    }
    assert_eq!(bench.triggers(), [Cause::Payload]);
    assert_eq!(bench.engine.stats().triggers_merged.total(), 19);
    bench.checkpoint();
    bench.primary(&data(1, 501, b"abc")).secondary(&data(1, 501, b"abX"));
    assert_eq!(bench.triggers(), NONE, "too soon");
    assert_eq!(bench.engine.next_deadline(), Some(bench.now.plus(Nanos::from_millis(10))));
    bench.wait(10);
    assert_eq!(bench.triggers(), [Cause::Payload]);
}

#[test]
fn an_operator_can_ask() {
    let mut bench = Bench::default();
    bench.engine.request(Cause::Operator, bench.now, &mut bench.log);
    assert_eq!(bench.triggers(), [Cause::Operator]);
}

#[test]
fn ages_are_judged_per_flow_and_learned() {
    let mut bench = Bench::default();
    // A flow whose sides are one millisecond apart…
    for n in 0..50 {
        bench.primary(&udp(7, &[n]));
        bench.wait(1).secondary(&udp(7, &[n]));
    }
    bench.verdicts();
    // …is late after the floor; one that nothing is known of, after the ceiling.
    bench.primary(&udp(7, b"x")).primary(&udp(8, b"x"));
    bench.wait(99);
    assert_eq!(bench.triggers(), NONE);
    bench.wait(2);
    assert_eq!(bench.triggers(), [Cause::Age]);
    bench.checkpoint();
    bench.primary(&udp(9, b"x")).wait(2999);
    assert_eq!(bench.triggers(), NONE);
    bench.wait(1);
    assert_eq!(bench.triggers(), [Cause::Age]);
}

#[test]
fn the_secondarys_output_ages_too() {
    let mut bench = Bench::default();
    bench.secondary(&udp(7, b"only here")).wait(3000);
    assert_eq!(bench.triggers(), [Cause::Age]);
    let mut bench = Bench::default();
    bench.secondary(&data(1, 501, b"only here")).wait(3000);
    assert_eq!(bench.triggers(), [Cause::Age]);
}

#[test]
fn a_full_flow_is_a_trigger_and_loses_nothing() {
    let config = Config { flow_limit: Limit { frames: 4, bytes: 1 << 20 }, ..Config::default() };
    let mut bench = Bench::new(config);
    let frames: Vec<_> = (0..10).map(|n| data(1 + n, 501, &[n as u8])).collect();
    frames.iter().for_each(|frame| bench.feed(Side::Primary, frame));
    assert_eq!(bench.triggers(), [Cause::Overflow]);
    bench.checkpoint();
    assert_eq!(bench.out(), frames);
    let config = Config { flow_limit: Limit { frames: 999, bytes: 300 }, ..Config::default() };
    let mut bench = Bench::new(config);
    frames.iter().for_each(|frame| bench.feed(Side::Secondary, frame));
    assert_eq!(bench.triggers(), [Cause::Overflow]);
    assert_eq!(bench.engine.held(Side::Secondary).frames, 0, "it is of no use any more");
}

#[test]
fn too_much_in_all_is_a_trigger_then_back_pressure_then_a_counted_drop() {
    let config = Config { total_limit: Limit { frames: 10, bytes: 1 << 20 }, ..Config::default() };
    let mut bench = Bench::new(config);
    for port in 1..=10 {
        bench.primary(&udp(port, b"x"));
    }
    assert_eq!(bench.triggers(), NONE);
    bench.primary(&udp(11, b"x"));
    assert_eq!(bench.triggers(), [Cause::Overflow]);
    for port in 12..=21 {
        assert!(bench.engine.accepts(Side::Primary));
        bench.primary(&udp(port, b"x"));
    }
    assert!(!bench.engine.accepts(Side::Primary));
    assert!(bench.engine.accepts(Side::Secondary));
    bench.verdicts();
    bench.primary(&udp(22, b"x"));
    assert_eq!(bench.verdicts(), [Verdict::Discard(Side::Primary, Discard::Overrun)]);
    bench.checkpoint();
    assert_eq!(bench.out().len(), 21);
    assert!(bench.engine.accepts(Side::Primary));
}

#[test]
fn periodic_mode_holds_all_and_compare_follows_a_checkpoint() {
    let mut bench = Bench::default();
    bench.primary(&data(1, 501, b"abc"));
    bench.engine.set_mode(Mode::Periodic, bench.now, &mut bench.log);
    bench.both(&udp(7, b"x"));
    assert_eq!(bench.verdicts(), [Verdict::Discard(Side::Secondary, Discard::Superseded)]);
    assert_eq!(bench.held(), 2);
    bench.engine.set_mode(Mode::Compare, bench.now, &mut bench.log);
    assert_eq!(bench.engine.mode(), Mode::Periodic, "nothing overtakes what is held");
    bench.primary(&data(4, 501, b"def"));
    bench.checkpoint();
    assert_eq!(bench.engine.mode(), Mode::Compare);
    assert_eq!(bench.out(), [data(1, 501, b"abc"), udp(7, b"x"), data(4, 501, b"def")]);
    bench.both(&udp(7, b"y"));
    assert_eq!(bench.out().len(), 1);
}

#[test]
fn unprotected_releases_all_and_holds_nothing() {
    let mut bench = Bench::default();
    bench.primary(&data(1, 501, b"abc")).secondary(&udp(7, b"x"));
    bench.engine.checkpoint_begin();
    feed(&mut bench, 2, Side::Primary, &data(4, 501, b"def"));
    bench.engine.set_mode(Mode::Unprotected, bench.now, &mut bench.log);
    bench.both(&udp(7, b"y"));
    assert_eq!(bench.out(), [data(1, 501, b"abc"), data(4, 501, b"def"), udp(7, b"y")]);
    assert_eq!(bench.held(), 0);
    assert_eq!(bench.engine.held(Side::Secondary).frames, 0);
}

#[test]
fn an_excluded_flow_stays_out() {
    let mut bench = Bench::default();
    bench.primary(&udp(7, b"x")).primary(&udp(8, b"x"));
    let key = match colo_proxy::packet::parse(&udp(7, b"x"), Offload::default()) {
        Ok(colo_proxy::packet::Parsed::Whole(packet)) => packet.key,
        other => panic!("{other:?}"),
    };
    bench.engine.exclude(&key, &mut bench.log);
    bench.both(&udp(7, b"y"));
    let out = |side| Verdict::Discard(side, Discard::Excluded);
    assert_eq!(bench.verdicts(), [out(Side::Primary), out(Side::Primary), out(Side::Secondary)]);
    bench.secondary(&udp(8, b"x"));
    assert_eq!(bench.out().len(), 1, "the others go on");
}

#[test]
fn drain_hands_out_all_that_is_held() {
    let mut bench = Bench::default();
    bench.primary(&data(1, 501, b"abc")).secondary(&udp(7, b"x")).primary(&udp(8, b"x"));
    let mut out = Vec::new();
    bench.engine.drain(|flow, side, frame| out.push((flow.is_some(), side, frame.len())));
    assert_eq!(out, [(true, Side::Primary, 57), (true, Side::Secondary, 43), (true, Side::Primary, 43)]);
    assert_eq!(bench.held(), 0);
}

#[test]
fn compact_sees_each_held_frame_once() {
    let mut bench = Bench::default();
    bench.primary(&data(1, 501, b"abc")).secondary(&udp(7, b"x"));
    let count = |bench: &mut Bench| {
        let mut seen = 0;
        bench.engine.compact(bench.now, |_| seen += 1);
        seen
    };
    assert_eq!(count(&mut bench), 0, "not before they are older");
    bench.wait(1).primary(&udp(8, b"x"));
    assert_eq!(count(&mut bench), 2);
    assert_eq!(count(&mut bench), 0);
}

#[test]
fn a_late_frame_covers_nothing_that_overtook_it() {
    let mut bench = Bench::default();
    bench.checkpoint();
    bench.primary(&data(10, 501, b"of this epoch"));
    let late = data(6, 501, b"late");
    feed(&mut bench, 1, Side::Primary, &late);
    let syn = Ends::v4().tcp(SYN, 9000, 0).frame();
    feed(&mut bench, 1, Side::Primary, &syn);
    assert_eq!(bench.out(), [late, syn]);
    let mut kept = 0;
    bench.secondary(&data(10, 501, b"")).engine.drain(|_, _, _| kept += 1);
    assert_eq!((kept, bench.out().len()), (1, 0));
}

#[test]
fn flows_that_diverged_are_bounded_too() {
    let mut bench = Bench::new(Config { max_flows: 16, ..Config::default() });
    // The secondary talks to many ports, the primary to none, and no checkpoint ever completes.
    for port in 0..1000 {
        bench.secondary(&udp(port, b"x"));
        if port % 16 == 15 {
            bench.wait(4000);
        }
    }
    assert!(bench.engine.flows() <= 32, "{} flows", bench.engine.flows());
}

#[test]
fn an_excluded_flow_stays_excluded() {
    let mut bench = Bench::new(Config { max_flows: 16, ..Config::default() });
    let frame = udp(1, b"x");
    let Ok(Parsed::Whole(packet)) = packet::parse(&frame, Offload::default()) else { panic!() };
    bench.engine.exclude(&packet.key, &mut bench.log);
    for port in 2..200 {
        bench.both(&udp(port, b"x"));
    }
    bench.verdicts();
    let excluded = [Verdict::Discard(Side::Primary, Discard::Excluded)];
    bench.primary(&frame);
    assert_eq!(bench.verdicts(), excluded, "others did not push it out");
    bench.checkpoint();
    feed(&mut bench, 1, Side::Primary, &frame);
    assert_eq!(bench.verdicts(), excluded, "nor did a checkpoint that covers it");
}

#[test]
fn a_primary_that_runs_alone_asks_for_no_checkpoint() {
    let mut bench = Bench::default();
    bench.primary(&udp(1, b"x")).wait(4000).checkpoint();
    // Too soon after the last one: it waits for the interval.
    bench.engine.request(Cause::Operator, bench.now, &mut bench.log);
    bench.engine.set_mode(Mode::Unprotected, bench.now, &mut bench.log);
    bench.triggers();
    bench.wait(4000);
    assert_eq!(bench.triggers(), NONE);
}
