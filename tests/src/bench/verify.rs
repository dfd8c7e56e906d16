//! Checks that what comes out is what the primary sent: every frame, every byte, once; and counts reordering.
//!
//! While the output is the primary's stream byte for byte, checking is one comparison of memory. Where it is
//! not, frames are told apart by the slot numbers they carry, each is compared with the primary's, and
//! inversions within a flow are counted, until everything earlier has come out too.

use std::collections::BTreeSet;

use super::ring::Ring;

/// The checker of one run's output.
pub struct Verifier {
    /// Bytes seen.
    place: u64,
    /// A frame of which only a part has come; used only out of order.
    partial: Vec<u8>,
    /// Every frame before this index has come out.
    low: u64,
    /// Frames at or after `low` that have come out early.
    early: BTreeSet<u64>,
    /// The latest frame of each flow seen out of order.
    latest: Vec<u64>,
    in_order: bool,
    reordered: u64,
    fault: Option<String>,
}

impl Verifier {
    /// A checker for a ring's stream from its start.
    pub fn new(ring: &Ring) -> Self {
        Self {
            place: 0,
            partial: Vec::new(),
            low: 0,
            early: BTreeSet::new(),
            latest: vec![0; ring.flows()],
            in_order: true,
            reordered: 0,
            fault: None,
        }
    }

    /// Bytes seen so far.
    pub fn bytes(&self) -> u64 {
        self.place
    }

    /// How often a frame came after a later one of its flow.
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// What was first found wrong, if anything.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Takes the next bytes of the output.
    pub fn feed(&mut self, ring: &Ring, mut chunk: &[u8]) {
        while !chunk.is_empty() && self.fault.is_none() {
            if self.in_order {
                let expected = ring.primary(self.place);
                let len = chunk.len().min(expected.len());
                if chunk[..len] == expected[..len] {
                    self.place += len as u64;
                    chunk = &chunk[len..];
                    continue;
                }
                self.leave_order(ring);
            }
            let missing = ring.stride() - self.partial.len();
            let (now, later) = chunk.split_at(missing.min(chunk.len()));
            self.partial.extend_from_slice(now);
            self.place += now.len() as u64;
            chunk = later;
            if self.partial.len() == ring.stride() {
                self.frame(ring);
                self.partial.clear();
            }
        }
    }

    fn leave_order(&mut self, ring: &Ring) {
        let stride = ring.stride() as u64;
        let begun = (self.place % stride) as usize;
        self.low = self.place / stride;
        self.partial.extend_from_slice(&ring.primary(self.low * stride)[..begun]);
        self.in_order = false;
    }

    fn frame(&mut self, ring: &Ring) {
        let count = self.place / ring.stride() as u64;
        let Some(slot) = ring.slot_of(&self.partial) else {
            self.fault = Some(format!("frame {count} of the output is none that was sent"));
            return;
        };
        if self.partial != ring.slot(slot) {
            self.fault = Some(format!("frame {count} of the output differs from slot {slot} of the primary"));
            return;
        }
        // Half a lap lies between a slot's two nearest uses, far more than is ever in flight.
        let lap = ring.frames() as u64;
        let ahead = (slot as u64 + lap - self.low % lap) % lap;
        let index = self.low + ahead;
        if ahead > lap / 2 || !self.early.insert(index) {
            self.fault = Some(format!("slot {slot} came out twice, at frame {count}"));
            return;
        }
        let latest = &mut self.latest[ring.flow(slot)];
        self.reordered += u64::from(index < *latest);
        *latest = index;
        while self.early.remove(&self.low) {
            self.low += 1;
        }
        self.in_order = self.early.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::by_name;

    fn ring() -> Ring {
        Ring::build(by_name("tcp-64-100").unwrap()).unwrap()
    }

    fn output(ring: &Ring, slots: &[usize]) -> Vec<u8> {
        slots.iter().flat_map(|slot| ring.slot(*slot).to_vec()).collect()
    }

    fn verify(slots: &[usize], piece: usize) -> Verifier {
        let ring = ring();
        let mut verifier = Verifier::new(&ring);
        for chunk in output(&ring, slots).chunks(piece) {
            verifier.feed(&ring, chunk);
        }
        verifier
    }

    #[test]
    fn order_is_a_plain_comparison_however_cut() {
        let slots: Vec<_> = (0..1000).collect();
        for piece in [1, 7, 122, 4096, 1 << 20] {
            let verifier = verify(&slots, piece);
            assert_eq!((verifier.fault(), verifier.reordered()), (None, 0));
            assert!(verifier.in_order);
        }
    }

    #[test]
    fn inversions_count_within_a_flow_only() {
        for piece in [1, 50, 1 << 20] {
            assert_eq!(verify(&[1, 0, 2], piece).reordered(), 0);
            let mut slots: Vec<_> = (0..400).collect();
            slots.swap(5, 205);
            let verifier = verify(&slots, piece);
            assert_eq!(verifier.fault(), None);
            // Flow 5 comes as 205, 105, 5, 305.
            assert_eq!(verifier.reordered(), 2);
            assert!(verifier.in_order);
        }
    }

    #[test]
    fn doubled_foreign_and_damaged_frames_are_faults() {
        assert!(verify(&[0, 1, 1], 64).fault().is_some());
        assert!(verify(&[0, 2, 2], 64).fault().is_some());
        let ring = ring();
        for at in [0, 30, 50, 121] {
            let mut bytes = output(&ring, &[0, 1, 2]);
            bytes[122 + at] ^= 1;
            let mut verifier = Verifier::new(&ring);
            verifier.feed(&ring, &bytes);
            assert!(verifier.fault().is_some(), "{at}");
        }
    }
}
