//! The engine between its sockets' byte streams. Sans-I/O: what was read goes in, what is to be
//! written comes out, and the caller is told when to stop reading.
//!
//! ```text
//!   primary-in ───► Deframer ─┐                 ┌─► Outlet ─► outdev
//!                             ├─► Engine ─► Exit┤
//!   secondary-in ─► Deframer ─┘      ▲          └─► Notify ─► notify-dev
//!                                    └─ checkpoint done ─┘◄──
//! ```
//!
//! Nothing grows without a bound: the engine has its limits, and a side it does not accept is not
//! read; neither side is while more is released than outdev takes. Frames that were read by then
//! wait in their block. That a frame waits because we do not read its twin is not the guests' doing,
//! so the caller stops the comparer's clock meanwhile.

use super::framing::{Deframer, OutOfStep};
use super::notify::{Message, Notify, TooLong};
use super::outlet::Outlet;
use super::pace::Pace;
use super::stats::{HeldStats, Report};
use crate::engine::{
    AckFrame, Config, Discard, Divergence, Engine, Input, Limit, Nanos, Side, Sink, Trigger, Usage,
};
use crate::frame::WireFrame;
use crate::packet::FlowKey;
use crate::quiet::{Quiet, quietly};

/// Blocks that frames of one side may keep before they are copied out of them.
const BLOCKS: usize = 64;

/// The most of one side that is fed before it is the other's turn.
const SLICE: Limit = Limit { frames: 64, bytes: 16 << 10 };

const SIDES: [Side; 2] = [Side::Primary, Side::Secondary];

/// Where verdicts go.
#[derive(Debug)]
struct Exit {
    outlet: Outlet,
    notify: Notify,
    /// Whether there is a notify socket at all.
    can_ask: bool,
    /// The vnet header that frames of our own get.
    vnet_header: Option<usize>,
    now: Nanos,
    divergences: Quiet,
    triggers: Quiet,
}

impl Sink<WireFrame> for Exit {
    #[inline]
    fn release(&mut self, _: Option<&FlowKey>, frame: WireFrame, _: u32) {
        self.outlet.push(frame);
    }

    fn inject(&mut self, _: &FlowKey, ack: AckFrame) {
        self.outlet.push(WireFrame::made(&ack.0, self.vnet_header));
    }

    #[inline]
    fn discard(&mut self, _: Option<&FlowKey>, _: Side, _: WireFrame, _: Discard) {}

    fn divergence(&mut self, divergence: &Divergence<'_, WireFrame>) {
        let Divergence { flow, cause, offset, .. } = divergence;
        quietly!(
            self.divergences,
            self.now,
            info,
            "{flow}: the outputs differ ({cause}) after {offset} bytes"
        );
    }

    fn trigger(&mut self, trigger: Trigger) {
        self.notify.request();
        let flow = trigger.flow.map(|flow| format!(", {flow}")).unwrap_or_default();
        if self.can_ask {
            quietly!(self.triggers, self.now, info, "a checkpoint is asked for ({}{flow})", trigger.cause);
        } else {
            quietly!(
                self.triggers,
                self.now,
                warn,
                "a checkpoint is needed ({}{flow}), but without --notify-dev nobody can be asked for one",
                trigger.cause
            );
        }
    }
}

/// The comparer behind its sockets.
#[derive(Debug)]
pub struct Comparer {
    engine: Engine<WireFrame>,
    inputs: [Deframer; 2],
    /// Whether something of a side was read and not fed yet.
    backlog: [bool; 2],
    /// How many blocks of a side are too many.
    relief: [usize; 2],
    exit: Exit,
    max_output: usize,
    pace: Pace,
    /// How much of one side is fed before it is the other's turn.
    slice: Limit,
    hellos: Quiet,
    unknown: Quiet,
}

impl Comparer {
    /// `vnet`: whether frames have vnet headers; `can_ask`: whether there is a notify socket;
    /// `max_output`: how many bytes may wait for outdev before the inputs are not read any more.
    pub fn new(config: Config, vnet: bool, can_ask: bool, max_output: usize) -> Self {
        let exit = Exit {
            outlet: Outlet::new(vnet),
            notify: Notify::new(vnet),
            can_ask,
            vnet_header: None,
            now: Nanos::default(),
            divergences: Quiet::default(),
            triggers: Quiet::default(),
        };
        Self {
            pace: Pace::new(config.flow_limit),
            slice: Limit {
                frames: SLICE.frames.min(config.flow_limit.frames / 4),
                bytes: SLICE.bytes.min(config.flow_limit.bytes / 4),
            },
            engine: Engine::new(config),
            inputs: [Deframer::new(vnet), Deframer::new(vnet)],
            backlog: [false; 2],
            relief: [BLOCKS; 2],
            exit,
            max_output,
            hellos: Quiet::default(),
            unknown: Quiet::default(),
        }
    }

