//! Checkpoints and modes: when everything that is held may go.
//!
//! ```text
//!   epoch n          │ begin            │ done: release all of epoch n, n += 1
//!   ─────────────────┼──────────────────┼──────────────────────────────────────
//!   frames of n      │ compared         │ primary's late ones: covered, released; secondary's: stale
//!   frames of n+1    │ set aside        │ taken up again, in order
//! ```

use super::held::{Custody, Desk, Held};
use super::table::{Kind, Stand};
use super::verdict::{Discard, Frame, Input, Nanos, Side, Sink};
use super::{Engine, Mode, Usage, desk};
use crate::packet::{self, Body, FlowKey, Offload, Parsed};
use std::marker::PhantomData;

/// Primary's output that leaves all at once: (place among all inputs, flow, frames).
type Covered<F> = Vec<(u64, Option<FlowKey>, Custody<F>)>;

impl<F: Frame> Engine<F> {
    /// The guest's state is being captured. From now on primary frames of the next epoch are set
    /// aside until the checkpoint is done, and triggers about what is held now are covered by it.
    pub fn checkpoint_begin(&mut self) {
        self.gate.begin();
    }

    /// The checkpoint is complete on the secondary: everything of this epoch may leave, in the
    /// order in which it came; secondary output of this epoch is void; the next epoch begins.
    pub fn checkpoint_done(&mut self, now: Nanos, sink: &mut impl Sink<F>) {
        self.now = self.now.max(now);
        let before = self.ledger.stats.released;
        let acks = self.level(sink);
        self.ledger.stats.released_by_checkpoint += self.ledger.stats.released - before;
        for (key, ack) in acks {
            self.ledger.stats.acks_injected += 1;
            sink.inject(&key, super::AckFrame(ack));
        }
        self.ledger.stats.checkpoints += 1;
        self.epoch = self.epoch.next();
        self.gate.done();
        if let Some(mode) = self.next_mode.take() {
            self.mode = mode;
        }
        self.take_up(sink);
    }

    /// The checkpoint came to nothing. Both guests go on in the same epoch, the reason for it
    /// still stands, and what the primary sent meanwhile belongs to this epoch after all.
    pub fn checkpoint_failed(&mut self, now: Nanos, sink: &mut impl Sink<F>) {
        self.now = self.now.max(now);
        self.ledger.stats.checkpoints_failed += 1;
        self.gate.failed();
        self.ahead.iter_mut().for_each(|input| input.epoch = self.epoch);
        self.take_up(sink);
    }

    /// Feeds what was set aside for this epoch.
    fn take_up(&mut self, sink: &mut impl Sink<F>) {
        for (side, usage) in
            [Side::Primary, Side::Secondary].into_iter().zip(std::mem::take(&mut self.ahead_held))
        {
            self.ledger.give(side, usage);
        }
        for input in std::mem::take(&mut self.ahead) {
            let side = self.ledger.stats.side(input.side);
            side.frames -= 1;
            side.bytes -= input.frame.bytes().len() as u64;
            self.frame(input, sink);
        }
    }

    /// Changes the mode.
    ///
    /// * [`Mode::Unprotected`] releases all that is held: the primary runs alone.
    /// * [`Mode::Periodic`] holds all primary output until the next checkpoint.
    /// * [`Mode::Compare`] after periodic takes effect with the next checkpoint, so that nothing
    ///   overtakes what is held.
    pub fn set_mode(&mut self, mode: Mode, now: Nanos, sink: &mut impl Sink<F>) {
        self.now = self.now.max(now);
        self.next_mode = None;
        match mode {
            Mode::Compare if self.mode == Mode::Periodic && !self.parked.is_empty() => {
                self.next_mode = Some(mode);
                return;
            }
            Mode::Compare => {}
            Mode::Periodic => self.hold_all(sink),
            Mode::Unprotected => {
                self.hold_all(sink);
                self.release_parked(sink);
                self.gate.clear();
            }
        }
        self.mode = mode;
        if mode == Mode::Unprotected {
            self.take_up(sink);
        }
    }

    /// Forgets all flows; what they hold of the primary waits for a checkpoint.
    fn hold_all(&mut self, sink: &mut impl Sink<F>) {
        let mut covered = self.collect_fragments(sink);
        for mut flow in self.table.take_all() {
            let key = flow.key;
            let mut desk: Desk<'_, F, _> = desk!(self, flow, &mut *sink);
            let mut each = sort_out(&key, &mut covered, &mut desk);
            match &mut flow.kind {
                Kind::Tcp(tcp) => tcp.take_all(&mut each),
                Kind::Messages(messages) => messages.take_all(&mut each),
            }
        }
        self.timers.clear();
        covered.sort_by_key(|(nr, ..)| *nr);
        for (nr, _, custody) in covered {
            custody.into_each(|frame| self.park(nr, frame));
        }
    }

