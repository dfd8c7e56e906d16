//! Everything that is not a stream: UDP, ICMP, ARP, ND, other IP, other ethertypes.
//!
//! ```text
//!   primary    │ A✓ │ B  │ C✓ │      released from the front while matched (FIFO)
//!   secondary  │ X  │ Y  │           unmatched only; a match takes it out wherever it stands
//! ```
//!
//! Messages match as a multiset inside a bounded window: order does not count. They diverge when a
//! primary's stays unmatched while the secondary has sent a window's worth of others, or when both
//! sides have unmatched ones and the reorder wait is over.

use super::Config;
use super::held::{Desk, Held};
use super::inspect::Why;
use super::verdict::{Cause, Discard, Frame, Nanos, Side, Sink};
use crate::packet::{Message, Proto};
use std::collections::VecDeque;

#[derive(Debug)]
struct Item<F> {
    message: Message,
    held: Held<F>,
    matched: bool,
}

impl<F: Frame> Item<F> {
    /// The bytes that count, stretch by stretch.
    fn stretches(&self) -> impl Iterator<Item = &[u8]> {
        let data = self.held.custody.data();
        self.message.regions().iter().map(|region| region.of(data))
    }

    /// The message without what an age says nothing about.
    fn show(&self) -> (&Held<F>, &[u8]) {
        (&self.held, self.stretches().last().unwrap_or_default())
    }

    fn equals(&self, other: &Self) -> bool {
        if self.message.segment_size != other.message.segment_size {
            return false;
        }
        match (self.message.regions(), other.message.regions()) {
            ([a], [b]) => a.of(self.held.custody.data()) == b.of(other.held.custody.data()),
            (a, b) => {
                a.len() == b.len()
                    && self.message.len() == other.message.len()
                    && self.stretches().flatten().eq(other.stretches().flatten())
            }
        }
    }

    /// Where two messages part: the offset in what counts, and the rest of the stretch there.
    fn parting<'a>(&'a self, other: &Self) -> (u64, &'a [u8]) {
        let common = self.stretches().flatten().zip(other.stretches().flatten());
        let offset = common.take_while(|(a, b)| a == b).count();
        let mut left = offset;
        for stretch in self.stretches() {
            if left < stretch.len() {
                return (offset as u64, &stretch[left..]);
            }
            left -= stretch.len();
        }
        (offset as u64, &[])
    }
}

#[derive(Debug)]
pub(super) struct Messages<F> {
    primary: VecDeque<Item<F>>,
    secondary: VecDeque<Item<F>>,
}

impl<F> Default for Messages<F> {
    fn default() -> Self {
        Self { primary: VecDeque::new(), secondary: VecDeque::new() }
    }
}

impl<F: Frame> Messages<F> {
    /// One message.
    pub(super) fn message<S: Sink<F>>(
        &mut self,
        side: Side,
        message: Message,
        held: Held<F>,
        desk: &mut Desk<'_, F, S>,
    ) {
        let item = Item { message, held, matched: false };
        match side {
            Side::Primary => self.primary(item, desk),
            Side::Secondary => self.secondary(item, desk),
        }
        if self.secondary.len() > desk.config.reorder_window {
            self.judge(desk);
        }
    }

    fn primary<S: Sink<F>>(&mut self, mut item: Item<F>, desk: &mut Desk<'_, F, S>) {
        if let Some(index) = self.secondary.iter().position(|theirs| theirs.equals(&item))
            && let Some(theirs) = self.secondary.remove(index)
        {
            desk.ledger.stats.reordered += u64::from(index > 0);
            desk.age.observe(desk.now.since(theirs.held.at));
            desk.unhold(Side::Secondary, &theirs.held);
            desk.discard(Side::Secondary, theirs.held, Discard::Compared);
            item.matched = true;
        }
        if item.matched && self.primary.is_empty() {
            let verified = item.message.len() as u32;
            return desk.release(item.held, verified);
        }
        desk.hold(Side::Primary, &item.held);
        self.primary.push_back(item);
    }

    fn secondary<S: Sink<F>>(&mut self, item: Item<F>, desk: &mut Desk<'_, F, S>) {
        let open = self.primary.iter_mut().filter(|ours| !ours.matched);
        let Some((skipped, ours)) = open.enumerate().find(|(_, ours)| ours.equals(&item)) else {
            desk.hold(Side::Secondary, &item.held);
            return self.secondary.push_back(item);
        };
        ours.matched = true;
        desk.ledger.stats.reordered += u64::from(skipped > 0);
        desk.age.observe(desk.now.since(ours.held.at));
        desk.discard(Side::Secondary, item.held, Discard::Compared);
        while self.primary.front().is_some_and(|ours| ours.matched) {
            if let Some(ours) = self.primary.pop_front() {
                desk.unhold(Side::Primary, &ours.held);
                desk.release(ours.held, ours.message.len() as u32);
            }
        }
    }