    fn held(&self) -> [Usage; 2] {
        SIDES.map(|side| self.engine.held(side))
    }

    /// When a side that waits for the other has waited long enough.
    pub fn patience(&self, now: Nanos) -> Option<Nanos> {
        self.pace.deadline(self.held(), now)
    }

    /// Whether frames of this side may be compared now.
    fn takes(&self, side: Side, now: Nanos) -> bool {
        self.engine.accepts(side) && !self.pace.waits(self.held(), side, now)
    }

    /// Whether this side is to be read now.
    pub fn wants(&self, side: Side, now: Nanos) -> bool {
        !self.backlog[side as usize] && self.takes(side, now) && !self.is_stalled()
    }

    /// Whether more is released than may wait: nothing is read, and no age grows.
    pub fn is_stalled(&self) -> bool {
        self.exit.outlet.pending() >= self.max_output
    }

    /// Whether frames wait that can be compared now: call [`compare`](Self::compare).
    pub fn can_compare(&self, now: Nanos) -> bool {
        SIDES.into_iter().any(|side| self.backlog[side as usize] && self.takes(side, now))
    }

    /// Where to read this side's bytes to. Only while it is [wanted](Self::wants).
    pub fn space(&mut self, side: Side) -> &mut [u8] {
        self.inputs[side as usize].space()
    }

    /// So many bytes were read there; [`compare`](Self::compare) looks at them.
    pub fn received(&mut self, side: Side, count: usize) {
        self.inputs[side as usize].filled(count);
        self.backlog[side as usize] = true;
    }

    /// Compares what has been read, and is accepted, of both sides by turns: so the one is not far
    /// ahead of the other only because it was read first, and both are in the CPU's cache. Says of
    /// each side whether it is out of step.
    pub fn compare(&mut self, now: Nanos) -> [Result<(), OutOfStep>; 2] {
        self.exit.now = now;
        let mut outcome = [Ok(()), Ok(())];
        while self.can_compare(now) {
            for side in SIDES {
                if let Err(error) = self.feed(side, now) {
                    self.backlog[side as usize] = false;
                    outcome[side as usize] = Err(error);
                }
            }
        }
        self.pace.judge(self.held(), now);
        for side in SIDES {
            if self.inputs[side as usize].blocks() > self.relief[side as usize] {
                self.relieve(side);
            }
        }
        outcome
    }

    /// Feeds a few frames of a side.
    #[inline]
    fn feed(&mut self, side: Side, now: Nanos) -> Result<(), OutOfStep> {
        if self.pace.waits(self.held(), side, now) {
            return Ok(());
        }
        let Self { engine, inputs, exit, backlog, slice, .. } = self;
        let input = &mut inputs[side as usize];
        let epoch = engine.epoch();
        let (mut frames, mut bytes) = (0, 0);
        // At least one, however small the slice.
        while backlog[side as usize] && frames <= slice.frames && bytes <= slice.bytes && engine.accepts(side)
        {
            let Some((frame, offload)) = input.next_frame()? else {
                backlog[side as usize] = false;
                break;
            };
            frames += 1;
            bytes += frame.wire().len();
            if side == Side::Primary {
                exit.vnet_header = input.vnet_header();
            }
            engine.frame(Input { side, frame, offload, at: now, epoch }, exit);
        }
        Ok(())
    }

    /// Copies small frames out of large blocks: too many blocks are kept by few frames.
    #[cold]
    fn relieve(&mut self, side: Side) {
        self.compact(Nanos(u64::MAX));
        self.relief[side as usize] = BLOCKS.max(2 * self.inputs[side as usize].blocks());
    }

    fn compact(&mut self, before: Nanos) {
        self.engine.compact(before, WireFrame::shrink);
        self.exit.outlet.shrink();
        self.inputs.iter_mut().for_each(Deframer::sweep);
    }

