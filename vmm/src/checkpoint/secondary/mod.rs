//! The secondary's side: its guest becomes what the primary's is, and is ready to go on in its place.
//!
//! ```text
//!   door ── a primary ──► ┌──────────────── the session's thread ──────────────┐
//!   heartbeat ─ lost ───► │ wait ──► sync ──► level, checkpoints … ──► lost    │
//!   QMP ─ no peer ──────► │  ▲ └──────── a primary comes (again) ◄───── │      │
//!                         │  └ nobody serves but who is told to         ▼      │
//!                         │                                         take over  │
//!                         └────────────────────────────────────────────────────┘
//! ```
//!
//! That the peer is lost is no reason to serve: it may be the network that is lost. Somebody has to say so.

mod session;

pub use session::{SessionError, Sink, Step};

use super::link::{Arrival, Door, Heartbeat, Lost, Rhythm, Seat, Stream, Terms};
use super::orders::{Order, Orders};
use super::primary::lose;
use super::protocol::Patience;
use super::protocol::hello::Agreed;
use super::protocol::secondary::Syncing;
use super::status::{Board, Phase, Reason};
use crate::sandbox::{Kind, Sandbox};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Between two looks at orders, while nobody is there.
const LOOK: Duration = Duration::from_millis(20);
/// How long a primary may take from its first connection to its second.
const HEART: Duration = Duration::from_secs(5);

/// What is done when the primary is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnLoss {
    /// Somebody who knows says what is to be done.
    Wait,
    /// It takes over, unless the primary is known to live: then somebody says it, too. Two may serve, if it is the
    /// network that was lost.
    TakeOver,
}

/// How a secondary receives its primary.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long what may take.
    pub patience: Patience,
    /// How often both say that they live.
    pub rhythm: Rhythm,
    /// What is done when it is lost.
    pub on_loss: OnLoss,
}

/// Why a session is over.
#[derive(Debug, Error)]
enum Over {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the primary did not connect its heartbeat")]
    Heartless,
    #[error("the heartbeat cannot be started: {0}")]
    Heart(#[from] io::Error),
}

/// How a session ends, if not for a failure.
enum Fate {
    /// Its guest is to serve.
    TakeOver(Option<SyncSender<()>>),
    /// The primary's guest has ended, so this one has, too.
    Ended,
}

#[derive(Debug)]
struct Secondary {
    settings: Settings,
    sink: Sink,
    /// Closed when it takes over.
    door: Option<Door>,
    arrivals: Receiver<Arrival>,
    /// A heartbeat that came before its session.
    early: Option<(u64, Stream)>,
    /// That of the session.
    heart: Option<Heartbeat>,
    orders: Orders,
    board: Arc<Board>,
    told: super::Told,
    /// Ends the guest.
    quit: Quit,
    session: u64,
}

/// Ends a guest that is not needed any more.
pub struct Quit(Box<dyn Fn() + Send>);

impl Quit {
    /// By calling this.
    pub fn new(quit: impl Fn() + Send + 'static) -> Self {
        Self(Box::new(quit))
    }
}

impl std::fmt::Debug for Quit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Quit")
    }
}

/// What a secondary is made of.
#[derive(Debug)]
pub struct Parts {
    /// How it receives its primary.
    pub settings: Settings,
    /// Its guest.
    pub sink: Sink,
    /// Where it waits.
    pub listener: TcpListener,
    /// Whom it lets in.
    pub terms: Terms,
    /// What it is told.
    pub orders: Orders,
    /// What it shows.
    pub board: Arc<Board>,
    /// Who hears of what happens.
    pub told: super::Told,
    /// Ends the guest.
    pub quit: Quit,
}

