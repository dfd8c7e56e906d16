//! A session of the secondary: it becomes, again and again, what the primary was.
//!
//! ```text
//!   sync: pages go straight into memory        (no guest runs yet), or resume: what is held is good
//!     └► level ── pages ahead: staged
//!          ▲ └─── request: the guest stands, what it wrote is told ─► pages, package: staged, all of it read
//!          │                                                            │ the peer is lost: as if nothing had come
//!          │                                       state loaded ◄───────┘
//!          │                                         ├─ refused: the guest is what it was, the session is over
//!          └──── the guest goes on ◄─ pages copied ◄─┴─ received: from here on nothing can prevent it
//! ```

use crate::checkpoint::Holding;
use crate::checkpoint::disks::{self, DiskError};
use crate::checkpoint::package;
use crate::checkpoint::protocol::hello::Held;
use crate::checkpoint::protocol::secondary::{
    FirstSync, Level, Next, Pages as Brought, Received, Requested, Shipped, Syncing,
};
use crate::checkpoint::protocol::{Buffer, Channel, Error as ProtocolError};
use crate::checkpoint::ram::Staged;
use crate::checkpoint::ram::staged::{ApplyError, StageError};
use crate::checkpoint::status::{Board, Cause, Epoch, Mode, Phase, Stood};
use crate::control::ControlError;
use crate::dirty::{DirtyError, PageSet, Tracker};
use crate::machine::{After, Freezer, LoadError, Time};
use crate::memory::GuestRam;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// A session that cannot go on. The guest is what the last complete checkpoint made it, and what it ran since.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The peer, or the link to it.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// Pages that make no sense.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A package that makes no sense.
    #[error(transparent)]
    Package(#[from] package::PackageError),
    /// A state that is not this machine's.
    #[error("the primary's state cannot be loaded: {0}")]
    Load(#[from] LoadError),
    /// Nobody knows what the guest wrote.
    #[error(transparent)]
    Dirty(#[from] DirtyError),
    /// Pages cannot be put into memory: the guest is no whole one any more.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The guest's disks.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The guest has ended.
    #[error(transparent)]
    Guest(#[from] ControlError),
    /// The primary goes on from nothing.
    #[error("the primary goes on from a checkpoint that is not held here; this is a bug of one of the two")]
    Unheld,
    /// A bug ended what has the pages.
    #[error("the pages that were received are lost, which is a bug; start the secondary anew")]
    Lost,
}

/// What a session's step leads to.
#[derive(Debug)]
pub enum Step<C> {
    /// It goes on.
    Level(Level<C>),
    /// The primary's guest has ended.
    Ended,
}

/// The pages on their way, and what the own guest has written: these are wherever the guest stands.
#[derive(Debug)]
struct Pages {
    staged: Staged,
    tracker: Box<dyn Tracker>,
    /// Written by the guest since the last checkpoint, when the primary was told.
    mine: PageSet,
    /// Written since then.
    late: PageSet,
}

impl Pages {
    /// Begins to note what is written, and knows of nothing yet.
    fn start(&mut self) -> Result<(), DirtyError> {
        self.tracker.start()?;
        self.look()?;
        self.tracker.rearm(&self.mine)?;
        self.mine.clear();
        Ok(())
    }

    /// What was written since the last checkpoint.
    fn look(&mut self) -> Result<(), DirtyError> {
        self.mine.clear();
        self.tracker.collect(&mut self.mine)
    }

    /// Puts the staged pages into memory; nothing is written after that, as far as anybody knows. The primary was
    /// told of the pages in `mine`. KVM may have written others when the state was loaded: it is told of those
    /// the next time.
    fn apply(&mut self, ram: &GuestRam) -> Result<(), SessionError> {
        self.late.clear();
        self.tracker.collect(&mut self.late)?;
        self.late.subtract(&self.mine);
        self.staged.apply(ram)?;
        self.look()?;
        self.tracker.rearm(&self.mine)?;
        self.tracker.redirty(&self.late);
        self.mine.clear();
        Ok(())
    }
}

/// What all sessions of a secondary have in common.
#[derive(Debug)]
pub struct Sink {
    freezer: Freezer,
    ram: Arc<GuestRam>,
    mode: Mode,
    /// Away while the guest stands.
    pages: Option<Box<Pages>>,
    package: Buffer,
    ranges: Vec<u8>,
    board: Arc<Board>,
    /// Who has the guest's disks.
    pub(super) disks: Arc<dyn disks::Sink>,
    /// Pages of this epoch that were sent ahead.
    ahead: u64,
    /// Their bytes.
    ahead_bytes: u64,
    /// Whether the guest has been made what the primary was, once at least.
    level: bool,
    /// Which one that was, as long as no doubt is possible.
    holding: Holding,
    /// The session's number.
    session: u64,
    /// Which run of a primary it is of.
    run: u64,
    /// Whether it stands for a checkpoint.
    held: bool,
    /// The guest's pages.
    of: u64,
}

impl Sink {
    /// For this guest, which waits for its first state.
    pub fn new(
        freezer: Freezer,
        ram: Arc<GuestRam>,
        staged: Staged,
        tracker: Box<dyn Tracker>,
        mode: Mode,
        board: Arc<Board>,
        disks: Arc<dyn disks::Sink>,
    ) -> Self {
        let (mine, late) = (PageSet::new(&ram), PageSet::new(&ram));
        let of = mine.capacity();
        let holding = Holding::default();
        holding.set(Held { room: staged.room() as u64, ..Held::default() });
        let pages = Some(Box::new(Pages { staged, tracker, mine, late }));
        let (package, ranges) = (Buffer::new(), Vec::new());
        Self {
            freezer,
            ram,
            mode,
            pages,
            package,
            ranges,
            board,
            disks,
            ahead: 0,
            ahead_bytes: 0,
            level: false,
            holding,
            session: 0,
            run: 0,
            held: false,
            of,
        }
    }

    /// Whether it could take over.
    pub fn level(&self) -> bool {
        self.level
    }

    /// What it holds, for its door.
    pub fn holding(&self) -> Holding {
        self.holding.clone()
    }

    /// What the guest is, is in doubt for a new session.
    fn doubt(&self) {
        self.holding.set(Held { epoch: 0, ..self.holding.get() });
    }

    /// It is no whole guest any more, or not yet.
    fn unmake(&mut self) {
        self.level = false;
        self.doubt();
        self.holding.keep(None);
    }

    fn pages(&mut self) -> Result<&mut Pages, SessionError> {
        self.pages.as_deref_mut().ok_or(SessionError::Lost)
    }

    /// Takes all memory: what the guest was before is gone with the first page. Or goes on from what it was.
    /// It is the `session` of this `run` of a primary.
    pub fn sync<C: Channel>(
        &mut self,
        mut link: Syncing<C>,
        session: u64,
        run: u64,
    ) -> Result<Step<C>, SessionError> {
        (self.session, self.run) = (session, run);
        let ram = self.ram.clone();
        loop {
            let staged = &mut self.pages()?.staged;
            let mut piece = staged.buffer();
            match link.next(&mut piece)? {
                FirstSync::Ram(next) => {
                    self.replace()?;
                    let staged = &mut self.pages()?.staged;
                    let (bytes, pages) = (piece.bytes().len() as u64, staged.accept(piece)? as u64);
                    staged.apply(&ram)?;
                    self.board.write(|status| {
                        status.sync.sent += pages;
                        status.bytes += bytes;
                    });
                    link = next;
                }
                FirstSync::Synced(synced) => {
                    self.replace()?;
                    self.pages()?.start()?;
                    return Ok(Step::Level(synced.ready()?));
                }
                FirstSync::Resume(synced) => {
                    if !self.level || self.holding.get().epoch == 0 {
                        return Err(SessionError::Unheld);
                    }
                    self.disks.resume()?;
                    self.board.write(|status| {
                        status.phase = Phase::Level;
                        status.sync.incremental = true;
                    });
                    return Ok(Step::Level(synced.ready()?));
                }
                FirstSync::Ended => return Ok(Step::Ended),
            }
        }
    }

    /// Waits for the next message between checkpoints, and makes the checkpoint if it is that.
    pub fn next<C: Channel>(&mut self, link: Level<C>) -> Result<Step<C>, SessionError> {
        let staged = &mut self.pages()?.staged;
        let mut piece = staged.buffer();
        match link.next(&mut piece)? {
            Next::Ram(link) => {
                let bytes = piece.bytes().len() as u64;
                let pages = staged.accept(piece)? as u64;
                self.ahead += pages;
                self.ahead_bytes += bytes;
                Ok(Step::Level(link))
            }
            Next::Request(requested) => {
                self.board.checkpoint_begins();
                let level = self.checkpoint(requested)?;
                self.board.write(|status| status.phase = Phase::Level);
                Ok(Step::Level(level))
            }
            Next::Ended => Ok(Step::Ended),
        }
    }

    fn checkpoint<C: Channel>(&mut self, link: Requested<C>) -> Result<Level<C>, SessionError> {
        let begun = Instant::now();
        let stopped = self.stand()?;
        let link = link.reply(&[IoSlice::new(&self.ranges)])?;
        let (mut ram_bytes, mut brought) = (0, 0);
        let mut replied = link;
        let link = loop {
            let staged = &mut self.pages()?.staged;
            let mut piece = staged.buffer();
            let got = replied.pages(&mut piece)?;
            ram_bytes += piece.bytes().len() as u64;
            brought += staged.accept(piece)? as u64;
            match got {
                Brought::More(more) => replied = more,
                Brought::All(all) => break all,
            }
        };
        let shipped = link.package(&mut self.package)?;
        let transfer = begun.elapsed().saturating_sub(stopped);
        let (received, state) = self.load(shipped)?;
        let epoch = received.epoch();
        let (copy, resume, load) = self.become_level(epoch)?;
        let link = received.loaded()?;
        self.disks.level();
        let stood = Stood { stop: stopped, log: Duration::ZERO, copy, state, resume, total: begun.elapsed() };
        let (ahead, ahead_bytes) = (std::mem::take(&mut self.ahead), std::mem::take(&mut self.ahead_bytes));
        self.board.complete(Epoch {
            epoch,
            // Why is the primary's business.
            cause: Cause::Timer,
            ahead,
            pages: brought,
            foreign: 0,
            ram_bytes: ram_bytes + ahead_bytes,
            state_bytes: self.package.bytes().len() as u64,
            stood,
            transfer,
            load: load + state,
        });
        Ok(link)
    }

    /// Stands the guest still, if it does not yet, and notes what it has written.
    fn stand(&mut self) -> Result<Duration, SessionError> {
        self.ranges.clear();
        let mut pages = self.pages.take().ok_or(SessionError::Lost)?;
        let ((pages, noted), times) = self.freezer.freeze(Time::GoesOn, move |_| {
            let noted = pages.look();
            ((pages, noted), After::Hold)
        })?;
        self.held = true;
        pages.mine.write_ranges(&mut self.ranges);
        self.pages = Some(pages);
        noted?;
        Ok(times.total)
    }

    /// Makes vCPUs and devices what the package says, and tells the primary that this is sure.
    fn load<C: Channel>(&mut self, link: Shipped<C>) -> Result<(Received<C>, Duration), SessionError> {
        let begun = Instant::now();
        let state = package::read(self.package.bytes())?;
        let (loaded, _) =
            self.freezer.freeze(Time::GoesOn, move |frozen| (frozen.load(&state), After::Hold))?;
        if let Err(LoadError::Lost { .. }) = loaded {
            self.unmake();
        }
        loaded?;
        // Half of it is the new guest: only all of it can go on.
        self.unmake();
        let took = begun.elapsed();
        // It may be that the primary never hears of it; this guest becomes what was sent all the same.
        let epoch = link.epoch();
        let received = link.received();
        if received.is_err() {
            self.become_level(epoch)?;
        }
        Ok((received?, took))
    }

    /// Puts the pages into memory, and lets the guest go on.
    fn become_level(&mut self, epoch: u64) -> Result<(Duration, Duration, Duration), SessionError> {
        let begun = Instant::now();
        let mut pages = self.pages.take().ok_or(SessionError::Lost)?;
        let colo = self.mode == Mode::Colo;
        let disks = self.disks.clone();
        let ((pages, done, copy), times) = self.freezer.freeze(Time::GoesOn, move |frozen| {
            let begun = Instant::now();
            let done = pages.apply(frozen.ram());
            disks.checkpoint(epoch);
            let after = if colo && done.is_ok() { After::Run } else { After::Hold };
            ((pages, done, begun.elapsed()), after)
        })?;
        self.pages = Some(pages);
        done?;
        self.held = !colo;
        self.level = true;
        self.holding.set(Held { session: self.session, epoch, ..self.holding.get() });
        self.holding.keep(Some(self.run));
        Ok((copy, times.resume, begun.elapsed()))
    }

    /// What the guest was is lost: another one comes in its place.
    fn replace(&mut self) -> Result<(), SessionError> {
        self.hold()?;
        if self.level {
            self.board.write(|status| status.epoch = 0);
        }
        self.unmake();
        Ok(self.disks.replace()?)
    }

    /// Stands the guest still, if it does not yet.
    fn hold(&mut self) -> Result<(), SessionError> {
        if !self.held {
            self.freezer.freeze(Time::GoesOn, |_| ((), After::Hold))?;
            self.held = true;
        }
        Ok(())
    }

    /// The session is over: what had come of an epoch that is not complete is forgotten, and the guest does what it
    /// did before.
    pub fn abandon(&mut self) -> Result<(), SessionError> {
        (self.ahead, self.ahead_bytes) = (0, 0);
        if let Some(pages) = &mut self.pages {
            pages.staged.discard();
        }
        self.disks.fail();
        if self.held && self.level && self.mode == Mode::Colo {
            self.freezer.freeze(Time::GoesOn, |_| ((), After::Run))?;
            self.held = false;
        }
        Ok(())
    }

    /// Takes over: the guest goes on from the last complete checkpoint, or from where it is.
    pub fn take_over(&mut self) -> Result<(), SessionError> {
        self.doubt();
        self.abandon()?;
        if let Some(pages) = &mut self.pages
            && let Err(error) = pages.tracker.stop()
        {
            tracing::warn!(%error, "the guest's writes are still noted, which slows it down");
        }
        self.disks.promote();
        // Whatever it did: it stood between checkpoints, ran, or was paused by somebody.
        self.freezer.freeze(Time::GoesOn, |_| ((), After::Run))?;
        self.held = false;
        Ok(())
    }

    /// How many pages the guest has.
    pub fn of(&self) -> u64 {
        self.of
    }
}

#[cfg(test)]
mod tests;
