//! The disks of a primary: who follows them, and what it is sent.
//!
//! ```text
//!   session ── meet: what is to be sent ── begin ─► connection (one for each disk) ── established ──► NBD ──► sender
//!                                                      ▲ kill                                           │ ends
//!   checkpoint ── ready, cut, delivered ─► feed        └───────────── end ◄── the session notices ◄─────┘
//! ```
//!
//! A disk whose connection ends takes the session with it: nothing of a guest is protected if a part of it is not. Its
//! guest goes on, and what it writes is noted for the next session.

use super::bitmap::{Dirty, REGION, Sync, sync};
use super::connection::{self, Connection, Outcome};
use super::feed::Feed;
use super::history::{History, HistoryError};
use super::secondary::export_name;
use super::sender::{SendError, Sender};
use crate::checkpoint::disks::{self, DiskError, Phase, Status};
use crate::checkpoint::link::{Stream, Tls};
use crate::checkpoint::protocol::hello::{Agreed, Disk as Word};
use crate::config::Peer;
use crate::nbd::Errno;
use crate::nbd::client::{Ask, Window, connect};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection may take until what it carries is agreed.
const MEETING: Duration = Duration::from_secs(15);
/// How often the secondary's port is tried before the session is given up.
const ROUNDS: u32 = 8;
/// So few regions may be left to be read when the guest is stood still for a checkpoint.
const FEW: u64 = 32;
/// So few bytes may then be on their way.
const LITTLE: usize = 16 << 20;
/// So much in one epoch is reason for a checkpoint: the secondary keeps it until then.
const HEAVY: u64 = 64 << 20;
/// So much may be sent over a guest that the secondary holds, in its first epoch.
const RESUMES: u64 = (64 << 20) / REGION;

/// How a secondary's disk is made equal when nobody knows what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Everything is sent.
    Full,
    /// Both are hashed, and what differs is sent.
    Verify,
    /// Somebody has seen to it that they are equal.
    None,
}

/// What a disk is made of.
#[derive(Debug)]
pub struct Opened {
    /// Which of the guest's disks.
    pub place: u8,
    /// What the guest changes on it.
    pub feed: Arc<Feed>,
    /// What the secondary may not have of it.
    pub dirty: Arc<Dirty>,
    /// What is known of it.
    pub history: History,
}

/// What all disks have in common.
#[derive(Debug)]
pub struct Settings {
    /// The secondary.
    pub peer: Peer,
    /// How both prove who they are.
    pub tls: Option<Tls>,
    /// What is done when nobody knows what differs.
    pub how: How,
    /// Whether somebody has said that what the secondary's disks have may be lost.
    pub word: bool,
}

#[derive(Debug)]
struct Disk {
    place: u8,
    name: String,
    feed: Arc<Feed>,
    dirty: Arc<Dirty>,
    history: History,
    settings: Arc<Settings>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    session: u64,
    /// Where the secondary has it.
    at: Option<SocketAddr>,
    /// The epoch that its connection begins in.
    first: u64,
    /// Whether what is unsent is compared first.
    verify: bool,
    /// Why its connection is over.
    over: Option<String>,
    /// The secondary had no room for what it was to be sent.
    full: bool,
    /// What the feed had given at the last cut, in bytes.
    at_cut: u64,
    errors: u64,
    trouble: Option<String>,
}