    /// Releases all that is held of the primary and makes every flow's sides equal. Returns the
    /// acknowledgements that were owed.
    fn level(&mut self, sink: &mut impl Sink<F>) -> Vec<(FlowKey, Box<[u8]>)> {
        let mut acks = Vec::new();
        let mut covered = self.collect_fragments(sink);
        for (_, flow) in self.table.iter_mut() {
            if matches!(flow.stand, Stand::Diverged(_)) {
                flow.stand = Stand::Compare;
            }
            flow.armed = None;
            let key = flow.key;
            let mut desk: Desk<'_, F, _> = desk!(self, flow, &mut *sink);
            let mut each = sort_out(&key, &mut covered, &mut desk);
            match &mut flow.kind {
                Kind::Tcp(tcp) => acks.extend(tcp.level(&mut each).map(|ack| (key, ack))),
                Kind::Messages(messages) => messages.take_all(&mut each),
            }
        }
        self.timers.clear();
        for parked in self.take_parked() {
            covered.push((parked.nr, None, Custody::One(parked.frame)));
        }
        covered.sort_by_key(|(nr, ..)| *nr);
        for (_, key, custody) in covered {
            custody.into_each(|frame| self.ledger.release(key.as_ref(), frame, 0, sink));
        }
        acks
    }

    fn take_parked(&mut self) -> impl Iterator<Item = super::Parked<F>> + use<F> {
        for parked in &self.parked {
            self.ledger.give(Side::Primary, Usage { frames: 1, bytes: parked.frame.bytes().len() });
        }
        std::mem::take(&mut self.parked).into_iter()
    }

    fn release_parked(&mut self, sink: &mut impl Sink<F>) {
        for parked in self.take_parked() {
            self.ledger.release(None, parked.frame, 0, sink);
        }
    }

    /// Takes out the fragments under reassembly; the secondary's are void.
    fn collect_fragments(&mut self, sink: &mut impl Sink<F>) -> Covered<F> {
        let [primary, secondary] = &mut self.reassembly;
        for (_, frame) in secondary.take_all(&mut self.ledger) {
            self.ledger.discard(None, Side::Secondary, frame, Discard::Superseded, sink);
        }
        let fragments = primary.take_all(&mut self.ledger);
        fragments.into_iter().map(|(nr, frame)| (nr, None, Custody::One(frame))).collect()
    }

    /// A primary's frame of an epoch that a checkpoint has covered: it may leave.
    pub(super) fn absorb(&mut self, frame: F, offload: Offload, sink: &mut impl Sink<F>) {
        let Ok(Parsed::Whole(packet)) = packet::parse(frame.bytes(), offload) else {
            // A fragment's flow is not known; a malformed frame was covered as it is.
            return self.ledger.release(None, frame, 0, sink);
        };
        let slot = self.slot(&packet.key);
        if self.table.get_mut(slot).is_some_and(|flow| flow.stand == Stand::Excluded) {
            let key = Some(&packet.key);
            return self.ledger.discard(key, Side::Primary, frame, Discard::Excluded, sink);
        }
        if let Some(flow) = self.table.get_mut(slot)
            && let (Kind::Tcp(tcp), Body::Tcp(segment)) = (&mut flow.kind, packet.body)
        {
            tcp.absorb(&segment, frame.bytes());
        }
        self.ledger.stats.released_by_checkpoint += 1;
        self.ledger.release(Some(&packet.key), frame, 0, sink);
    }

    /// Takes out every frame that is still held, and forgets all flows.
    pub fn drain(&mut self, mut each: impl FnMut(Option<&FlowKey>, Side, F)) {
        for flow in self.table.take_all() {
            let (key, mut kind) = (flow.key, flow.kind);
            let mut hand_out =
                |side, held: Held<F>| held.custody.into_each(|frame| each(Some(&key), side, frame));
            match &mut kind {
                Kind::Tcp(tcp) => tcp.take_all(&mut hand_out),
                Kind::Messages(messages) => messages.take_all(&mut hand_out),
            }
        }
        self.timers.clear();
        for (side, reassembler) in [Side::Primary, Side::Secondary].into_iter().zip(&mut self.reassembly) {
            let fragments = reassembler.take_all(&mut self.ledger);
            fragments.into_iter().for_each(|(_, frame)| each(None, side, frame));
        }
        self.take_parked().for_each(|parked| each(None, Side::Primary, parked.frame));
        std::mem::take(&mut self.ahead)
            .into_iter()
            .for_each(|input: Input<F>| each(None, input.side, input.frame));
        self.ledger.held = Default::default();
        self.ahead_held = Default::default();
    }
}

/// Takes what a flow held out of the books: the primary's to be released, the secondary's void.
fn sort_out<'a, 'b, F: Frame, S: Sink<F>>(
    key: &'a FlowKey,
    covered: &'a mut Covered<F>,
    desk: &'a mut Desk<'b, F, S>,
) -> impl FnMut(Side, Held<F>) + use<'a, 'b, F, S> {
    move |side, held| {
        desk.unhold(side, &held);
        match side {
            Side::Primary => covered.push((held.nr, Some(*key), held.custody)),
            Side::Secondary => desk.discard(side, held, Discard::Superseded),
        }
    }
}
