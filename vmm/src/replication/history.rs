//! What a host remembers of a disk, over runs: whose data is on it, and what the other host may not have.
//!
//! ```text
//!   primary     serve ─► open, alone ── level ─► open ── alone ─► open, alone …… close ─► the bits are right
//!   secondary   follow ─► partial ── whole ─► …… promote ─► a new generation, open, alone
//! ```
//!
//! Each step is on the record before others can rely on it: a disk that is being made equal says so before its
//! first byte changes, and one whose guest takes over before that writes.

use super::bitmap::{Bits, FileError, Generation, Record, RecordFile, Side, regions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// A history that cannot go on.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Half of it is another disk.
    #[error(
        "{0} says that its disk was being made equal to its primary's, or that a guest had just taken over, when that \
         ended: not all of it is there, and no guest can run on it; let a primary make it whole (colo-vm secondary), or \
         remove {0}, if you know the disk to be whole"
    )]
    Partial(PathBuf),
    /// No number can be had.
    #[error("no generation can be chosen: {0}")]
    Chance(io::Error),
}

/// A disk's history.
#[derive(Debug)]
pub struct History(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: RecordFile,
    record: Record,
    /// Whether what is kept of what the other may not have is right.
    believed: bool,
    /// Whether it was not empty when the record was opened.
    missed: bool,
}

impl History {
    /// That of a disk of this size; one that has none begins one. What the record had of regions that the other may
    /// not have comes with it, if it can be believed.
    pub fn open(path: &Path, disk: u64) -> Result<(Self, Option<Bits>), HistoryError> {
        let (file, mut record) = if path.symlink_metadata().is_ok() {
            RecordFile::open(path, disk)?
        } else {
            let mut record = Record::new(disk);
            (RecordFile::create(path, &mut record)?, record)
        };
        let believed = !record.open && record.own.is_some();
        let missed = record.missing.count() > 0;
        let missing = std::mem::replace(&mut record.missing, Bits::new(regions(disk)));
        let inner = Inner { path: path.to_owned(), file, record, believed, missed };
        Ok((Self(Mutex::new(inner)), believed.then_some(missing)))
    }

    /// What it comes to. Whether there are regions that the other may not have is told by who counts them.
    pub fn side(&self, dirty: bool) -> Side {
        let inner = self.lock();
        let Record { own, peer, alone, .. } = inner.record;
        Side { own, peer, alone, dirty, believed: inner.believed }
    }

    /// The same, of a disk whose regions nobody counts.
    pub fn side_as_kept(&self) -> Side {
        let missed = self.lock().missed;
        self.side(missed)
    }

    /// A guest is going to run on it, and nobody follows.
    pub fn serve(&self) -> Result<(), HistoryError> {
        let mut inner = self.lock();
        let record = &mut inner.record;
        if record.partial {
            let path = inner.path.clone();
            return Err(HistoryError::Partial(path));
        }
        if record.own.is_none() {
            record.own = Some(Generation::random().map_err(HistoryError::Chance)?);
        }
        (record.open, record.alone) = (true, true);
        inner.write(None)
    }

    /// From now on what is counted here is right: everything counts as missing, or somebody has said that nothing is.
    pub fn believe(&self) {
        self.lock().believed = true;
    }

    /// Somebody follows, and has everything.
    pub fn level(&self) -> Result<(), HistoryError> {
        self.alone_is(false)
    }

    /// Nobody follows any more.
    pub fn alone(&self) -> Result<(), HistoryError> {
        self.alone_is(true)
    }

    fn alone_is(&self, alone: bool) -> Result<(), HistoryError> {
        let mut inner = self.lock();
        if inner.record.alone == alone {
            return Ok(());
        }
        inner.record.alone = alone;
        inner.write(None)
    }

    /// Its guest has ended in order; this is what the other host may not have.
    pub fn close(&self, missing: Bits) -> Result<(), HistoryError> {
        let mut inner = self.lock();
        if !inner.believed {
            return Ok(());
        }
        inner.record.open = false;
        inner.write(Some(missing))
    }

    /// It becomes what the primary's of this generation is; `partial`: and is not until all has come.
    pub fn follow(&self, own: Option<Generation>, partial: bool) -> Result<(), HistoryError> {
        let mut inner = self.lock();
        let record = &mut inner.record;
        if record.own == own && record.partial == partial && !record.alone && !record.open {
            return Ok(());
        }
        (record.own, record.peer, record.partial) = (own, None, partial);
        (record.alone, record.open) = (false, false);
        (inner.believed, inner.missed) = (true, false);
        inner.write(None)
    }

    /// Whether it is being made what its primary's is.
    pub fn is_partial(&self) -> bool {
        self.lock().record.partial
    }

