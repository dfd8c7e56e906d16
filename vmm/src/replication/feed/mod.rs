//! What the guest changes on a disk, on its way to the secondary.
//!
//! ```text
//!   worker: write, zeroes ─► a copy, if there is room ─► local image ─► done ─┬─ copied ──────► ready ─► sender
//!                                                                            └─ no copy, failed, or two at once
//!   sender: nothing is ready, or it is their turn ─► regions: read from the local image ◄───┘  in the same place
//! ```
//!
//! **The guest waits for the local disk alone.** What finds no room is sent later, from the local disk.
//!
//! **The last that is sent of a sector is what the local disk has.** Changes become ready in the order in which they
//! are done, and a change is sent only after that. Two that touch the same sector at the same time may end in either
//! order, so neither's bytes are sent: their regions are read once both are done. A region takes its turn behind what
//! was ready when its bit was taken away; what becomes ready while it is read follows it.
//!
//! **Each message is of one epoch.** [`Feed::cut`] is called while nothing is in flight, and not while a region is
//! being read: what is sent with an epoch's number was on the disk when that epoch ended.
//!
//! * [`message`]: what a sender is given. `verify`: what the secondary may have already is not sent.
//! * `staging`: where the guest's bytes wait, in a `ring`.

pub mod message;
mod ring;
mod staging;
mod sys;
#[cfg(test)]
mod tests;
mod verify;

pub use message::{Bytes, Change, Message, Next, Question, Receipt};
pub use staging::Held;

use super::bitmap::{Dirty, REGION};
use crate::block::follow::{Followed, Follower};
use crate::block::{Image, event_fd, read_at};
use crate::nbd::Sum;
use staging::Staging;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use thiserror::Error;
use verify::Verify;
use vm_memory::VolatileSlice;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// How many regions wait for their turn at a time, among what is ready.
const TURNS: usize = 4;
/// The most regions that are read while the guest stands: 4 MiB.
const STANDING: u64 = 64;
/// The most changes that wait, besides those whose bytes have room: zeros take none, and a guest makes many.
const WAITING: usize = 1024;
/// What each of those others takes at least.
const LEAST: usize = 4096;

/// A checkpoint that has to wait for the disk.
#[derive(Debug, Error)]
pub enum CutError {
    /// Too much is left that was not kept on its way.
    #[error(
        "{regions} regions of 64 KiB of the disk are not on their way to the secondary yet; the guest writes faster \
         than they are sent"
    )]
    Behind {
        /// How many.
        regions: u64,
    },
    /// What is left cannot be read.
    #[error(
        "cannot read {offset:#x} of the local disk, which the secondary does not have yet: {source}; see to that disk"
    )]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
}

/// Why an epoch's changes are not known to be on the secondary.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Undelivered {
    /// It takes too long.
    #[error("the secondary has not confirmed {0} changes of the disk in time")]
    Late(usize),
    /// Nobody sends any more.
    #[error("the connection of the disk is lost")]
    Lost,
}

/// What waits for its turn.
#[derive(Debug)]
enum Ready {
    Message(Message),
    Question(Question),
    /// To be read then; and to be sent, if it is not what the secondary has.
    Region(u64, Option<Sum>),
}

/// A change that was begun.
#[derive(Debug)]
struct Flight {
    offset: u64,
    len: u64,
    /// What is sent when it is done; `None` has to be read then.
    change: Option<Change>,
    /// Whether nothing else touches it meanwhile, and somebody sent when it began.
    alone: bool,
}

/// What can be seen of a feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Changes that were kept on their way.
    pub kept: u64,
    /// Changes whose regions have to be read: there was no room, they failed, or two came at once.
    pub missed: u64,
    /// Regions that were read.
    pub read: u64,
    /// Of these, what the secondary was found to have already: nothing was sent.
    pub same: u64,
    /// Of these, what the secondary was found to have other bytes of.
    pub different: u64,
    /// Bytes given to the sender.
    pub bytes: u64,
}

