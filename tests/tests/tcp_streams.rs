//! The promises for TCP, under random traffic, against an oracle that shares nothing with the
//! engine: an array with one cell per stream place, and the farthest acknowledgement and window
//! each side has sent.
//!
//! Both sides send one stream, each cut, reordered, repeated and overlapped in its own way.

use colo_proxy::engine::{Cause, Config, Nanos, Side};
use colo_tests::frames::{ACK, Ends, FIN, SYN, checksums_are_right};
use colo_tests::log::{Bench, Verdict};
use etherparse::TcpSlice;
use proptest::prelude::*;
use proptest::test_runner::Config as ProptestConfig;

const HOUR: Nanos = Nanos::from_millis(3_600_000);

/// One segment: places `start..end` of the stream (0 is the SYN, the last is the FIN).
#[derive(Clone, Debug)]
struct Send {
    start: usize,
    end: usize,
    ack: u32,
    window: u16,
}

/// How a side cuts the stream: segment lengths, then (index, kind) disturbances.
#[derive(Clone, Debug)]
struct Cutting {
    lens: Vec<usize>,
    repeats: Vec<(prop::sample::Index, usize, usize)>,
    swaps: Vec<prop::sample::Index>,
    acks: Vec<(u32, u16)>,
}

fn cutting() -> impl Strategy<Value = Cutting> {
    (
        prop::collection::vec(1usize..900, 1..24),
        prop::collection::vec((any::<prop::sample::Index>(), 0usize..600, 1usize..900), 0..6),
        prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        prop::collection::vec((0u32..3000, 1u16..2000), 40),
    )
        .prop_map(|(lens, repeats, swaps, acks)| Cutting { lens, repeats, swaps, acks })
}

/// The segments of one side in the order in which it sends them. Acknowledgements rise in that
/// order and the last one is `final_ack`.
fn plan(cutting: &Cutting, places: usize, final_ack: u32) -> Vec<Send> {
    let mut spans = vec![(0, 1)];
    let mut lens = cutting.lens.iter().cycle();
    while let Some(&(_, at)) = spans.last().filter(|(_, at)| *at < places) {
        spans.push((at, (at + lens.next().copied().unwrap_or(1)).min(places)));
    }
    for (index, back, len) in &cutting.repeats {
        let at = 1 + index.index(spans.len());
        let start = spans[at - 1].0.saturating_sub(*back).max(1);
        spans.insert(at, (start, (start + len).min(places)));
    }
    for index in &cutting.swaps {
        let at = index.index(spans.len());
        // The SYN stays first: without it nothing is known of the ISN.
        if at > 0 && at + 1 < spans.len() {
            spans.swap(at, at + 1);
        }
    }
    let mut acks: Vec<(u32, u16)> = cutting.acks.iter().cycle().take(spans.len()).copied().collect();
    acks.sort_by_key(|(ack, _)| *ack);
    let mut edge = 0;
    let mut sends: Vec<Send> = std::iter::zip(&spans, acks)
        .map(|(&(start, end), (ack, window))| {
            // A receiver never moves its right edge back (RFC 9293 §3.8.6.2).
            edge = edge.max(ack + u32::from(window));
            Send { start, end, ack, window: (edge - ack) as u16 }
        })
        .collect();
    sends.push(Send { start: places, end: places, ack: final_ack, window: 9000 });
    sends
}

#[derive(Clone, Copy, Debug)]
enum Space {
    Same,
    Own(u32),
    Translated(u32),
}

#[derive(Clone)]
struct Case {
    stream: Vec<u8>,
    isn: u32,
    client: u32,
    space: Space,
    primary: Cutting,
    secondary: Cutting,
    order: Vec<bool>,
    /// Before which sends a moment passes.
    pauses: Vec<bool>,
    v6: bool,
}

