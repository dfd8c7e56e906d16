//! A guest that writes as it likes, a sender, and a replica that must be the local disk as it was at each cut.

use super::*;
use crate::block::follow::Copy;
use crate::block::raw::Raw;
use proptest::prelude::*;
use std::time::Duration;
use vm_memory::GuestMemoryBackend as _;

const SIZE: usize = 12 * REGION as usize;

fn image() -> Arc<dyn Image> {
    let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    file.set_len(SIZE as u64).unwrap();
    Arc::new(Raw::new(file, false, false).unwrap())
}

/// A write or a zeroing that a worker has begun.
struct Begun {
    followed: Followed,
    offset: u64,
    /// The driver's buffer, or how many zeros.
    buffer: Result<Vec<u8>, u64>,
}

struct Pair {
    image: Arc<dyn Image>,
    feed: Arc<Feed>,
    flights: Vec<Begun>,
    /// Sent, not confirmed.
    sent: VecDeque<Message>,
    /// Asked, with what the replica's regions came to then.
    asked: VecDeque<(Question, Vec<Sum>)>,
    replica: Vec<u8>,
    epoch: u64,
    /// What the local disk was when an epoch ended whose last message was not sent yet.
    ended: VecDeque<(u64, Vec<u8>)>,
}

impl Pair {
    fn new(room: usize) -> Self {
        let image = image();
        let dirty = Arc::new(Dirty::new(SIZE as u64));
        let feed = Feed::new(image.clone(), room, dirty).unwrap();
        let (flights, sent, asked, ended) = (Vec::new(), VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { image, feed, flights, sent, asked, replica: vec![0; SIZE], epoch: 0, ended }
    }

    fn local(&self) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        read_at(&*self.image, &mut bytes, 0).unwrap();
        bytes
    }

    fn write(&mut self, offset: usize, len: usize, fill: u8) {
        let mut buffer = vec![fill; len.min(SIZE - offset)];
        let followed = self.feed.write(offset as u64, &[VolatileSlice::from(&mut buffer[..])]);
        self.flights.push(Begun { followed, offset: offset as u64, buffer: Ok(buffer) });
    }

    fn zeroes(&mut self, offset: usize, len: usize) {
        let len = len.min(SIZE - offset) as u64;
        let followed = self.feed.zeroes(offset as u64, len, true);
        self.flights.push(Begun { followed, offset: offset as u64, buffer: Err(len) });
    }

    /// Ends one that was begun, as a worker does; one that fails has done half of it.
    fn finish(&mut self, which: usize, whole: bool) {
        if self.flights.is_empty() {
            return;
        }
        let Begun { followed, offset, buffer } = self.flights.swap_remove(which % self.flights.len());
        match buffer {
            Err(len) => self.image.write_zeroes(offset, if whole { len } else { len / 2 }, true).unwrap(),
            Ok(mut buffer) => {
                let len = if whole { buffer.len() } else { buffer.len() / 2 };
                if let Some(Copy { ram, span }) = &followed.copy {
                    // A driver that writes into a buffer that it has lent.
                    buffer.fill(0xee);
                    let slice = ram.get_slice(span.address, len).unwrap();
                    self.image.write(&[crate::block::plain(&slice)], offset).unwrap();
                } else {
                    crate::block::write_at(&*self.image, &mut buffer[..len], offset).unwrap();
                }
            }
        }
        self.feed.done(followed, whole);
    }

    /// Sends what is next, if there is something.
    fn send(&mut self) -> bool {
        let message = match self.feed.next().unwrap() {
            None => return false,
            Some(Next::Message(message)) => message,
            Some(Next::Question(question)) => {
                let range = question.offset as usize..(question.offset + question.len) as usize;
                let sums = self.replica[range].chunks(REGION as usize).map(Sum::of).collect();
                self.asked.push_back((question, sums));
                return true;
            }
        };
        while let Some((epoch, was)) = self.ended.front()
            && message.epoch > *epoch
        {
            assert!(self.replica == *was, "epoch {epoch} is not what it was");
            self.ended.pop_front();
        }
        let at = message.offset as usize;
        let place = &mut self.replica[at..at + message.len() as usize];
        match &message.change {
            Change::Write(bytes) => place.copy_from_slice(bytes.as_slice()),
            Change::Zeroes { .. } => place.fill(0),
        }
        self.sent.push_back(message);
        true
    }

