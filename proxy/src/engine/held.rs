//! Frames in custody, and the books on them.
//!
//! Every frame the engine takes is in exactly one place: a queue of a flow, a reassembly, the list
//! that waits for a checkpoint, or the list that waits for the next epoch. [`Ledger`] knows how
//! much that is, so that limits are checked without counting.

use super::verdict::{Cause, Discard, Divergence, Evidence, Frame, Nanos, Side, Sink};
use super::{AckFrame, Config, Stats, Usage};
use crate::packet::{FlowKey, Stamps, lower_ack};

/// One datagram: a frame, or the fragments that make it.
#[derive(Debug)]
pub(super) enum Custody<F> {
    /// A frame that stands for itself.
    One(F),
    /// A datagram that came in pieces.
    Many(Box<Reassembled<F>>),
}

/// A datagram that was put together.
#[derive(Debug)]
pub(super) struct Reassembled<F> {
    /// Its fragments in the order in which they came.
    pub(super) fragments: Vec<F>,
    /// Its IP payload.
    pub(super) data: Vec<u8>,
    /// Which fragment holds the start of the payload, and where.
    pub(super) first: (usize, u32),
    /// How much of the payload that fragment holds.
    pub(super) first_len: u32,
}

impl<F: Frame> Custody<F> {
    /// The bytes that positions of the parser refer to.
    #[inline]
    pub(super) fn data(&self) -> &[u8] {
        match self {
            Self::One(frame) => frame.bytes(),
            Self::Many(datagram) => &datagram.data,
        }
    }

    /// The frame to show for it.
    pub(super) fn face(&self) -> &F {
        match self {
            Self::One(frame) => frame,
            Self::Many(datagram) => &datagram.fragments[datagram.first.0],
        }
    }

    /// Whether the first fragment holds all of a TCP header that starts at `header` of the payload
    /// (RFC 7112, RFC 3128): otherwise its acknowledgement cannot be lowered in place.
    pub(super) fn holds_tcp_header(&self, header: u32) -> bool {
        match self {
            Self::One(_) => true,
            Self::Many(datagram) => header + 20 <= datagram.first_len,
        }
    }

    #[inline]
    pub(super) fn usage(&self) -> Usage {
        match self {
            Self::One(frame) => Usage { frames: 1, bytes: frame.bytes().len() },
            Self::Many(datagram) => Usage {
                frames: datagram.fragments.len(),
                bytes: datagram.fragments.iter().map(|frame| frame.bytes().len()).sum::<usize>()
                    + datagram.data.len(),
            },
        }
    }

    /// Rewrites the TCP header's acknowledgement and window; see [`lower_ack`].
    fn lower(&mut self, header: u32, ack: u32, window: u16, partial: bool) -> bool {
        match self {
            Self::One(frame) => lower_ack(frame.bytes_mut(), header, ack, window, partial),
            Self::Many(datagram) => {
                let (index, start) = datagram.first;
                lower_ack(datagram.fragments[index].bytes_mut(), start + header, ack, window, partial)
            }
        }
    }

    pub(super) fn for_each_mut(&mut self, each: &mut impl FnMut(&mut F)) {
        match self {
            Self::One(frame) => each(frame),
            Self::Many(datagram) => datagram.fragments.iter_mut().for_each(each),
        }
    }

    pub(super) fn into_each(self, mut each: impl FnMut(F)) {
        match self {
            Self::One(frame) => each(frame),
            Self::Many(datagram) => datagram.fragments.into_iter().for_each(each),
        }
    }
}

/// A datagram in custody.
#[derive(Debug)]
pub(super) struct Held<F> {
    pub(super) custody: Custody<F>,
    /// When it came.
    pub(super) at: Nanos,
    /// Its place among all inputs.
    pub(super) nr: u64,
    /// The L4 checksum field covers the pseudo-header only.
    pub(super) partial: bool,
    /// `compact` has seen it.
    pub(super) compacted: bool,
}

impl<F: Frame> Held<F> {
    pub(super) fn new(custody: Custody<F>, at: Nanos, nr: u64, partial: bool) -> Self {
        Self { custody, at, nr, partial, compacted: false }
    }

    pub(super) fn lower(&mut self, header: u32, ack: u32, window: u16) -> bool {
        self.custody.lower(header, ack, window, self.partial)
    }

    /// Writes timestamps into a frame that stands for itself; see [`Stamps::write`].
    pub(super) fn restamp(&mut self, header: u32, stamps: Stamps) -> bool {
        match &mut self.custody {
            Custody::One(frame) => stamps.write(frame.bytes_mut(), header, self.partial),
            Custody::Many(_) => false,
        }
    }

    pub(super) fn compact(&mut self, before: Nanos, each: &mut impl FnMut(&mut F)) {
        if !self.compacted && self.at < before {
            self.compacted = true;
            self.custody.for_each_mut(each);
        }
    }
}

