//! The books of a replay: where every verdict of the engine is entered.
//!
//! ```text
//!   release, discard, drained ─► the flow's tally      (every frame comes out of the engine once)
//!   divergence ─► the flow's finding, the divergence file, the list of flows to leave out
//! ```

use super::Mac;
use super::capture::Record;
use super::divergence::DivergenceFile;
use super::exhibit::finding;
use super::report::{Finding, Flow, Summary, Verdict};
use crate::engine::{AckFrame, Cause, Discard, Divergence, Frame, PassRules, Side, Sink, Trigger};
use crate::packet::{self, FlowKey, Offload, Parsed};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// Every flow seen so far, and what has become of it.
#[derive(Default)]
pub(super) struct Book {
    flows: Vec<Flow>,
    index: HashTable<u32>,
    hasher: RandomState,
    rules: PassRules,
    /// Flows that diverged in the call under way, to be left out after it.
    leave_out: Vec<FlowKey>,
    file: Option<DivergenceFile>,
    /// Only the first divergence is wanted.
    only_first: bool,
    summary: Summary,
}

impl Book {
    pub(super) fn new(rules: PassRules, file: Option<DivergenceFile>, only_first: bool) -> Self {
        Self { rules, file, only_first, ..Self::default() }
    }

    /// Whether everything that was asked for is known.
    pub(super) fn complete(&self) -> bool {
        self.only_first && self.summary.checkpoints > 0
    }

    /// A flow that is to be left out now.
    pub(super) fn leave_out(&mut self) -> Option<FlowKey> {
        self.leave_out.pop()
    }

    /// The flow's entry; a new one if there is none.
    fn flow(&mut self, key: &FlowKey, frame: Option<&Record>) -> &mut Flow {
        let (flows, hasher) = (&mut self.flows, &self.hasher);
        let hash = hasher.hash_one(key);
        let known = self.index.find(hash, |&at| flows[at as usize].key == *key).copied();
        let at = known.unwrap_or_else(|| {
            let source = frame.and_then(|frame| Mac::source(&frame.data)).unwrap_or_default();
            let at = flows.len() as u32;
            flows.push(Flow::new(*key, self.rules.pass(key), source));
            self.index.insert_unique(hash, at, |&at| hasher.hash_one(flows[at as usize].key));
            at
        });
        &mut flows[at as usize]
    }

    /// Counts a frame that has come out of the engine.
    fn seen(&mut self, key: &FlowKey, frame: &Record) -> &mut Flow {
        let flow = self.flow(key, Some(frame));
        let traffic = match frame.side {
            Side::Primary => &mut flow.primary,
            Side::Secondary => &mut flow.secondary,
        };
        traffic.frames += 1;
        traffic.bytes += frame.data.len() as u64;
        flow
    }

    /// A frame that the engine still held at the end.
    pub(super) fn left_over(&mut self, key: Option<&FlowKey>, frame: &Record) {
        // A fragment whose rest never came belongs to the conversation between its addresses.
        let Some(key) = key.copied().or_else(|| conversation(frame)) else { return };
        let flow = self.seen(&key, frame);
        match frame.side {
            Side::Primary => flow.held += 1,
            Side::Secondary => flow.unmatched += 1,
        }
    }

    /// A frame for which there is no room, whatever is left out.
    fn uncompared(&mut self, frame: &Record) {
        self.summary.uncompared += 1;
        if let Some(key) = conversation(frame) {
            self.seen(&key, frame).uncompared += 1;
        }
    }

    /// A flow that is left out because it holds too much.
    pub(super) fn overflow(&mut self, key: &FlowKey) {
        let finding = Finding { cause: Cause::Overflow, offset: 0, primary: None, secondary: None };
        self.enter(key, finding, None, None);
    }

    fn enter(&mut self, key: &FlowKey, finding: Finding, ours: Option<&Record>, theirs: Option<&Record>) {
        if self.complete() {
            return;
        }
        self.leave_out.push(*key);
        // One that the engine had forgotten meanwhile has been reported before.
        if self.flow(key, ours.or(theirs)).divergence.is_some() {
            return;
        }
        self.summary.checkpoints += 1;
        if let Some(file) = &mut self.file {
            file.write(key, &finding, ours.into_iter().chain(theirs));
        }
        self.flow(key, None).divergence = Some(Box::new(finding));
    }

    /// The sums, the flows, and the divergence file.
    pub(super) fn close(self) -> (Summary, Vec<Flow>, Option<DivergenceFile>) {
        let (flows, stopped) = (self.flows.len() as u64, self.complete());
        let mut summary = Summary { flows, stopped, ..self.summary };
        for flow in &self.flows {
            *match flow.verdict() {
                Verdict::Match => &mut summary.matched,
                Verdict::Diverged => &mut summary.diverged,
                Verdict::Incomplete => &mut summary.incomplete,
                Verdict::PassedThrough => &mut summary.passed_through,
            } += 1;
            summary.released += flow.released;
            summary.released_bytes += flow.released_bytes;
            summary.held += flow.held;
            summary.unmatched += flow.unmatched;
        }
        (summary, self.flows, self.file)
    }
}

/// The flow that a frame belongs to as far as it says so itself.
fn conversation(frame: &Record) -> Option<FlowKey> {
    match packet::parse(frame.bytes(), Offload::default()).ok()? {
        Parsed::Whole(packet) => Some(packet.key),
        Parsed::Fragment(fragment) => Some(fragment.datagram.ends),
    }
}

impl Sink<Record> for Book {
    fn release(&mut self, flow: Option<&FlowKey>, frame: Record, verified: u32) {
        let Some(key) = flow else { return };
        let flow = self.seen(key, &frame);
        flow.released += 1;
        flow.released_bytes += u64::from(verified);
    }

    fn inject(&mut self, _: &FlowKey, _: AckFrame) {}

    fn discard(&mut self, flow: Option<&FlowKey>, _: Side, frame: Record, cause: Discard) {
        match (flow, cause) {
            (Some(key), _) => {
                self.seen(key, &frame);
            }
            (None, Discard::Malformed) => self.summary.malformed += 1,
            (None, Discard::BadFragments) => self.summary.bad_fragments += 1,
            (None, Discard::FragmentTimeout) => self.left_over(None, &frame),
            (None, _) => self.uncompared(&frame),
        }
    }

    fn divergence(&mut self, divergence: &Divergence<'_, Record>) {
        let ours = divergence.primary.as_ref().map(|evidence| evidence.frame);
        let theirs = divergence.secondary.as_ref().map(|evidence| evidence.frame);
        self.enter(divergence.flow, finding(divergence), ours, theirs);
    }

    fn trigger(&mut self, trigger: Trigger) {
        let to_blame = |key: &FlowKey| self.leave_out.contains(key);
        if trigger.cause == Cause::Overflow && !trigger.flow.as_ref().is_some_and(to_blame) {
            self.summary.overflows += 1;
        }
    }
}
