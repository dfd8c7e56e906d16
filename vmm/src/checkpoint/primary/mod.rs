//! The primary's side: its guest runs, protected as far as that goes.
//!
//! ```text
//!   QMP, comparator ── orders ──► ┌───────────────────── the session's thread ───────────────────────┐
//!   heartbeat ─ lost ───────────► │ meet ──► sync ──► level, checkpoints … ──► lost ──► meet … (again) │
//!   machine ─ ended ────────────► │   ▲ not there: later                └► alone, or the guest's end   │
//!                                 └─────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The guest runs whether there is a secondary or not; whether its output is held without one is not decided here.

mod cut;
mod session;

pub use cut::{Copier, Cut, CutError};
pub use session::{Parts, SessionError, Source};

use super::disks::DiskError;
use super::link::{self, Hangup, Heartbeat, Lost, Rhythm, Stream, Tls};
use super::orders::{Order, Orders, Post};
use super::protocol::Patience;
use super::protocol::hello::{Agreed, Hello, Role as Connection};
use super::protocol::merge::Merge;
use super::protocol::primary::{Level, Syncing};
use super::status::{Board, Cause, Phase, Reason};
use super::turns::{Turn, Turns};
use crate::config::Peer;
use crate::sandbox::{Kind, Sandbox};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a secondary that is not there is left alone: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// How long one is left alone whose disks are refused: an operator has to do something, and it needs a moment to see
/// that nothing comes of the session.
const REFUSED: Duration = Duration::from_secs(10);
/// How long meeting may take.
const MEETING: Duration = Duration::from_secs(5);
/// Between two times that pages are sent ahead.
const AHEAD: Duration = Duration::from_millis(50);
/// How long a guest that cannot be stopped any more may take to end.
const ENDING: Duration = Duration::from_secs(1);
/// Between two looks how many wait.
const LOOK: Duration = Duration::from_millis(10);

/// When pages are sent before their checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ahead {
    /// Never.
    Off,
    /// While less than a tenth of the time goes into it.
    Auto,
}

/// How a primary finds its secondary, and what it says to it.
#[derive(Debug)]
pub struct Settings {
    /// Where it is.
    pub peer: Peer,
    /// What that is, looked up.
    pub addresses: Vec<SocketAddr>,
    /// How both prove who they are.
    pub tls: Option<Tls>,
    /// What it says first; the session's number is filled in.
    pub hello: Hello,
    /// How long what may take.
    pub patience: Patience,
    /// How often both say that they live.
    pub rhythm: Rhythm,
    /// The time between two checkpoints that nothing else asks for.
    pub delay: Duration,
    /// Whether pages are sent ahead.
    pub ahead: Ahead,
    /// So many pages that wait for a checkpoint, here or at the secondary, are reason for one. It bounds what the
    /// secondary needs besides the guest's memory.
    pub most: u64,
    /// Whether it looks for a secondary again when it has lost one.
    pub again: bool,
    /// Whether a session may begin.
    pub turns: Turns,
    /// What it waits for first: a guest that is restored is there then. If that ends without a word there is none.
    pub after: Option<Receiver<()>>,
}

/// Why a session is over.
#[derive(Debug, Error)]
enum Over {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// How a session ends, if not for a failure.
enum Fate {
    /// Somebody says that there is no secondary any more.
    Alone(SyncSender<()>),
    /// The guest has ended.
    Ended,
}

/// The thread's own.
#[derive(Debug)]
struct Primary {
    settings: Settings,
    source: Source,
    orders: Orders,
    board: Arc<Board>,
    told: super::Told,
    session: u64,
}

/// Starts it.
pub fn start(
    settings: Settings,
    source: Source,
    orders: Orders,
    board: Arc<Board>,
    told: super::Told,
    sandbox: &Sandbox,
) -> io::Result<JoinHandle<()>> {
    let mut primary = Primary { settings, source, orders, board, told, session: 0 };
    sandbox.spawn("checkpoints", Kind::Peer, move || primary.run())
}

impl Primary {
    fn run(&mut self) {
        if self.settings.after.take().is_some_and(|after| after.recv().is_err()) {
            return;
        }
        let mut pause = RETRY[0];
        let mut said = String::new();
        loop {
            let fate = match self.meet() {
                Ok((stream, agreed, heart, turn)) => {
                    said.clear();
                    turn.met();
                    let fate = self.protect(stream, &agreed, heart);
                    drop(turn);
                    if self.board.read().epoch > 0 {
                        // It was a secondary: it may be back soon.
                        pause = RETRY[0];
                    }
                    fate
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != said {
                        tracing::warn!("the guest runs without a secondary: {text}; it is looked for again");
                        said = text;
                    }
                    self.board.write(|status| status.error = Some(said.clone()));
                    if matches!(error, Meeting::Disk(_)) {
                        pause = REFUSED;
                    }
                    None
                }
            };
            if let Some(fate) = fate.or_else(|| self.rest(pause)) {
                return self.end(fate);
            }
            pause = (2 * pause).min(RETRY[1]);
        }
    }