    /// An input's peer is gone. Frames that are complete stay.
    pub fn input_lost(&mut self, side: Side) {
        self.inputs[side as usize].reset();
        self.backlog[side as usize] = false;
    }

    /// Released output.
    pub fn outlet(&mut self) -> &mut Outlet {
        &mut self.exit.outlet
    }

    /// The conversation on the notify socket.
    pub fn notify(&mut self) -> &mut Notify {
        &mut self.exit.notify
    }

    /// Acts on what the notify peer has said so far.
    pub fn heed(&mut self, now: Nanos) -> Result<(), TooLong> {
        self.exit.now = now;
        while let Some(message) = self.exit.notify.next_message()? {
            match message {
                Message::Hello => quietly!(self.hellos, now, info, "the notify peer says hello"),
                Message::Checkpoint => {
                    // A trigger that comes out of this is about what comes after.
                    self.exit.notify.settled();
                    self.engine.checkpoint_begin();
                    self.engine.checkpoint_done(now, &mut self.exit);
                }
                Message::Unknown | Message::Failover => {
                    quietly!(
                        self.unknown,
                        now,
                        warn,
                        "the notify peer sent a message that means nothing: COLO_CHECKPOINT and COLO_USERSPACE_PROXY_INIT are known; is --vnet-hdr-support set as it is there?"
                    );
                }
            }
        }
        Ok(())
    }

    /// When [`tick`](Self::tick) has something to do, if ever.
    pub fn deadline(&self) -> Option<Nanos> {
        self.engine.next_deadline()
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Nanos) {
        self.exit.now = now;
        self.engine.tick(now, &mut self.exit);
    }

    /// Tidies up: frames that came before `before` are copied out of the blocks they share.
    pub fn tidy(&mut self, before: Nanos) {
        self.compact(before);
        self.relief = [BLOCKS; 2];
    }