#[derive(Debug)]
struct Inner {
    /// Somebody sends.
    following: bool,
    /// Counts connections.
    link: u64,
    /// The one on which an epoch ended last.
    cut: Option<u64>,
    epoch: u64,
    ticket: u64,
    flights: HashMap<u64, Flight>,
    ready: VecDeque<Ready>,
    turns: usize,
    verify: Verify,
    /// The region from which on the next is looked for.
    at: u64,
    /// How many messages of each epoch are ready or sent, and not confirmed.
    owed: BTreeMap<u64, usize>,
    /// The sender waits for its event.
    sleeping: bool,
    counts: Counts,
}

impl Inner {
    /// A region was read, to be sent like this, or not at all.
    fn message(&mut self, offset: u64, sum: Option<Sum>, change: Option<Change>) -> Option<Message> {
        self.counts.read += 1;
        let Some(change) = change else {
            self.counts.same += 1;
            return None;
        };
        self.counts.different += u64::from(sum.is_some());
        *self.owed.entry(self.epoch).or_default() += 1;
        Some(Message { epoch: self.epoch, offset, change, link: self.link })
    }
}

/// The changes of one disk.
#[derive(Debug)]
pub struct Feed {
    image: Arc<dyn Image>,
    staging: Arc<Staging>,
    /// How many changes may wait.
    most: usize,
    inner: Mutex<Inner>,
    /// Held while a region is read.
    reading: Mutex<()>,
    /// What the secondary may not have, over all connections; what is unsent is to be read and sent.
    dirty: Arc<Dirty>,
    wake: EventFd,
    confirmed: Condvar,
}

impl Feed {
    /// Of this image, with room for so many bytes on their way. What is changed is noted in `dirty`, whether
    /// somebody sends or not.
    pub fn new(image: Arc<dyn Image>, room: usize, dirty: Arc<Dirty>) -> io::Result<Arc<Self>> {
        let inner = Inner {
            following: false,
            link: 0,
            cut: None,
            epoch: 0,
            ticket: 0,
            flights: HashMap::new(),
            ready: VecDeque::new(),
            turns: 0,
            verify: Verify::default(),
            at: 0,
            owed: BTreeMap::new(),
            sleeping: false,
            counts: Counts::default(),
        };
        Ok(Arc::new(Self {
            image,
            staging: Staging::new(room)?,
            most: room / LEAST + WAITING,
            inner: Mutex::new(inner),
            reading: Mutex::new(()),
            dirty,
            wake: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            confirmed: Condvar::new(),
        }))
    }

    /// Begins to keep changes, for a connection to a secondary that lacks what is unsent, in this epoch.
    pub fn begin(&self, epoch: u64) {
        self.end();
        let mut inner = self.lock();
        (inner.following, inner.epoch, inner.at) = (true, epoch, 0);
    }

    /// Nobody sends any more: what is on its way is forgotten, and unsent again.
    pub fn end(&self) {
        let mut inner = self.lock();
        inner.following = false;
        inner.link += 1;
        inner.turns = 0;
        inner.verify = Verify::default();
        inner.owed.clear();
        let forgotten = std::mem::take(&mut inner.ready);
        drop(inner);
        self.dirty.lose();
        drop(forgotten);
        self.confirmed.notify_all();
    }

    /// Whether somebody sends.
    pub fn is_following(&self) -> bool {
        self.lock().following
    }

    /// How large the disk is, in bytes.
    pub fn size(&self) -> u64 {
        self.image.size()
    }

    /// How many regions are to be read and are not sent yet.
    pub fn behind(&self) -> u64 {
        let inner = self.lock();
        self.missed(&inner)
    }

    fn missed(&self, inner: &Inner) -> u64 {
        self.dirty.unsent() + inner.turns as u64 + inner.verify.regions()
    }

    /// How many changes wait to be sent.
    pub fn waiting(&self) -> usize {
        self.lock().ready.len()
    }

    /// The epoch of what is changed now; 0 before there are epochs.
    pub fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Bytes on their way, and what was counted.
    pub fn seen(&self) -> (usize, Counts) {
        (self.staging.used(), self.lock().counts)
    }

