//! The disks of a secondary: what follows, and who may write to it.
//!
//! ```text
//!   session ── meet ── replace, or resume ──► the gate is open for that primary, in that session
//!                                               │
//!   connection (one for each disk) ── a peer ──►│ another address, or nobody is waited for: let go
//!                                               └─► NBD: the export is "vda@<session>" ──► layers
//! ```
//!
//! The export's name has the session's number in it, which its two sides alone know (with TLS; without, whoever
//! listens in knows it, too).

use super::bitmap::Generation;
use super::connection::{self, Connection, Outcome};
use super::export::DiskExport;
use super::history::{History, HistoryError};
use super::layers::{self, SecondaryDisk};
use crate::checkpoint::disks::{self, DiskError, Phase, Status};
use crate::checkpoint::link::{Quiet, Stream, Tls};
use crate::checkpoint::protocol::hello::{Agreed, Disk as Word};
use crate::nbd::server::{Offer, Patience, Terms, serve};
use crate::sandbox::{self, Kind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection waits for its session.
const SESSION: Duration = Duration::from_secs(5);

/// Between two looks whether all is in the image.
const LOOK: Duration = Duration::from_millis(20);
/// How long a guest's end waits for that while nothing happens.
const PROGRESS: Duration = Duration::from_secs(30);

/// Who is let in.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<Met>,
    changed: Condvar,
}

