//! The comparer on real sockets: one thread, one `poll` for everything, no frame copied.
//!
//! ```text
//!   turn:  poll ─► signals ─► notify ─► read primary-in ─► read secondary-in ─► newcomers ─► write
//!           ▲ waits only if there is nothing to read that is known of                      │
//!           └──────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Under load a turn is two large reads and one gathering write, however many frames that is.
//! `poll` over nine descriptors needs no registration and no readiness kept in step with the
//! kernel's, which for so few is less work than epoll or an async runtime makes.
//!
//! Notify comes before the inputs: a checkpoint that is done covers what was read before, never
//! what is read after.

use super::comparer::Comparer;
use super::endpoint::{Endpoint, OpenError};
use super::port::{Port, Role};
use super::stats::Report;
use crate::engine::{Config, Nanos, Side};
use crate::quiet::{Quiet, quietly};
use crate::signals::Signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use std::io::{self, Write as _};
use std::time::Instant;
use thiserror::Error;

/// What a comparer on sockets needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the primary's output comes in.
    pub primary_in: Endpoint,
    /// Where the secondary's output comes in.
    pub secondary_in: Endpoint,
    /// Where released output goes.
    pub outdev: Endpoint,
    /// Where checkpoints are asked for.
    pub notify_dev: Option<Endpoint>,
    /// Whether frames have vnet headers.
    pub vnet: bool,
    /// The longest time between two looks at the clock's work.
    pub scan_cycle: Nanos,
    /// How many released bytes may wait for outdev before the inputs are not read any more.
    pub max_output: usize,
    /// How long to look again before sleeping, after something moved. Waking a thread up costs about
    /// as much, and the peer's next bytes are likely to be near: without it a round trip takes 66 µs
    /// instead of 19, and a window of 64 small frames moves 2.8 million a second instead of 7.1.
    pub busy_poll: Nanos,
    /// The engine's settings.
    pub engine: Config,
}

/// A comparer that cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A socket cannot be opened.
    #[error("{role}: {error}")]
    Open {
        /// Which one.
        role: Role,
        /// Why not.
        error: OpenError,
    },
    /// Signals cannot be received.
    #[error("cannot set up signal handling: {0}; is the limit of open files too low (ulimit -n)?")]
    Signals(io::Error),
}

/// A comparer that cannot go on.
#[derive(Debug, Error)]
#[error("cannot wait for sockets: {0}; nothing that is held was released")]
pub struct RunError(Errno);

/// Output that is worth a write of its own while there is more to read.
const WRITE_AT: usize = 64 << 10;

/// Turns without a `poll` while there is more to read.
const POLL_EVERY: u32 = 8;

/// Writes of one turn; a peer that takes all at once must not keep the inputs waiting.
const WRITES: usize = 4;

/// The peer has closed its end.
const GONE: PollFlags = PollFlags::HUP.union(PollFlags::ERR).union(PollFlags::RDHUP);

const SIDES: [Side; 2] = [Side::Primary, Side::Secondary];
const PRIMARY: usize = 0;
const SECONDARY: usize = 1;
const OUT: usize = 2;
const NOTIFY: usize = 3;

/// What `poll` said.
#[derive(Debug)]
struct Ready {
    signals: bool,
    newcomer: [bool; 4],
    peer: [PollFlags; 4],
}

impl Ready {
    const NOTHING: Self = Self { signals: false, newcomer: [false; 4], peer: [PollFlags::empty(); 4] };

    fn peer(&self, index: usize) -> bool {
        !self.peer[index].is_empty()
    }
}

/// The comparer and its sockets.
#[derive(Debug)]
pub struct Server {
    comparer: Comparer,
    /// In the order of the constants above; notify-dev may be missing.
    ports: Vec<Port>,
    signals: Signals,
    origin: Instant,
    now: Nanos,
    /// How long the comparer's clock was stopped, because outdev was stalled and nothing was read.
    stopped: Nanos,
    busy_poll: Nanos,
    scan_cycle: Nanos,
    scan_at: Nanos,
    /// Whether there may be more to read on an input.
    readable: [bool; 2],
    /// Outdev took less than it was given.
    blocked: bool,
    /// Turns since the last `poll`.
    turns: u32,
    /// When bytes came or went last.
    moved: Nanos,
    cut: u64,
    stalls: Quiet,
}

