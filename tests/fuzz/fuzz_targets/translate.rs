//! Any segments of one connection: the shared crate's translation does what a model says that shares
//! no code with it, what goes out and is answered comes back as what the guest sent, and checksums that
//! were mended are those of the bytes.
#![no_main]

use arbitrary::Arbitrary;
use colo_ebpf_shared::translate::{self, Flow, Outcome, Segment};
use colo_fuzz::model::Model;
use libfuzzer_sys::fuzz_target;

const GENERATION: u32 = 5;

#[derive(Arbitrary, Debug)]
struct Case {
    syn: Step,
    steps: Vec<Step>,
    bytes: Vec<u8>,
    changes: Vec<(u8, u32)>,
}

/// A segment; the numbers of an echo are drawn from what was said before, so that they meet.
#[derive(Arbitrary, Debug)]
struct Step {
    out: bool,
    /// The number of an earlier segment, in place of one by chance.
    echoes: bool,
    seq: u32,
    ack: u32,
    flags: u8,
    times: Option<(u32, u32)>,
}

impl Step {
    fn segment(&self) -> Segment {
        let (tsval, tsecr) = self.times.unwrap_or_default();
        let (seq, ack, flags) = (self.seq, self.ack, self.flags);
        Segment { seq, ack, flags, timestamps: self.times.is_some(), tsval, tsecr }
    }
}

fuzz_target!(|case: Case| {
    let syn = case.syn.segment();
    let mut flow = translate::begin(GENERATION, &syn);
    let mut model = Model::begin(&syn);
    let mut said = syn;
    for step in &case.steps {
        let mut segment = step.segment();
        if step.echoes {
            (segment.ack, segment.tsecr) = (said.seq, said.tsval);
            if step.out {
                segment.seq = case.syn.seq;
            }
        }
        let before = segment;
        let outcome = if step.out {
            translate::outwards(&mut flow, &mut segment)
        } else {
            translate::inwards(&mut flow, &mut segment)
        };
        if outcome == Outcome::Another {
            assert!(step.out && before.flags & 2 != 0, "only a SYN begins anew: {before:?}");
            assert_eq!(segment, before);
            flow = translate::begin(GENERATION, &before);
        }
        let wanted = if step.out { model.outwards(&before) } else { model.inwards(&before) };
        assert_eq!(segment, wanted, "{before:?} {model:?}");
        assert_eq!((flow.generation, flow.reserved), (GENERATION, 0));
        if step.out {
            comes_back(&flow, &before, &segment, outcome);
            said = segment;
        }
    }
    checksum(&case.bytes, &case.changes);
});

/// The answer to a translated segment has the guest's own numbers.
fn comes_back(flow: &Flow, before: &Segment, after: &Segment, outcome: Outcome) {
    if outcome != Outcome::Translated {
        return;
    }
    let mut flow = *flow;
    let floor = flow.ts_floor;
    let mut answer = Segment { ack: after.seq, flags: 16, tsecr: after.tsval, ..*after };
    assert_eq!(translate::inwards(&mut flow, &mut answer), Outcome::Translated);
    assert_eq!(answer.ack, before.seq);
    // A time that the other end's PAWS check would not take was raised, and zero echoes nothing.
    if before.timestamps && after.tsval != 0 && after.tsval != floor {
        assert_eq!(answer.tsecr, before.tsval);
    }
    // And it is no earlier than what the other end has echoed.
    if before.timestamps && after.tsval != before.tsval {
        assert!((floor.wrapping_sub(after.tsval) as i32) <= 0);
    }
}

/// Changes words at any place of the bytes, and compares what the differences make of their sum.
fn checksum(bytes: &[u8], changes: &[(u8, u32)]) {
    let mut now = bytes.to_vec();
    let mut difference = 0;
    for &(at, new) in changes {
        let at = usize::from(at);
        let Some(word) = now.get_mut(at..at + 4) else { continue };
        let old = u32::from_ne_bytes((&*word).try_into().expect("four bytes"));
        word.copy_from_slice(&new.to_ne_bytes());
        difference = translate::difference(difference, at as u32, old, new);
    }
    // As the kernel does it: what changes of the sum is added to it. Sums are equal modulo 2¹⁶ − 1.
    let mended = (sum(bytes) + u64::from(difference)) % 0xffff;
    assert_eq!(mended, sum(&now) % 0xffff, "{changes:?}");
}

/// The sum of 16-bit words as they are in memory (RFC 1071), without folding.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
    words.map(|word| u64::from(u16::from_ne_bytes(word))).sum()
}