#[derive(Clone, Debug, Default)]
struct Met {
    session: u64,
    from: Option<IpAddr>,
    /// The primary's generations, in the order of the disks.
    generations: Vec<Option<Generation>>,
    /// It has said what is to become of what is held here.
    open: bool,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Met> {
        // No code that holds it can panic half-way, so a poisoned lock is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session that a peer from this address belongs to.
    fn session(&self, from: IpAddr) -> Option<u64> {
        let until = Instant::now() + SESSION;
        let mut met = self.lock();
        while !met.open {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            met = self.changed.wait_timeout(met, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let same = met.from.is_none_or(|known| known.to_canonical() == from.to_canonical());
        same.then_some(met.session)
    }

    fn is_open_for(&self, session: u64) -> bool {
        let met = self.lock();
        met.open && met.session == session
    }
}

/// What a disk is made of.
#[derive(Debug)]
pub struct Opened {
    /// Which of the guest's disks.
    pub place: u8,
    /// Its layers, which are started here.
    pub disk: Arc<SecondaryDisk>,
    /// Its size in bytes.
    pub size: u64,
    /// What is known of it.
    pub history: History,
    /// Where its primary comes in.
    pub listener: TcpListener,
}

#[derive(Debug)]
struct Disk {
    place: u8,
    name: String,
    size: u64,
    layers: Arc<SecondaryDisk>,
    history: History,
    /// Where its primary comes in.
    port: u16,
    trouble: Mutex<Trouble>,
}

/// What there was to complain of.
#[derive(Debug, Default)]
struct Trouble {
    times: u64,
    last: Option<String>,
    log: Quiet,
}

impl Disk {
    fn error(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DiskError {
        DiskError { name: self.name.clone(), source: source.into() }
    }

    fn complain(&self, text: String) {
        let mut trouble = self.trouble();
        trouble.times += 1;
        if let Some(swallowed) = trouble.log.speak() {
            tracing::warn!(disk = self.name, swallowed, "{text}");
        }
        trouble.last = Some(text);
    }

    /// Waits until all that a guest which has taken over wrote is in the image, and has the record say so. As long as
    /// there is progress.
    fn commit(&self) {
        let mut left = u64::MAX;
        let mut until = Instant::now() + PROGRESS;
        loop {
            let status = self.layers.status();
            match status.phase {
                layers::Phase::Open | layers::Phase::Held => return,
                layers::Phase::Plain => break,
                layers::Phase::Promoted => {}
            }
            if status.left < left {
                (left, until) = (status.left, Instant::now() + PROGRESS);
            }
            if Instant::now() >= until {
                let trouble = status.trouble.unwrap_or_default();
                return self.complain(format!("it ends without {left} bytes that its guest has: {trouble}"));
            }
            std::thread::sleep(LOOK);
        }
        if let Err(error) = self.history.whole() {
            self.complain(error.to_string());
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self, done: Result<(), HistoryError>) -> Result<(), DiskError> {
        done.map_err(|error| self.error(error))
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, session: u64, gate: &Gate, tls: Option<&Tls>) {
        let export = Arc::new(DiskExport::new(self.layers.clone()));
        let offer = Offer {
            name: export_name(&self.name, session),
            description: format!("{}, as its primary sees it", self.name),
            export,
        };
        let terms = Terms { tls: tls.is_some(), nameless: false, ..Terms::new(vec![offer]) };
        let upgrade = |stream: Stream, until| match tls {
            Some(tls) => stream.secure_from(tls, until),
            None => Err(std::io::ErrorKind::Unsupported.into()),
        };
        let stream = Stream::plain(stream, Some(peer));
        let patience = Patience { handshake: SESSION, ..Patience::default() };
        match serve(stream, Arc::new(terms), patience, upgrade) {
            Ok(()) => tracing::debug!(disk = self.name, %peer, "the primary's connection has ended"),
            // Who ends it here knows why.
            Err(error) if !gate.is_open_for(session) => {
                tracing::debug!(disk = self.name, %peer, "the primary's connection was ended: {error}");
            }
            Err(error) => self.complain(format!("the connection from {peer} has ended: {error}")),
        }
    }
}

/// What a disk's export is called in a session.
pub(super) fn export_name(name: &str, session: u64) -> String {
    format!("{name}@{session:016x}")
}

/// The disks of a secondary.
#[derive(Debug)]
pub struct Disks {
    all: Vec<Arc<Disk>>,
    listeners: Mutex<Vec<TcpListener>>,
    links: OnceLock<Vec<Connection>>,
    gate: Arc<Gate>,
    epochs: AtomicU64,
    tls: Option<Tls>,
}

impl Disks {
    /// These. Nobody comes in before they are started.
    pub fn new(opened: Vec<Opened>, tls: Option<Tls>) -> Self {
        let (mut all, mut listeners) = (Vec::new(), Vec::new());
        for Opened { place, disk, size, history, listener } in opened {
            let name = crate::block::guest_name(place.into());
            let port = listener.local_addr().map_or(0, |address| address.port());
            all.push(Arc::new(Disk {
                place,
                name,
                size,
                layers: disk,
                history,
                port,
                trouble: Mutex::default(),
            }));
            listeners.push(listener);
        }
        let gate = Arc::new(Gate::default());
        let (listeners, links) = (Mutex::new(listeners), OnceLock::new());
        Self { all, listeners, links, gate, epochs: AtomicU64::new(0), tls }
    }

    fn link(&self, disk: &Arc<Disk>, listener: TcpListener) -> Result<Connection, DiskError> {
        let address = listener.local_addr().map_err(|error| disk.error(error))?;
        let (disk, gate, tls) = (disk.clone(), self.gate.clone(), self.tls.clone());
        let inside = disk.clone();
        let told = move |handle: &connection::Handle, outcome: Outcome| match outcome {
            Outcome::Established { stream, peer, .. } => {
                // The connection keeps its own, so that a kill ends ours.
                match (gate.session(peer.ip()), stream.try_clone()) {
                    (None, _) => {
                        inside.complain(format!("{peer} is not the primary of a session, and is let go"));
                    }
                    (Some(session), Ok(ours)) => inside.serve(ours, peer, session, &gate, tls.as_ref()),
                    (Some(_), Err(error)) => {
                        inside.complain(format!("the connection from {peer} cannot be used: {error}"));
                    }
                }
                drop(stream);
                // The next one may come, unless all is over.
                if let Err(error) = handle.restart() {
                    tracing::debug!(%error, "no further connection is waited for");
                }
            }
            Outcome::Failed(failure) => tracing::debug!(?failure, "a disk's listener is closed"),
        };
        let link = Connection::new(connection::Config::new(vec![address]), told);
        let link = link.map_err(|error| disk.error(error))?;
        link.handle().start_on(listener).map_err(|error| disk.error(error))?;
        Ok(link)
    }

    fn open(&self) {
        self.gate.lock().open = true;
        self.gate.changed.notify_all();
    }

    fn let_go(&self) {
        *self.gate.lock() = Met::default();
        for link in self.links.get().into_iter().flatten() {
            if let Err(error) = link.handle().restart() {
                tracing::debug!(%error, "a disk's connection cannot be ended");
            }
        }
    }

    fn follow(&self, partial: bool) -> Result<bool, DiskError> {
        let met = self.gate.lock().clone();
        if met.open {
            return Ok(false);
        }
        for (disk, own) in self.all.iter().zip(met.generations) {
            disk.kept(disk.history.follow(own, partial))?;
        }
        Ok(true)
    }
}

impl disks::Disks for Disks {
    fn known(&self) -> Vec<Word> {
        let word = |disk: &Arc<Disk>| disk.history.side_as_kept().word(disk.place, disk.port, disk.size);
        self.all.iter().map(word).collect()
    }

    fn status(&self) -> Vec<Status> {
        self.all.iter().map(|disk| status(disk)).collect()
    }

    fn close(&self) {
        self.all.iter().filter(|disk| disk.history.is_partial()).for_each(|disk| disk.commit());
    }
}

impl disks::Sink for Disks {
    fn start(&self) -> Result<(), DiskError> {
        let listeners = std::mem::take(&mut *self.listeners.lock().unwrap_or_else(PoisonError::into_inner));
        let mut links = Vec::new();
        for (disk, listener) in self.all.iter().zip(listeners) {
            disk.layers.start().map_err(|error| disk.error(error))?;
            links.push(self.link(disk, listener)?);
        }
        let _ = self.links.set(links);
        Ok(())
    }

    fn meet(&self, agreed: &Agreed, from: Option<IpAddr>) {
        let generations = agreed.disks.iter().map(|disk| Generation::new(disk.own)).collect();
        let Agreed { session, epochs, .. } = *agreed;
        self.epochs.store(epochs, Ordering::Release);
        *self.gate.lock() = Met { session, from, generations, open: false };
    }

    fn replace(&self) -> Result<(), DiskError> {
        if self.follow(true)? {
            self.all.iter().for_each(|disk| disk.layers.release());
            self.open();
        }
        Ok(())
    }

    fn resume(&self) -> Result<(), DiskError> {
        if self.follow(false)? {
            self.open();
        }
        Ok(())
    }

    fn checkpoint(&self, epoch: u64) {
        let epoch = self.epochs.load(Ordering::Acquire) + epoch;
        self.all.iter().for_each(|disk| disk.layers.checkpoint(epoch));
    }

    fn level(&self) {
        for disk in &self.all {
            if disk.history.is_partial()
                && disk.layers.status().stable.is_some()
                && let Err(error) = disk.history.whole()
            {
                disk.complain(error.to_string());
            }
        }
    }

    fn fail(&self) {
        self.all.iter().for_each(|disk| disk.layers.fail());
        self.let_go();
    }

    fn promote(&self) {
        *self.gate.lock() = Met::default();
        self.links.get().into_iter().flatten().for_each(|link| link.handle().kill());
        for disk in &self.all {
            // Before anything of this guest's is in the image. If it cannot be kept the guest serves all the same.
            if let Err(error) = disk.history.promote() {
                disk.complain(error.to_string());
            }
            disk.layers.promote();
            // If this host dies before, no guest may begin on what is there.
            let inside = disk.clone();
            let commits = move || inside.commit();
            if let Err(error) = sandbox::spawn("disk commit", Kind::Worker, commits) {
                disk.complain(format!("nobody notes when all of it is in the image: {error}"));
            }
        }
    }
}

fn status(disk: &Disk) -> Status {
    let layers = disk.layers.status();
    let (errors, trouble) = {
        let trouble = disk.trouble();
        (trouble.times, trouble.last.clone())
    };
    Status {
        device: disk.name.clone(),
        phase: match layers.phase {
            layers::Phase::Open if disk.history.is_partial() => Phase::Syncing,
            layers::Phase::Open => Phase::Connecting,
            layers::Phase::Held => Phase::Following,
            layers::Phase::Promoted => Phase::Committing,
            layers::Phase::Plain => Phase::Promoted,
        },
        size: disk.size,
        generation: disk.history.side(false).own.map(|own| own.to_string()),
        missing: 0,
        unsent: 0,
        pending: layers.pending,
        moved: layers.written,
        same: 0,
        own: layers.active,
        left: layers.left,
        spilled: layers.spilled,
        waits: layers.waits,
        errors: errors + layers.refused + layers.base_errors + layers.spill_errors,
        trouble: layers.trouble.or(trouble),
    }
}