    /// One that was asked is answered.
    fn answer(&mut self) -> bool {
        let Some((question, sums)) = self.asked.pop_front() else { return false };
        self.feed.answered(&question, &sums);
        true
    }

    fn confirm(&mut self) {
        if let Some(message) = self.sent.pop_front() {
            self.feed.confirmed(message.receipt());
        }
    }

    /// A checkpoint's cut: nothing is in flight. Says whether it could be made.
    fn cut(&mut self) -> bool {
        while !self.flights.is_empty() {
            self.finish(0, true);
        }
        if self.feed.cut(self.epoch + 1).is_err() {
            return false;
        }
        self.ended.push_back((self.epoch, self.local()));
        self.epoch += 1;
        true
    }

    fn all(&mut self) {
        while self.send() || self.answer() {}
        while !self.sent.is_empty() {
            self.confirm();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize, u8),
    Zeroes(usize, usize),
    Finish(usize, bool),
    Send,
    Answer,
    Confirm,
    Cut,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let offset = (0..SIZE / 512).prop_map(|sector| sector * 512);
    // A few small places, so that writes meet.
    let near = (0..16_usize).prop_map(|sector| sector * 512);
    let offset = prop_oneof![offset, near];
    let len = prop_oneof![3 => 1..9_usize, 1 => 100..400_usize].prop_map(|sectors| sectors * 512);
    steps(offset.boxed(), len.boxed(), 255, 1)
}

/// In one place of two regions, with bytes that often are what they were before, or what the replica has.
fn alike() -> impl Strategy<Value = Step> {
    let offset = (0..2_usize).prop_map(|region| region * REGION as usize);
    steps(offset.boxed(), Just(512_usize).boxed(), 2, 4)
}

fn steps(
    offset: BoxedStrategy<usize>,
    len: BoxedStrategy<usize>,
    fills: u8,
    reconnects: u32,
) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (offset.clone(), len.clone(), 1..=fills)
            .prop_map(|(offset, len, fill)| Step::Write(offset, len, fill)),
        1 => (offset, len).prop_map(|(offset, len)| Step::Zeroes(offset, len)),
        7 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(which, whole)| Step::Finish(which, whole)),
        8 => Just(Step::Send),
        3 => Just(Step::Answer),
        6 => Just(Step::Confirm),
        1 => Just(Step::Cut),
        reconnects => Just(Step::Reconnect),
    ]
}

