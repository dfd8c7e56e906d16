//! Everything that can happen to a replicated disk, in any order, against disks in memory and lists of bytes.
//!
//! ```text
//!   a round    workers write, zero and read at once, with several flights each ─┐ meanwhile: the last epoch is delivered
//!              all stand: is the local disk what they wrote? cut, snapshot ◄─────┘ and checked byte by byte, the other guest
//!                                                                                works, connections are lost and made
//!   between    a host loses its power or begins anew; a promotion, after which the two change places
//! ```
//!
//! Of the lower half of the disk each worker owns every fourth stripe, and keeps a list of what is there; the upper
//! half is for all of them, and its truth is the local disk as it was when the guest stood.

use super::memory::{Memory, Plug};
use super::*;
use crate::replication::bitmap::{Generation, REGION, Record, RecordFile};
use crate::replication::feed::Undelivered;
use crate::replication::layers::Phase;

/// Neither whole regions nor whole blocks.
const SIZE: usize = (1 << 20) + 11 * 512;
const HALF: usize = 1 << 19;
const STRIPE: usize = 8192;
const WORKERS: usize = 3;

/// A change that a worker has begun.
struct Flight {
    followed: Followed,
    offset: usize,
    len: usize,
    /// None: zeros.
    buffer: Option<Vec<u8>>,
}

/// One of the threads that a guest's requests come from.
struct Worker {
    number: usize,
    rng: Rng,
    /// What it knows of the lower half: its own stripes are true.
    paper: Vec<u8>,
    done: u64,
}

/// Where a request is: in a stripe of a worker, or anywhere in the upper half.
fn place(rng: &mut Rng, owner: Option<usize>) -> (usize, usize) {
    if let Some(owner) = owner {
        let stripe = STRIPE * (rng.usize(..HALF / STRIPE / 4) * 4 + owner);
        let first = rng.usize(..STRIPE / 512);
        return (stripe + 512 * first, 512 * (1 + rng.usize(..STRIPE / 512 - first)));
    }
    let first = rng.usize(HALF / 512..SIZE / 512);
    let most = if rng.u8(..) < 4 { 900 } else { 12 };
    (512 * first, 512 * (1 + rng.usize(..most)).min(SIZE / 512 - first))
}

fn fill(rng: &mut Rng, len: usize) -> Vec<u8> {
    let word = rng.u64(..);
    (0..len as u64 / 8).flat_map(|at| (word ^ (at << 32)).to_le_bytes()).collect()
}

impl Worker {
    fn owned(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let number = self.number;
        (0..HALF / STRIPE / 4).map(move |n| STRIPE * (n * 4 + number)..STRIPE * (n * 4 + number + 1))
    }

    /// So many requests, up to four of them at once.
    fn work(&mut self, feed: &Feed, local: &dyn Image, requests: usize) {
        let mut flights = Vec::new();
        for _ in 0..requests {
            self.done += 1;
            match self.rng.u8(..100) {
                0..70 => flights.push(self.begin(feed)),
                70..98 => self.read(local),
                _ => local.flush().unwrap(),
            }
            while flights.len() > self.rng.usize(..5) {
                let which = self.rng.usize(..flights.len());
                self.finish(feed, local, flights.swap_remove(which));
            }
        }
        for flight in flights {
            self.finish(feed, local, flight);
        }
    }

    fn begin(&mut self, feed: &Feed) -> Flight {
        let owner = (self.rng.u8(..3) > 0).then_some(self.number);
        let (offset, len) = place(&mut self.rng, owner);
        if self.rng.u8(..8) == 0 {
            let followed = feed.zeroes(offset as u64, len as u64, self.rng.bool());
            return Flight { followed, offset, len, buffer: None };
        }
        let mut buffer = fill(&mut self.rng, len);
        let (one, two) = buffer.split_at_mut(self.rng.usize(..=len));
        let followed = feed.write(offset as u64, &[VolatileSlice::from(one), VolatileSlice::from(two)]);
        Flight { followed, offset, len, buffer: Some(buffer) }
    }

