//! One TCP stream of the guest, as both runs send it.
//!
//! ```text
//!   sequence space of the primary ─────────────────────────────────────────────►
//!            floor                verified
//!   ──────────┼──────────────────────┼───────────────────────────────
//!    unknown  │  agreed and released │ primary.data    ▒▒▒▒▒  ▒▒▒▒▒     held
//!             │                      │ secondary.data  ▒▒▒▒▒▒▒▒         consumed as `verified` moves
//! ```
//!
//! SYN and FIN take a place in the stream like bytes do and must stand at the same place on both
//! sides. Pure acknowledgements and RSTs take none: they wait in `primary.waiting` until the
//! secondary has acknowledged as much, or has sent the same RST.

mod acks;
mod custody;
mod gap;
mod part;
mod place;
mod reset;
mod why;

use super::super::held::{Desk, Held};
use super::super::verdict::{Cause, Discard, Frame, Nanos, Side, Sink};
use super::commit::{Fit, Reach};
use super::piece::{Piece, Queue, Unit};
use super::sequence::{at_or_before, before, later};
use crate::packet::{Segment, Stamps, SynOptions, same_other_options};
use acks::Owed;
use gap::Gap;

/// How far both sides agree, in the primary's sequence space.
#[derive(Clone, Copy, Debug)]
struct Position {
    /// The next place to compare.
    verified: u32,
    /// The earliest place known to have been compared. Never more than half the space behind, so
    /// that `before` is right about what lies between.
    floor: u32,
    /// Where the stream ends, once both sides have ended it there.
    fin: Option<u32>,
    /// Stream bytes before `verified`.
    bytes: u64,
}

impl Position {
    /// The widest window there is (RFC 7323 §2.3), and the farthest a retransmission can reach back.
    const REACH_BACK: u32 = 1 << 30;

    fn at(place: u32) -> Self {
        Self { verified: place, floor: place, fin: None, bytes: 0 }
    }

    fn advance(&mut self, places: u32, bytes: u32) {
        self.verified = self.verified.wrapping_add(places);
        self.bytes += u64::from(bytes);
        if self.verified.wrapping_sub(self.floor) > Self::REACH_BACK {
            self.floor = self.verified.wrapping_sub(Self::REACH_BACK);
        }
    }

    /// Whether all of this was agreed: a repetition.
    fn holds<F: Frame>(&self, piece: &Piece<F>) -> bool {
        at_or_before(piece.end(), self.verified)
            && at_or_before(self.floor, piece.payload_start())
            && !self.denies_end(piece)
    }

    /// Whether this has bytes where the stream has ended, or an end where it has bytes.
    fn denies_end<F: Frame>(&self, piece: &Piece<F>) -> bool {
        let end = piece.payload_start().wrapping_add(piece.segment.payload.len);
        let other_end = piece.segment.flags.fin() && before(end, self.verified) && self.fin != Some(end);
        other_end || self.fin.is_some_and(|fin| before(fin, end))
    }
}

#[derive(Debug)]
struct Primary<F> {
    seen: bool,
    isn: Option<u32>,
    /// The end of the farthest segment.
    next: u32,
    /// Where it ends the stream, once it did.
    fin: Option<u32>,
    /// What it has acknowledged and offered.
    reach: Reach,
    /// Segments that take sequence space, in stream order.
    data: Queue<F>,
    /// Pure acknowledgements and RSTs, in order of arrival.
    waiting: Queue<F>,
}

#[derive(Debug)]
struct Secondary<F> {
    seen: bool,
    isn: Option<u32>,
    /// What to add to its sequence numbers to come into the primary's space, once that is settled.
    offset: Option<u32>,
    reach: Reach,
    data: Queue<F>,
    /// Segments whose place is not known yet, in order of arrival.
    unplaced: Queue<F>,
    resets: Queue<F>,
}

impl<F> Secondary<F> {
    fn queues(&mut self) -> [&mut Queue<F>; 3] {
        [&mut self.data, &mut self.unplaced, &mut self.resets]
    }

    fn queues_front(&self) -> Option<&Piece<F>>
    where
        F: Frame,
    {
        self.data.front().or_else(|| self.unplaced.front()).or_else(|| self.resets.front())
    }
}