    /// Readable when there may be something to send again.
    pub fn event(&self) -> BorrowedFd<'_> {
        event_fd(&self.wake)
    }

    /// What is to be sent next. Without anything the sender is woken later by the event.
    pub fn next(&self) -> io::Result<Option<Next>> {
        let _ = self.wake.read();
        loop {
            let mut inner = self.lock();
            inner.sleeping = false;
            if inner.following
                && let Some(turn) = self.turn(&mut inner)
            {
                inner.ready.push_back(turn);
                continue;
            }
            if matches!(inner.ready.front(), Some(Ready::Region(..))) {
                drop(inner);
                if let Some(message) = self.region()? {
                    return Ok(Some(Next::Message(message)));
                }
                continue;
            }
            match inner.ready.pop_front() {
                Some(Ready::Message(message)) => {
                    inner.counts.bytes += message.len();
                    return Ok(Some(Next::Message(message)));
                }
                Some(Ready::Question(question)) => return Ok(Some(Next::Question(question))),
                Some(Ready::Region(..)) | None => {
                    inner.sleeping = true;
                    return Ok(None);
                }
            }
        }
    }

    /// What is put behind what is ready, if it may have a turn now.
    fn turn(&self, inner: &mut Inner) -> Option<Ready> {
        if let Some(question) = self.question(inner) {
            return Some(Ready::Question(question));
        }
        if inner.turns == TURNS {
            return None;
        }
        let region = match inner.verify.answered() {
            Some((offset, sum)) => Ready::Region(offset, sum),
            // In its pass, all is asked about.
            None if inner.verify.passes() => return None,
            None => Ready::Region(self.unsent(inner)?, None),
        };
        inner.turns += 1;
        Some(region)
    }

    /// Takes the next region that is unsent, from where the last was on: where it begins.
    fn unsent(&self, inner: &mut Inner) -> Option<u64> {
        // It is read in this epoch: a cut waits for that.
        let take = |from| self.dirty.take(from, 1, inner.epoch);
        let region = take(inner.at).or_else(|| take(0))?.start;
        inner.at = region + 1;
        Some(region * REGION)
    }

    /// Reads the region whose turn it is, if it still is one: a cut reads what waits itself.
    fn region(&self) -> io::Result<Option<Message>> {
        // Before it leaves the queue: so a cut finds it there, or waits for it here.
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inner = self.lock();
        let Some(&Ready::Region(offset, sum)) = inner.ready.front() else { return Ok(None) };
        inner.ready.pop_front();
        let link = inner.link;
        drop(inner);
        let change = self.read(offset, sum);
        let mut inner = self.lock();
        if inner.link != link {
            return Ok(None);
        }
        inner.turns -= 1;
        // Nobody else knows of it until the connection is ended: without it, the epoch would look delivered.
        let change = change.map_err(|error| {
            self.dirty.mark(offset, 1, None);
            io::Error::new(error.kind(), format!("{offset:#x}: {error}"))
        })?;
        let message = inner.message(offset, sum, change);
        inner.counts.bytes += message.as_ref().map_or(0, Message::len);
        Ok(message)
    }

    /// What is to be sent of a region: nothing, if its bytes come to what the secondary's do.
    fn read(&self, offset: u64, sum: Option<Sum>) -> io::Result<Option<Change>> {
        let len = REGION.min(self.image.size().saturating_sub(offset));
        let mut bytes = vec![0; len as usize];
        read_at(&*self.image, &mut bytes, offset)?;
        if sum.is_some_and(|sum| sum == Sum::of(&bytes)) {
            return Ok(None);
        }
        // Most of a new disk.
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Some(Change::Zeroes { len, unmap: true }));
        }
        Ok(Some(Change::Write(Bytes::Read(bytes))))
    }

    /// The secondary has what this is the receipt of.
    pub fn confirmed(&self, receipt: Receipt) {
        let mut inner = self.lock();
        if inner.link == receipt.link
            && let Some(owed) = inner.owed.get_mut(&receipt.epoch)
        {
            *owed -= 1;
            if *owed == 0 {
                inner.owed.remove(&receipt.epoch);
                drop(inner);
                self.confirmed.notify_all();
            }
        }
    }

    /// An epoch ends here: what is changed from now on is of the epoch `next`. The guest stands, and nothing of its
    /// I/O is in flight. Nothing has happened if this fails.
    pub fn cut(&self, next: u64) -> Result<(), CutError> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inner = self.lock();
        if !inner.following {
            return Ok(());
        }
        let regions = self.missed(&inner);
        if regions > STANDING {
            return Err(CutError::Behind { regions });
        }
        let read = |offset, sum| self.read(offset, sum).map_err(|source| CutError::Read { offset, source });
        inner.forgo();
        let mut at = 0;
        while at < inner.ready.len() {
            if let Ready::Region(offset, sum) = inner.ready[at] {
                let change = read(offset, sum)?;
                inner.turns -= 1;
                let Some(message) = inner.message(offset, sum, change) else {
                    inner.ready.remove(at);
                    continue;
                };
                inner.ready[at] = Ready::Message(message);
            }
            at += 1;
        }
        while let Some(offset) = self.unsent(&mut inner) {
            let change = read(offset, None).inspect_err(|_| self.dirty.mark(offset, 1, None))?;
            let message = inner.message(offset, None, change).map(Ready::Message);
            inner.ready.extend(message);
        }
        (inner.epoch, inner.cut) = (next, Some(inner.link));
        self.wake(&mut inner);
        Ok(())
    }

    /// Waits until the secondary has all changes of the epochs up to this one, the last that was [`cut`](Self::cut).
    pub fn delivered(&self, epoch: u64, until: Instant) -> Result<(), Undelivered> {
        let mut inner = self.lock();
        let link = inner.link;
        loop {
            // What ended on a connection before is not on its way on this one: it is sent as part of a later epoch.
            if inner.link != link || inner.cut != Some(link) || !inner.following {
                return Err(Undelivered::Lost);
            }
            let owed = inner.owed.range(..=epoch).map(|(_, owed)| owed).sum();
            let left = until.saturating_duration_since(Instant::now());
            if owed == 0 {
                return Ok(());
            }
            if left.is_zero() {
                return Err(Undelivered::Late(owed));
            }
            inner = self.confirmed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, inner: &mut Inner) {
        if std::mem::take(&mut inner.sleeping) {
            let _ = self.wake.write(1);
        }
    }

    /// Notes a change that begins. What it touches at the same time as another is not sent from a copy.
    fn fly(&self, offset: u64, len: u64, change: Option<Change>) -> u64 {
        let mut inner = self.lock();
        let mut alone = inner.following;
        for other in inner.flights.values_mut() {
            if offset < other.offset + other.len && other.offset < offset + len {
                (other.alone, alone) = (false, false);
            }
        }
        inner.ticket += 1;
        let ticket = inner.ticket;
        inner.flights.insert(ticket, Flight { offset, len, change, alone });
        ticket
    }
}

