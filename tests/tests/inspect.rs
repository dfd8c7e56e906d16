//! What the engine says of what it holds: that it is all there, and that the reasons are right.

use colo_proxy::control::status::{FlowStatus, HeldStatus};
use colo_proxy::engine::{
    Cause, Config, Engine, Epoch, FlowView, Holder, Mode, Nanos, Neighbours, Side, Stand, Usage, Why,
};
use colo_proxy::packet::Offload;
use colo_tests::frames::{ACK, Ends, PSH, RST, SYN, arp, fragments_v4};
use colo_tests::log::{Bench, Verdict};
use proptest::prelude::*;

fn v4() -> Ends {
    Ends::v4()
}

fn data(seq: u32, payload: &[u8]) -> Vec<u8> {
    v4().tcp(ACK | PSH, seq, 501).payload(payload).frame()
}

/// A connection in which both sides have answered, the secondary with its own ISN.
fn opened() -> Bench {
    let mut bench = Bench::default();
    let syn = |isn| v4().tcp(SYN | ACK, isn, 501).mss(1460).frame();
    bench.primary(&syn(1000)).secondary(&syn(77_000));
    bench.secondary(&v4().tcp(ACK, 77_001, 501).frame());
    bench.verdicts();
    bench
}

/// The one thing that is held.
fn only(bench: &Bench) -> FlowView {
    let views = bench.engine.inspect(10);
    assert_eq!(views.len(), 1, "{views:?}");
    views[0]
}

fn sum(engine: &Engine<Vec<u8>>) -> [Usage; 2] {
    let mut all = <[Usage; 2]>::default();
    for view in engine.inspect(usize::MAX) {
        for (all, held) in all.iter_mut().zip(view.held) {
            all.frames += held.frames;
            all.bytes += held.bytes;
        }
    }
    all
}

#[test]
fn a_stream_says_what_it_waits_for() {
    let mut bench = opened();
    assert!(bench.engine.inspect(10).is_empty());

    let frame = data(1001, b"hello");
    bench.primary(&frame);
    let view = only(&bench);
    assert_eq!(view.holder.to_string(), "tcp 10.77.0.2:80 > 10.77.0.1:40000");
    assert_eq!(view.held, [Usage { frames: 1, bytes: frame.len() }, Usage::default()]);
    assert_eq!((view.since, view.stand), (bench.now, Some(Stand::Compare)));
    assert_eq!(view.why, Why::Output(Side::Secondary));
    assert_eq!(view.why.to_string(), "waits for the secondary's output");

    // The secondary's second segment came before its first.
    bench.secondary(&data(77_004, b"lo"));
    assert_eq!(only(&bench).why, Why::Earlier(Side::Secondary));
    bench.secondary(&data(77_001, b"hel"));
    assert!(bench.engine.inspect(10).is_empty());

    bench.secondary(&data(77_006, b"more"));
    assert_eq!(only(&bench).why, Why::Output(Side::Primary));
    bench.primary(&data(1008, b"re"));
    assert_eq!(only(&bench).why, Why::Earlier(Side::Primary));
    bench.primary(&data(1006, b"mo"));
    assert!(bench.engine.inspect(10).is_empty());
}

#[test]
fn acknowledgements_and_resets_are_told_apart() {
    let mut bench = opened();
    bench.primary(&v4().tcp(ACK, 1001, 900).frame());
    assert_eq!(only(&bench).why, Why::Acknowledgement);
    bench.secondary(&v4().tcp(ACK, 77_001, 900).frame());
    assert!(bench.engine.inspect(10).is_empty());

    let mut bench = opened();
    bench.primary(&v4().tcp(RST | ACK, 1001, 501).frame());
    assert_eq!(only(&bench).why, Why::Reset(Side::Secondary));
    let mut bench = opened();
    bench.secondary(&v4().tcp(RST | ACK, 77_001, 501).frame());
    assert_eq!(only(&bench).why, Why::Reset(Side::Primary));
}

#[test]
fn data_that_agrees_and_waits_for_the_first_acknowledgement() {
    let mut bench = Bench::default();
    let first = |seq| v4().tcp(SYN, seq, 0).frame();
    bench.primary(&first(1000)).secondary(&first(77_000));
    bench.primary(&data(1001, b"x"));
    assert_eq!(only(&bench).why, Why::Output(Side::Secondary));
    // The same byte without an acknowledgement, which no kernel sends, agrees all the same.
    bench.secondary(&v4().tcp(PSH, 77_001, 0).payload(b"x").frame());
    assert_eq!(only(&bench).why, Why::Acknowledgement);
}

#[test]
fn numbers_of_a_secondary_whose_syn_was_not_seen_cannot_be_placed() {
    let mut bench = Bench::default();
    bench.primary(&v4().tcp(SYN | ACK, 1000, 501).frame());
    bench.wait(5);
    bench.secondary(&data(77_500, b"x"));
    let view = only(&bench);
    assert_eq!((view.why, view.held[1].frames), (Why::Unplaced, 1));
    let mut bench = Bench::default();
    bench.secondary(&data(77_500, b"x"));
    assert_eq!(only(&bench).why, Why::Output(Side::Primary));
}