/// What a turn found out.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    GoOn,
    Stop,
}

impl Server {
    /// Takes the signals over, and listens. If it fails, nothing is left behind.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        let signals = Signals::install().map_err(StartError::Signals)?;
        let endpoints = [
            (Role::PrimaryIn, Some(&settings.primary_in)),
            (Role::SecondaryIn, Some(&settings.secondary_in)),
            (Role::Outdev, Some(&settings.outdev)),
            (Role::NotifyDev, settings.notify_dev.as_ref()),
        ];
        let ports: Result<Vec<Port>, StartError> = endpoints
            .into_iter()
            .filter_map(|(role, endpoint)| Some((role, endpoint?)))
            .map(|(role, endpoint)| {
                Port::open(role, endpoint).map_err(|error| StartError::Open { role, error })
            })
            .collect();
        let ports = ports?;
        let can_ask = ports.len() > NOTIFY;
        Ok(Self {
            comparer: Comparer::new(settings.engine.clone(), settings.vnet, can_ask, settings.max_output),
            ports,
            signals,
            origin: Instant::now(),
            now: Nanos::default(),
            stopped: Nanos::default(),
            busy_poll: settings.busy_poll,
            scan_cycle: settings.scan_cycle,
            scan_at: settings.scan_cycle,
            readable: [false; 2],
            blocked: false,
            turns: 0,
            moved: Nanos::default(),
            cut: 0,
            stalls: Quiet::default(),
        })
    }

    /// One line per socket: what it does and where.
    pub fn describe(&self) -> Vec<String> {
        self.ports.iter().map(Port::describe).collect()
    }

    /// Compares until SIGINT or SIGTERM. What is held then stays unreleased.
    pub fn run(&mut self) -> Result<(), RunError> {
        while self.turn()? == Turn::GoOn {}
        self.write();
        Ok(())
    }

    fn turn(&mut self) -> Result<Turn, RunError> {
        self.look_at_the_clock();
        self.tick();
        let busy = self.busy();
        // With one side alone known to have more, the other's may be there as well by now.
        let ready = if busy && self.readable == [true; 2] && self.turns < POLL_EVERY {
            self.turns += 1;
            Ready::NOTHING
        } else {
            self.turns = 0;
            let stalled = self.comparer.is_stalled().then_some(self.now);
            let ready = self.poll(busy).map_err(RunError)?;
            self.look_at_the_clock();
            if let Some(since) = stalled {
                self.stopped = self.stopped.plus(self.now.since(since));
            }
            ready
        };
        if ready.signals {
            if self.signals.report() {
                let _ = writeln!(io::stderr(), "{}", self.report());
            }
            if self.signals.stop() {
                return Ok(Turn::Stop);
            }
        }
        if ready.peer(NOTIFY) {
            self.read_notify();
        }
        for side in SIDES {
            self.readable[side as usize] |= ready.peer(side as usize);
            self.read(side);
        }
        self.compare();
        if ready.peer[OUT].intersects(GONE) {
            self.outdev_lost(&"it closed the connection");
        } else if ready.peer(OUT) {
            self.blocked = false;
        }
        self.newcomers(ready.newcomer);
        if self.comparer.outlet().pending() >= WRITE_AT || !self.busy() {
            self.write();
        }
        self.write_notify();
        Ok(Turn::GoOn)
    }

    /// Whether there is something to do without waiting.
    fn busy(&self) -> bool {
        let readable = |side| self.readable[side as usize] && self.comparer.wants(side, self.time());
        self.comparer.can_compare(self.time()) || SIDES.into_iter().any(readable)
    }

    fn look_at_the_clock(&mut self) {
        self.now = Nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    /// The comparer's time.
    fn time(&self) -> Nanos {
        self.now.since(self.stopped)
    }

    fn tick(&mut self) {
        let (scan, time) = (self.scan_at <= self.now, self.time());
        if scan || self.comparer.deadline().is_some_and(|at| at <= time) {
            self.comparer.tick(time);
        }
        if scan {
            self.comparer.tidy(time.since(self.scan_cycle));
            self.scan_at = self.now.plus(self.scan_cycle);
        }
    }

    /// How long nothing has to be done if nothing happens.
    fn timeout(&mut self) -> Timespec {
        let notify = self.comparer.notify().deadline(self.now);
        let ports = self.ports.iter().filter_map(|port| port.deadline(self.now));
        let comparer = self.comparer.deadline().into_iter().chain(self.comparer.patience(self.time()));
        let comparer = comparer.filter(|_| !self.comparer.is_stalled()).map(|at| at.plus(self.stopped));
        let deadline = ports.chain(comparer).chain(notify).fold(self.scan_at, Nanos::min);
        let wait = deadline.since(self.now).0;
        Timespec { tv_sec: (wait / 1_000_000_000) as i64, tv_nsec: (wait % 1_000_000_000) as i64 }
    }

    /// What to wait for on a port's peer.
    fn interest(&mut self, index: usize) -> Option<PollFlags> {
        match index {
            PRIMARY | SECONDARY => self.comparer.wants(SIDES[index], self.time()).then_some(PollFlags::IN),
            OUT => {
                let mut flags = self.ports[OUT].hang_up();
                flags.set(PollFlags::OUT, self.comparer.outlet().pending() > 0);
                Some(flags)
            }
            _ => {
                let now = self.now;
                let notify = self.comparer.notify();
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, notify.room() > 0);
                flags.set(PollFlags::OUT, !notify.output(now).is_empty());
                Some(flags)
            }
        }
    }

    fn poll(&mut self, busy: bool) -> Result<Ready, Errno> {
        let look_again = busy || self.now.since(self.moved) < self.busy_poll;
        let timeout = if look_again { Timespec::default() } else { self.timeout() };
        let interests: [Option<PollFlags>; 4] = std::array::from_fn(|index| self.interest(index));
        let mut fds = Vec::with_capacity(10);
        // What each entry after the signals is: a port, and whether it is its peer.
        let mut whose = Vec::with_capacity(8);
        fds.extend(self.signals.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        for (index, (port, interest)) in self.ports.iter().zip(interests).enumerate() {
            if let Some((fd, flags)) = port.newcomer(self.now) {
                fds.push(PollFd::from_borrowed_fd(fd, flags));
                whose.push((index, false));
            }
            if let (Some(peer), Some(flags)) = (port.peer(), interest) {
                fds.push(PollFd::new(peer, flags));
                whose.push((index, true));
            }
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::NOTHING),
            Err(error) => return Err(error),
        }
        let (signals, others) = fds.split_at(2);
        let mut ready = Ready::NOTHING;
        ready.signals = signals.iter().any(|fd| !fd.revents().is_empty());
        for (fd, (index, peer)) in others.iter().zip(whose) {
            if peer {
                ready.peer[index] = fd.revents();
            } else {
                ready.newcomer[index] = !fd.revents().is_empty();
            }
        }
        Ok(ready)
    }

    fn newcomers(&mut self, ready: [bool; 4]) {
        for (index, port) in self.ports.iter_mut().enumerate() {
            if !port.advance(ready[index], self.now) {
                continue;
            }
            match index {
                OUT => self.blocked = false,
                NOTIFY => self.comparer.notify().connected(self.now),
                input => self.readable[input] = true,
            }
        }
    }

    /// One read of a side.
    fn read(&mut self, side: Side) {
        let index = side as usize;
        if !self.readable[index] || !self.comparer.wants(side, self.time()) {
            return;
        }
        let Some(peer) = self.ports[index].peer() else {
            self.readable[index] = false;
            return;
        };
        let space = self.comparer.space(side);
        let room = space.len();
        match recv(peer, space, RecvFlags::empty()) {
            Ok((0, _)) => self.input_lost(side, &"it closed the connection"),
            Ok((count, _)) => {
                self.readable[index] = count == room;
                self.moved = self.now;
                self.comparer.received(side, count);
            }
            Err(Errno::WOULDBLOCK) => self.readable[index] = false,
            Err(Errno::INTR) => {}
            Err(error) => self.input_lost(side, &error),
        }
    }

    fn compare(&mut self) {
        if self.comparer.can_compare(self.time()) {
            let outcome = self.comparer.compare(self.time());
            for (side, outcome) in SIDES.into_iter().zip(outcome) {
                if let Err(error) = outcome {
                    self.input_lost(side, &error);
                }
            }
        }
    }

    fn input_lost(&mut self, side: Side, why: &dyn std::fmt::Display) {
        self.readable[side as usize] = false;
        self.comparer.input_lost(side);
        self.ports[side as usize].down(why, self.now);
    }

    /// Writes what outdev takes.
    fn write(&mut self) {
        for _ in 0..WRITES {
            let outlet = self.comparer.outlet();
            if outlet.pending() == 0 {
                return;
            }
            let Some(peer) = self.ports[OUT].peer().filter(|_| !self.blocked) else { break };
            let slices = outlet.slices();
            let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
            match sendmsg(peer, &slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
                Ok(count) => {
                    outlet.wrote(count);
                    self.moved = self.now;
                    self.blocked = count < bytes;
                }
                Err(Errno::WOULDBLOCK) => self.blocked = true,
                Err(Errno::INTR) => {}
                Err(error) => return self.outdev_lost(&error),
            }
        }
        if self.comparer.is_stalled() {
            let pending = self.comparer.outlet().pending();
            let peer = if self.ports[OUT].peer().is_some() { "does not read" } else { "is not there" };
            quietly!(
                self.stalls,
                self.now,
                warn,
                "outdev's peer {peer}: the inputs are not read while {pending} bytes wait"
            );
        }
    }

    fn outdev_lost(&mut self, why: &dyn std::fmt::Display) {
        if self.ports[OUT].peer().is_none() {
            return;
        }
        self.cut += u64::from(self.comparer.outlet().rewind());
        self.blocked = false;
        self.ports[OUT].down(why, self.now);
    }

    fn read_notify(&mut self) {
        let room = self.comparer.notify().room();
        let Some(peer) = self.ports[NOTIFY].peer() else { return };
        let mut buffer = [0; 4096];
        let room = room.min(buffer.len());
        if room == 0 {
            // It does not read our answers; `write_notify` finds out if it is gone.
            return;
        }
        match recv(peer, &mut buffer[..room], RecvFlags::empty()) {
            Ok((0, _)) => self.notify_lost(&"it closed the connection"),
            Ok((count, _)) => {
                self.comparer.notify().feed(&buffer[..count]);
                self.heed();
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(error) => self.notify_lost(&error),
        }
    }

    fn heed(&mut self) {
        if let Err(error) = self.comparer.heed(self.time()) {
            self.notify_lost(&error);
        }
    }

    fn write_notify(&mut self) {
        while let Some(peer) = self.ports.get(NOTIFY).and_then(Port::peer) {
            let output = self.comparer.notify().output(self.now);
            if output.is_empty() {
                return;
            }
            match send(peer, output, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.comparer.notify().wrote(count);
                    // There may be room again for messages that were left standing.
                    self.heed();
                }
                Err(Errno::WOULDBLOCK) => return,
                Err(Errno::INTR) => {}
                Err(error) => return self.notify_lost(&error),
            }
        }
    }

    fn notify_lost(&mut self, why: &dyn std::fmt::Display) {
        self.comparer.notify().disconnected();
        self.ports[NOTIFY].down(why, self.now);
    }

    /// The statistics so far.
    pub fn report(&self) -> Report {
        let mut report = self.comparer.report();
        report.outdev.cut = self.cut;
        report.primary_in.port = self.ports[PRIMARY].stats();
        report.secondary_in.port = self.ports[SECONDARY].stats();
        report.outdev.port = self.ports[OUT].stats();
        report.notify_dev.port = self.ports.get(NOTIFY).map(Port::stats).unwrap_or_default();
        report
    }
}