    /// Both sides have output and it differs, if both have any.
    fn judge<S: Sink<F>>(&self, desk: &mut Desk<'_, F, S>) {
        let (Some(ours), Some(theirs)) = (self.primary.front(), self.secondary.front()) else { return };
        let (offset, ours_rest) = ours.parting(theirs);
        let (_, theirs_rest) = theirs.parting(ours);
        let cause = match desk.key.proto() {
            Proto::Arp | Proto::Nd => Cause::Fields,
            Proto::Icmp | Proto::Icmpv6 if offset < 2 => Cause::Fields,
            _ if ours.message.len() != theirs.message.len() => Cause::Length,
            _ => Cause::Payload,
        };
        desk.diverge(cause, offset, Some((&ours.held, ours_rest)), Some((&theirs.held, theirs_rest)));
    }

    /// When something has waited too long, as things are.
    pub(super) fn deadline(&self, age: Nanos, config: &Config) -> Option<Nanos> {
        match (self.primary.front(), self.secondary.front()) {
            (Some(ours), Some(theirs)) => {
                // The secondary's first may always be a new one; the age of the older counts too.
                let (older, newer) = (ours.held.at.min(theirs.held.at), ours.held.at.max(theirs.held.at));
                Some(newer.plus(config.reorder_wait).min(older.plus(age)))
            }
            (Some(one), None) | (None, Some(one)) => Some(one.held.at.plus(age)),
            (None, None) => None,
        }
    }

    /// Since when something has waited for its twin.
    pub(super) fn since(&self) -> Option<Nanos> {
        self.primary.iter().chain(&self.secondary).map(|item| item.held.at).min()
    }

    /// Why what is held is still here; none if nothing is.
    pub(super) fn why(&self) -> Option<Why> {
        match (self.primary.is_empty(), self.secondary.is_empty()) {
            (true, true) => None,
            (false, false) => Some(Why::Order),
            (false, true) => Some(Why::Output(Side::Secondary)),
            (true, false) => Some(Why::Output(Side::Primary)),
        }
    }

    /// Something has waited too long.
    pub(super) fn expire<S: Sink<F>>(&self, desk: &mut Desk<'_, F, S>) {
        self.judge(desk);
        desk.diverge(
            Cause::Age,
            0,
            self.primary.front().map(Item::show),
            self.secondary.front().map(Item::show),
        );
    }

    /// Whether both sides have unequal messages.
    pub(super) fn differ(&self) -> bool {
        !self.primary.is_empty() && !self.secondary.is_empty()
    }

    /// Keeps a primary's message until a checkpoint covers it.
    pub(super) fn park<S: Sink<F>>(&mut self, message: Message, held: Held<F>, desk: &mut Desk<'_, F, S>) {
        desk.hold(Side::Primary, &held);
        self.primary.push_back(Item { message, held, matched: false });
    }

    /// Hands out all that is held.
    pub(super) fn take_all(&mut self, each: &mut impl FnMut(Side, Held<F>)) {
        std::mem::take(&mut self.primary).into_iter().for_each(|item| each(Side::Primary, item.held));
        std::mem::take(&mut self.secondary).into_iter().for_each(|item| each(Side::Secondary, item.held));
    }

    /// Drops what is held of the secondary.
    pub(super) fn discard_secondary<S: Sink<F>>(&mut self, cause: Discard, desk: &mut Desk<'_, F, S>) {
        for item in std::mem::take(&mut self.secondary) {
            desk.unhold(Side::Secondary, &item.held);
            desk.discard(Side::Secondary, item.held, cause);
        }
    }

    /// Drops all that is held.
    pub(super) fn discard_all<S: Sink<F>>(&mut self, cause: Discard, desk: &mut Desk<'_, F, S>) {
        for item in std::mem::take(&mut self.primary) {
            desk.unhold(Side::Primary, &item.held);
            desk.discard(Side::Primary, item.held, cause);
        }
        self.discard_secondary(cause, desk);
    }

    /// See [`Engine::compact`](super::Engine::compact).
    pub(super) fn compact(&mut self, before: Nanos, each: &mut impl FnMut(&mut F)) {
        let items = self.primary.iter_mut().chain(&mut self.secondary);
        items.for_each(|item| item.held.compact(before, each));
    }
}