    /// The counters, but for those of connections.
    pub fn report(&self) -> Report {
        let mut report =
            Report { engine: *self.engine.stats(), flows: self.engine.flows(), ..Report::default() };
        report.primary_in.framing = *self.inputs[0].stats();
        report.secondary_in.framing = *self.inputs[1].stats();
        report.notify_dev.messages = *self.exit.notify.stats();
        report.held = HeldStats {
            primary: self.engine.held(Side::Primary),
            secondary: self.engine.held(Side::Secondary),
        };
        let outlet = &self.exit.outlet;
        report.outdev.pending_frames = outlet.frames_pending();
        report.outdev.pending_bytes = outlet.pending();
        report.outdev.frames = outlet.frames() - outlet.frames_pending();
        report.outdev.bytes = outlet.bytes();
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::pace;

    const NOW: Nanos = Nanos(1);
    const PATIENCE_IS_OVER: Nanos = Nanos::from_millis(30);

    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(port, 53);
        let mut frame = vec![0; 4];
        builder.write(&mut frame, payload).unwrap();
        let len = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&len.to_be_bytes());
        frame
    }

    /// Hands in bytes as one read, without comparing.
    fn read(comparer: &mut Comparer, side: Side, bytes: &[u8]) -> usize {
        read_at(comparer, side, bytes, NOW)
    }

    fn read_at(comparer: &mut Comparer, side: Side, bytes: &[u8], now: Nanos) -> usize {
        assert!(comparer.wants(side, now));
        let space = comparer.space(side);
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        comparer.received(side, count);
        count
    }

    fn written(comparer: &mut Comparer) -> Vec<u8> {
        let outlet = comparer.outlet();
        let bytes: Vec<u8> = outlet.slices().iter().flat_map(|slice| slice.to_vec()).collect();
        outlet.wrote(bytes.len());
        bytes
    }

    fn compare(comparer: &mut Comparer) {
        assert_eq!(comparer.compare(NOW), [Ok(()), Ok(())]);
    }

    #[test]
    fn a_long_read_of_each_side_does_not_put_the_one_ahead_of_the_other() {
        let config = Config { flow_limit: Limit { frames: 300, bytes: 1 << 20 }, ..Config::default() };
        let mut comparer = Comparer::new(config, false, true, 1 << 20);
        let stream = (0..2000u32).flat_map(|n| udp(1, &n.to_be_bytes())).collect::<Vec<u8>>();
        for side in SIDES {
            assert_eq!(read(&mut comparer, side, &stream), stream.len());
        }
        compare(&mut comparer);
        assert_eq!(written(&mut comparer), stream);
        assert!(!comparer.notify().outstanding());
    }

    #[test]
    fn what_the_engine_does_not_accept_waits_and_nothing_is_lost() {
        let total_limit = Limit { frames: 10, bytes: 1 << 20 };
        let config = Config { total_limit, trigger_interval: Nanos(0), ..Config::default() };
        let mut comparer = Comparer::new(config, false, true, 1 << 20);
        let stream = (0..100u16).flat_map(|n| udp(n, b"alone")).collect::<Vec<u8>>();
        read(&mut comparer, Side::Primary, &stream);
        compare(&mut comparer);
        let mut out = Vec::new();
        while out.len() < stream.len() {
            assert!(comparer.notify().outstanding() || comparer.report().held.primary.frames <= 10);
            comparer.notify().feed(b"\0\0\0\x0fCOLO_CHECKPOINT");
            comparer.heed(NOW).unwrap();
            out.extend(written(&mut comparer));
            compare(&mut comparer);
            assert!(comparer.report().held.primary.frames <= 21);
        }
        assert_eq!(out, stream);
        assert!(comparer.wants(Side::Primary, NOW));
        assert_eq!(comparer.report().engine.primary.discards.total(), 0);
    }

    #[test]
    fn nothing_is_read_while_too_much_waits_to_be_written() {
        let mut comparer = Comparer::new(Config::default(), false, true, 1000);
        let stream = udp(1, &[7; 1500]);
        for side in SIDES {
            read(&mut comparer, side, &stream);
        }
        compare(&mut comparer);
        assert!(!comparer.wants(Side::Primary, NOW) && !comparer.wants(Side::Secondary, NOW));
        comparer.outlet().wrote(600);
        assert!(comparer.wants(Side::Primary, NOW) && comparer.wants(Side::Secondary, NOW));
    }

    #[test]
    fn a_side_that_is_far_ahead_waits_for_the_other_but_not_for_ever() {
        let config = Config { flow_limit: Limit { frames: 64, bytes: 1 << 20 }, ..Config::default() };
        let mut comparer = Comparer::new(config, false, true, 1 << 20);
        let frames: Vec<Vec<u8>> = (0..200u32).map(|n| udp(1, &n.to_be_bytes())).collect();
        // In small reads, as they come.
        for (n, frame) in frames.iter().enumerate().take(32) {
            assert!(comparer.wants(Side::Primary, NOW), "{n}");
            read(&mut comparer, Side::Primary, frame);
            compare(&mut comparer);
        }
        assert!(!comparer.wants(Side::Primary, NOW), "half of what the flow may hold");
        assert!(comparer.wants(Side::Secondary, NOW));
        assert_eq!(comparer.patience(NOW), Some(NOW.plus(pace::PATIENCE)));
        read(&mut comparer, Side::Secondary, &frames[..5].concat());
        compare(&mut comparer);
        assert!(comparer.wants(Side::Primary, NOW), "the other has caught up");
        read(&mut comparer, Side::Primary, &frames[32..40].concat());
        compare(&mut comparer);
        assert!(!comparer.wants(Side::Primary, NOW) && !comparer.notify().outstanding());
        assert!(comparer.wants(Side::Primary, PATIENCE_IS_OVER));
        read_at(&mut comparer, Side::Primary, &frames[40..].concat(), PATIENCE_IS_OVER);
        assert_eq!(comparer.compare(PATIENCE_IS_OVER), [Ok(()), Ok(())]);
        assert!(comparer.notify().outstanding(), "too much of one flow");
    }

    #[test]
    fn a_side_out_of_step_ends_alone() {
        let mut comparer = Comparer::new(Config::default(), false, true, 1000);
        let frame = udp(1, b"fine");
        read(&mut comparer, Side::Primary, &[&frame[..], &[0xff; 4]].concat());
        read(&mut comparer, Side::Secondary, &frame);
        assert_eq!(comparer.compare(NOW), [Err(OutOfStep { len: u32::MAX }), Ok(())]);
        comparer.input_lost(Side::Primary);
        assert!(comparer.wants(Side::Primary, NOW));
        assert_eq!(written(&mut comparer), frame, "what came before it counts");
    }
}