    fn finish(&mut self, feed: &Feed, local: &dyn Image, flight: Flight) {
        let Flight { followed, offset, len, buffer } = flight;
        let whole = self.rng.u8(..50) > 0;
        // A request that fails has done half of it.
        let end = offset + if whole { len } else { len / 1024 * 512 };
        let own = end <= HALF;
        match buffer {
            None => {
                local.write_zeroes(offset as u64, (end - offset) as u64, true).unwrap();
                if own {
                    self.paper[offset..end].fill(0);
                }
            }
            Some(buffer) => {
                if own {
                    self.paper[offset..end].copy_from_slice(&buffer[..end - offset]);
                }
                carry(local, &followed, buffer, offset as u64, whole);
            }
        }
        feed.done(followed, whole);
    }

    fn read(&mut self, local: &dyn Image) {
        let (offset, len) = place(&mut self.rng, Some(self.number));
        let mut found = vec![0; len];
        read_at(local, &mut found, offset as u64).unwrap();
        same(&self.paper[offset..offset + len], &found, "what a worker reads");
    }
}

/// Two hosts, and what one would keep on paper.
struct World {
    rng: Rng,
    workers: Vec<Worker>,
    room: usize,
    /// The guest's disk; after a promotion, what was the other one, layers and all.
    local: Arc<dyn Image>,
    dirty: Arc<Dirty>,
    feed: Arc<Feed>,
    medium: Arc<Memory>,
    plug: Arc<Plug>,
    disk: Arc<SecondaryDisk>,
    link: Option<Link>,
    /// What the guest writes now is of this one.
    epoch: u64,
    /// What the other guest sees, if there is one.
    guest: Option<Vec<u8>>,
    /// An epoch has ended, and the other disk is to be this.
    ended: Option<(u64, Vec<u8>)>,
    done: u64,
    seen: Seen,
}

/// How often what has come about.
#[derive(Debug, Default)]
struct Seen {
    checkpoints: u32,
    lost: u32,
    releases: u32,
    powers: u32,
    restarts: u32,
    promotions: u32,
}

