//! A session of the primary: from the first page to the last checkpoint.
//!
//! ```text
//!   begin: the secondary holds a checkpoint that is known here, and what has changed since is not too much?
//!     ├ no ─► sync: rounds of dirty pages while the guest runs, until few are left
//!     └ yes ► resume: the same, of pages that have changed since
//!     └► level ── trigger ──► checkpoint: request, reply, cut (the guest stands), pages, package, received, loaded
//!          ▲ │ nothing to do: pages ahead                                                              │
//!          └─┴─────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

use super::cut::{Copier, Cut, CutError, work};
use crate::checkpoint::Now;
use crate::checkpoint::disks::{self, DiskError};
use crate::checkpoint::output::Output;
use crate::checkpoint::package;
use crate::checkpoint::protocol::hello::Held;
use crate::checkpoint::protocol::primary::{Level, Syncing};
use crate::checkpoint::protocol::{Buffer, Channel, Error as ProtocolError};
use crate::checkpoint::ram::pack::{Packed, Packer, Packing};
use crate::checkpoint::ram::{Blocks, Capture, PAGE};
use crate::checkpoint::status::{Board, Cause, Epoch, Phase, Stood, Sync};
use crate::control::ControlError;
use crate::dirty::pages::RangesError;
use crate::machine::{Freezer, Time};
use crate::memory::GuestRam;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// So few dirty pages are left to the first checkpoint.
const FEW: u64 = 512;
/// The guest writes as fast as the link takes it: more rounds do not help.
const ROUNDS: u32 = 30;

/// Between two looks how much of a disk is left to be sent.
const SOON: Duration = Duration::from_millis(1);

/// What is done to a piece that has no base.
type Pack = for<'a> fn(&'a mut Packer, &Blocks, &'a [u8]) -> (&'a [u8], Packed);

/// A session that cannot go on.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The peer, or the link to it.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// No copy of the guest.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// The state does not fit into a package.
    #[error(transparent)]
    Package(#[from] package::PackageError),
    /// The reply is none.
    #[error("the secondary's list of pages makes no sense: {0}")]
    Ranges(#[from] RangesError),
    /// A disk that is not followed any more.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It is not known what is to be sent of a disk.
    #[error(
        "the guest stood for a checkpoint, but its disks' changes were not on their way in {0:?}; see colo-vm disk status"
    )]
    Behind(Duration),
    /// The guest has ended.
    #[error(transparent)]
    Guest(#[from] ControlError),
    /// A bug ended what copies.
    #[error("what copies the guest's pages is lost, which is a bug; start the guest anew to protect it")]
    Lost,
}

/// What sessions of a primary work with.
#[derive(Debug)]
pub struct Parts {
    /// Who stands the guest still.
    pub freezer: Freezer,
    /// Who copies its pages.
    pub copier: Copier,
    /// The guest's memory.
    pub ram: Arc<GuestRam>,
    /// What that is made of.
    pub blocks: Arc<Blocks>,
    /// What is done to pages before they are sent.
    pub packing: Packing,
    /// What can be seen of it.
    pub board: Arc<Board>,
    /// Who holds the guest's output.
    pub output: Arc<dyn Output>,
    /// Who has the guest's disks.
    pub disks: Arc<dyn disks::Source>,
    /// The epoch that the guest is in.
    pub now: Now,
    /// How long disks may take for what a checkpoint needs.
    pub step: Duration,
}

/// The guest, as sessions of a primary see it.
#[derive(Debug)]
pub struct Source {
    freezer: Freezer,
    ram: Arc<GuestRam>,
    pub(super) blocks: Arc<Blocks>,
    /// Who copies; away while the guest stands.
    copier: Option<Box<Copier>>,
    packer: Packer,
    ranges: Buffer,
    board: Arc<Board>,
    output: Arc<dyn Output>,
    pub(super) disks: Arc<dyn disks::Source>,
    now: Now,
    step: Duration,
    session: u64,
    known: Known,
}

/// The checkpoints that a secondary may hold, each as its session and epoch. All that was made clean since the first
/// of them is remembered.
#[derive(Debug, Default)]
struct Known {
    /// It has said so.
    loaded: Option<(u64, u64)>,
    /// All of it was sent, perhaps; the link failed before it could say so.
    sent: Option<(u64, u64)>,
}

impl Known {
    fn has(&self, held: Held) -> bool {
        let held = (held.session, held.epoch);
        held.1 > 0 && [self.loaded, self.sent].contains(&Some(held))
    }
}

impl Source {
    /// Made of these.
    pub fn new(parts: Parts) -> Self {
        let Parts { freezer, copier, ram, blocks, packing, board, output, disks, now, step } = parts;
        let (copier, packer, ranges) = (Some(Box::new(copier)), Packer::new(packing), Buffer::new());
        let (session, known) = (0, Known::default());
        Self { freezer, ram, blocks, copier, packer, ranges, board, output, disks, now, step, session, known }
    }