    /// Connects twice: for checkpoints, and for signs of life.
    fn meet(&mut self) -> Result<(Stream, Agreed, Heartbeat, Turn), Meeting> {
        let turn = self.settings.turns.meet().ok_or(Meeting::Saving)?;
        let Settings { peer, addresses, tls, hello, rhythm, .. } = &self.settings;
        self.session += 1;
        let number = self.session;
        // Two primaries must not take each other's session for their own.
        let session = super::unique();
        let disks = &self.source.disks;
        let hello = Hello { session, epochs: disks.epochs(), disks: disks.known(), ..hello.clone() };
        let main = Hello { role: Connection::Main, ..hello.clone() };
        let (stream, agreed) = link::dial(peer, addresses, tls.as_ref(), &main, MEETING)?;
        disks.meet(&agreed, stream.peer().map(|peer| peer.ip()))?;
        let beat = Hello { role: Connection::Heartbeat, ..hello };
        let (heart, _) = link::dial(peer, addresses, tls.as_ref(), &beat, MEETING)?;
        let (post, hangup) = (self.orders.post(), stream.hangup());
        self.orders.interrupts(hangup.clone());
        let disks = disks.clone();
        let heart = Heartbeat::start(heart, *rhythm, move |lost| {
            lose(&post, &hangup, number, lost);
            disks.hang_up();
        })?;
        Ok((stream, agreed, heart, turn))
    }

    /// A session, and what is to be known of its end.
    fn protect(&mut self, stream: Stream, agreed: &Agreed, heart: Heartbeat) -> Option<Fate> {
        let peer = stream.peer().map(|peer| peer.to_string());
        tracing::info!(peer, "the secondary is there");
        self.board.write(|status| {
            status.phase = Phase::Syncing;
            status.peer = peer;
            status.sessions += 1;
            status.error = None;
            status.sync = super::status::Sync::default();
        });
        let missed = heart.beats().clone();
        let over = self.session(Syncing::new(stream, agreed.limits, self.settings.patience), agreed);
        self.source.disks.end();
        self.orders.uninterruptible();
        self.board.write(|status| status.missed_beats += missed.missed());
        match over {
            Ok(fate) => {
                match fate {
                    Fate::Ended => heart.farewell(),
                    Fate::Alone(_) => heart.alone(),
                }
                Some(fate)
            }
            Err(Over::Session(SessionError::Guest(_))) => {
                // Its end is its secondary's only if it is in order; a host that fails is what that one is for.
                if self.orders.ends_within(ENDING) {
                    heart.farewell();
                }
                Some(Fate::Ended)
            }
            Err(over) => {
                if !matches!(over, Over::Lost(_)) {
                    // Why is the heart's to say, if the other side has said it.
                    self.orders.settle(self.session, Instant::now() + 2 * self.settings.rhythm.interval);
                }
                // Somebody may have hung up, so that this is obeyed.
                match self.orders.ending() {
                    Some(Order::NoPeer(answer)) => {
                        heart.alone();
                        return Some(Fate::Alone(answer));
                    }
                    Some(_) => {
                        heart.farewell();
                        return Some(Fate::Ended);
                    }
                    None => heart.part(),
                }
                let lost = self.orders.lost(self.session);
                // What the heartbeat knows says more than a connection that was hung up for it.
                let text = lost.map_or_else(|| over.to_string(), |lost| lost.to_string());
                tracing::warn!("the secondary is lost: {text}");
                self.board.write(|status| {
                    status.phase = Phase::Connecting;
                    status.reason = Reason::Error;
                    status.error = Some(text);
                });
                self.told.exit(Reason::Error);
                // If it is the link that failed the secondary may be back, and hold what it had: writes are still
                // noted, which costs the guest one fault for each page.
                let link = matches!(
                    over,
                    Over::Lost(_)
                        | Over::Session(
                            SessionError::Protocol(_) | SessionError::Disk(_) | SessionError::Behind(_)
                        )
                );
                if !link || !self.settings.again {
                    self.source.alone();
                }
                None
            }
        }
    }

