//! The states of a connection, and what leads from one to the next.
//!
//! ```text
//!   none, closed ── StartServer ─► opening ── Listening ─► listening ── Accepted ─► serving ──┐
//!        ▲                            │ ListenFailed           ▲ └ AcceptFailed: pause        │ Accepted: refused
//!        └────────────────────────────┘                        └───────── Restart ────────────┘
//!
//!   none, closed ── StartClient ─► connecting ── Connected ─► connected
//!                                  │  ▲                           │
//!                     ConnectFailed│  │ Timer                     │
//!                                  ▼  │                           │
//!                                 waiting ◄──── Restart ──────────┘
//!                                    └─► none is left, or too many rounds: closed, Fail
//! ```
//!
//! Every event has an answer in every state. What is done about it is a list of [`Action`]s, in order; who does
//! them reports what came of them as further events.

use super::backoff::Dice;
use super::{Config, errno};
use rustix::io::Errno;
use std::net::IpAddr;
use std::time::Duration;
use thiserror::Error;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It was not started yet.
    None,
    /// It waits for the peer.
    InProgress,
    /// The peer is there.
    Established,
    /// It was ended, or given up.
    Closed,
}

impl Status {
    /// As the first of these connections said it.
    pub const fn code(self) -> i8 {
        match self {
            Self::None | Self::Closed => -1,
            Self::InProgress => 0,
            Self::Established => 1,
        }
    }
}

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one that connects.
    Client,
    /// The one that listens.
    Server,
}

/// Why a connection was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// This host cannot do what is needed.
    #[error("cannot connect: {0} on this host; are there too many open files, is memory short?")]
    Internal(Errno),
    /// No address is left that could answer later.
    #[error("cannot connect: {0}, on every address; is the address right, does a firewall forbid it?")]
    Connection(Errno),
    /// It was tried as often as it was to be.
    #[error(
        "nobody answered in {rounds} rounds, the last time: {last}; does the peer run, does a firewall let it through?"
    )]
    GaveUp {
        /// How often all addresses were tried.
        rounds: u32,
        /// What the last one said.
        last: Errno,
    },
}

impl Failure {
    /// As the first of these connections said it.
    pub const fn code(self) -> i8 {
        match self {
            Self::Internal(_) => -1,
            Self::Connection(_) | Self::GaveUp { .. } => -2,
        }
    }
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// This host is to connect.
    StartClient,
    /// This host is to listen.
    StartServer,
    /// The peer is lost: wait for it anew.
    Restart,
    /// Enough.
    Kill,
    /// The listener is there.
    Listening,
    /// It cannot be had. Whoever asked for it is told by who tried.
    ListenFailed,
    /// Someone came.
    Accepted(IpAddr),
    /// Someone did not.
    AcceptFailed(Errno),
    /// The socket of the attempt is connected.
    Connected,
    /// It is not.
    ConnectFailed(Errno),
    /// The time that was asked for last is over.
    Timer,
    /// Sockets or memory cannot be had.
    Internal(Errno),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bind and listen.
    Listen,
    /// Close the listener, and forget its pause.
    CloseListener,
    /// Accept nobody for so long; then [`Event::Timer`].
    Pause(Duration),
    /// Accept again.
    Resume,
    /// Make a socket and connect it; after so long, [`Event::Timer`].
    Connect {
        /// Which address.
        address: usize,
        /// For how long.
        within: Duration,
    },
    /// Close the socket of the attempt, forget the time.
    CloseAttempt,
    /// Wait so long; then [`Event::Timer`].
    Wait(Duration),
    /// Who was accepted, or is connected, is the peer: it is handed out.
    HandOut,
    /// Who was accepted is closed.
    Refuse,
    /// The peer's connection is ended.
    ClosePeer,
    /// It is given up: that is told.
    Fail(Failure),
    /// It was started already: that is the caller's answer.
    Busy,
}

/// What can be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sockets that were connected or tried to be, since the start.
    pub attempts: u64,
    /// How often all addresses were tried in vain, since the start.
    pub rounds: u32,
    /// How often a peer was there.
    pub established: u64,
    /// Who came while the peer was there.
    pub second: u64,
    /// Who came and is not allowed.
    pub strangers: u64,
    /// Accepts that failed.
    pub accept_failures: u64,
}

/// Where it was before it was asked to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    None,
    Closed,
}

/// The addresses that may answer yet, and which is next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tries {
    left: Vec<usize>,
    at: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Rest(Rest),
    Opening(Rest),
    Listening { paused: bool },
    Serving { paused: bool },
    Connecting(Tries),
    Waiting(Tries),
    Connected,
}