impl Usage {
    #[inline]
    pub(super) fn add(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }

    #[inline]
    pub(super) fn sub(&mut self, other: Self) {
        self.frames -= other.frames;
        self.bytes -= other.bytes;
    }
}

/// Index of a side in a pair.
pub(super) const fn index(side: Side) -> usize {
    match side {
        Side::Primary => 0,
        Side::Secondary => 1,
    }
}

/// The engine's books: counters, and what is in custody of each side.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) stats: Stats,
    pub(super) held: [Usage; 2],
}

impl Ledger {
    pub(super) fn take(&mut self, side: Side, usage: Usage) {
        self.held[index(side)].add(usage);
    }

    pub(super) fn give(&mut self, side: Side, usage: Usage) {
        self.held[index(side)].sub(usage);
    }

    /// Lets a frame out that is in no custody.
    pub(super) fn release<F>(
        &mut self,
        flow: Option<&FlowKey>,
        frame: F,
        verified: u32,
        sink: &mut impl Sink<F>,
    ) {
        self.stats.released += 1;
        self.stats.verified_bytes += u64::from(verified);
        sink.release(flow, frame, verified);
    }

    /// Drops a frame that is in no custody.
    pub(super) fn discard<F>(
        &mut self,
        flow: Option<&FlowKey>,
        side: Side,
        frame: F,
        cause: Discard,
        sink: &mut impl Sink<F>,
    ) {
        self.stats.side(side).discards.add(cause as usize);
        sink.discard(flow, side, frame, cause);
    }
}

/// What a flow works with while it handles one event.
pub(super) struct Desk<'a, F, S> {
    pub(super) key: &'a FlowKey,
    pub(super) now: Nanos,
    pub(super) config: &'a Config,
    pub(super) ledger: &'a mut Ledger,
    /// What this flow holds of each side.
    pub(super) usage: &'a mut [Usage; 2],
    pub(super) age: &'a mut super::age::Age,
    pub(super) sink: &'a mut S,
    /// The divergence this event brought, if any.
    pub(super) diverged: Option<Cause>,
    pub(super) frame: std::marker::PhantomData<F>,
}

impl<F: Frame, S: Sink<F>> Desk<'_, F, S> {
    /// A datagram stays in custody of the flow.
    #[inline]
    pub(super) fn hold(&mut self, side: Side, held: &Held<F>) {
        let usage = held.custody.usage();
        self.ledger.take(side, usage);
        self.usage[index(side)].add(usage);
    }

    /// A datagram leaves the custody of the flow; what becomes of it is said by one of the others.
    #[inline]
    pub(super) fn unhold(&mut self, side: Side, held: &Held<F>) {
        let usage = held.custody.usage();
        self.ledger.give(side, usage);
        self.usage[index(side)].sub(usage);
    }

    /// Lets a primary's datagram out.
    #[inline]
    pub(super) fn release(&mut self, held: Held<F>, verified: u32) {
        match held.custody {
            Custody::One(frame) => self.ledger.release(Some(self.key), frame, verified, self.sink),
            Custody::Many(datagram) => {
                let mut verified = verified;
                for frame in datagram.fragments {
                    self.ledger.release(Some(self.key), frame, verified, self.sink);
                    verified = 0;
                }
            }
        }
    }

    /// Drops a datagram.
    #[inline]
    pub(super) fn discard(&mut self, side: Side, held: Held<F>, cause: Discard) {
        match held.custody {
            Custody::One(frame) => self.ledger.discard(Some(self.key), side, frame, cause, self.sink),
            Custody::Many(datagram) => {
                for frame in datagram.fragments {
                    self.ledger.discard(Some(self.key), side, frame, cause, self.sink);
                }
            }
        }
    }

    /// Sends an acknowledgement of the engine's own.
    pub(super) fn inject(&mut self, bytes: Box<[u8]>) {
        self.ledger.stats.acks_injected += 1;
        self.sink.inject(self.key, AckFrame(bytes));
    }

    /// Reports a divergence. The first one of an event counts.
    pub(super) fn diverge(
        &mut self,
        cause: Cause,
        offset: u64,
        primary: Option<(&Held<F>, &[u8])>,
        secondary: Option<(&Held<F>, &[u8])>,
    ) {
        if self.diverged.is_some() {
            return;
        }
        self.diverged = Some(cause);
        self.ledger.stats.divergences.add(cause as usize);
        self.sink.divergence(&Divergence {
            flow: self.key,
            cause,
            offset,
            primary: primary.map(evidence),
            secondary: secondary.map(evidence),
        });
    }
}

fn evidence<'a, F: Frame>((held, bytes): (&'a Held<F>, &'a [u8])) -> Evidence<'a, F> {
    Evidence { frame: held.custody.face(), bytes }
}
