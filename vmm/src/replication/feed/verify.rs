//! What the secondary may have already: it is asked what its regions come to, and what is the same here is not sent.
//!
//! ```text
//!   unsent ─ taken ─► ready ─ its turn ─► question ══ p ══► answer ─► ready ─ its turn ─► read ─┬─ the same: nothing
//!            (T)                                              a sum for each region         (t)   └─ not: it is sent
//! ```
//!
//! One pass over the disk: what becomes unsent behind it, the guest has written, so it is sent without a question.
//!
//! **Why what is the same need not be sent.** The guest may write between p and t, so there may be no moment at which
//! the two disks had the same bytes in all of a region. But each of its sectors ends right. The sum is of what the
//! secondary has when all has arrived that was sent before the question's place p, and nothing behind it. Take the
//! last change of a sector:
//!
//! 1. *It was done after T, and not kept.* Then the region is unsent again, and has another turn.
//! 2. *It is sent behind p.* Then it is the last that is sent of the sector, since what is kept is sent in the order
//!    in which it was done; so the secondary has it in the end, as the local disk does.
//! 3. *Else* it was done before T, or kept and sent before p. All older ones that were kept were sent before p, too:
//!    those that were ready at T are in front of the question, and those in front of a later one are sent before that.
//!    So the secondary has in the end what it had at p, and the local disk what was read at t; and these are the same.
//!
//! What is not the same is sent as any region is: read at t, and followed by what is ready then. Neither crosses the
//! end of an epoch: a cut takes all that was asked about, answered or not, and reads it while the guest stands.

use super::{Feed, Inner, Question, Ready};
use crate::nbd::Sum;
use crate::nbd::sum::SUMMED;
use crate::nbd::wire::numbers::MAX_SUMMED;
use crate::replication::bitmap::REGION;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Regions in one question: 1 MiB.
const RUN: u64 = 16;
/// Regions about which no more is asked: enough that neither host waits for the other, little enough that what the
/// guest writes does not wait for long behind their reads.
const MOST: u64 = 8 * RUN;
const _: () = assert!(REGION == SUMMED && RUN * REGION <= MAX_SUMMED as u64);

/// What is asked, and what is answered and not compared.
#[derive(Debug, Default)]
pub(super) struct Verify {
    /// The pass is not at the disk's end yet.
    passes: bool,
    /// Regions about which the secondary is being asked, by the question's ticket.
    asked: BTreeMap<u64, Range<u64>>,
    /// Where regions are whose sums are known.
    answered: VecDeque<(u64, Option<Sum>)>,
}

impl Verify {
    /// How many regions are neither compared nor sent.
    pub(super) fn regions(&self) -> u64 {
        self.asked.values().map(|run| run.end - run.start).sum::<u64>() + self.answered.len() as u64
    }

    pub(super) fn passes(&self) -> bool {
        self.passes
    }

    /// The next region that is to be compared.
    pub(super) fn answered(&mut self) -> Option<(u64, Option<Sum>)> {
        self.answered.pop_front()
    }

    /// A question is answered, or will not be: what was asked about, and what came of it.
    fn put(&mut self, run: Range<u64>, sums: &[Sum]) {
        // What has none is sent.
        let sums = sums.iter().copied().map(Some).chain(std::iter::repeat(None));
        self.answered.extend(run.map(|region| region * REGION).zip(sums));
    }
}

impl Inner {
    /// All that was asked about takes its turn now, answered or not; nothing more is asked.
    pub(super) fn forgo(&mut self) {
        let Verify { asked, .. } = &mut self.verify;
        for run in std::mem::take(asked).into_values() {
            self.verify.put(run, &[]);
        }
        let Verify { answered, .. } = std::mem::take(&mut self.verify);
        self.ready.retain(|ready| !matches!(ready, Ready::Question(_)));
        self.turns += answered.len();
        self.ready.extend(answered.into_iter().map(|(offset, sum)| Ready::Region(offset, sum)));
    }
}

impl Feed {
    /// From now on, for this connection, the secondary is asked what it has before anything is read and sent to it.
    pub fn verify(&self) {
        let mut inner = self.lock();
        inner.verify.passes = inner.following;
        inner.at = 0;
    }

    /// The next question, if more may be asked. The pass ends where nothing is unsent any more.
    pub(super) fn question(&self, inner: &mut Inner) -> Option<Question> {
        if !inner.verify.passes || inner.verify.regions() > MOST - RUN {
            return None;
        }
        let Some(run) = self.dirty.take(inner.at, RUN, inner.epoch) else {
            inner.verify.passes = false;
            return None;
        };
        inner.at = run.end;
        inner.ticket += 1;
        let (ticket, link, offset) = (inner.ticket, inner.link, run.start * REGION);
        let len = (run.end * REGION).min(self.size()).saturating_sub(offset);
        inner.verify.asked.insert(ticket, run);
        Some(Question { offset, len, ticket, link })
    }

    /// What the secondary's regions come to, one after the other.
    pub fn answered(&self, question: &Question, sums: &[Sum]) {
        let mut inner = self.lock();
        if inner.link != question.link {
            return;
        }
        // A cut may have taken them.
        if let Some(run) = inner.verify.asked.remove(&question.ticket) {
            inner.verify.put(run, sums);
            self.wake(&mut inner);
        }
    }
}