#[test]
fn messages_that_differ_have_the_reorder_wait_as_their_limit() {
    let mut bench = Bench::default();
    bench.primary(&v4().udp(b"one"));
    let view = only(&bench);
    assert_eq!((view.why, view.limit), (Why::Output(Side::Secondary), Some(Nanos::from_millis(3000))));
    bench.wait(100).secondary(&v4().udp(b"two"));
    let view = only(&bench);
    assert_eq!((view.why, view.limit), (Why::Order, Some(Nanos::from_millis(100 + 20))));
    assert_eq!(bench.now.since(view.since), Nanos::from_millis(100));
    bench.wait(20);
    let view = only(&bench);
    assert_eq!((view.why, view.limit), (Why::Diverged(Cause::Payload), None));
    assert_eq!(view.stand, Some(Stand::Diverged(Cause::Payload)));
    assert_eq!(view.held[1], Usage::default(), "the secondary's is void");
    bench.checkpoint();
    assert!(bench.engine.inspect(10).is_empty());
}

#[test]
fn a_limit_is_when_it_counts_as_a_divergence() {
    let mut bench = opened();
    // The sides are 40 ms apart for a while, so the flow learns a limit of its own.
    for seq in (0..500).step_by(5) {
        bench.primary(&data(1001 + seq, b"hello")).wait(40).secondary(&data(77_001 + seq, b"hello"));
    }
    bench.primary(&data(1501, b"late"));
    let limit = only(&bench).limit.expect("it is compared");
    assert!(limit < Nanos::from_millis(3000), "{limit:?}");
    bench.verdicts();
    bench.now = Nanos(bench.now.0 + limit.0 - 1);
    bench.wait(0);
    assert_eq!(bench.triggers(), []);
    bench.now = Nanos(bench.now.0 + 1);
    bench.wait(0);
    assert_eq!(bench.triggers(), [Cause::Age]);
}

#[test]
fn what_belongs_to_no_flow_is_there_too() {
    let rule = Config { arp: Neighbours::Checkpoint, ..Config::default() };
    let mut bench = Bench::new(rule);
    bench.primary(&arp(1, ([2; 6], [10, 77, 0, 2]), ([0; 6], [10, 77, 0, 1])));
    let view = only(&bench);
    assert_eq!((view.why, view.stand, view.limit), (Why::Rule, Some(Stand::Checkpoint), None));

    let mut bench = Bench::default();
    bench.engine.set_mode(Mode::Periodic, bench.now, &mut bench.log);
    bench.primary(&v4().udp(b"one"));
    assert_eq!((only(&bench).holder, only(&bench).why), (Holder::Parked, Why::Periodic));

    let mut bench = Bench::default();
    let pieces = fragments_v4(&v4().udp(&[7; 100]), 40, 1);
    bench.secondary(&pieces[0]).wait(1).secondary(&pieces[1]);
    let view = only(&bench);
    assert_eq!((view.holder, view.why), (Holder::Fragments(Side::Secondary), Why::Fragments));
    assert_eq!((view.held[1].frames, view.limit), (2, Some(Nanos::from_millis(3000))));
    assert_eq!(view.held[1], bench.engine.held(Side::Secondary));
    // Fragments of the primary whose rest never comes wait for a checkpoint in the end.
    let mut bench = Bench::default();
    bench.primary(&pieces[0]).wait(3000);
    assert_eq!((only(&bench).holder, only(&bench).why), (Holder::Parked, Why::Checkpoint));

    let mut bench = Bench::default();
    bench.engine.checkpoint_begin();
    bench.feed_in(Epoch(2), Side::Primary, &v4().udp(b"one"), Offload::default());
    let view = only(&bench);
    assert_eq!((view.holder, view.why, view.limit), (Holder::NextEpoch, Why::NextEpoch, None));
    bench.engine.checkpoint_done(bench.now, &mut bench.log);
    assert_eq!(only(&bench).why, Why::Output(Side::Secondary));
}

#[test]
fn the_oldest_are_chosen() {
    let mut bench = Bench::default();
    // The slots are not in the order of age: every second flow is answered and used again later.
    for port in 0..200u16 {
        bench.primary(&v4().peer_port(40_000 + port).udp(b"x")).wait(1);
    }
    for port in (0..200u16).step_by(2) {
        bench.secondary(&v4().peer_port(40_000 + port).udp(b"x"));
        bench.wait(1).primary(&v4().peer_port(40_000 + port).udp(b"y"));
    }
    let all = bench.engine.inspect(usize::MAX);
    assert_eq!(all.len(), 200);
    assert!(all.is_sorted_by_key(|view| view.since));
    assert!(all[0].holder.to_string().ends_with(":40001"), "{}", all[0].holder);
    for max in [0, 1, 7, 200, 201] {
        assert_eq!(bench.engine.inspect(max), all[..max.min(200)]);
    }
}