    /// All has come, and is there for good.
    pub fn whole(&self) -> Result<(), HistoryError> {
        let mut inner = self.lock();
        inner.record.partial = false;
        inner.write(None)
    }

    /// Its guest goes on without the primary. It is [`whole`](Self::whole) once what waited is in the image.
    pub fn promote(&self) -> Result<(), HistoryError> {
        let mut inner = self.lock();
        let new = Generation::random().map_err(HistoryError::Chance)?;
        let record = &mut inner.record;
        record.peer = record.own.replace(new);
        // What waits for the image is in memory alone.
        (record.open, record.alone, record.partial) = (true, true, true);
        inner.believed = false;
        inner.write(None)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that holds it can panic half-way, so a poisoned lock is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, missing: Option<Bits>) -> Result<(), HistoryError> {
        self.record.missing = missing.unwrap_or_else(|| Bits::new(regions(self.record.disk)));
        Ok(self.file.write(&mut self.record)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::bitmap::{REGION, Refusal, Sync, sync};

    const DISK: u64 = 100 * REGION;

    struct Host {
        directory: tempfile::TempDir,
        path: PathBuf,
        history: History,
        missing: Option<Bits>,
    }

    impl Host {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("disk.colo");
            let (history, missing) = History::open(&path, DISK).unwrap();
            Self { directory, path, history, missing }
        }

        /// Its process is ended, and starts anew.
        fn again(self) -> Self {
            let Self { directory, path, history, .. } = self;
            drop(history);
            let (history, missing) = History::open(&path, DISK).unwrap();
            Self { directory, path, history, missing }
        }

        fn own(&self) -> Option<Generation> {
            self.history.side(false).own
        }
    }

    fn would(primary: &Host, dirty: bool, secondary: &Host) -> Sync {
        sync(&primary.history.side(dirty), &secondary.history.side_as_kept(), false)
    }

    fn level(primary: &Host, secondary: &Host) {
        primary.history.believe();
        secondary.history.follow(primary.own(), true).unwrap();
        primary.history.level().unwrap();
        secondary.history.whole().unwrap();
    }

    #[test]
    fn two_hosts_know_each_other_again() {
        let (one, two) = (Host::new(), Host::new());
        one.history.serve().unwrap();
        assert_eq!(would(&one, true, &two), Sync::Verify, "the first time");
        level(&one, &two);
        one.history.alone().unwrap();
        assert_eq!(would(&one, true, &two), Sync::Incremental, "after a lost link");
        // The secondary's process is killed: its record was right all the time.
        let two = two.again();
        assert_eq!(would(&one, true, &two), Sync::Incremental);
        assert_eq!(would(&one, false, &two), Sync::Nothing);
        // The primary's guest ends in order, and is started anew.
        let missing = Bits::new(regions(DISK));
        missing.set(3..5);
        one.history.close(missing).unwrap();
        let one = one.again();
        assert_eq!(one.missing.as_ref().unwrap().count(), 2);
        one.history.serve().unwrap();
        assert_eq!(would(&one, true, &two), Sync::Incremental);
        // The next time it is killed.
        let one = one.again();
        assert!(one.missing.is_none());
        one.history.serve().unwrap();
        assert_eq!(would(&one, true, &two), Sync::Verify);
    }

    #[test]
    fn who_was_taken_over_from_follows_and_who_went_on_is_not_overwritten() {
        let (one, two) = (Host::new(), Host::new());
        one.history.serve().unwrap();
        level(&one, &two);
        // The primary dies while it is followed, and is taken over from.
        two.history.promote().unwrap();
        assert!(two.history.is_partial(), "what waited is not in the image yet");
        two.history.whole().unwrap();
        let one = one.again();
        assert_eq!(would(&two, true, &one), Sync::Verify);
        // Nobody knew of the other: it was started again, and its guest wrote.
        one.history.serve().unwrap();
        assert_eq!(would(&two, true, &one), Sync::Refused(Refusal::BothWritten));
        assert_eq!(would(&one, true, &two), Sync::Refused(Refusal::BothWritten));
        assert_eq!(sync(&two.history.side(true), &one.history.side_as_kept(), true), Sync::Verify);
        level(&two, &one);
        assert_eq!(would(&two, true, &one), Sync::Incremental);
        assert_eq!(one.own(), two.own());
    }

    #[test]
    fn no_guest_runs_on_half_a_disk() {
        let (one, two) = (Host::new(), Host::new());
        one.history.serve().unwrap();
        two.history.follow(one.own(), true).unwrap();
        let two = two.again();
        let error = two.history.serve().unwrap_err().to_string();
        assert!(error.contains("no guest can run on it") && error.contains("disk.colo"), "{error}");
        two.history.whole().unwrap();
        two.again().history.serve().unwrap();
    }
}