/// ISNs near both ends of the space, and anywhere.
fn isn() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        (0u32..4000).prop_map(|n| 0u32.wrapping_sub(n)),
        (0u32..4000).prop_map(|n| (1 << 31) - n)
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let space = prop_oneof![Just(Space::Same), isn().prop_map(Space::Own), isn().prop_map(Space::Translated)];
    (
        1usize..6000,
        isn(),
        isn(),
        space,
        cutting(),
        cutting(),
        (prop::collection::vec(any::<bool>(), 200), prop::collection::vec(any::<bool>(), 1..60)),
        any::<bool>(),
    )
        // Which bytes they are does not matter, as long as neighbours and windows differ.
        .prop_map(|(len, isn, client, space, primary, mut secondary, (order, pauses), v6)| {
            if let Space::Own(other) | Space::Translated(other) = space
                && isn.wrapping_sub(other).min(other.wrapping_sub(isn)) < 16_384
            {
                // Where two ISNs are within one stream of each other (one connection in 2¹⁷), the
                // first segment after the SYN has to come first to tell the spaces apart.
                secondary.swaps.clear();
            }
            let stream = (0..len).map(|at| (at * at / 7 + at) as u8).collect();
            Case { stream, isn, client, space, primary, secondary, order, pauses, v6 }
        })
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} bytes from {:#x} to {:#x}, {:?}",
            self.stream.len(),
            self.isn,
            self.client,
            self.space
        )?;
        for cutting in [&self.primary, &self.secondary] {
            plan(cutting, self.places(), 3000).iter().try_for_each(|send| writeln!(f, "  {send:?}"))?;
        }
        let order: String = self.order.iter().map(|first| if *first { 'p' } else { 's' }).collect();
        let pauses: String = self.pauses.iter().map(|pause| if *pause { '.' } else { '-' }).collect();
        write!(f, "{order} {pauses}")
    }
}

impl Case {
    fn places(&self) -> usize {
        self.stream.len() + 2
    }

    fn ends(&self) -> Ends {
        if self.v6 { Ends::v6() } else { Ends::v4() }
    }

    fn frame(&self, side: Side, send: &Send, stream: &[u8]) -> Vec<u8> {
        let fin = send.start < self.places() && send.end == self.places();
        let syn = send.start == 0;
        let flags = ACK | if syn { SYN } else { 0 } | if fin { FIN } else { 0 };
        let isn = match (side, self.space) {
            (Side::Primary, _) | (_, Space::Same) => self.isn,
            (_, Space::Own(own)) => own,
            (_, Space::Translated(own)) => {
                if syn {
                    own
                } else {
                    self.isn
                }
            }
        };
        let seq = isn.wrapping_add(send.start as u32);
        let mut tcp = self.ends().tcp(flags, seq, self.client.wrapping_add(send.ack)).window(send.window);
        if syn {
            tcp = tcp.mss(1460).scale(0);
        }
        let data = send.start.max(1) - 1..(send.end.max(1) - 1).min(stream.len());
        tcp.payload(stream.get(data).unwrap_or_default()).frame()
    }

    /// Both sides' frames, merged in the case's order.
    fn run(&self, secondary_stream: &[u8]) -> Run {
        let final_ack = 3000;
        let primary = plan(&self.primary, self.places(), final_ack);
        let secondary = plan(&self.secondary, self.places(), final_ack);
        let mut run = Run::new(self);
        let (mut primary, mut secondary) = (primary.iter(), secondary.iter());
        let (mut order, mut pauses) = (self.order.iter().cycle(), self.pauses.iter().cycle());
        loop {
            let first = *order.next().unwrap_or(&true);
            let next = if first { primary.next().map(|send| (Side::Primary, send)) } else { None };
            let next = next.or_else(|| secondary.next().map(|send| (Side::Secondary, send)));
            let next = next.or_else(|| primary.next().map(|send| (Side::Primary, send)));
            let Some((side, send)) = next else { return run };
            let stream = if side == Side::Primary { &self.stream } else { secondary_stream };
            if pauses.next() == Some(&true) {
                run.pause(self);
            }
            run.step(self, side, send, stream);
        }
    }
}

/// The engine beside the oracle.
struct Run {
    bench: Bench,
    /// What the secondary has sent at each place: SYN and FIN count as 256 and 257.
    sent: Vec<Option<u16>>,
    /// The farthest acknowledgement and right edge it has sent.
    acked: Option<(u32, u32)>,
    /// How far the client has got the stream, in order.
    received: usize,
    told: u32,
    triggers: Vec<Cause>,
}

impl Run {
    fn new(case: &Case) -> Self {
        Self {
            // Pauses are no lateness.
            bench: Bench::new(Config { age_floor: HOUR, age_ceiling: HOUR, ..Config::default() }),
            sent: vec![None; case.places()],
            acked: None,
            received: 0,
            told: 0,
            triggers: Vec::new(),
        }
    }

    fn step(&mut self, case: &Case, side: Side, send: &Send, stream: &[u8]) {
        if side == Side::Secondary {
            for place in send.start..send.end {
                self.sent[place] = Some(unit(place, stream));
            }
            let point = (send.ack, send.ack + u32::from(send.window));
            self.acked = Some(self.acked.map_or(point, |old| (old.0.max(point.0), old.1.max(point.1))));
        }
        let frame = case.frame(side, send, stream);
        self.bench.feed(side, &frame);
        self.look(case);
    }

    /// Two milliseconds pass: a segment that is verified in part is cut.
    fn pause(&mut self, case: &Case) {
        self.bench.wait(2);
        self.look(case);
    }

