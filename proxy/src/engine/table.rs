//! The flows: found by key, bounded, and forgotten longest-idle first.
//!
//! A flow that holds something is never forgotten: its number is bounded by what may be held. Nor is
//! one that the caller left out: their number is the caller's. Of the others a bounded stretch is
//! looked at and the longest idle of it goes, one that diverged only where there is no other, so
//! that a new flow costs the same however many there are (with few flows this is exact LRU).

use super::Usage;
use super::age::Age;
use super::messages::Messages;
use super::tcp::Tcp;
use super::verdict::{Cause, Nanos};
use crate::packet::{FlowKey, Proto};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// How many flows an eviction looks at.
const LOOK: usize = 64;

/// What a flow compares with.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most flows are TCP, and a box would cost every frame a cache miss"
)]
pub(super) enum Kind<F> {
    Tcp(Tcp<F>),
    Messages(Messages<F>),
}

/// What is done with a flow's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// They are compared.
    Compare,
    /// They differ, in this way: the primary's wait for a checkpoint.
    Diverged(Cause),
    /// A rule lets them pass.
    Pass,
    /// A rule asks for a checkpoint for each.
    Checkpoint,
    /// The caller left them out.
    Excluded,
}

#[derive(Debug)]
pub(super) struct Flow<F> {
    pub(super) key: FlowKey,
    pub(super) stand: Stand,
    /// Tells this flow from earlier ones in the same slot.
    pub(super) generation: u32,
    /// When it was last used, in frames.
    stamp: u64,
    pub(super) usage: [Usage; 2],
    pub(super) age: Age,
    /// The timer that counts.
    pub(super) armed: Option<Nanos>,
    pub(super) kind: Kind<F>,
}

impl<F> Flow<F> {
    fn new(key: FlowKey, stand: Stand, generation: u32) -> Self {
        let kind = match key.proto() {
            Proto::Tcp => Kind::Tcp(Tcp::default()),
            _ => Kind::Messages(Messages::default()),
        };
        Self {
            key,
            stand,
            generation,
            stamp: 0,
            usage: Default::default(),
            age: Age::default(),
            armed: None,
            kind,
        }
    }

    #[inline]
    pub(super) fn holds_nothing(&self) -> bool {
        self.usage[0].frames | self.usage[1].frames == 0
    }

    fn idle(&self) -> bool {
        self.holds_nothing() && self.stand != Stand::Excluded
    }

    /// The lowest is forgotten first.
    fn worth(&self) -> (bool, u64) {
        (matches!(self.stand, Stand::Diverged(_)), self.stamp)
    }
}

#[derive(Debug)]
pub(super) struct Table<F> {
    index: HashTable<u32>,
    hasher: RandomState,
    slots: Vec<Option<Flow<F>>>,
    free: Vec<u32>,
    hand: usize,
    clock: u64,
    generation: u32,
    last: u32,
}

impl<F> Default for Table<F> {
    fn default() -> Self {
        Self {
            index: HashTable::new(),
            hasher: RandomState::default(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            clock: 0,
            generation: 0,
            last: 0,
        }
    }
}

impl<F> Table<F> {
    /// The flow's slot, if it is known. Marks it used.
    #[inline]
    pub(super) fn find(&mut self, key: &FlowKey) -> Option<u32> {
        self.clock += 1;
        if let Some(Some(flow)) = self.slots.get_mut(self.last as usize)
            && flow.key == *key
        {
            flow.stamp = self.clock;
            return Some(self.last);
        }
        let slots = &mut self.slots;
        let slot = *self.index.find(self.hasher.hash_one(key), |&slot| {
            slots[slot as usize].as_ref().is_some_and(|flow| flow.key == *key)
        })?;
        if let Some(flow) = &mut slots[slot as usize] {
            flow.stamp = self.clock;
        }
        self.last = slot;
        Some(slot)
    }

    /// Adds a flow that is not known. Returns its slot, and whether another was forgotten for it.
    pub(super) fn insert(&mut self, key: FlowKey, stand: Stand, max: usize) -> (u32, bool) {
        let evicted = self.index.len() >= max && self.evict();
        self.generation = self.generation.wrapping_add(1);
        let mut flow = Flow::new(key, stand, self.generation);
        flow.stamp = self.clock;
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(flow);
            slot
        } else {
            self.slots.push(Some(flow));
            (self.slots.len() - 1) as u32
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index.insert_unique(hasher.hash_one(key), slot, |&slot| {
            slots[slot as usize].as_ref().map_or(0, |flow| hasher.hash_one(flow.key))
        });
        self.last = slot;
        (slot, evicted)
    }

    fn evict(&mut self) -> bool {
        let mut oldest: Option<((bool, u64), u32)> = None;
        for _ in 0..self.slots.len().min(LOOK) {
            self.hand = (self.hand + 1) % self.slots.len();
            if let Some(flow) = &self.slots[self.hand]
                && flow.idle()
                && oldest.is_none_or(|(worth, _)| flow.worth() < worth)
            {
                oldest = Some((flow.worth(), self.hand as u32));
            }
        }
        oldest.is_some_and(|(_, slot)| self.remove(slot).is_some())
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Flow<F>> {
        let flow = self.slots.get_mut(slot as usize)?.take()?;
        if let Ok(entry) = self.index.find_entry(self.hasher.hash_one(flow.key), |&other| other == slot) {
            entry.remove();
        }
        self.free.push(slot);
        Some(flow)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Flow<F>> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Flow<F>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Flow<F>)> {
        self.slots.iter().enumerate().filter_map(|(slot, flow)| Some((slot as u32, flow.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Flow<F>)> {
        self.slots.iter_mut().enumerate().filter_map(|(slot, flow)| Some((slot as u32, flow.as_mut()?)))
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Forgets all flows and hands them out in the order of their slots.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Flow<F>> {
        self.index.clear();
        self.free.clear();
        self.hand = 0;
        self.last = 0;
        std::mem::take(&mut self.slots).into_iter().flatten()
    }
}
