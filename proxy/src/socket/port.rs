//! One of the four sockets: who waits for whom, and whether somebody is there.
//!
//! ```text
//!   listening:   Down ──────────── accept ──────────► Up ── EOF, error, out of step ──► Down
//!                                                     └ a second peer is accepted and closed
//!   connecting:  Down ─ retry ─► Connecting ─ done ─► Up ──────────────────────────────► Down
//!                 ▲─ back-off ──────┘ failed
//! ```
//!
//! A peer that has hung up but left bytes to be read keeps its place until they are read; who comes
//! meanwhile waits in the listener's queue.

use super::endpoint::{Address, Attempt, Connector, Endpoint, Listener, OpenError, finish};
use super::stats::PortStats;
use crate::engine::Nanos;
use crate::quiet::{Quiet, quietly};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Which of the four it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The primary's output comes in here.
    PrimaryIn,
    /// The secondary's output comes in here.
    SecondaryIn,
    /// What is released goes out here.
    Outdev,
    /// Checkpoints are asked for here.
    NotifyDev,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PrimaryIn => "primary-in",
            Self::SecondaryIn => "secondary-in",
            Self::Outdev => "outdev",
            Self::NotifyDev => "notify-dev",
        })
    }
}

#[derive(Debug)]
enum Source {
    Listen(Listener),
    Connect(Connector, Address),
}

#[derive(Debug)]
enum Link {
    /// Nobody is there; when we connect, not to be tried before this.
    Down(Nanos),
    Connecting(OwnedFd),
    Up(OwnedFd),
}

const BACK_OFF_MIN: Nanos = Nanos::from_millis(100);
const BACK_OFF_MAX: Nanos = Nanos::from_millis(5000);

/// How long no peer is accepted after the system refused to make one.
const ACCEPT_PAUSE: Nanos = Nanos::from_millis(1000);

/// A socket and its peer, if there is one.
#[derive(Debug)]
pub struct Port {
    role: Role,
    unix: bool,
    source: Source,
    link: Link,
    /// The peer hung up: it is replaced once what it left is read.
    hung_up: bool,
    back_off: Nanos,
    accept_from: Nanos,
    stats: PortStats,
    arrivals: Quiet,
    departures: Quiet,
    failures: Quiet,
    refusals: Quiet,
}

impl Port {
    /// Starts to listen, or gets ready to connect.
    pub fn open(role: Role, endpoint: &Endpoint) -> Result<Self, OpenError> {
        let source = if endpoint.server {
            Source::Listen(Listener::open(&endpoint.address)?)
        } else {
            Source::Connect(Connector::open(&endpoint.address)?, endpoint.address.clone())
        };
        Ok(Self {
            role,
            unix: matches!(endpoint.address, Address::Unix(_)),
            source,
            link: Link::Down(Nanos::default()),
            hung_up: false,
            back_off: BACK_OFF_MIN,
            accept_from: Nanos::default(),
            stats: PortStats::default(),
            arrivals: Quiet::default(),
            departures: Quiet::default(),
            failures: Quiet::default(),
            refusals: Quiet::default(),
        })
    }

    /// What it does now, for the start-up line.
    pub fn describe(&self) -> String {
        match &self.source {
            Source::Listen(listener) => {
                format!("{}: listens on {} and waits for a peer", self.role, listener.address())
            }
            Source::Connect(_, address) => format!("{}: connects to {address} and waits for it", self.role),
        }
    }

    /// The peer.
    pub fn peer(&self) -> Option<&OwnedFd> {
        match &self.link {
            Link::Up(peer) => Some(peer),
            Link::Down(_) | Link::Connecting(_) => None,
        }
    }

    /// What `poll` has to be asked for to learn that the peer is gone, besides what it always says.
    /// A unix peer that only stops writing is still there; of a TCP peer that cannot be told.
    pub fn hang_up(&self) -> PollFlags {
        if self.unix { PollFlags::empty() } else { PollFlags::RDHUP }
    }

    /// The counters.
    pub fn stats(&self) -> PortStats {
        self.stats
    }