    /// Begins a session of this number with a secondary that holds this.
    pub fn begin<C: Channel>(
        &mut self,
        link: Syncing<C>,
        session: u64,
        held: Held,
    ) -> Result<Level<C>, SessionError> {
        self.session = session;
        if self.known.has(held) && self.disks.resumes() {
            let copier = self.copier.as_mut().ok_or(SessionError::Lost)?;
            copier.resume();
            let changed = copier.look().map_err(CutError::from)?;
            if changed <= held.room {
                tracing::info!(changed, "the secondary holds a checkpoint; what has changed since is sent");
                return self.resume(link, held);
            }
            tracing::info!(
                changed,
                room = held.room,
                "the secondary holds a checkpoint, but too much has changed"
            );
        }
        self.sync(link)
    }

    /// Sends what has changed since a checkpoint that the secondary holds. It can go on from that until the next is
    /// complete.
    fn resume<C: Channel>(&mut self, link: Syncing<C>, held: Held) -> Result<Level<C>, SessionError> {
        self.known = Known { loaded: Some((held.session, held.epoch)), sent: None };
        let mut level = link.resume()?.ready()?;
        self.disks.begin(true)?;
        self.now.set(level.epoch());
        self.board.write(|status| status.phase = Phase::Level);
        let mut sync = Sync { of: self.blocks.bytes() / PAGE as u64, incremental: true, ..Sync::default() };
        let mut before = u64::MAX;
        loop {
            self.look(&mut sync)?;
            let more = sync.left > FEW && sync.left < before && sync.sent + sync.left <= held.room;
            if !more || sync.round >= ROUNDS {
                return Ok(level);
            }
            before = sync.left;
            self.round(&mut sync, Packer::pack_alone, |piece| level.ram(piece))?;
        }
    }

    /// Looks what is left.
    fn look(&mut self, sync: &mut Sync) -> Result<(), SessionError> {
        sync.left = self.copier.as_mut().ok_or(SessionError::Lost)?.look().map_err(CutError::from)?;
        self.board.write(|status| status.sync = *sync);
        Ok(())
    }