#[derive(Debug)]
pub(super) struct Stream<F> {
    primary: Primary<F>,
    secondary: Secondary<F>,
    /// The window scale, where the SYNs told it.
    scale: Option<u8>,
    /// What the SYN that left offers.
    offer: Option<SynOptions>,
    position: Option<Position>,
    /// What the client was told.
    told: Reach,
    owed: Option<Box<Owed>>,
    /// The latest timestamp (TSval) that left.
    stamped: Option<u32>,
    /// What the client was told last of what only the secondary misses.
    gap: Option<Box<Gap>>,
    /// The first segment is verified in part: since when, and how far.
    part: Option<(Nanos, u32)>,
    /// Something of it came since the last checkpoint.
    touched: bool,
    /// It was opened since the last checkpoint.
    opened: bool,
}

impl<F> Default for Stream<F> {
    fn default() -> Self {
        Self {
            primary: Primary {
                seen: false,
                isn: None,
                next: 0,
                fin: None,
                reach: Reach::default(),
                data: Queue::default(),
                waiting: Queue::default(),
            },
            secondary: Secondary {
                seen: false,
                isn: None,
                offset: None,
                reach: Reach::default(),
                data: Queue::default(),
                unplaced: Queue::default(),
                resets: Queue::default(),
            },
            scale: None,
            offer: None,
            position: None,
            told: Reach::default(),
            owed: None,
            stamped: None,
            gap: None,
            part: None,
            touched: false,
            opened: false,
        }
    }
}

impl<F: Frame> Stream<F> {
    pub(super) fn seen(&self, side: Side) -> bool {
        match side {
            Side::Primary => self.primary.seen,
            Side::Secondary => self.secondary.seen,
        }
    }

    /// Whether this segment opens another stream on the same ports (RFC 9293 §3.6.1).
    pub(super) fn reopened_by(&self, side: Side, segment: &Segment) -> bool {
        let (seen, isn) = match side {
            Side::Primary => (self.primary.seen, self.primary.isn),
            Side::Secondary => (self.secondary.seen, self.secondary.isn),
        };
        segment.flags.syn() && seen && isn != Some(segment.seq)
    }

    /// Notes what a primary's segment says of the stream, whatever becomes of it.
    fn note_primary(&mut self, segment: &Segment) {
        if segment.flags.syn() {
            self.primary.isn = Some(segment.seq);
        }
        let end = segment.seq.wrapping_add(segment.sequence_len());
        if segment.flags.fin() && !segment.flags.rst() {
            self.primary.fin = Some(end.wrapping_sub(1));
        }
        if !segment.flags.rst() {
            self.primary.next = if self.primary.seen { later(self.primary.next, end) } else { end };
        }
        self.primary.seen = true;
        self.primary.reach.observe(segment, self.scale);
    }

    /// Notes that a segment of the current epoch belongs to it.
    #[inline]
    fn touch(&mut self, segment: &Segment) {
        self.touched = true;
        self.opened |= segment.flags.syn();
    }

    fn learn_scale(&mut self, segment: &Segment, data: &[u8]) {
        let offered = SynOptions::parse(data, segment.header).window_scale;
        self.scale = match (segment.flags.ack(), offered) {
            // An answer that carries the option says that both ends do (RFC 7323 §2.2).
            (true, Some(shift)) => Some(shift),
            (_, None) => Some(0),
            // Whether the peer takes the offer is not seen here.
            (false, Some(_)) => None,
        };
    }

    /// A segment of the primary.
    #[inline]
    pub(super) fn primary<S: Sink<F>>(&mut self, segment: Segment, held: Held<F>, desk: &mut Desk<'_, F, S>) {
        if segment.flags.syn() {
            let offers = SynOptions::parse(held.custody.data(), segment.header);
            if self.offer.is_some_and(|offer| offer != offers) {
                // A repetition that would make another connection.
                desk.diverge(Cause::Syn, 0, Some((&held, &[])), None);
                return self.park(segment, held, desk);
            }
            self.learn_scale(&segment, held.custody.data());
        }
        self.touch(&segment);
        let overlaps = self.primary.seen && before(segment.seq, self.primary.next);
        self.note_primary(&segment);
        let piece = Piece { segment, held, verified: 0 };
        if segment.flags.rst() {
            desk.hold(Side::Primary, &piece.held);
            self.primary.waiting.push_back(piece);
            return self.settle_resets(desk);
        }
        if self.position.is_none() {
            self.position = Some(Position::at(segment.seq));
            if !self.secondary.unplaced.is_empty() {
                self.place_secondary(desk);
            }
        }
        if segment.sequence_len() == 0 {
            return self.offer(piece, desk);
        }
        if let Some(position) = &mut self.position
            && before(segment.seq, position.floor)
            && position.floor == position.verified
        {
            // A stream that was joined, and whose first segments came out of order.
            *position = Position::at(segment.seq);
        }
        desk.hold(Side::Primary, &piece.held);
        let index = self.primary.data.insert(piece);
        if overlaps && let Some(other) = self.primary.data.contradiction(index) {
            let (new, old) = (self.primary.data.get(index), self.primary.data.get(other));
            let offset = self.position.map_or(0, |position| position.bytes);
            return desk.diverge(
                Cause::Payload,
                offset,
                Some((&new.held, new.payload())),
                Some((&old.held, old.payload())),
            );
        }
        if let (Some(position), Some(front)) = (&self.position, self.primary.data.front())
            && position.denies_end(front)
        {
            return desk.diverge(Cause::Fin, position.bytes, Some((&front.held, front.payload())), None);
        }
        self.advance(desk);
        if !self.primary.waiting.is_empty() || !self.secondary.resets.is_empty() {
            self.settle_resets(desk);
        }
    }

