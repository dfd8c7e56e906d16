//! What happens to an engine: an input read as a list of events.

use crate::frames::Shape;
use crate::watch::{Tagged, Warrant, Watch};
use arbitrary::Arbitrary;
use colo_proxy::engine::{
    Cause, Config, Engine, Epoch, Input, Limit, Mode, Nanos, Neighbours, PassRules, Side, Usage,
};
use colo_proxy::packet::{self, Gso, Offload, Parsed, Proto};

/// An input.
#[derive(Arbitrary, Debug)]
pub struct Script {
    knobs: Knobs,
    events: Vec<Event>,
}

/// Limits so small that a short script reaches them.
#[derive(Arbitrary, Debug)]
struct Knobs {
    flow_frames: u8,
    total_frames: u8,
    max_flows: u8,
    window: u8,
    reassemblies: u8,
    neighbours: u8,
    pass: bool,
}

#[derive(Arbitrary, Debug)]
enum Event {
    /// The same frame on both sides, the secondary's first or last.
    Both {
        shape: Shape,
        secondary_first: bool,
    },
    /// One frame.
    One {
        secondary: bool,
        shape: Shape,
        epoch: Age,
        partial: bool,
        gso: u8,
    },
    Tick {
        ms: u8,
    },
    Long,
    Begin,
    Done,
    Failed,
    Mode(u8),
    Exclude {
        nth: u8,
    },
    Settle,
    Compact {
        ms: u8,
    },
    Request,
}

/// Which epoch a frame belongs to.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Age {
    Now,
    Same,
    Late,
    Early,
}

impl Knobs {
    fn config(&self) -> Config {
        let neighbours = [Neighbours::Compare, Neighbours::Ignore, Neighbours::Checkpoint];
        let rules: &[&str] = if self.pass { &["pass udp peer :1001"] } else { &[] };
        Config {
            flow_limit: Limit { frames: 1 + usize::from(self.flow_frames % 12), bytes: 4096 },
            total_limit: Limit { frames: 2 + usize::from(self.total_frames % 16), bytes: 8192 },
            max_flows: 1 + usize::from(self.max_flows % 6),
            reorder_window: usize::from(self.window % 4),
            max_reassemblies: 1 + usize::from(self.reassemblies % 3),
            arp: neighbours[usize::from(self.neighbours % 3)],
            nd: neighbours[usize::from(self.neighbours / 3 % 3)],
            pass: PassRules::parse(rules).expect("a valid rule"),
            ..Config::default()
        }
    }
}

impl Knobs {
    /// Protocols of which something leaves uncompared.
    fn untraced(&self) -> impl Iterator<Item = Proto> {
        let udp = self.pass.then_some(Proto::Udp);
        let neighbours = (!self.neighbours.is_multiple_of(9)).then_some([Proto::Arp, Proto::Nd]);
        udp.into_iter().chain(neighbours.into_iter().flatten())
    }
}

/// An engine under watch.
struct Run {
    engine: Engine<Tagged>,
    watch: Watch,
    now: Nanos,
    config: Config,
    under_way: bool,
    most_flows: usize,
}

/// Runs a script to its end; panics if the engine breaks a promise.
pub fn run(script: &Script) {
    let config = script.knobs.config();
    let most_flows = config.max_flows + 4 * config.total_limit.frames + 8;
    let mut watch = Watch::new();
    watch.untraced.extend(script.knobs.untraced());
    let engine = Engine::new(config.clone());
    let mut run = Run { engine, watch, now: Nanos(1), config, under_way: false, most_flows };
    for event in &script.events {
        run.event(event);
        run.check();
    }
    let Run { mut engine, mut watch, .. } = run;
    engine.drain(|_, side, frame| {
        assert_eq!(side, frame.side);
        watch.out(&frame);
    });
    for side in [Side::Primary, Side::Secondary] {
        assert_eq!(engine.held(side), Usage::default(), "held of the {side} after it was drained");
    }
    assert!(watch.all_out(), "a frame was lost");
}

impl Run {
    fn event(&mut self, event: &Event) {
        let (now, evicted) = (self.now, self.engine.stats().flows_evicted);
        self.happen(event, now);
        if self.engine.stats().flows_evicted != evicted {
            self.watch.forget();
        }
        assert_eq!(self.watch.diverged_twice, None);
    }

