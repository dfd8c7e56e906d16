//! The comparator: frames, times and checkpoint events go in; release, discard and trigger
//! verdicts come out.
//!
//! ```text
//!                       ┌────────── stale / next epoch ──► released, discarded / set aside
//!   Input ─► epoch ─► mode ─► parse ─► reassembly ─► flow table ─► Tcp | Messages ─► verdicts
//!                                                       │                │ divergence
//!   tick ──► timers: ages, reassembly ──────────────────┘                ▼
//!   checkpoint_begin / done / failed ──► flush                          gate ─► Trigger (one outstanding)
//! ```
//!
//! Sans-I/O: no clock, socket, thread or async in it, and no queue without a bound. Deterministic:
//! the same calls bring the same verdicts.

mod age;
mod checkpoint;
mod config;
mod gate;
mod held;
mod inspect;
mod messages;
mod reassembly;
mod rules;
mod stats;
mod table;
mod tcp;
mod verdict;

pub use config::{Config, Limit, Mode, Neighbours};
pub use inspect::{FlowView, Holder, Why};
pub use rules::{PassRules, RuleError};
pub use stats::{PerCause, SideStats, Stats};
pub use table::Stand;
pub use verdict::{
    AckFrame, Cause, Discard, Divergence, Epoch, Evidence, Frame, Input, Nanos, Side, Sink, Trigger,
};

use crate::packet::{self, Body, FlowKey, Packet, Parsed, Proto};
use age::Timers;
use gate::{Asked, Gate};
use held::{Custody, Desk, Held, Ledger, index};
use reassembly::{Outcome, Reassembler};
use std::collections::VecDeque;
use std::marker::PhantomData;
use table::{Flow, Kind, Table};

/// What is held of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Frames.
    pub frames: usize,
    /// Bytes of those frames, and of the datagrams put together from them.
    pub bytes: usize,
}

impl Usage {
    fn exceeds(self, limit: Limit, times: usize) -> bool {
        self.frames > limit.frames.saturating_mul(times) || self.bytes > limit.bytes.saturating_mul(times)
    }
}

/// A primary frame that only a checkpoint can release: it belongs to no flow.
#[derive(Debug)]
struct Parked<F> {
    nr: u64,
    at: Nanos,
    frame: F,
    compacted: bool,
}

/// The comparator. Deterministic: the same input gives the same output.
#[derive(Debug)]
pub struct Engine<F> {
    config: Config,
    mode: Mode,
    /// The mode asked for, once what periodic mode holds is covered.
    next_mode: Option<Mode>,
    epoch: Epoch,
    table: Table<F>,
    timers: Timers,
    gate: Gate,
    ledger: Ledger,
    reassembly: [Reassembler<F>; 2],
    parked: VecDeque<Parked<F>>,
    /// Frames of the next epoch, until the checkpoint is done.
    ahead: VecDeque<Input<F>>,
    ahead_held: [Usage; 2],
    /// Inputs so far.
    nr: u64,
    now: Nanos,
}

/// A desk for `$flow` made of the engine's own fields, so that the flow can be borrowed beside it.
macro_rules! desk {
    ($engine:expr, $flow:expr, $sink:expr) => {
        Desk {
            key: &$flow.key,
            now: $engine.now,
            config: &$engine.config,
            ledger: &mut $engine.ledger,
            usage: &mut $flow.usage,
            age: &mut $flow.age,
            sink: $sink,
            diverged: None,
            frame: PhantomData,
        }
    };
}
use desk;