    /// Sends what was found, packed so, while the guest runs.
    fn round(
        &mut self,
        sync: &mut Sync,
        pack: Pack,
        mut send: impl FnMut(&[IoSlice<'_>]) -> Result<(), ProtocolError>,
    ) -> Result<(), SessionError> {
        sync.round += 1;
        let copier = self.copier.as_mut().ok_or(SessionError::Lost)?;
        let (packer, blocks, board) = (&mut self.packer, &self.blocks, &self.board);
        copier.ahead(&self.ram, |piece, pages| {
            let (piece, _) = pack(packer, blocks, piece);
            send(&[IoSlice::new(piece)])?;
            sync.sent += pages;
            sync.left = sync.left.saturating_sub(pages);
            board.write(|status| {
                status.sync = *sync;
                status.bytes += piece.len() as u64;
            });
            Ok(())
        })
    }

    /// Sends all memory while the guest runs, until little of it changes meanwhile.
    fn sync<C: Channel>(&mut self, mut link: Syncing<C>) -> Result<Level<C>, SessionError> {
        self.known = Known::default();
        self.board.write(|status| status.epoch = 0);
        let copier = self.copier.as_mut().ok_or(SessionError::Lost)?;
        copier.start().map_err(CutError::from)?;
        // Its connections are let in when the first pages have come.
        self.disks.begin(false)?;
        let of = self.blocks.bytes() / PAGE as u64;
        let mut sync = Sync { of, ..Sync::default() };
        let mut before = u64::MAX;
        loop {
            self.look(&mut sync)?;
            // The first checkpoint takes the rest: what was looked at and is not made clean is found again.
            if sync.round >= 1 && (sync.left <= FEW || sync.round >= ROUNDS || sync.left >= before) {
                break;
            }
            // While it still gets less it is worth another round; the first is always.
            before = if sync.round == 0 { u64::MAX } else { sync.left };
            self.round(&mut sync, Packer::pack_first, |piece| link.ram(piece))?;
        }
        self.copier.as_mut().ok_or(SessionError::Lost)?.synced();
        let level = link.synced()?.ready()?;
        self.now.set(level.epoch());
        Ok(level)
    }

    /// How many pages the next checkpoint has to bring, those that were sent ahead included, as far as this side
    /// knows.
    pub fn waiting(&mut self) -> Result<u64, SessionError> {
        let copier = self.copier.as_mut().ok_or(SessionError::Lost)?;
        Ok(copier.look().map_err(CutError::from)? + copier.ahead.count())
    }

    /// Sends the pages that were found dirty just now while the guest runs, so that the next checkpoint has fewer.
    /// Says how long that took.
    pub fn ahead<C: Channel>(&mut self, link: &mut Level<C>) -> Result<Duration, SessionError> {
        let begun = Instant::now();
        let copier = self.copier.as_mut().ok_or(SessionError::Lost)?;
        if copier.found() > FEW {
            let (packer, blocks, board) = (&mut self.packer, &self.blocks, &self.board);
            copier.ahead(&self.ram, |piece, _| {
                let (piece, _) = packer.pack_alone(blocks, piece);
                link.ram(&[IoSlice::new(piece)])?;
                board.write(|status| status.bytes += piece.len() as u64);
                Ok::<_, SessionError>(())
            })?;
        }
        Ok(begun.elapsed())
    }

    /// Makes the secondary what the guest is now.
    pub fn checkpoint<C: Channel>(&mut self, link: Level<C>, cause: Cause) -> Result<Level<C>, SessionError> {
        let epoch = link.epoch();
        self.board.checkpoint_begins();
        let done = self.transaction(link, cause, epoch);
        if done.is_ok() {
            self.board.write(|status| status.phase = Phase::Level);
        } else {
            self.board.write(|status| status.failed += 1);
            self.output.failed(epoch);
        }
        done
    }

    fn transaction<C: Channel>(
        &mut self,
        link: Level<C>,
        cause: Cause,
        epoch: u64,
    ) -> Result<Level<C>, SessionError> {
        let mut link = link.request()?.reply(&mut self.ranges)?;
        let (cut, stood) = self.cut(epoch)?;
        let begun = Instant::now();
        let delivered = begun + self.step;
        let package = package::write(&cut.state)?;
        self.known.sent = Some((self.session, epoch));
        let copier = self.copier.as_mut().ok_or(SessionError::Lost)?;
        let (now, before) = copier.copies();
        let (theirs, ahead) = (&copier.theirs, &copier.ahead);
        let foreign = |address: u64| {
            let page = address / PAGE as u64;
            theirs.contains(page) || ahead.contains(page)
        };
        let mut base = before.into_iter().flat_map(Capture::all).peekable();
        let mut pieces = now.pieces().peekable();
        let mut ram_bytes = 0;
        let link = loop {
            let piece = pieces.next().unwrap_or_default();
            let (piece, _) = self.packer.pack(&self.blocks, piece, &mut base, foreign);
            ram_bytes += piece.len() as u64;
            if pieces.peek().is_none() {
                break link.pages(&[IoSlice::new(piece)])?;
            }
            link.ram(&[IoSlice::new(piece)])?;
        };
        drop((base, pieces));
        // It is the state that makes the epoch one that counts.
        self.disks.delivered(epoch, delivered)?;
        let link = link.package(&[IoSlice::new(&package)])?.received()?;
        let received = Instant::now();
        self.output.received(epoch);
        let link = link.loaded()?;
        self.output.loaded(epoch);
        self.disks.level();
        self.known = Known { loaded: self.known.sent, sent: None };
        let ahead = copier.ahead.count();
        copier.loaded();
        let epoch = Epoch {
            epoch,
            cause,
            ahead,
            pages: cut.pages,
            foreign: cut.pages - cut.dirty,
            ram_bytes,
            state_bytes: package.len() as u64,
            stood,
            transfer: received - begun,
            load: received.elapsed(),
        };
        tracing::debug!(?epoch, "the secondary is level");
        self.board.complete(epoch);
        Ok(link)
    }

    /// Stands the guest still for the copy.
    fn cut(&mut self, epoch: u64) -> Result<(Cut, Stood), SessionError> {
        let copier = self.copier.as_mut().ok_or(SessionError::Lost)?;
        copier.theirs.clear();
        // What makes no sense ends this session, and not the next ones: the copier stays.
        copier.theirs.insert_ranges(self.ranges.bytes())?;
        let until = Instant::now() + self.step;
        loop {
            let copier = self.copier.take().ok_or(SessionError::Lost)?;
            let (output, now) = (self.output.clone(), self.now.clone());
            let work = work(copier, self.disks.clone(), epoch, move || {
                output.cut(epoch);
                now.set(epoch + 1);
            });
            let ((copier, cut), times) = self.freezer.freeze(Time::GoesOn, work)?;
            self.copier = Some(copier);
            if let Some(cut) = cut? {
                let stop = times.vcpus + times.devices;
                let stood = Stood { stop, resume: times.resume, total: times.total, ..cut.stood };
                return Ok((cut, stood));
            }
            // The guest has written faster than it is sent: what is not on its way is, in a moment.
            while !self.disks.ready()? {
                if Instant::now() >= until {
                    return Err(SessionError::Behind(self.step));
                }
                std::thread::sleep(SOON);
            }
        }
    }

    /// What is held may go: nobody follows.
    pub fn unhold(&self) {
        self.output.alone();
    }

    /// The guest is followed by nobody any more: writing costs it nothing.
    pub fn alone(&mut self) {
        self.known = Known::default();
        if let Some(Err(error)) = self.copier.as_mut().map(|copier| copier.stop()) {
            tracing::warn!(%error, "the guest's writes are still noted, which slows it down");
        }
    }
}