impl Follower for Feed {
    fn write(&self, offset: u64, bytes: &[VolatileSlice<'_>]) -> Followed {
        let len = bytes.iter().map(|slice| slice.len() as u64).sum();
        let following = self.lock().following;
        let held = following.then(|| self.staging.copy(bytes)).flatten();
        let copy = held.as_ref().map(Held::copy);
        let ticket = self.fly(offset, len, held.map(|held| Change::Write(Bytes::Held(held))));
        Followed { ticket, copy }
    }

    fn zeroes(&self, offset: u64, len: u64, unmap: bool) -> Followed {
        Followed { ticket: self.fly(offset, len, Some(Change::Zeroes { len, unmap })), copy: None }
    }

    fn done(&self, followed: Followed, whole: bool) {
        let mut inner = self.lock();
        let Some(flight) = inner.flights.remove(&followed.ticket) else { return };
        let Flight { offset, len, change, alone } = flight;
        let (link, epoch) = (inner.link, inner.epoch);
        let room = inner.ready.len() < self.most;
        if let Some(change) = change.filter(|_| inner.following && alone && whole && room) {
            self.dirty.mark(offset, len, Some(epoch));
            inner.ready.push_back(Ready::Message(Message { epoch, offset, change, link }));
            *inner.owed.entry(epoch).or_default() += 1;
            inner.counts.kept += 1;
        } else {
            self.dirty.mark(offset, len, None);
            inner.counts.missed += u64::from(inner.following);
        }
        self.wake(&mut inner);
    }
}