fn secondary(plug: &Arc<Plug>) -> Arc<SecondaryDisk> {
    // Little memory, so that much is in the file as well; few layers, so that a fast primary waits.
    let limits = Limits { memory: 1 << 20, spill: 64 << 20, layers: 3, patience: LONG, ..Limits::default() };
    let spill = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    Arc::new(SecondaryDisk::new(plug.clone(), limits, Some(spill)).unwrap())
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let [ours, medium] = [Memory::random(SIZE, &mut rng), Memory::random(SIZE, &mut rng)];
        let room = [8 << 10, 64 << 10, 1 << 20][rng.usize(..3)];
        let local: Arc<dyn Image> = Plug::new(&ours);
        let dirty = Arc::new(Dirty::new(SIZE as u64));
        dirty.all();
        let feed = Feed::new(local.clone(), room, dirty.clone()).unwrap();
        let plug = Plug::new(&medium);
        let disk = secondary(&plug);
        let paper = ours.bytes();
        let worker = |number| {
            let rng = Rng::with_seed(seed << 8 | number as u64);
            Worker { number, rng, paper: paper[..HALF].to_vec(), done: 0 }
        };
        let workers = (0..WORKERS).map(worker).collect();
        let (guest, ended, done, seen) = (None, None, 0, Seen::default());
        let link = None;
        Self {
            rng,
            workers,
            room,
            local,
            dirty,
            feed,
            medium,
            plug,
            disk,
            link,
            epoch: 1,
            guest,
            ended,
            done,
            seen,
        }
    }

    /// What a connection begins with: the disk itself as long as no guest is held there.
    fn now(&self) -> u64 {
        if self.guest.is_some() { self.epoch } else { 0 }
    }

    fn connect(&mut self) {
        let link = Link::new((&self.feed, &self.dirty), &self.disk, self.now(), false, tcp()).unwrap();
        self.link = Some(link);
    }

    fn lose(&mut self) {
        if let Some(link) = self.link.take() {
            self.seen.lost += 1;
            link.end();
            self.disk.fail();
        }
        if let Some((epoch, _)) = self.ended.take() {
            // Also when there is another connection: that epoch was not sent on it.
            if self.rng.bool() {
                self.connect();
            }
            let (past, before) = (Instant::now(), if self.guest.is_some() { epoch } else { 0 });
            assert_eq!(self.feed.delivered(before, past), Err(Undelivered::Lost));
        }
    }

    /// Workers work, while other things happen.
    fn round(&mut self) {
        let requests = self.rng.usize(1..300);
        let mut workers = std::mem::take(&mut self.workers);
        let (feed, local) = (self.feed.clone(), self.local.clone());
        std::thread::scope(|scope| {
            for worker in &mut workers {
                let (feed, local) = (&feed, &local);
                scope.spawn(move || worker.work(feed, &**local, requests));
            }
            self.meanwhile();
        });
        self.workers = workers;
        self.done += self.workers.iter_mut().map(|worker| std::mem::take(&mut worker.done)).sum::<u64>();
        let found = all(&*self.local);
        for worker in &self.workers {
            for stripe in worker.owned() {
                same(&worker.paper[stripe.clone()], &found[stripe], "what a worker wrote");
            }
        }
    }

    fn meanwhile(&mut self) {
        if self.rng.u8(..20) == 0 {
            self.lose();
        }
        self.checkpoint();
        self.others();
        match self.rng.u8(..30) {
            0 => self.lose(),
            1..20 if self.link.is_none() => self.connect(),
            _ => {}
        }
        self.others();
    }

    /// The epoch that has ended, if one has, arrives.
    fn checkpoint(&mut self) {
        let Some((epoch, then)) = self.ended.take() else { return };
        let before = if self.guest.is_some() { epoch } else { 0 };
        if let Err(undelivered) = self.feed.delivered(before, Instant::now() + LONG) {
            panic!("{undelivered}: {}", self.link.take().unwrap().end());
        }
        self.disk.checkpoint(epoch);
        same(&then, &all(&*self.disk), "the other guest's disk at a checkpoint");
        self.guest = Some(then);
        self.seen.checkpoints += 1;
    }

    /// The guest there does what it likes.
    fn others(&mut self) {
        let Some(guest) = &mut self.guest else { return };
        for _ in 0..self.rng.usize(..100) {
            self.done += 1;
            let owner = self.rng.bool().then_some(self.rng.usize(..4));
            let (at, len) = place(&mut self.rng, owner);
            let paper = &mut guest[at..at + len];
            match self.rng.u8(..20) {
                0..8 => {
                    let mut bytes = fill(&mut self.rng, len);
                    paper.copy_from_slice(&bytes);
                    write_at(&*self.disk, &mut bytes, at as u64).unwrap();
                }
                8 => {
                    paper.fill(0);
                    self.disk.write_zeroes(at as u64, len as u64, self.rng.bool()).unwrap();
                }
                9 => {
                    // A byte that is let go is what it was, or zero.
                    self.disk.discard(at as u64, len as u64).unwrap();
                    let mut found = vec![0; len];
                    read_at(&*self.disk, &mut found, at as u64).unwrap();
                    assert!(found.iter().zip(&*paper).all(|(found, was)| found == was || *found == 0));
                    paper.copy_from_slice(&found);
                }
                10 => self.disk.flush().unwrap(),
                _ => {
                    let mut found = vec![0; len];
                    read_at(&*self.disk, &mut found, at as u64).unwrap();
                    same(paper, &found, "what the other guest reads");
                }
            }
        }
        same(guest, &all(&*self.disk), "the other guest's disk");
    }

    /// The guest stands: an epoch may end.
    fn stands(&mut self) {
        if self.link.is_some() && self.ended.is_none() && self.rng.u8(..4) > 0 {
            match self.feed.cut(self.epoch + 1) {
                Ok(()) => {
                    self.ended = Some((self.epoch, all(&*self.local)));
                    self.epoch += 1;
                }
                Err(error) => assert!(matches!(error, CutError::Behind { .. }), "{error}"),
            }
        }
        match self.rng.u8(..150) {
            0..2 => self.release(),
            2..5 => self.power(),
            5..7 => self.restart(),
            7..10 if self.guest.is_some() => self.promotion(),
            _ => {}
        }
    }

    /// The guest there is given up: a first sync begins, of what is missing.
    fn release(&mut self) {
        self.lose();
        self.lose();
        self.disk.release();
        self.guest = None;
        self.seen.releases += 1;
    }

    /// The other host loses its power. What differs then is known to be missing.
    fn power(&mut self) {
        self.lose();
        self.lose();
        self.plug.pull();
        self.plug = Plug::new(&self.medium);
        // The old disk has ended when this returns.
        self.disk = secondary(&self.plug);
        self.guest = None;
        self.medium.lose_power(&mut self.rng);
        let (ours, theirs) = (all(&*self.local), self.medium.bytes());
        let missing = self.dirty.missing();
        for (region, (ours, theirs)) in
            ours.chunks(REGION as usize).zip(theirs.chunks(REGION as usize)).enumerate()
        {
            assert!(
                ours == theirs || missing.is_set(region as u64),
                "region {region} is not known to differ"
            );
        }
        self.seen.powers += 1;
    }

    /// This host ends in order, and begins again with what it has kept.
    fn restart(&mut self) {
        self.lose();
        self.lose();
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("record");
        let missing = self.dirty.missing();
        let (own, disk) = (Some(Generation::random().unwrap()), SIZE as u64);
        let mut record = Record { own, missing, ..Record::new(disk) };
        drop(RecordFile::create(&path, &mut record).unwrap());
        let (_, kept) = RecordFile::open(&path, disk).unwrap();
        self.dirty = Arc::new(Dirty::new(disk));
        self.dirty.restore(&kept.missing);
        self.feed = Feed::new(self.local.clone(), self.room, self.dirty.clone()).unwrap();
        self.seen.restarts += 1;
    }

    /// This host dies at this instant. The other guest goes on, and is protected by a third host.
    fn promotion(&mut self) {
        if let Some(link) = self.link.take() {
            link.end();
        }
        self.ended = None;
        self.disk.promote();
        let guest = self.guest.as_ref().unwrap();
        same(guest, &all(&*self.disk), "the promoted guest's disk");
        self.others();
        let guest = self.guest.take().unwrap();
        if self.rng.bool() {
            until_status(&self.disk, "the commit", |status| status.phase == Phase::Plain);
            same(&guest, &self.medium.bytes(), "what the promoted disk is committed to");
        }
        self.local = self.disk.clone();
        self.medium = Memory::random(SIZE, &mut self.rng);
        self.plug = Plug::new(&self.medium);
        self.disk = secondary(&self.plug);
        for worker in &mut self.workers {
            worker.paper.copy_from_slice(&guest[..HALF]);
        }
        self.dirty = Arc::new(Dirty::new(SIZE as u64));
        self.dirty.all();
        self.feed = Feed::new(self.local.clone(), self.room, self.dirty.clone()).unwrap();
        self.seen.promotions += 1;
    }

    fn run(mut self, operations: u64) -> (u64, Seen) {
        while self.done < operations {
            self.round();
            self.stands();
        }
        self.lose();
        self.lose();
        (self.done, self.seen)
    }
}

/// A million, in a few lives; others with another first seed in `COLO_TEST_SEED`.
#[test]
fn a_million_operations_and_the_other_disk_is_always_what_it_has_to_be() {
    let began = Instant::now();
    let first = std::env::var("COLO_TEST_SEED").map_or(0, |seed| seed.parse().unwrap());
    let mut total = [0; 7];
    for seed in first..first + 10 {
        let (done, seen) = World::new(seed).run(100_000);
        println!("seed {seed}, after {:?}: {seen:?}", began.elapsed());
        let Seen { checkpoints, lost, releases, powers, restarts, promotions } = seen;
        let counts = [done as u32, checkpoints, lost, releases, powers, restarts, promotions];
        total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    // Each thing happens, and often enough.
    let least = [1_000_000, 800, 100, 5, 10, 5, 5];
    assert!(total.iter().zip(least).all(|(total, least)| *total >= least), "{total:?}");
}