    /// A segment of the secondary.
    #[inline]
    pub(super) fn secondary<S: Sink<F>>(
        &mut self,
        segment: Segment,
        held: Held<F>,
        desk: &mut Desk<'_, F, S>,
    ) {
        self.secondary.seen = true;
        self.touch(&segment);
        if segment.flags.syn() {
            self.secondary.isn = Some(segment.seq);
            self.learn_scale(&segment, held.custody.data());
        }
        let progress = self.secondary.reach.observe(&segment, self.scale);
        if self.secondary.offset.is_none() {
            self.settle_offset(&segment);
            if !self.secondary.unplaced.is_empty() {
                self.place_secondary(desk);
            }
        }
        let echo = self.echo(&segment, held.custody.data(), progress);
        if !progress {
            self.judge_gap(&segment, held.custody.data(), desk);
        }
        if segment.sequence_len() == 0 && !segment.flags.rst() || self.consume(&segment, &held, desk) {
            desk.discard(Side::Secondary, held, Discard::Compared);
        } else {
            desk.hold(Side::Secondary, &held);
            let piece = Piece { segment, held, verified: 0 };
            if segment.flags.rst() {
                self.secondary.resets.push_back(piece);
            } else {
                self.place(piece);
                self.advance(desk);
            }
        }
        if !self.primary.waiting.is_empty() || !self.secondary.resets.is_empty() {
            self.settle_resets(desk);
        }
        if progress {
            self.acknowledge(echo, desk);
        }
    }

    /// What a secondary's segment echoes, if something may leave because of it.
    #[inline]
    fn echo(&self, segment: &Segment, data: &[u8], progress: bool) -> Option<u32> {
        let waits = progress && (!self.primary.waiting.is_empty() || self.owed.is_some());
        if waits { Stamps::read(data, segment.header).map(|stamps| stamps.echo) } else { None }
    }

    /// Compares as far as both sides reach, and releases what is verified.
    fn advance<S: Sink<F>>(&mut self, desk: &mut Desk<'_, F, S>) {
        let Some(mut position) = self.position else { return };
        while let Some(ours) = self.primary.data.front() {
            if position.holds(ours) {
                if !self.release_front(desk) {
                    break;
                }
                continue;
            }
            let Some(theirs) = self.secondary.data.front() else {
                break;
            };
            if at_or_before(theirs.end(), position.verified) {
                self.drop_secondary_front(desk);
                continue;
            }
            if !ours.covers(position.verified) || !theirs.covers(position.verified) {
                break;
            }
            let (places, bytes) = match (ours.unit_at(position.verified), theirs.unit_at(position.verified)) {
                (Unit::Bytes(a), Unit::Bytes(b)) => {
                    let common = a.len().min(b.len());
                    let (a, b) = (&a[..common], &b[..common]);
                    if a != b {
                        let at = a.iter().zip(b).take_while(|(a, b)| a == b).count();
                        desk.diverge(
                            Cause::Payload,
                            position.bytes + at as u64,
                            Some((&ours.held, &a[at..])),
                            Some((&theirs.held, &b[at..])),
                        );
                        break;
                    }
                    (common as u32, common as u32)
                }
                (Unit::Syn, Unit::Syn) if syns_agree(ours, theirs, desk) => {
                    // Where the SYN stands no byte can be repeated.
                    position.floor = position.verified.wrapping_add(1);
                    self.offer = Some(SynOptions::parse(ours.held.custody.data(), ours.segment.header));
                    (1, 0)
                }
                (Unit::Fin, Unit::Fin) => {
                    position.fin = Some(position.verified);
                    (1, 0)
                }
                (ours_unit, theirs_unit) => {
                    let syn = ours_unit == Unit::Syn || theirs_unit == Unit::Syn;
                    let cause = if syn { Cause::Syn } else { Cause::Fin };
                    let bytes = |unit| if let Unit::Bytes(bytes) = unit { bytes } else { &[][..] };
                    desk.diverge(
                        cause,
                        position.bytes,
                        Some((&ours.held, bytes(ours_unit))),
                        Some((&theirs.held, bytes(theirs_unit))),
                    );
                    break;
                }
            };
            position.advance(places, bytes);
            if at_or_before(ours.end(), position.verified) {
                desk.age.observe(desk.now.since(ours.held.at.min(theirs.held.at)));
            }
            self.position = Some(position);
            if let Some(ours) = self.primary.data.front_mut() {
                ours.verified += bytes;
            }
        }
        self.note_part(desk.now);
        // What the secondary repeats has done its work.
        while self.secondary.data.front().is_some_and(|theirs| position.holds(theirs)) {
            self.drop_secondary_front(desk);
        }
    }