    fn look(&mut self, case: &Case) {
        for verdict in self.bench.verdicts() {
            match verdict {
                Verdict::Release(frame, _) | Verdict::Inject(frame) => self.check(case, &frame),
                Verdict::Trigger(cause) => self.triggers.push(cause),
                Verdict::Discard(..) | Verdict::Divergence(..) => {}
            }
        }
    }

    /// Promises 1 and 2 for one frame that left.
    fn check(&mut self, case: &Case, frame: &[u8]) {
        assert!(checksums_are_right(frame));
        let tcp = tcp(frame);
        let start = tcp.sequence_number().wrapping_sub(case.isn) as usize;
        let len = tcp.payload().len() + usize::from(tcp.syn()) + usize::from(tcp.fin());
        for place in start..start + len {
            let byte = match place {
                0 => 256,
                place if place + 1 == case.places() => 257,
                place => u16::from(tcp.payload()[place - start - usize::from(tcp.syn())]),
            };
            assert_eq!(self.sent[place], Some(byte), "place {place} left before the secondary sent it");
        }
        let (acked, edge) = self.acked.expect("nothing leaves before the secondary has acknowledged");
        let ack = tcp.acknowledgment_number().wrapping_sub(case.client);
        assert!(ack <= acked, "acknowledged {ack}, the secondary {acked}");
        assert!(ack + u32::from(tcp.window_size()) <= edge, "a window beyond the secondary's");
        if len > 0 {
            assert!(start <= self.received, "the stream leaves in order");
            self.received = self.received.max(start + len);
        }
        self.told = self.told.max(ack);
    }
}

fn unit(place: usize, stream: &[u8]) -> u16 {
    match place {
        0 => 256,
        place if place > stream.len() => 257,
        place => u16::from(stream[place - 1]),
    }
}

fn tcp(frame: &[u8]) -> TcpSlice<'_> {
    match etherparse::SlicedPacket::from_ethernet(frame).expect("a frame").transport {
        Some(etherparse::TransportSlice::Tcp(tcp)) => tcp,
        other => panic!("not TCP: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: colo_tests::property_cases(2000), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    /// The same stream, whatever the cutting: no trigger, and what leaves is the stream.
    #[test]
    fn equal_streams_leave_whole_and_need_no_checkpoint(case in case()) {
        let run = case.run(&case.stream);
        prop_assert_eq!(&run.triggers, &[]);
        prop_assert_eq!(run.received, case.places(), "all of the stream has left");
        prop_assert_eq!(run.told, 3000, "the last acknowledgement has left");
        prop_assert_eq!(run.bench.held(), 0);
        prop_assert_eq!(run.bench.engine.held(Side::Secondary).frames, 0);
    }

    /// One byte differs: a trigger, and that byte never leaves.
    #[test]
    fn one_changed_byte_triggers_before_it_leaves(case in case(), at: prop::sample::Index, by in 1u8..) {
        let mut changed = case.stream.clone();
        let at = at.index(changed.len());
        changed[at] ^= by;
        let run = case.run(&changed);
        prop_assert_eq!(&run.triggers, &[Cause::Payload]);
        prop_assert!(run.received <= at + 1, "place {} left", at + 1);
    }

    /// A checkpoint at any moment lets out everything before it, and the streams go on after it.
    #[test]
    fn a_checkpoint_at_any_moment_loses_nothing(case in case(), at in 0usize..60, by in 1u8..) {
        let mut secondary = case.stream.clone();
        // What the secondary sent before the checkpoint does not matter, if it was not compared.
        secondary[0] ^= by;
        let primary = plan(&case.primary, case.places(), 3000);
        let theirs = plan(&case.secondary, case.places(), 3000);
        let mut bench = Bench::default();
        let split = at.min(primary.len());
        for send in &primary[..split] {
            bench.primary(&case.frame(Side::Primary, send, &case.stream));
        }
        for send in &theirs[..at.min(theirs.len())] {
            bench.secondary(&case.frame(Side::Secondary, send, &secondary));
        }
        bench.verdicts();
        let held = bench.held();
        bench.checkpoint();
        prop_assert_eq!(bench.held(), 0);
        prop_assert_eq!(bench.engine.held(Side::Secondary).frames, 0);
        prop_assert_eq!(bench.out().len() >= held, true);
        // After it both send what the primary's state makes them send.
        for send in &primary[split..] {
            let frame = case.frame(Side::Primary, send, &case.stream);
            bench.primary(&frame).secondary(&frame);
        }
        prop_assert_eq!(bench.held(), 0);
        prop_assert_eq!(bench.triggers(), vec![]);
    }
}