/// Starts it.
pub fn start(parts: Parts, sandbox: &Sandbox) -> io::Result<JoinHandle<()>> {
    sandbox.spawn("checkpoints", Kind::Peer, move || {
        let Parts { settings, sink, listener, terms, orders, board, told, quit } = parts;
        // Its threads enter what this one has entered.
        match Door::open(listener, terms) {
            Ok((door, arrivals)) => {
                if let Err(error) = sink.disks.start() {
                    tracing::error!("this secondary cannot work: {error}");
                    return (quit.0)();
                }
                let door = Some(door);
                let (early, heart, session) = (None, None, 0);
                Secondary {
                    settings,
                    sink,
                    door,
                    arrivals,
                    early,
                    heart,
                    orders,
                    board,
                    told,
                    quit,
                    session,
                }
                .run();
            }
            Err(error) => {
                tracing::error!("no primary can come in: {error}");
                (quit.0)();
            }
        }
    })
}

impl Secondary {
    fn run(&mut self) {
        loop {
            let fate = match self.wait() {
                Ok((stream, agreed, seat)) => self.follow(stream, &agreed, seat),
                Err(fate) => Some(fate),
            };
            match fate {
                Some(Fate::Ended) => {
                    tracing::info!("this guest ends");
                    return (self.quit.0)();
                }
                Some(Fate::TakeOver(answer)) if self.take_over(answer.as_ref()) => return,
                Some(Fate::TakeOver(_)) | None => {}
            }
        }
    }

    /// Waits for a primary, or for somebody who says that there is none.
    fn wait(&mut self) -> Result<(Stream, Agreed, Seat), Fate> {
        loop {
            match self.arrivals.recv_timeout(LOOK) {
                Ok(Arrival::Main { stream, agreed, seat }) => return Ok((stream, agreed, seat)),
                Ok(Arrival::Heartbeat { stream, session }) => self.early = Some((session, stream)),
                Err(RecvTimeoutError::Timeout) => {}
                // The door has died of a bug: what is here can still take over.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
            }
            self.count_refused();
            while let Some(order) = self.orders.now() {
                match order {
                    Order::NoPeer(answer) => return Err(Fate::TakeOver(Some(answer))),
                    Order::Ended => return Err(Fate::Ended),
                    Order::Checkpoint { .. } | Order::Delay(_) | Order::Lost { .. } => {}
                }
            }
        }
    }

    fn count_refused(&self) {
        let refused = self.door.as_ref().map_or(0, Door::refused);
        self.board.write(|status| status.refused = refused);
    }

    /// A session, and what is to be known of its end.
    fn follow(&mut self, stream: Stream, agreed: &Agreed, seat: Seat) -> Option<Fate> {
        self.session += 1;
        let peer = stream.peer().map(|peer| peer.to_string());
        tracing::info!(peer, "a primary is there");
        let of = self.sink.of();
        self.board.write(|status| {
            status.phase = Phase::Syncing;
            status.peer = peer;
            status.sessions += 1;
            status.error = None;
            status.sync = super::status::Sync { of, ..super::status::Sync::default() };
        });
        self.orders.interrupts(stream.hangup());
        self.sink.disks.meet(agreed, stream.peer().map(|peer| peer.ip()));
        let over = self.session(stream, agreed);
        self.orders.uninterruptible();
        let abandoned = self.sink.abandon();
        if over.is_err() {
            // A primary whose guest has ended says so with its heartbeat, if it could not between two messages.
            let Rhythm { interval, timeout } = self.settings.rhythm;
            self.orders.settle(self.session, Instant::now() + 2 * timeout + 4 * interval);
        }
        let ending = self.orders.ending();
        let takes_over = matches!(ending, Some(Order::NoPeer(_))) && self.sink.level();
        // The primary is told, if it is there.
        if let Some(heart) = self.heart.take() {
            if takes_over { heart.alone() } else { heart.part() }
        }
        drop(seat);
        match ending {
            Some(Order::NoPeer(answer)) => return Some(Fate::TakeOver(Some(answer))),
            Some(_) => return Some(Fate::Ended),
            None => {}
        }
        let lost = self.orders.lost(self.session);
        // A primary that lives, or whose heart beats on, is not taken over from without a word: a timer cannot know.
        let dead = lost.as_ref().is_some_and(|lost| !lost.lives());
        let text = match (over, lost) {
            (Ok(()), _) | (_, Some(Lost::Farewell)) => {
                tracing::info!("the primary's guest has ended, and this one with it");
                return Some(Fate::Ended);
            }
            // What the heartbeat knows says more than a connection that was hung up for it.
            (Err(_), Some(lost)) => lost.to_string(),
            (Err(over), None) => over.to_string(),
        };
        let level = self.sink.level();
        let can = if level {
            "this guest can take over"
        } else {
            "this guest cannot take over: it has no state yet"
        };
        tracing::warn!("the primary is lost: {text}; {can}");
        if let Err(error) = abandoned {
            tracing::error!(%error, "the guest stands");
        }
        self.board.write(|status| {
            status.phase = if level { Phase::Lost } else { Phase::Connecting };
            status.reason = Reason::Error;
            status.error = Some(text);
        });
        self.told.exit(Reason::Error);
        (level && dead && self.settings.on_loss == OnLoss::TakeOver).then_some(Fate::TakeOver(None))
    }