    /// The common case, without a queue: a secondary's segment that stands where the first of the
    /// primary's does, ends no later, and says the same. False if it is not that case.
    #[inline]
    fn consume<S: Sink<F>>(&mut self, segment: &Segment, held: &Held<F>, desk: &mut Desk<'_, F, S>) -> bool {
        let (Some(position), Some(offset)) = (&mut self.position, self.secondary.offset) else {
            return false;
        };
        let Some(ours) = self.primary.data.front_mut() else { return false };
        let len = segment.payload.len;
        let plain = len > 0 && segment.sequence_len() == len && self.secondary.data.is_empty();
        if !plain || segment.seq.wrapping_add(offset) != position.verified || !ours.covers(position.verified)
        {
            return false;
        }
        match ours.unit_at(position.verified) {
            Unit::Bytes(bytes) => {
                let theirs = segment.payload.of(held.custody.data());
                if bytes.get(..len as usize) != Some(theirs) {
                    return false;
                }
            }
            Unit::Syn | Unit::Fin => return false,
        }
        position.advance(len, len);
        ours.verified += len;
        if ours.end() == position.verified {
            desk.age.observe(desk.now.since(ours.held.at));
            // What repeats it may leave with it.
            self.advance(desk);
        } else {
            self.part = Some((desk.now, position.verified));
        }
        true
    }

    fn drop_secondary_front<S: Sink<F>>(&mut self, desk: &mut Desk<'_, F, S>) {
        if let Some(piece) = self.secondary.data.pop_front() {
            desk.unhold(Side::Secondary, &piece.held);
            desk.discard(Side::Secondary, piece.held, Discard::Compared);
        }
    }

    /// Releases the first data segment, its acknowledgement lowered if need be. Data is not held
    /// for an acknowledgement's sake, unless the secondary has not acknowledged anything at all.
    #[inline]
    fn release_front<S: Sink<F>>(&mut self, desk: &mut Desk<'_, F, S>) -> bool {
        let Some(piece) = self.primary.data.front() else { return false };
        let fit = self.secondary.reach.fit(&piece.segment, self.scale);
        if fit == Fit::Wait {
            return false;
        }
        if let Some(piece) = self.primary.data.pop_front() {
            desk.unhold(Side::Primary, &piece.held);
            self.let_out(piece, fit, None, desk);
        }
        true
    }
}

/// Whether two SYNs make the same connection. The primary's is what the client gets, so after a
/// take-over the secondary must live with it:
///
/// | differs | verdict | why |
/// |---|---|---|
/// | ACK flag | divergence | one opens, the other answers |
/// | window scale | divergence | the client would read every window wrong |
/// | timestamps | divergence | the client would drop segments without them (RFC 7323 §3.2) |
/// | unknown options | divergence | keys and cookies that the other side does not know |
/// | MSS, SACK-permitted | tolerated, counted | they bound what the client sends; either side takes less |
fn syns_agree<F: Frame, S: Sink<F>>(ours: &Piece<F>, theirs: &Piece<F>, desk: &mut Desk<'_, F, S>) -> bool {
    let options = |piece: &Piece<F>| SynOptions::parse(piece.held.custody.data(), piece.segment.header);
    let (a, b) = (options(ours), options(theirs));
    if ours.segment.flags.ack() != theirs.segment.flags.ack()
        || a.window_scale != b.window_scale
        || a.timestamps != b.timestamps
        || !same_other_options(
            (ours.held.custody.data(), ours.segment.header),
            (theirs.held.custody.data(), theirs.segment.header),
        )
    {
        return false;
    }
    desk.ledger.stats.syn_options_tolerated += u64::from(a != b);
    true
}