impl State {
    fn failed(&mut self, text: String) {
        self.errors += 1;
        self.trouble = Some(text.clone());
        self.over = Some(text);
    }
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds it can panic half-way, so a poisoned lock is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, source: impl Into<Box<dyn std::error::Error + Send + std::marker::Sync>>) -> DiskError {
        DiskError { name: self.name.clone(), source: source.into() }
    }

    /// A record that cannot be kept costs a verification later, and nothing now.
    fn kept(&self, done: Result<(), HistoryError>) {
        if let Err(error) = done {
            tracing::error!(disk = self.name, "{error}");
            let mut state = self.lock();
            state.errors += 1;
            state.trouble = Some(error.to_string());
        }
    }

    /// What this disk and the secondary's come to.
    fn judge(&self, theirs: &Word) -> Result<(), DiskError> {
        let ours = self.history.side(self.dirty.missing().count() > 0);
        let Settings { how, word, .. } = *self.settings;
        let decided = sync(&ours, &theirs.into(), word);
        tracing::debug!(disk = self.name, ?ours, ?theirs, ?decided, "two disks meet");
        match decided {
            Sync::Nothing | Sync::Incremental => {}
            Sync::Refused(why) => return Err(self.error(why)),
            Sync::Verify => {
                match how {
                    How::Full | How::Verify => self.dirty.all(),
                    How::None => {}
                }
                self.history.believe();
            }
        }
        self.lock().verify = decided == Sync::Verify && how == How::Verify;
        Ok(())
    }

    /// Its connection is there: sends until that ends.
    fn follow(&self, stream: TcpStream, peer: SocketAddr) {
        let (session, first, verify) = {
            let mut state = self.lock();
            if state.phase != Phase::Connecting || state.over.is_some() {
                return;
            }
            state.phase = Phase::Syncing;
            (state.session, state.first, state.verify)
        };
        let error = match self.send(Stream::plain(stream, Some(peer)), session, first, verify) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        self.feed.end();
        let mut state = self.lock();
        if state.session == session && state.phase != Phase::Unprotected {
            state.full |= matches!(error, SendError::Refused { errno: Errno::Nospc, .. });
            state.failed(error.to_string());
        }
    }

    fn send(
        &self,
        stream: Stream,
        session: u64,
        first: u64,
        verify: bool,
    ) -> Result<std::convert::Infallible, SendError> {
        let Settings { peer, tls, .. } = &*self.settings;
        let ask = Ask {
            name: export_name(&self.name, session),
            tls: tls.is_some(),
            epochs: true,
            sums: verify,
            ..Ask::default()
        };
        let upgrade = |stream: Stream, until| match tls {
            Some(tls) => stream.secure_to(peer, tls, until),
            None => Err(std::io::ErrorKind::Unsupported.into()),
        };
        let (stream, client) = connect(stream, ask, Window::default(), Instant::now() + MEETING, upgrade)?;
        let sender = Sender::new(self.feed.clone(), self.dirty.clone(), stream, client)?;
        self.feed.begin(first);
        Err(if verify { sender.verifying()? } else { sender }.run())
    }

    fn ready(&self) -> Result<bool, DiskError> {
        let state = self.lock();
        if let Some(over) = &state.over {
            return Err(self.error(over.clone()));
        }
        let follows = matches!(state.phase, Phase::Syncing | Phase::Replicating);
        drop(state);
        Ok(follows && self.feed.is_following() && self.feed.behind() <= FEW && self.feed.seen().0 <= LITTLE)
    }
}

/// The disks of a primary.
#[derive(Debug)]
pub struct Disks {
    all: Vec<Arc<Disk>>,
    /// This session's.
    links: Mutex<Vec<Connection>>,
    /// Epochs of all sessions before this one.
    before: AtomicU64,
    /// The newest.
    newest: AtomicU64,
}

impl Disks {
    /// These. The guest may run: what it writes is noted.
    pub fn new(opened: Vec<Opened>, settings: Settings) -> Self {
        let settings = Arc::new(settings);
        let mut all = Vec::new();
        for Opened { place, feed, dirty, history } in opened {
            let state = State {
                phase: Phase::Unprotected,
                session: 0,
                at: None,
                first: 0,
                verify: false,
                over: None,
                full: false,
                at_cut: 0,
                errors: 0,
                trouble: None,
            };
            all.push(Arc::new(Disk {
                place,
                name: crate::block::guest_name(place.into()),
                feed,
                dirty,
                history,
                settings: settings.clone(),
                state: Mutex::new(state),
            }));
        }
        let (before, newest) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { all, links: Mutex::default(), before, newest }
    }

    fn links(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn before(&self) -> u64 {
        self.before.load(Ordering::Acquire)
    }
}

fn link(disk: &Arc<Disk>, at: SocketAddr) -> Result<Connection, DiskError> {
    let inside = disk.clone();
    let told = move |_: &connection::Handle, outcome: Outcome| match outcome {
        Outcome::Established { stream, peer, .. } => {
            // The connection keeps its own, so that a kill ends ours.
            match stream.try_clone() {
                Ok(ours) => inside.follow(ours, peer),
                Err(error) => inside.lock().failed(format!("its connection cannot be used: {error}")),
            }
        }
        Outcome::Failed(failure) => {
            let mut state = inside.lock();
            if state.phase == Phase::Connecting {
                state.failed(format!("the secondary's port for it cannot be reached: {failure}"));
            }
        }
    };
    let config = connection::Config { rounds: Some(ROUNDS), ..connection::Config::new(vec![at]) };
    let link = Connection::new(config, told).map_err(|error| disk.error(error))?;
    link.handle().start(connection::Role::Client).map_err(|error| disk.error(error))?;
    Ok(link)
}

impl disks::Disks for Disks {
    fn known(&self) -> Vec<Word> {
        let word = |disk: &Arc<Disk>| {
            let side = disk.history.side(disk.dirty.missing().count() > 0);
            side.word(disk.place, 0, disk.feed.size())
        };
        self.all.iter().map(word).collect()
    }