/// What happens; and at the end all is sent.
fn play(pair: &mut Pair, verifies: bool, steps: Vec<Step>) {
    let begin = |pair: &Pair| {
        pair.feed.begin(pair.epoch);
        if verifies {
            pair.feed.verify();
        }
    };
    begin(pair);
    for step in steps {
        match step {
            Step::Write(offset, len, fill) => pair.write(offset, len, fill),
            Step::Zeroes(offset, len) => pair.zeroes(offset, len),
            Step::Finish(which, whole) => pair.finish(which, whole),
            Step::Send => drop(pair.send()),
            Step::Answer => drop(pair.answer()),
            Step::Confirm => pair.confirm(),
            // So little is never too much.
            Step::Cut => assert!(pair.cut()),
            Step::Reconnect => {
                // What was sent of this epoch is as good as not sent: all that ever changed is missing.
                let before = pair.sent.len();
                pair.ended.clear();
                begin(pair);
                // A late confirmation of the connection before counts for nothing.
                for _ in 0..before {
                    pair.confirm();
                }
            }
        }
    }
    // Without a cut, which sends what was asked about.
    while !pair.flights.is_empty() {
        pair.finish(0, true);
    }
    pair.all();
    assert!(pair.replica == pair.local());
    assert!(pair.cut());
    pair.all();
    assert!(pair.replica == pair.local());
    let past = Instant::now();
    assert_eq!(pair.feed.delivered(pair.epoch, past), Ok(()));
    assert_eq!((pair.feed.behind(), pair.feed.seen().0), (0, 0));
    assert_eq!(pair.feed.lock().owed.len(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_replica_is_the_local_disk_at_every_cut(
        room in prop_oneof![Just(8192_usize), Just(1 << 20)],
        steps in prop::collection::vec(step(), 1..150),
    ) {
        play(&mut Pair::new(room), false, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn a_replica_that_is_verified_is_the_local_disk_in_the_end_whatever_the_guest_does_meanwhile(
        replica in prop::array::uniform2(0..3_u8),
        steps in prop::collection::vec(alike(), 1..100),
    ) {
        let mut pair = Pair::new(4096);
        pair.feed.dirty.all();
        for (at, fill) in replica.into_iter().enumerate() {
            pair.replica[at * REGION as usize..][..512].fill(fill);
        }
        play(&mut pair, true, steps);
    }
}

#[test]
fn an_epoch_is_delivered_when_all_of_it_is_confirmed() {
    let mut pair = Pair::new(1 << 20);
    pair.feed.begin(1);
    pair.write(0, 4096, 1);
    pair.finish(0, true);
    assert!(pair.feed.cut(2).is_ok());
    pair.write(0, 4096, 2);
    pair.finish(0, true);
    let past = Instant::now();
    assert_eq!(pair.feed.delivered(1, past), Err(Undelivered::Late(1)));
    assert!(pair.send() && pair.send() && !pair.send());
    assert_eq!(pair.sent.iter().map(|message| message.epoch).collect::<Vec<_>>(), [1, 2]);
    pair.confirm();
    assert_eq!(pair.feed.delivered(1, past), Ok(()));
    assert_eq!(pair.feed.delivered(2, past), Err(Undelivered::Late(1)));
    let waits = {
        let feed = pair.feed.clone();
        std::thread::spawn(move || feed.delivered(2, Instant::now() + Duration::from_mins(1)))
    };
    pair.feed.end();
    assert_eq!(waits.join().unwrap(), Err(Undelivered::Lost));
}

#[test]
fn a_disk_of_which_too_much_is_missing_is_not_cut() {
    let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    file.set_len(100 * REGION).unwrap();
    let image: Arc<dyn Image> = Arc::new(Raw::new(file, false, false).unwrap());
    let dirty = Arc::new(Dirty::new(image.size()));
    dirty.all();
    let feed = Feed::new(image, 4096, dirty).unwrap();
    feed.begin(0);
    let error = feed.cut(1).unwrap_err().to_string();
    assert!(error.starts_with("100 regions"), "{error}");
    while let Some(Next::Message(message)) = feed.next().unwrap() {
        assert!(matches!(message.change, Change::Zeroes { len: REGION, .. }));
        feed.confirmed(message.receipt());
    }
    assert!(feed.cut(1).is_ok());
}

#[test]
fn what_the_replica_has_is_not_sent_and_what_it_lacks_is() {
    let mut pair = Pair::new(4096);
    pair.write(3 * REGION as usize, 512, 1);
    pair.finish(0, true);
    pair.write(7 * REGION as usize, 512, 1);
    pair.finish(0, true);
    // One of them it has, and it has something where there is nothing.
    pair.replica[7 * REGION as usize..][..512].fill(1);
    pair.replica[SIZE - 1] = 1;
    pair.feed.dirty.all();
    pair.feed.begin(0);
    pair.feed.verify();
    assert_eq!(pair.feed.behind(), 12);
    pair.all();
    assert!(pair.replica == pair.local());
    let (_, counts) = pair.feed.seen();
    assert_eq!((counts.read, counts.same, counts.different), (12, 10, 2));
    assert_eq!((counts.bytes, pair.feed.behind()), (2 * REGION, 0));
    // Behind its pass nothing is asked.
    pair.feed.dirty.mark(0, 1, None);
    assert!(pair.send() && pair.asked.is_empty());
}

#[test]
fn a_cut_takes_what_was_asked_and_a_late_answer_is_for_nothing() {
    let mut pair = Pair::new(4096);
    pair.feed.dirty.all();
    pair.feed.begin(0);
    pair.feed.verify();
    pair.replica.fill(1);
    assert!(pair.send());
    assert_eq!((pair.asked.len(), pair.feed.behind()), (1, 12));
    assert!(pair.cut());
    assert_eq!(pair.feed.behind(), 0);
    while pair.send() {}
    assert!(pair.replica == pair.local());
    assert!(pair.answer() && !pair.send());
    assert_eq!(pair.feed.seen().1.different, 0);
}