impl<F: Frame> Engine<F> {
    /// A comparator in epoch 1 that has seen nothing.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            mode: Mode::default(),
            next_mode: None,
            epoch: Epoch::FIRST,
            table: Table::default(),
            timers: Timers::default(),
            gate: Gate::default(),
            ledger: Ledger::default(),
            reassembly: [Reassembler::new(Side::Primary), Reassembler::new(Side::Secondary)],
            parked: VecDeque::new(),
            ahead: VecDeque::new(),
            ahead_held: Default::default(),
            nr: 0,
            now: Nanos::default(),
        }
    }

    /// The current epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.ledger.stats
    }

    /// How many flows are known.
    pub fn flows(&self) -> usize {
        self.table.len()
    }

    /// What is held of a side.
    pub fn held(&self, side: Side) -> Usage {
        self.ledger.held[index(side)]
    }

    /// Whether the caller may feed more frames of this side. Where not, it should stop reading
    /// (back-pressure): a checkpoint has been asked for and will make room. What is fed all the
    /// same is dropped and counted ([`Discard::Overrun`]).
    pub fn accepts(&self, side: Side) -> bool {
        !self.held(side).exceeds(self.config.total_limit, 2)
    }

    /// Takes one frame.
    #[inline]
    pub fn frame(&mut self, input: Input<F>, sink: &mut impl Sink<F>) {
        let len = input.frame.bytes().len();
        let side = self.ledger.stats.side(input.side);
        side.frames += 1;
        side.bytes += len as u64;
        self.now = self.now.max(input.at);
        self.nr += 1;
        if self.mode == Mode::Compare && input.epoch == self.epoch && self.accepts(input.side) {
            self.compare(input, sink);
        } else {
            self.set_apart(input, sink);
        }
    }

    /// A frame that is not compared now: of another epoch, in another mode, or one too many.
    #[cold]
    fn set_apart(&mut self, input: Input<F>, sink: &mut impl Sink<F>) {
        let Input { side, frame, .. } = input;
        match (self.mode, side) {
            (Mode::Unprotected, Side::Primary) => return self.ledger.release(None, frame, 0, sink),
            (Mode::Unprotected | Mode::Periodic, Side::Secondary) => {
                return self.ledger.discard(None, side, frame, Discard::Superseded, sink);
            }
            _ => {}
        }
        if input.epoch < self.epoch {
            return match side {
                Side::Primary => self.absorb(frame, input.offload, sink),
                Side::Secondary => self.ledger.discard(None, side, frame, Discard::Stale, sink),
            };
        }
        if !self.accepts(side) {
            self.overflow(None, sink);
            return self.ledger.discard(None, side, frame, Discard::Overrun, sink);
        }
        if input.epoch > self.epoch {
            let usage = Usage { frames: 1, bytes: frame.bytes().len() };
            self.ledger.take(side, usage);
            self.ahead_held[index(side)].add(usage);
            self.ahead.push_back(Input { frame, ..input });
            if self.held(side).exceeds(self.config.total_limit, 1) {
                self.gate.request_later((Cause::Overflow, None));
            }
            return;
        }
        self.park(self.nr, frame);
        self.check_total(side, None, sink);
    }

    fn park(&mut self, nr: u64, frame: F) {
        self.ledger.take(Side::Primary, Usage { frames: 1, bytes: frame.bytes().len() });
        self.parked.push_back(Parked { nr, at: self.now, frame, compacted: false });
    }

    #[inline]
    fn compare(&mut self, input: Input<F>, sink: &mut impl Sink<F>) {
        let Input { side, frame, offload, .. } = input;
        match packet::parse(frame.bytes(), offload) {
            Ok(Parsed::Whole(packet)) => {
                let held = Held::new(Custody::One(frame), self.now, self.nr, offload.partial_checksum);
                self.packet(side, &packet, held, sink);
            }
            Ok(Parsed::Fragment(fragment)) => self.fragment(side, &fragment, frame, sink),
            Err(_) => self.ledger.discard(None, side, frame, Discard::Malformed, sink),
        }
    }

    #[cold]
    fn fragment(&mut self, side: Side, fragment: &packet::Fragment, frame: F, sink: &mut impl Sink<F>) {
        let max = self.config.max_reassemblies;
        let reassembler = &mut self.reassembly[index(side)];
        match reassembler.fragment(fragment, frame, (self.now, self.nr), max, &mut self.ledger) {
            Outcome::Kept => self.check_total(side, None, sink),
            Outcome::Complete { datagram, since, nr } => {
                match packet::parse_datagram(&fragment.datagram, datagram.data()) {
                    Ok(Packet { body: Body::Tcp(segment), .. })
                        if !datagram.holds_tcp_header(segment.header) =>
                    {
                        datagram.into_each(|frame| {
                            self.ledger.discard(None, side, frame, Discard::BadFragments, sink);
                        });
                    }
                    Ok(packet) => self.packet(side, &packet, Held::new(datagram, since, nr, false), sink),
                    Err(_) => datagram.into_each(|frame| {
                        self.ledger.discard(None, side, frame, Discard::Malformed, sink);
                    }),
                }
            }
            Outcome::Void(frames) => {
                for frame in frames {
                    self.ledger.discard(None, side, frame, Discard::BadFragments, sink);
                }
            }
            Outcome::Full(frame) => match side {
                Side::Primary => {
                    self.park(self.nr, frame);
                    self.overflow(None, sink);
                }
                Side::Secondary => self.ledger.discard(None, side, frame, Discard::FragmentTimeout, sink),
            },
        }
    }

    /// The flow's slot; a new flow gets its stand from the rules.
    #[inline]
    fn slot(&mut self, key: &FlowKey) -> u32 {
        if let Some(slot) = self.table.find(key) {
            return slot;
        }
        let stand = self.stand(key);
        let (slot, evicted) = self.table.insert(*key, stand, self.config.max_flows);
        self.ledger.stats.flows_created += 1;
        self.ledger.stats.flows_evicted += u64::from(evicted);
        slot
    }

    fn stand(&self, key: &FlowKey) -> Stand {
        let neighbours = match key.proto() {
            Proto::Arp => self.config.arp,
            Proto::Nd => self.config.nd,
            _ => Neighbours::Compare,
        };
        match neighbours {
            _ if self.config.pass.pass(key) => Stand::Pass,
            Neighbours::Compare => Stand::Compare,
            Neighbours::Ignore => Stand::Pass,
            Neighbours::Checkpoint => Stand::Checkpoint,
        }
    }

    #[inline]
    fn packet(&mut self, side: Side, packet: &Packet, held: Held<F>, sink: &mut impl Sink<F>) {
        let slot = self.slot(&packet.key);
        let Some(flow) = self.table.get_mut(slot) else { return };
        if flow.stand != Stand::Compare {
            return self.stand_by(slot, side, packet, held, sink);
        }
        let was_idle = flow.holds_nothing();
        let mut desk = desk!(self, flow, sink);
        match (&mut flow.kind, packet.body) {
            (Kind::Tcp(tcp), Body::Tcp(segment)) => tcp.segment(side, segment, held, &mut desk),
            (Kind::Messages(messages), Body::Message(message)) => {
                messages.message(side, message, held, &mut desk);
            }
            // The protocol is in the key, so a flow's body never changes its kind.
            _ => desk.discard(side, held, Discard::Malformed),
        }
        if let Some(cause) = desk.diverged {
            return self.diverged(slot, cause, sink);
        }
        if flow.usage[index(side)].exceeds(self.config.flow_limit, 1) {
            return self.flow_overflow(slot, sink);
        }
        // A timer that runs already is early enough for what came later, unless messages differ.
        if !flow.holds_nothing() && (was_idle || is_urgent(flow)) {
            self.arm(slot);
        }
        self.check_total(side, Some(slot), sink);
    }

    /// A frame of a flow that is not compared.
    #[cold]
    fn stand_by(&mut self, slot: u32, side: Side, packet: &Packet, held: Held<F>, sink: &mut impl Sink<F>) {
        let Some(flow) = self.table.get_mut(slot) else { return };
        let (key, stand) = (flow.key, flow.stand);
        let mut desk = desk!(self, flow, sink);
        match (stand, side) {
            (Stand::Pass, Side::Primary) => {
                desk.ledger.stats.passed_through += 1;
                desk.release(held, 0);
            }
            (Stand::Pass, Side::Secondary) => desk.discard(side, held, Discard::PassedThrough),
            (Stand::Excluded, _) => desk.discard(side, held, Discard::Excluded),
            (Stand::Diverged(_), Side::Secondary) => desk.discard(side, held, Discard::Diverged),
            (Stand::Checkpoint, Side::Secondary) => desk.discard(side, held, Discard::Compared),
            (Stand::Diverged(_) | Stand::Checkpoint | Stand::Compare, _) => {
                match (&mut flow.kind, packet.body) {
                    (Kind::Tcp(tcp), Body::Tcp(segment)) => tcp.park(segment, held, &mut desk),
                    (Kind::Messages(messages), Body::Message(message)) => {
                        messages.park(message, held, &mut desk);
                    }
                    _ => desk.discard(side, held, Discard::Malformed),
                }
                if stand == Stand::Checkpoint {
                    self.ask((Cause::Fields, Some(key)), sink);
                }
                self.check_total(side, None, sink);
            }
        }
    }

    /// Marks a flow that reported a divergence, and asks for a checkpoint.
    #[cold]
    fn diverged(&mut self, slot: u32, cause: Cause, sink: &mut impl Sink<F>) {
        let Some(flow) = self.table.get_mut(slot) else { return };
        flow.stand = Stand::Diverged(cause);
        flow.armed = None;
        let key = flow.key;
        let mut desk = desk!(self, flow, sink);
        match &mut flow.kind {
            Kind::Tcp(tcp) => tcp.discard_secondary(Discard::Diverged, &mut desk),
            Kind::Messages(messages) => messages.discard_secondary(Discard::Diverged, &mut desk),
        }
        self.ask((cause, Some(key)), sink);
    }

    #[cold]
    fn flow_overflow(&mut self, slot: u32, sink: &mut impl Sink<F>) {
        let Some(flow) = self.table.get_mut(slot) else { return };
        let mut desk: Desk<'_, F, _> = desk!(self, flow, sink);
        desk.diverge(Cause::Overflow, 0, None, None);
        self.diverged(slot, Cause::Overflow, sink);
    }

    #[cold]
    fn overflow(&mut self, flow: Option<FlowKey>, sink: &mut impl Sink<F>) {
        self.ask((Cause::Overflow, flow), sink);
    }

    /// Asks for a checkpoint if too much is held in all.
    #[inline]
    fn check_total(&mut self, side: Side, slot: Option<u32>, sink: &mut impl Sink<F>) {
        if self.held(side).exceeds(self.config.total_limit, 1) {
            let flow = slot.and_then(|slot| self.table.get_mut(slot)).map(|flow| flow.key);
            self.overflow(flow, sink);
        }
    }

    fn ask(&mut self, reason: (Cause, Option<FlowKey>), sink: &mut impl Sink<F>) {
        match self.gate.request(reason, self.now, self.config.trigger_interval, self.epoch) {
            Asked::Send(trigger) => self.send(trigger, sink),
            Asked::Merged => self.ledger.stats.triggers_merged.add(reason.0 as usize),
        }
    }

    fn send(&mut self, trigger: Trigger, sink: &mut impl Sink<F>) {
        self.ledger.stats.triggers.add(trigger.cause as usize);
        sink.trigger(trigger);
    }

    /// Sets the flow's timer if it holds something and no timer comes early enough.
    #[inline]
    fn arm(&mut self, slot: u32) {
        let Some(flow) = self.table.get_mut(slot) else { return };
        let Some(at) = due(flow, &self.config) else { return };
        if flow.armed.is_none_or(|armed| at < armed) {
            flow.armed = Some(at);
            let generation = flow.generation;
            self.timers.push(at, slot, generation);
            if self.timers.len() > 64 + 4 * self.table.len() {
                self.rebuild_timers();
            }
        }
    }

    /// Drops the stale entries; they are bounded by the flows this way.
    #[cold]
    fn rebuild_timers(&mut self) {
        self.timers.clear();
        for (slot, flow) in self.table.iter_mut() {
            if let Some(at) = flow.armed {
                self.timers.push(at, slot, flow.generation);
            }
        }
    }

    /// When [`tick`](Self::tick) has something to do next, if ever.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let timeout = self.config.reassembly_timeout;
        let reassembly = self.reassembly.iter().filter_map(|side| side.deadline(timeout));
        let gate = self.gate.deadline(self.config.trigger_interval);
        self.timers.next().into_iter().chain(gate).chain(reassembly).chain(self.ahead_deadline()).min()
    }

    /// When frames of the next epoch have waited too long for it, with no checkpoint in sight: one
    /// that failed may leave frames behind that were on their way.
    fn ahead_deadline(&self) -> Option<Nanos> {
        let oldest = self.ahead.front().filter(|_| self.gate.is_quiet())?;
        Some(oldest.at.plus(self.config.age_ceiling))
    }

    /// Lets time pass: judges ages, and sends triggers that had to wait. To be called at
    /// [`next_deadline`](Self::next_deadline), or on a period.
    pub fn tick(&mut self, now: Nanos, sink: &mut impl Sink<F>) {
        self.now = self.now.max(now);
        while let Some((at, slot, generation)) = self.timers.pop_due(self.now) {
            self.timer(at, slot, generation, sink);
        }
        self.expire_fragments(sink);
        if self.ahead_deadline().is_some_and(|at| at <= self.now) {
            self.ask((Cause::Age, None), sink);
        }
        if let Some(trigger) = self.gate.tick(self.now, self.config.trigger_interval, self.epoch) {
            self.send(trigger, sink);
        }
    }

    fn timer(&mut self, at: Nanos, slot: u32, generation: u32, sink: &mut impl Sink<F>) {
        let Some(flow) = self.table.get_mut(slot) else { return };
        if flow.generation != generation || flow.armed != Some(at) {
            return;
        }
        flow.armed = None;
        if let Kind::Tcp(tcp) = &mut flow.kind
            && flow.stand == Stand::Compare
        {
            tcp.release_part(&mut desk!(self, flow, sink));
        }
        match late(flow, &self.config) {
            Some(at) if at <= self.now => self.expire(slot, sink),
            Some(_) => self.arm(slot),
            None => {}
        }
    }

    /// Something of a flow has waited too long.
    fn expire(&mut self, slot: u32, sink: &mut impl Sink<F>) {
        let Some(flow) = self.table.get_mut(slot) else { return };
        let mut desk = desk!(self, flow, sink);
        match &mut flow.kind {
            Kind::Tcp(tcp) => tcp.expire(&mut desk),
            Kind::Messages(messages) => messages.expire(&mut desk),
        }
        if let Some(cause) = desk.diverged {
            self.diverged(slot, cause, sink);
        }
    }

    fn expire_fragments(&mut self, sink: &mut impl Sink<F>) {
        let timeout = self.config.reassembly_timeout;
        let [primary, secondary] = &mut self.reassembly;
        for (_, frame) in secondary.expire(self.now, timeout, &mut self.ledger) {
            self.ledger.discard(None, Side::Secondary, frame, Discard::FragmentTimeout, sink);
        }
        let late = primary.expire(self.now, timeout, &mut self.ledger);
        if !late.is_empty() {
            late.into_iter().for_each(|(nr, frame)| self.park(nr, frame));
            self.ask((Cause::Age, None), sink);
        }
    }

    /// Asks for a checkpoint for a reason of the caller's.
    pub fn request(&mut self, cause: Cause, now: Nanos, sink: &mut impl Sink<F>) {
        self.now = self.now.max(now);
        self.ask((cause, None), sink);
    }

    /// Leaves a flow out from now on: all that it holds, and all that comes later on either side,
    /// is discarded ([`Discard::Excluded`]).
    pub fn exclude(&mut self, flow: &FlowKey, sink: &mut impl Sink<F>) {
        let slot = self.slot(flow);
        let Some(flow) = self.table.get_mut(slot) else { return };
        flow.stand = Stand::Excluded;
        flow.armed = None;
        let mut desk = desk!(self, flow, sink);
        match &mut flow.kind {
            Kind::Tcp(tcp) => tcp.discard_all(Discard::Excluded, &mut desk),
            Kind::Messages(messages) => messages.discard_all(Discard::Excluded, &mut desk),
        }
    }

    /// No more input will come: flows in which both sides hold unequal messages diverge now
    /// instead of after the reorder wait.
    pub fn settle(&mut self, now: Nanos, sink: &mut impl Sink<F>) {
        self.now = self.now.max(now);
        let unequal = |(slot, flow): (u32, &mut Flow<F>)| match &flow.kind {
            Kind::Messages(messages) if flow.stand == Stand::Compare && messages.differ() => Some(slot),
            _ => None,
        };
        let slots: Vec<u32> = self.table.iter_mut().filter_map(unequal).collect();
        slots.into_iter().for_each(|slot| self.expire(slot, sink));
    }

    /// Calls `f` for each frame that came before `before` and is still held, once for each frame
    /// of a flow, so that a caller can copy it out of a buffer that it shares with others.
    pub fn compact(&mut self, before: Nanos, mut f: impl FnMut(&mut F)) {
        for (_, flow) in self.table.iter_mut().filter(|(_, flow)| flow.usage != <[Usage; 2]>::default()) {
            match &mut flow.kind {
                Kind::Tcp(tcp) => tcp.compact(before, &mut f),
                Kind::Messages(messages) => messages.compact(before, &mut f),
            }
        }
        for parked in self.parked.iter_mut().filter(|parked| !parked.compacted && parked.at < before) {
            parked.compacted = true;
            f(&mut parked.frame);
        }
        self.reassembly.iter_mut().for_each(|side| side.for_each_mut(before, &mut f));
        self.ahead.iter_mut().filter(|input| input.at < before).for_each(|input| f(&mut input.frame));
    }
}

/// Whether a flow may be due sooner than when its timer was set.
#[inline]
fn is_urgent<F: Frame>(flow: &Flow<F>) -> bool {
    match &flow.kind {
        Kind::Tcp(tcp) => tcp.part_due().is_some(),
        Kind::Messages(messages) => messages.differ(),
    }
}

/// When a flow is to be looked at, as things are.
#[inline]
fn due<F: Frame>(flow: &Flow<F>, config: &Config) -> Option<Nanos> {
    let late = late(flow, config)?;
    match &flow.kind {
        Kind::Tcp(tcp) => Some(tcp.part_due().map_or(late, |part| part.min(late))),
        Kind::Messages(_) => Some(late),
    }
}

/// When a flow has waited too long, as things are.
#[inline]
fn late<F: Frame>(flow: &Flow<F>, config: &Config) -> Option<Nanos> {
    if flow.stand != Stand::Compare || flow.holds_nothing() {
        return None;
    }
    let limit = flow.age.limit(config);
    match &flow.kind {
        Kind::Tcp(tcp) => tcp.since().map(|since| since.plus(limit)),
        Kind::Messages(messages) => messages.deadline(limit, config),
    }
}