    /// What to wait for on account of a new peer: a listener, or a connection under way.
    pub fn newcomer(&self, now: Nanos) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match (&self.source, &self.link) {
            (Source::Listen(listener), _) => {
                let waits = !self.hung_up && self.accept_from <= now;
                waits.then(|| (listener.as_fd(), PollFlags::IN))
            }
            (Source::Connect(..), Link::Connecting(socket)) => Some((socket.as_fd(), PollFlags::OUT)),
            (Source::Connect(..), _) => None,
        }
    }

    /// When [`advance`](Self::advance) has something to do even if nothing happens.
    pub fn deadline(&self, now: Nanos) -> Option<Nanos> {
        match (&self.source, &self.link) {
            (Source::Connect(..), Link::Down(retry)) => Some(*retry),
            (Source::Listen(_), _) => (self.accept_from > now).then_some(self.accept_from),
            _ => None,
        }
    }

    /// Gets a peer if one is to be had; `ready` says whether [`newcomer`](Self::newcomer) is.
    /// Returns whether there is a new one.
    pub fn advance(&mut self, ready: bool, now: Nanos) -> bool {
        match &mut self.source {
            Source::Listen(_) => ready && self.accept(now),
            Source::Connect(connector, _) => match std::mem::replace(&mut self.link, Link::Down(now)) {
                Link::Down(retry) if retry <= now => match connector.attempt() {
                    Ok(Attempt::Done(peer)) => self.up(peer, now),
                    Ok(Attempt::UnderWay(socket)) => {
                        self.link = Link::Connecting(socket);
                        false
                    }
                    Err(error) => self.retry(error, now),
                },
                Link::Connecting(socket) if ready => match finish(&socket) {
                    Ok(()) => self.up(socket, now),
                    Err(error) => self.retry(error, now),
                },
                other => {
                    self.link = other;
                    false
                }
            },
        }
    }

    fn up(&mut self, peer: OwnedFd, now: Nanos) -> bool {
        let role = self.role;
        quietly!(self.arrivals, now, info, "{role}: a peer is connected");
        self.link = Link::Up(peer);
        self.hung_up = false;
        self.back_off = BACK_OFF_MIN;
        self.stats.connected += 1;
        true
    }

    fn retry(&mut self, error: Errno, now: Nanos) -> bool {
        let wait = self.back_off.0 / 1_000_000;
        if let Source::Connect(_, address) = &self.source {
            let role = self.role;
            quietly!(
                self.failures,
                now,
                warn,
                "{role}: cannot connect to {address}: {error}; next try in {wait} ms"
            );
        }
        self.link = Link::Down(now.plus(self.back_off));
        self.back_off = Nanos(self.back_off.0 * 2).min(BACK_OFF_MAX);
        false
    }

    fn accept(&mut self, now: Nanos) -> bool {
        let Source::Listen(listener) = &self.source else { return false };
        if self.peer().is_some_and(hung_up) {
            self.hung_up = true;
            return false;
        }
        let role = self.role;
        match listener.accept() {
            Ok(None) => false,
            Ok(Some(newcomer)) if self.peer().is_some() => {
                drop(newcomer);
                self.stats.refused += 1;
                quietly!(
                    self.refusals,
                    now,
                    warn,
                    "{role}: a second peer is refused: the first is still there"
                );
                false
            }
            Ok(Some(peer)) => self.up(peer, now),
            Err(error) => {
                self.accept_from = now.plus(ACCEPT_PAUSE);
                quietly!(self.failures, now, warn, "{role}: cannot accept a peer: {error}; next try in 1 s");
                false
            }
        }
    }

    /// The peer is gone, or is sent away.
    pub fn down(&mut self, why: &dyn fmt::Display, now: Nanos) {
        self.link = Link::Down(now.plus(self.back_off));
        self.hung_up = false;
        self.stats.disconnected += 1;
        let role = self.role;
        quietly!(self.departures, now, warn, "{role}: the peer is disconnected: {why}");
    }
}

/// Whether the other end is closed, whatever is left to be read.
fn hung_up(peer: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(peer, PollFlags::RDHUP)];
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::RDHUP;
    poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().intersects(gone)
}