    /// Until the primary's guest has ended.
    fn session(&mut self, stream: Stream, agreed: &Agreed) -> Result<(), Over> {
        let heart = self.other(agreed.session).ok_or(Over::Heartless)?;
        let (post, hangup, number) = (self.orders.post(), stream.hangup(), self.session);
        let heart =
            Heartbeat::start(heart, self.settings.rhythm, move |lost| lose(&post, &hangup, number, lost))?;
        let missed = heart.beats().clone();
        self.heart = Some(heart);
        let over = self.checkpoints(stream, agreed);
        self.board.write(|status| status.missed_beats += missed.missed());
        over
    }

    /// The other connection of this session; it may have come first.
    fn other(&mut self, of: u64) -> Option<Stream> {
        if let Some((session, stream)) = self.early.take()
            && session == of
        {
            return Some(stream);
        }
        let until = Instant::now() + HEART;
        // Who gives the primary up does not wait for it.
        while Instant::now() < until && !self.orders.is_ending() {
            match self.arrivals.recv_timeout(LOOK) {
                Ok(Arrival::Heartbeat { stream, session }) if session == of => return Some(stream),
                // Of a session that is over; a second primary is not let in.
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        None
    }

    fn checkpoints(&mut self, stream: Stream, agreed: &Agreed) -> Result<(), Over> {
        let Step::Level(mut link) = self.sink.sync(
            Syncing::new(stream, agreed.limits, self.settings.patience),
            agreed.session,
            agreed.run,
        )?
        else {
            return Ok(());
        };
        loop {
            let first = !self.sink.level();
            link = match self.sink.next(link)? {
                Step::Level(link) => link,
                Step::Ended => return Ok(()),
            };
            if first && self.sink.level() {
                tracing::info!("this guest is level with the primary, and can take over");
            }
            self.count_refused();
        }
    }

    /// True if this guest serves now.
    fn take_over(&mut self, answer: Option<&SyncSender<()>>) -> bool {
        if !self.sink.level() {
            let text = "this guest has no state to go on from: no checkpoint has been completed".to_owned();
            tracing::warn!("it cannot take over: {text}");
            self.board.write(|status| status.error = Some(text));
            return false;
        }
        // No primary is let in any more.
        self.door = None;
        if let Err(error) = self.sink.take_over() {
            tracing::error!(%error, "this guest cannot take over");
            self.board.write(|status| status.error = Some(error.to_string()));
            return false;
        }
        tracing::info!("this guest has taken over");
        self.board.write(|status| {
            status.phase = Phase::Alone;
            status.reason = Reason::Request;
        });
        self.told.exit(Reason::Request);
        if let Some(answer) = answer {
            let _ = answer.send(());
        }
        true
    }
}