    fn status(&self) -> Vec<Status> {
        self.all.iter().map(|disk| status(disk)).collect()
    }

    fn close(&self) {
        for disk in &self.all {
            disk.kept(disk.history.close(disk.dirty.missing()));
        }
    }
}

impl disks::Source for Disks {
    fn epochs(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    fn meet(&self, agreed: &Agreed, at: Option<IpAddr>) -> Result<(), DiskError> {
        self.before.store(agreed.epochs, Ordering::Release);
        for (disk, theirs) in self.all.iter().zip(&agreed.disks) {
            disk.judge(theirs)?;
            let mut state = disk.lock();
            state.session = agreed.session;
            state.at = at.map(|at| SocketAddr::new(at, theirs.port));
        }
        Ok(())
    }

    fn resumes(&self) -> bool {
        self.all.iter().all(|disk| !disk.lock().full && disk.dirty.missing().count() <= RESUMES)
    }

    fn begin(&self, held: bool) -> Result<(), DiskError> {
        let first = if held { self.before() + 1 } else { 0 };
        self.newest.fetch_max(self.before() + 1, Ordering::AcqRel);
        for disk in &self.all {
            let at = {
                let mut state = disk.lock();
                (state.phase, state.first, state.over) = (Phase::Connecting, first, None);
                state.full &= held;
                state.at.ok_or_else(|| disk.error("nobody knows where the secondary is"))?
            };
            let link = link(disk, at)?;
            self.links().push(link);
        }
        Ok(())
    }

    fn ready(&self) -> Result<bool, DiskError> {
        // Each is asked, so that none that is over goes unnoticed.
        self.all.iter().try_fold(true, |all, disk| Ok(disk.ready()? && all))
    }

    fn heavy(&self) -> bool {
        self.all.iter().any(|disk| {
            let state = disk.lock();
            state.phase == Phase::Replicating && disk.feed.seen().1.bytes - state.at_cut > HEAVY
        })
    }

    fn cut(&self, epoch: u64) -> Result<(), DiskError> {
        let next = self.before() + epoch + 1;
        for disk in &self.all {
            disk.feed.cut(next).map_err(|error| disk.error(error))?;
            disk.lock().at_cut = disk.feed.seen().1.bytes;
        }
        self.newest.fetch_max(next, Ordering::AcqRel);
        Ok(())
    }

    fn delivered(&self, epoch: u64, until: Instant) -> Result<(), DiskError> {
        let epoch = self.before() + epoch;
        for disk in &self.all {
            if let Err(error) = disk.feed.delivered(epoch, until) {
                let over = disk.lock().over.clone();
                return Err(over.map_or_else(|| disk.error(error), |over| disk.error(over)));
            }
        }
        Ok(())
    }

    fn level(&self) {
        for disk in &self.all {
            let mut state = disk.lock();
            if state.phase == Phase::Syncing {
                (state.phase, state.trouble) = (Phase::Replicating, None);
                drop(state);
                disk.kept(disk.history.level());
            }
        }
    }

    fn hang_up(&self) {
        self.links().iter().for_each(|link| link.handle().kill());
    }

    fn end(&self) {
        // First, so that what we end ourselves is no failure.
        let were: Vec<_> = self
            .all
            .iter()
            .map(|disk| std::mem::replace(&mut disk.lock().phase, Phase::Unprotected))
            .collect();
        let links = std::mem::take(&mut *self.links());
        // All at once, and then each until its thread has ended.
        links.iter().for_each(|link| link.handle().kill());
        drop(links);
        for (disk, was) in self.all.iter().zip(were) {
            disk.feed.end();
            if was == Phase::Replicating {
                tracing::debug!(disk = disk.name, "what the guest writes is here alone");
                disk.kept(disk.history.alone());
            }
        }
    }
}

fn status(disk: &Disk) -> Status {
    let (pending, counts) = disk.feed.seen();
    let missing = disk.dirty.missing().count() * REGION;
    let state = disk.lock();
    Status {
        device: disk.name.clone(),
        phase: state.phase,
        size: disk.feed.size(),
        generation: disk.history.side(false).own.map(|own| own.to_string()),
        missing,
        unsent: disk.feed.behind() * REGION,
        pending: pending as u64,
        moved: counts.bytes,
        same: counts.same,
        own: 0,
        left: 0,
        spilled: 0,
        waits: counts.missed,
        errors: state.errors,
        trouble: state.trouble.clone(),
    }
}