/// A connection, as far as it is no I/O.
#[derive(Clone, Debug)]
pub struct Machine {
    config: Config,
    state: State,
    dice: Dice,
    counts: Counts,
    last: Option<Errno>,
}

impl Machine {
    /// One that was not started.
    pub fn new(config: Config, seed: u64) -> Self {
        let dice = Dice::new(seed);
        Self { config, state: State::Rest(Rest::None), dice, counts: Counts::default(), last: None }
    }

    /// What it is to be like.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        match self.state {
            State::Rest(Rest::None) | State::Opening(Rest::None) => Status::None,
            State::Rest(Rest::Closed) | State::Opening(Rest::Closed) => Status::Closed,
            State::Listening { .. } | State::Connecting(_) | State::Waiting(_) => Status::InProgress,
            State::Serving { .. } | State::Connected => Status::Established,
        }
    }

    /// Which end it is, once it was started.
    pub fn side(&self) -> Option<Side> {
        match self.state {
            State::Rest(_) | State::Opening(_) => None,
            State::Listening { .. } | State::Serving { .. } => Some(Side::Server),
            State::Connecting(_) | State::Waiting(_) | State::Connected => Some(Side::Client),
        }
    }

    /// Whether nobody is accepted for a while.
    pub fn is_paused(&self) -> bool {
        matches!(self.state, State::Listening { paused: true } | State::Serving { paused: true })
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The last error of an attempt or of an accept.
    pub fn last(&self) -> Option<Errno> {
        self.last
    }

    /// What is to be done about it.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        // The state is moved out; every arm puts one back.
        let state = std::mem::replace(&mut self.state, State::Rest(Rest::Closed));
        let (next, actions) = match event {
            Event::StartClient | Event::StartServer | Event::Restart => self.asked(state, event),
            Event::Kill => (killed(&state), closing(&state)),
            Event::Internal(error) => self.broken(state, error),
            Event::Listening => match state {
                State::Opening(_) => (State::Listening { paused: false }, Vec::new()),
                // A listener that nobody asked for.
                State::Rest(_) | State::Connecting(_) | State::Waiting(_) | State::Connected => {
                    (state, vec![Action::CloseListener])
                }
                State::Listening { .. } | State::Serving { .. } => (state, Vec::new()),
            },
            Event::ListenFailed => match state {
                State::Opening(rest) => (State::Rest(rest), Vec::new()),
                other => (other, Vec::new()),
            },
            Event::Accepted(from) => self.accepted(state, from),
            Event::AcceptFailed(error) => self.accept_failed(state, error),
            Event::Connected => match state {
                State::Connecting(_) => self.hand_out(State::Connected),
                other => (other, vec![Action::Refuse]),
            },
            Event::ConnectFailed(error) => match state {
                State::Connecting(tries) => self.next(tries, error),
                other => (other, Vec::new()),
            },
            Event::Timer => self.time(state),
        };
        self.state = next;
        actions
    }

    fn asked(&mut self, state: State, event: Event) -> (State, Vec<Action>) {
        match (state, event) {
            (State::Rest(_), Event::StartClient) => self.first(),
            (State::Rest(rest), _) => {
                self.begin();
                (State::Opening(rest), vec![Action::Listen])
            }
            (State::Serving { paused }, Event::Restart) => {
                (State::Listening { paused }, vec![Action::ClosePeer])
            }
            (State::Connected, Event::Restart) => {
                // A server that has another peer closes at once: who comes back waits a moment.
                self.begin();
                let delay = self.config.backoff.delay(1, self.dice.roll());
                (State::Waiting(self.all()), vec![Action::ClosePeer, Action::Wait(delay)])
            }
            (
                state @ (State::Listening { .. } | State::Connecting(_) | State::Waiting(_)),
                Event::Restart,
            ) => (state, Vec::new()),
            (state, _) => (state, vec![Action::Busy]),
        }
    }

    /// What is counted for each start begins anew; what was refused is counted for good.
    fn begin(&mut self) {
        self.counts = Counts { attempts: 0, rounds: 0, ..self.counts };
        self.last = None;
    }

    fn first(&mut self) -> (State, Vec<Action>) {
        self.begin();
        self.attempt(self.all())
    }

    fn all(&self) -> Tries {
        Tries { left: (0..self.config.addresses.len()).collect(), at: 0 }
    }

    /// Tries the address that is next, if there is any.
    fn attempt(&mut self, tries: Tries) -> (State, Vec<Action>) {
        let Some(&address) = tries.left.get(tries.at) else {
            let failure = Failure::Connection(self.last.unwrap_or(Errno::DESTADDRREQ));
            return (State::Rest(Rest::Closed), vec![Action::Fail(failure)]);
        };
        self.counts.attempts += 1;
        (State::Connecting(tries), vec![Action::Connect { address, within: self.config.patience }])
    }

    /// What comes after an attempt that failed.
    fn next(&mut self, mut tries: Tries, error: Errno) -> (State, Vec<Action>) {
        self.last = Some(error);
        if errno::passes(error) {
            tries.at += 1;
        } else {
            // It is not tried again.
            tries.left.remove(tries.at);
        }
        let (state, rest) = if tries.left.is_empty() || tries.at < tries.left.len() {
            self.attempt(tries)
        } else {
            tries.at = 0;
            self.round(tries, error)
        };
        let mut actions = vec![Action::CloseAttempt];
        actions.extend(rest);
        (state, actions)
    }

    /// What comes after all addresses were tried.
    fn round(&mut self, tries: Tries, last: Errno) -> (State, Vec<Action>) {
        self.counts.rounds = self.counts.rounds.saturating_add(1);
        let rounds = self.counts.rounds;
        if self.config.rounds.is_some_and(|most| rounds >= most) {
            return (State::Rest(Rest::Closed), vec![Action::Fail(Failure::GaveUp { rounds, last })]);
        }
        let delay = self.config.backoff.delay(rounds, self.dice.roll());
        (State::Waiting(tries), vec![Action::Wait(delay)])
    }

    fn hand_out(&mut self, state: State) -> (State, Vec<Action>) {
        self.counts.established += 1;
        (state, vec![Action::HandOut])
    }

    fn accepted(&mut self, state: State, from: IpAddr) -> (State, Vec<Action>) {
        let allowed = self.config.allow.allows(from);
        match state {
            State::Listening { .. } | State::Serving { .. } if !allowed => {
                self.counts.strangers += 1;
                (state, vec![Action::Refuse])
            }
            State::Listening { paused } => self.hand_out(State::Serving { paused }),
            State::Serving { .. } => {
                self.counts.second += 1;
                (state, vec![Action::Refuse])
            }
            _ => (state, vec![Action::Refuse]),
        }
    }

    fn accept_failed(&mut self, state: State, error: Errno) -> (State, Vec<Action>) {
        let pause = !errno::of_the_accepted(error);
        let state = match state {
            State::Listening { .. } if pause => State::Listening { paused: true },
            State::Serving { .. } if pause => State::Serving { paused: true },
            State::Listening { .. } | State::Serving { .. } => state,
            other => return (other, Vec::new()),
        };
        self.counts.accept_failures += 1;
        self.last = Some(error);
        (state, if pause { vec![Action::Pause(self.config.pause)] } else { Vec::new() })
    }

    fn time(&mut self, state: State) -> (State, Vec<Action>) {
        match state {
            State::Listening { paused: true } => (State::Listening { paused: false }, vec![Action::Resume]),
            State::Serving { paused: true } => (State::Serving { paused: false }, vec![Action::Resume]),
            State::Connecting(tries) => self.next(tries, Errno::TIMEDOUT),
            State::Waiting(tries) => self.attempt(tries),
            other => (other, Vec::new()),
        }
    }

    fn broken(&mut self, state: State, error: Errno) -> (State, Vec<Action>) {
        let mut actions = closing(&state);
        if matches!(state, State::Rest(_)) {
            return (state, actions);
        }
        self.last = Some(error);
        actions.push(Action::Fail(Failure::Internal(error)));
        (State::Rest(Rest::Closed), actions)
    }
}

/// Nothing was started, nothing is closed: none stays none.
fn killed(state: &State) -> State {
    match state {
        State::Rest(rest) => State::Rest(*rest),
        _ => State::Rest(Rest::Closed),
    }
}

/// All that is open in a state.
fn closing(state: &State) -> Vec<Action> {
    match state {
        State::Rest(_) => Vec::new(),
        State::Opening(_) | State::Listening { .. } => vec![Action::CloseListener],
        State::Serving { .. } => vec![Action::ClosePeer, Action::CloseListener],
        State::Connecting(_) | State::Waiting(_) => vec![Action::CloseAttempt],
        State::Connected => vec![Action::ClosePeer],
    }
}