#[test]
fn a_status_has_ages_of_its_own_time() {
    let mut bench = Bench::default();
    let frame = v4().udp(b"one");
    bench.primary(&frame);
    let later = bench.now.plus(Nanos(12_999_999));
    let status = FlowStatus::new(&only(&bench), later);
    assert_eq!(status.flow, "udp 10.77.0.2:80 > 10.77.0.1:40000");
    let bytes = frame.len() as u64;
    assert_eq!(status.held, [HeldStatus { frames: 1, bytes }, HeldStatus::default()]);
    assert_eq!((status.oldest_ms, status.limit_ms), (12, Some(3000)));
    assert_eq!(status.why, "waits for the secondary's output");
    // A time before the engine's own is no age at all.
    assert_eq!(FlowStatus::new(&only(&bench), Nanos(0)).oldest_ms, 0);
}

/// One random event.
#[derive(Clone, Debug)]
enum Event {
    Tcp(bool, u16, u8, u32, u8),
    Udp(bool, u16, u8),
    Piece(bool, u16, usize),
    Later(bool, u8),
    Wait(u64),
    Begin,
    Done,
    Failed,
    Mode(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (any::<bool>(), 0..3u16, 0..8u8, 0..12u32, 0..6u8).prop_map(|(s, p, f, q, l)| Event::Tcp(s, p, f, q, l)),
        4 => (any::<bool>(), 0..3u16, 0..4u8).prop_map(|(s, p, b)| Event::Udp(s, p, b)),
        2 => (any::<bool>(), 0..4u16, 0..3usize).prop_map(|(s, id, n)| Event::Piece(s, id, n)),
        1 => (any::<bool>(), any::<u8>()).prop_map(|(s, b)| Event::Later(s, b)),
        2 => (0..400u64).prop_map(Event::Wait),
        1 => Just(Event::Begin),
        1 => Just(Event::Done),
        1 => Just(Event::Failed),
        1 => (0..8u8).prop_map(Event::Mode),
    ]
}

fn apply(bench: &mut Bench, event: &Event) {
    let side = |primary: bool| if primary { Side::Primary } else { Side::Secondary };
    match *event {
        Event::Tcp(primary, port, flags, seq, len) => {
            let flags = [ACK, ACK, ACK, ACK | PSH, SYN, SYN | ACK, RST, RST | ACK][usize::from(flags)];
            let payload = &b"abcdef"[..usize::from(len)];
            let frame = v4().peer_port(port + 1).tcp(flags, 1000 + seq, 500 + seq / 4).payload(payload);
            bench.feed(side(primary), &frame.frame());
        }
        Event::Udp(primary, port, byte) => bench.feed(side(primary), &v4().peer_port(port + 1).udp(&[byte])),
        Event::Piece(primary, id, piece) => {
            let pieces = fragments_v4(&v4().udp(&[id as u8; 100]), 40, id);
            bench.feed(side(primary), &pieces[piece]);
        }
        Event::Later(primary, byte) => {
            let later = bench.engine.epoch().next();
            bench.feed_in(later, side(primary), &v4().udp(&[byte]), Offload::default());
        }
        Event::Wait(ms) => {
            bench.wait(ms);
        }
        Event::Begin => bench.engine.checkpoint_begin(),
        Event::Done => bench.engine.checkpoint_done(bench.now, &mut bench.log),
        Event::Failed => bench.engine.checkpoint_failed(bench.now, &mut bench.log),
        Event::Mode(number) => {
            let mode = match number {
                0 => Mode::Periodic,
                1 => Mode::Unprotected,
                _ => Mode::Compare,
            };
            bench.engine.set_mode(mode, bench.now, &mut bench.log);
        }
    }
}

proptest! {
    /// Whatever happens, what is shown is what the engine's own books say is held: no frame is
    /// forgotten, none is shown twice, and nothing is older than its limit.
    #[test]
    fn what_is_shown_is_what_is_held(events in prop::collection::vec(event(), 1..80)) {
        let mut bench = Bench::default();
        for event in &events {
            apply(&mut bench, event);
            let held = [bench.engine.held(Side::Primary), bench.engine.held(Side::Secondary)];
            prop_assert_eq!(sum(&bench.engine), held, "after {:?}", event);
            let views = bench.engine.inspect(usize::MAX);
            prop_assert!(views.is_sorted_by_key(|view| view.since));
            prop_assert_eq!(&bench.engine.inspect(2)[..], &views[..views.len().min(2)]);
            for view in &views {
                prop_assert!(view.held != <[Usage; 2]>::default());
                prop_assert!(view.since <= bench.now);
                let waits = matches!(view.why, Why::Diverged(_) | Why::Rule | Why::Periodic | Why::Checkpoint);
                prop_assert!(!waits || view.limit.is_none(), "{:?}", view);
            }
        }
        // Looking changes nothing: another engine that nobody looks at says the same.
        let mut unseen = Bench::default();
        events.iter().for_each(|event| apply(&mut unseen, event));
        let (seen, unseen): (Vec<Verdict>, Vec<Verdict>) = (bench.verdicts(), unseen.verdicts());
        prop_assert_eq!(seen, unseen);
    }
}
