//! A look inside: what is held, for how long, and what it waits for.
//!
//! ```text
//!   flows ─────────────────┐
//!   parked ────────────────┤   (since, holder)        FlowView
//!   fragments of each side ┼──► the oldest `max` ──► { holder, held, since, limit, why }
//!   next epoch ────────────┘
//! ```
//!
//! For people and for metrics, once a second or so: it looks at every flow and at all that is held,
//! and changes nothing.

use super::held::index;
use super::table::{Flow, Kind};
use super::verdict::{Cause, Frame, Nanos, Side};
use super::{Engine, Mode, Stand, Usage, due};
use crate::packet::FlowKey;
use std::collections::BinaryHeap;
use std::fmt;

/// Who holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A flow.
    Flow(FlowKey),
    /// Primary output of no flow that only a checkpoint releases.
    Parked,
    /// Fragments of this side whose datagrams are not complete.
    Fragments(Side),
    /// Frames that were sent after the checkpoint that is under way.
    NextEpoch,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flow(key) => key.fmt(f),
            Self::Parked => f.write_str("(of no flow)"),
            Self::Fragments(side) => write!(f, "(fragments of the {side}'s)"),
            Self::NextEpoch => f.write_str("(next epoch)"),
        }
    }
}

/// Why something is still held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// This side has not sent as much.
    Output(Side),
    /// This side sent later parts of a stream, and not yet what comes before them.
    Earlier(Side),
    /// It is compared; the secondary has not acknowledged what it would acknowledge (promise 2).
    Acknowledgement,
    /// This side has not sent the RST that the other one sent.
    Reset(Side),
    /// The secondary's sequence numbers cannot be brought into the primary's space yet.
    Unplaced,
    /// Both sides have messages that are not the same, and they may only be out of order.
    Order,
    /// Both sides have output and it differs in this way: a checkpoint releases it.
    Diverged(Cause),
    /// A rule asks for a checkpoint for each frame of this kind.
    Rule,
    /// The mode is periodic: all output waits for the next checkpoint.
    Periodic,
    /// Nothing can be compared with it: a checkpoint releases it.
    Checkpoint,
    /// The rest of a fragmented datagram.
    Fragments,
    /// The end of the checkpoint that is under way.
    NextEpoch,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output(side) => write!(f, "waits for the {side}'s output"),
            Self::Earlier(side) => write!(f, "waits for earlier bytes of the {side}'s"),
            Self::Acknowledgement => f.write_str("waits for the secondary's acknowledgement"),
            Self::Reset(side) => write!(f, "waits for the {side}'s reset"),
            Self::Unplaced => f.write_str("waits for the secondary's first sequence number"),
            Self::Order => f.write_str("differs, may still be out of order only"),
            Self::Diverged(cause) => write!(f, "diverged ({cause}), waits for a checkpoint"),
            Self::Rule => f.write_str("a rule wants a checkpoint for it"),
            Self::Periodic => f.write_str("periodic mode, waits for the next checkpoint"),
            Self::Checkpoint => f.write_str("cannot be compared, waits for a checkpoint"),
            Self::Fragments => f.write_str("waits for the rest of its fragments"),
            Self::NextEpoch => f.write_str("waits for the checkpoint to end"),
        }
    }
}

/// What one flow, or one of the places beside the flows, holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// Who holds it.
    pub holder: Holder,
    /// What is held of the primary's and of the secondary's output.
    pub held: [Usage; 2],
    /// When the oldest of it came.
    pub since: Nanos,
    /// How long that may wait, as things are, before it counts as a divergence or is given up;
    /// none where it waits for a checkpoint already.
    pub limit: Option<Nanos>,
    /// What is done with the flow's frames; none where there is no flow.
    pub stand: Option<Stand>,
    /// What it waits for.
    pub why: Why,
}

/// Where something is held. Ordered, so that equal ages come in the same order each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Slot(u32),
    Parked,
    Fragments(usize),
    Ahead,
}

const SIDES: [Side; 2] = [Side::Primary, Side::Secondary];

impl<F: Frame> Engine<F> {
    /// What is held, that which has waited longest first, and at most `max` entries of it.
    pub fn inspect(&self, max: usize) -> Vec<FlowView> {
        // A heap of the oldest so far with the youngest of them on top: `max` bounds the memory,
        // and most flows of a busy engine cost one comparison.
        let mut oldest: BinaryHeap<(Nanos, Place)> = BinaryHeap::new();
        for entry in self.places() {
            if oldest.len() < max {
                oldest.push(entry);
            } else if let Some(mut youngest) = oldest.peek_mut()
                && entry < *youngest
            {
                *youngest = entry;
            }
        }
        let places = oldest.into_sorted_vec().into_iter();
        places.filter_map(|(since, place)| self.view(since, place)).collect()
    }

    /// Every place that holds something, and since when.
    fn places(&self) -> impl Iterator<Item = (Nanos, Place)> {
        let flows = self.table.iter().filter(|(_, flow)| !flow.holds_nothing());
        let flows = flows.filter_map(|(slot, flow)| Some((since(flow)?, Place::Slot(slot))));
        let parked = self.parked.front().map(|parked| (parked.at, Place::Parked));
        let fragments = self.reassembly.iter().enumerate();
        let fragments = fragments.filter_map(|(side, all)| Some((all.kept()?.1, Place::Fragments(side))));
        let ahead = self.ahead.front().map(|input| (input.at, Place::Ahead));
        flows.chain(parked).chain(fragments).chain(ahead)
    }

    fn view(&self, since: Nanos, place: Place) -> Option<FlowView> {
        let beside = |holder, held, limit, why| FlowView { holder, held, since, limit, stand: None, why };
        Some(match place {
            Place::Slot(slot) => {
                let flow = self.table.get(slot)?;
                let limit = due(flow, &self.config).map(|due| due.since(since));
                let (held, stand) = (flow.usage, Some(flow.stand));
                FlowView { holder: Holder::Flow(flow.key), held, since, limit, stand, why: why(flow)? }
            }
            Place::Parked => {
                let mut held = Usage::default();
                self.parked.iter().for_each(|parked| {
                    held.add(Usage { frames: 1, bytes: parked.frame.bytes().len() });
                });
                let why = if self.mode == Mode::Periodic { Why::Periodic } else { Why::Checkpoint };
                beside(Holder::Parked, [held, Usage::default()], None, why)
            }
            Place::Fragments(side) => {
                let side = *SIDES.get(side)?;
                let mut held = <[Usage; 2]>::default();
                held[index(side)] = self.reassembly[index(side)].kept()?.0;
                let limit = Some(self.config.reassembly_timeout);
                beside(Holder::Fragments(side), held, limit, Why::Fragments)
            }
            Place::Ahead => {
                let limit = self.gate.is_quiet().then_some(self.config.age_ceiling);
                beside(Holder::NextEpoch, self.ahead_held, limit, Why::NextEpoch)
            }
        })
    }
}

/// When the oldest of what a flow holds came.
fn since<F: Frame>(flow: &Flow<F>) -> Option<Nanos> {
    match &flow.kind {
        Kind::Tcp(tcp) => tcp.since(),
        Kind::Messages(messages) => messages.since(),
    }
}

fn why<F: Frame>(flow: &Flow<F>) -> Option<Why> {
    match (flow.stand, &flow.kind) {
        (Stand::Diverged(cause), _) => Some(Why::Diverged(cause)),
        (Stand::Checkpoint, _) => Some(Why::Rule),
        (_, Kind::Tcp(tcp)) => tcp.why(),
        (_, Kind::Messages(messages)) => messages.why(),
    }
}