    fn session(&mut self, link: Syncing<Stream>, agreed: &Agreed) -> Result<Fate, Over> {
        let mut level = self.source.begin(link, agreed.session, agreed.held)?;
        let mut merge = Merge::new(level.epoch());
        merge.trigger(Cause::Start, level.epoch());
        let mut due = Instant::now() + self.settings.delay;
        let (mut look, mut ahead) = (Instant::now() + LOOK, Instant::now() + AHEAD);
        loop {
            while merge.wanted()
                && self.source.disks.ready().map_err(SessionError::from)?
                && let Some(causes) = merge.begin()
            {
                let cause = causes.iter().next().unwrap_or(Cause::Operator);
                let first = level.epoch() == 1;
                level = self.source.checkpoint(level, cause)?;
                let causes = merge.done();
                self.board.write(|status| {
                    causes.iter().for_each(|cause| *status.causes.entry(cause).or_default() += 1);
                });
                if first {
                    tracing::info!("the guest is protected: the secondary can take over");
                }
                due = Instant::now() + self.settings.delay;
                (look, ahead) = (Instant::now() + LOOK, Instant::now() + AHEAD);
                // Checkpoints follow each other so closely that orders would wait for ever.
                while let Some(order) = self.orders.now() {
                    if let Some(fate) = self.obey(order, &mut merge, &mut due)? {
                        return Ok(leave(level, fate));
                    }
                }
            }
            match self.orders.until(due.min(look)) {
                Some(order) => {
                    if let Some(fate) = self.obey(order, &mut merge, &mut due)? {
                        return Ok(leave(level, fate));
                    }
                }
                None if Instant::now() >= due => {
                    merge.trigger(Cause::Timer, level.epoch());
                    // The disks may not be ready for it.
                    due = Instant::now() + LOOK;
                }
                None => {
                    // That they are lost is noticed here.
                    self.source.disks.ready().map_err(SessionError::from)?;
                    if self.source.disks.heavy() {
                        merge.trigger(Cause::Disk, level.epoch());
                    }
                    let begun = Instant::now();
                    let waiting = self.source.waiting()?;
                    // A fiftieth of the time at most.
                    look = Instant::now() + LOOK.max(50 * begun.elapsed());
                    if waiting > self.settings.most {
                        merge.trigger(Cause::Memory, level.epoch());
                    } else if self.settings.ahead == Ahead::Auto && Instant::now() >= ahead {
                        let took = self.source.ahead(&mut level)?;
                        ahead = Instant::now() + AHEAD.max(9 * took);
                    }
                }
            }
        }
    }

    /// Does what somebody wants of a session. Gives its end, if that is it.
    fn obey(&mut self, order: Order, merge: &mut Merge, due: &mut Instant) -> Result<Option<Fate>, Over> {
        match order {
            Order::Checkpoint { cause, epoch } => {
                merge.trigger(cause, epoch);
            }
            Order::Delay(delay) => {
                self.set_delay(delay);
                *due = Instant::now() + delay;
                merge.trigger(Cause::Operator, merge.epoch());
            }
            Order::Lost { session, lost } if session == self.session => return Err(lost.into()),
            // Of a session before.
            Order::Lost { .. } => {}
            Order::NoPeer(answer) => return Ok(Some(Fate::Alone(answer))),
            Order::Ended => return Ok(Some(Fate::Ended)),
        }
        Ok(None)
    }

    /// Between sessions.
    fn rest(&mut self, pause: Duration) -> Option<Fate> {
        let again = Instant::now() + pause;
        loop {
            let order = if self.settings.again { self.orders.until(again)? } else { self.orders.ever()? };
            match order {
                Order::Delay(delay) => self.set_delay(delay),
                Order::NoPeer(answer) => return Some(Fate::Alone(answer)),
                Order::Ended => return Some(Fate::Ended),
                // There is nobody to make level.
                Order::Checkpoint { .. } | Order::Lost { .. } => {}
            }
        }
    }

    fn set_delay(&mut self, delay: Duration) {
        self.settings.delay = delay;
        self.board.write(|status| status.delay = delay);
    }

    fn end(&mut self, fate: Fate) {
        self.source.alone();
        if let Fate::Alone(answer) = fate {
            tracing::info!("the guest goes on alone");
            self.board.write(|status| {
                status.phase = Phase::Alone;
                status.reason = Reason::Request;
            });
            self.source.unhold();
            self.told.exit(Reason::Request);
            let _ = answer.send(());
        }
    }
}

/// Who connects, and cannot.
#[derive(Debug, Error)]
enum Meeting {
    #[error(transparent)]
    Greet(#[from] link::GreetError),
    #[error("the heartbeat cannot be started: {0}")]
    Heart(#[from] io::Error),
    #[error("the guest is being saved")]
    Saving,
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A session that is ended in order says so, if it can.
fn leave(level: Level<Stream>, fate: Fate) -> Fate {
    if matches!(fate, Fate::Ended)
        && let Err(error) = level.ended()
    {
        tracing::debug!(%error, "the secondary was not told that the guest has ended");
    }
    fate
}

/// The heart has stopped.
pub(super) fn lose(post: &Post, hangup: &Hangup, session: u64, lost: Lost) {
    post.send(Order::Lost { session, lost });
    // Whoever waits for a message waits no more.
    hangup.hang_up();
}