    fn happen(&mut self, event: &Event, now: Nanos) {
        match event {
            Event::Both { shape, secondary_first } => {
                let order = if *secondary_first {
                    [Side::Secondary, Side::Primary]
                } else {
                    [Side::Primary, Side::Secondary]
                };
                order.into_iter().for_each(|side| self.feed(side, shape, Age::Now, Offload::default()));
            }
            Event::One { secondary, shape, epoch, partial, gso } => {
                let side = if *secondary { Side::Secondary } else { Side::Primary };
                let gso = match gso % 16 {
                    1 => Gso::Tcp,
                    2 => Gso::UdpFragments,
                    3 => Gso::UdpDatagrams { size: 8 },
                    _ => Gso::None,
                };
                self.feed(
                    side,
                    shape,
                    *epoch,
                    Offload { partial_checksum: *partial, gso, ..Offload::default() },
                );
            }
            Event::Tick { ms } => self.tick(Nanos::from_millis(u64::from(*ms))),
            Event::Long => self.tick(Nanos::from_millis(10_000)),
            Event::Begin => {
                self.under_way = true;
                self.engine.checkpoint_begin();
            }
            Event::Done => {
                self.under_way = false;
                self.watch.checkpoint();
                self.engine.checkpoint_done(now, &mut self.watch);
                self.warrant();
            }
            Event::Failed => {
                self.under_way = false;
                self.watch.checkpoint_failed();
                self.engine.checkpoint_failed(now, &mut self.watch);
            }
            Event::Mode(mode) => self.mode(*mode),
            Event::Exclude { nth } => self.exclude(*nth),
            Event::Settle => self.engine.settle(now, &mut self.watch),
            Event::Compact { ms } => {
                let before = Nanos(now.0.saturating_sub(u64::from(*ms) * 1_000_000));
                self.engine.compact(before, |frame| frame.bytes.shrink_to_fit());
            }
            Event::Request => self.engine.request(Cause::Operator, now, &mut self.watch),
        }
    }

    fn feed(&mut self, side: Side, shape: &Shape, age: Age, offload: Offload) {
        let current = self.engine.epoch();
        let epoch = match age {
            Age::Late => Epoch(current.0 - 1),
            Age::Early if self.under_way => current.next(),
            Age::Now | Age::Same | Age::Early => current,
        };
        self.now = self.now.plus(Nanos(10_000));
        let frame = self.watch.feed(side, shape.build(), offload, epoch);
        self.engine.frame(Input { side, frame, offload, at: self.now, epoch }, &mut self.watch);
    }

    fn tick(&mut self, time: Nanos) {
        self.now = self.now.plus(time);
        self.engine.tick(self.now, &mut self.watch);
        // A shell sleeps until the next deadline; one that has passed would make it spin.
        let next = self.engine.next_deadline();
        assert!(next.is_none_or(|next| next > self.now), "a deadline stays after its tick: {next:?}");
    }

    fn mode(&mut self, mode: u8) {
        let mode = [Mode::Compare, Mode::Periodic, Mode::Unprotected][usize::from(mode % 3)];
        if mode == Mode::Unprotected {
            self.watch.outstanding = false;
            self.watch.warrant = Warrant::Everything;
        }
        self.watch.forget();
        self.engine.set_mode(mode, self.now, &mut self.watch);
        self.warrant();
    }

    fn warrant(&mut self) {
        self.watch.warrant = match self.engine.mode() {
            Mode::Unprotected => Warrant::Everything,
            Mode::Compare | Mode::Periodic => Warrant::Comparison,
        };
    }

    fn exclude(&mut self, nth: u8) {
        let shape = Shape::Udp { flow: nth % 8, len: 0, fill: 0 };
        if let Ok(Parsed::Whole(packet)) = packet::parse(&shape.build(), Offload::default()) {
            self.engine.exclude(&packet.key, &mut self.watch);
        }
    }

    /// What must hold after each event.
    fn check(&self) {
        for (index, side) in [Side::Primary, Side::Secondary].into_iter().enumerate() {
            let held = self.engine.held(side);
            assert_eq!(held.frames, self.watch.counts[index], "books of the {side}");
            assert!(held.frames > 0 || held.bytes == 0, "{} bytes of the {side} in no frame", held.bytes);
            let most = 2 * self.config.total_limit.frames + 1;
            assert!(held.frames <= most, "{} frames of the {side} are held, {most} may be", held.frames);
        }
        assert_eq!(self.engine.epoch(), self.watch.epoch);
        let flows = self.engine.flows();
        assert!(flows <= self.most_flows, "{flows} flows are known, {} may be", self.most_flows);
    }
}
