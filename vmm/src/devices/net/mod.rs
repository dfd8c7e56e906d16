//! virtio-net on a tap (virtio 1.3 §5.1).
//!
//! ```text
//!            queue pair n: a worker
//!   guest ── transmit ring ─► writev ──► tap's queue n ──► host
//!         ◄─ receive ring ◄── readv  ◄──
//!         ── command ring ─► how many pairs are in use
//! ```
//!
//! Frames are never copied: the kernel reads and writes the guest's buffers, headers included, as a tap's
//! vnet header is virtio-net's own. Checksums and segmentation go through untouched, too.

mod command;
pub mod features;
mod receive;
mod sys;
pub mod tap;
mod transmit;

use crate::irq::Interrupt;
use crate::virtio::answers::Answers;
use crate::virtio::ring::{Broken, Ring};
use crate::virtio::throttle::{self, Gate};
use crate::virtio::worker::{Next, Work, Worker};
use crate::virtio::{Activation, ActiveQueue, Device, DeviceError, DeviceState, Kind, Mismatch};
use command::Commands;
use features::Offloads;
use receive::Receive;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use tap::Tap;
use transmit::Transmit;
use virtio_queue::QueueState;
use vmm_sys_util::eventfd::EventFd;

const QUEUE_SIZE: u16 = 256;
const COMMAND_QUEUE_SIZE: u16 = 64;
const LINK_UP: u16 = 1;

/// What happened to frames.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames that the guest got.
    pub received: AtomicU64,
    /// Frames for which it had no room.
    pub receive_dropped: AtomicU64,
    /// Frames that it sent.
    pub transmitted: AtomicU64,
    /// Frames that the tap refused, or that are none.
    pub transmit_dropped: AtomicU64,
}

impl Counters {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The plain state of a card, besides its transport's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    /// How many queue pairs the driver uses.
    pub pairs: u16,
    /// How many there are.
    pub most_pairs: u16,
    /// Its address, which the driver read when it began.
    pub mac: [u8; 6],
    /// What it said of the largest frame; 0 if nothing.
    pub mtu: u16,
}

/// What a card's workers, and whoever saves it, have in common.
#[derive(Debug)]
pub struct Shared {
    tap: Tap,
    /// How many pairs are in use.
    pairs: AtomicU16,
    counters: Counters,
}

impl Shared {
    /// What happened to frames.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many pairs are in use.
    pub fn pairs(&self) -> u16 {
        self.pairs.load(Ordering::Relaxed)
    }

    fn use_pairs(&self, pairs: u16) -> bool {
        if !(1..=self.tap.queues()).contains(&pairs) {
            return false;
        }
        match self.tap.use_queues(pairs) {
            Ok(()) => self.pairs.store(pairs, Ordering::Relaxed),
            Err(error) => {
                static GATE: Gate = Gate::new();
                if let Some(silenced) = GATE.admit() {
                    tracing::warn!(%error, pairs, silenced, "the tap keeps its queues");
                }
            }
        }
        true
    }
}

/// A network card.
#[derive(Debug)]
pub struct Net {
    mac: [u8; 6],
    mtu: Option<u16>,
    shared: Arc<Shared>,
    pairs: Vec<Worker<Pair>>,
    commands: Option<Worker<Answers<Commands>>>,
}

impl Net {
    /// A card with as many queue pairs as the tap has queues.
    pub fn new(tap: Tap, mac: [u8; 6], mtu: Option<u16>) -> Self {
        let shared = Arc::new(Shared { tap, pairs: AtomicU16::new(1), counters: Counters::default() });
        shared.use_pairs(1);
        Self { mac, mtu, shared, pairs: Vec::new(), commands: None }
    }

    /// What its workers count: the device itself goes into the transport.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    fn most_pairs(&self) -> u16 {
        self.shared.tap.queues()
    }

    fn state(&self) -> NetState {
        NetState {
            pairs: self.shared.pairs(),
            most_pairs: self.most_pairs(),
            mac: self.mac,
            mtu: self.mtu.unwrap_or(0),
        }
    }

    fn begin(&mut self, activation: Activation) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Activation { ram, queues, features, interrupt } = activation;
        self.shared.tap.set_offloads(Offloads::of(features))?;
        let most = if features & features::MQ == 0 { 1 } else { self.most_pairs() };
        let mut queues: BTreeMap<u16, ActiveQueue> =
            queues.into_iter().map(|queue| (queue.index, queue)).collect();
        for number in 0..most {
            let receive = queues.remove(&(2 * number));
            let transmit = queues.remove(&(2 * number + 1));
            // Most drivers set up all pairs; one that does not has fewer.
            let (Some(receive), Some(transmit)) = (receive, transmit) else { continue };
            let ring = Ring::new(ram.clone(), &receive.queue)?;
            let pair = Pair {
                number,
                receive: Receive::new(ring, features & features::MRG_RXBUF != 0),
                transmit: Transmit::new(Ring::new(ram.clone(), &transmit.queue)?),
                kicks: [receive.kick, transmit.kick],
                shared: self.shared.clone(),
                interrupt: interrupt.clone(),
                broken: false,
            };
            self.pairs.push(Worker::spawn(&format!("net-{number}"), pair)?);
        }
        if let Some(queue) = queues.remove(&(2 * most))
            && features & features::CTRL_VQ != 0
        {
            let commands = Answers::new(queue, ram, interrupt, Commands { shared: self.shared.clone() })?;
            self.commands = Some(Worker::spawn("net-command", commands)?);
        }
        Ok(())
    }
}

impl Device for Net {
    fn kind(&self) -> Kind {
        Kind::Net
    }

    fn features(&self) -> u64 {
        let when = |condition, features| if condition { features } else { 0 };
        features::ALWAYS
            | when(self.shared.tap.uso(), features::USO)
            | when(self.mtu.is_some(), features::MTU)
            | when(self.most_pairs() > 1, features::MQ | features::CTRL_VQ)
    }

    fn queues(&self) -> Vec<u16> {
        let mut queues = vec![QUEUE_SIZE; 2 * usize::from(self.most_pairs())];
        if self.most_pairs() > 1 {
            queues.push(COMMAND_QUEUE_SIZE);
        }
        queues
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 12];
        config[..6].copy_from_slice(&self.mac);
        config[6..8].copy_from_slice(&LINK_UP.to_le_bytes());
        config[8..10].copy_from_slice(&self.most_pairs().to_le_bytes());
        config[10..].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        for (at, byte) in (offset..).zip(data) {
            if let Some(value) = usize::try_from(at).ok().and_then(|at| config.get(at)) {
                *byte = *value;
            }
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        self.begin(activation).map_err(|reason| {
            self.reset();
            DeviceError { what: format!("cannot begin virtio-net on {}", self.shared.tap.name()), reason }
        })
    }

    fn reset(&mut self) {
        self.pairs.clear();
        self.commands = None;
        self.shared.use_pairs(1);
    }

    fn save(&self) -> DeviceState {
        DeviceState::Net(self.state())
    }

    fn check(&self, state: &DeviceState) -> Result<(), Mismatch> {
        let ours = self.state();
        let theirs = match state {
            DeviceState::Net(theirs) => theirs,
            theirs => return Err(Mismatch::kind(theirs, &DeviceState::Net(ours))),
        };
        Mismatch::unless_same("MAC address", &theirs.mac, &ours.mac)?;
        Mismatch::unless_same("MTU", &theirs.mtu, &ours.mtu)?;
        Mismatch::unless_same("number of queue pairs", &theirs.most_pairs, &ours.most_pairs)?;
        if (1..=ours.most_pairs).contains(&theirs.pairs) {
            return Ok(());
        }
        let (theirs, ours) = (theirs.pairs.to_string(), format!("1 to {}", ours.most_pairs));
        Err(Mismatch { what: "number of queue pairs in use", theirs, ours })
    }

    fn load(&mut self, state: &DeviceState) {
        if let DeviceState::Net(state) = state {
            self.shared.use_pairs(state.pairs);
        }
    }

    fn rewind(&mut self, positions: &[(u16, QueueState)]) -> bool {
        let find = |index| positions.iter().find(|(other, _)| *other == index).map(|(_, position)| position);
        let mut found = 0;
        for work in self.pairs.iter_mut().filter_map(Worker::pause) {
            let (Some(receive), Some(transmit)) = (find(work.index(0)), find(work.index(1))) else {
                return false;
            };
            work.rewind(receive, transmit);
            found += 2;
        }
        if let Some(work) = self.commands.as_mut().and_then(Worker::pause) {
            let Some(position) = find(work.state().0) else { return false };
            work.rewind(position);
            found += 1;
        }
        found == positions.len()
    }

    fn call(&mut self) {
        self.pairs.iter_mut().for_each(Worker::call);
        self.commands.iter_mut().for_each(Worker::call);
    }

    fn pause(&mut self) -> Vec<(u16, QueueState)> {
        let mut states = Vec::new();
        for work in self.pairs.iter_mut().filter_map(Worker::pause) {
            states.push((work.index(0), work.receive.ring.state()));
            states.push((work.index(1), work.transmit.ring.state()));
        }
        let commands = self.commands.as_mut().and_then(Worker::pause);
        states.extend(commands.map(|work| work.state()));
        states
    }

    fn resume(&mut self) {
        self.pairs.iter_mut().for_each(Worker::resume);
        if let Some(commands) = &mut self.commands {
            commands.resume();
        }
    }
}

/// A queue pair's work.
#[derive(Debug)]
struct Pair {
    number: u16,
    receive: Receive,
    transmit: Transmit,
    kicks: [EventFd; 2],
    shared: Arc<Shared>,
    interrupt: Arc<dyn Interrupt>,
    broken: bool,
}

impl Pair {
    /// The tap, among the sources.
    const TAP: usize = 2;

    /// The receive queue's index (0), or the transmit queue's (1).
    fn index(&self, which: u16) -> u16 {
        2 * self.number + which
    }

    /// Goes on from other positions, as if it had just begun.
    fn rewind(&mut self, receive: &QueueState, transmit: &QueueState) {
        self.receive.rewind(receive);
        self.transmit.rewind(transmit);
        self.broken = false;
    }

    fn batch(&mut self) -> Result<Next, Broken> {
        let Some(tap) = self.shared.tap.queue(self.number) else { return Ok(Next::Wait) };
        let sent = self.transmit.run(tap, &self.shared.counters)?;
        if self.transmit.ring.interrupt_due()? {
            self.interrupt.queue(self.index(1));
        }
        let received = self.receive.run(tap, &self.shared.counters)?;
        if self.receive.ring.interrupt_due()? {
            self.interrupt.queue(self.index(0));
        }
        Ok(if sent == Next::Again { sent } else { received })
    }
}

impl Work for Pair {
    fn sources(&self) -> Vec<RawFd> {
        let tap = self.shared.tap.queue(self.number).map(|fd| fd.as_raw_fd());
        self.kicks.iter().map(AsRawFd::as_raw_fd).chain(tap).collect()
    }

    fn ready(&mut self, source: usize) {
        if source == Self::TAP {
            self.receive.wake();
            self.transmit.unblock();
        }
    }

    fn run(&mut self) -> Next {
        if self.broken {
            return Next::Wait;
        }
        self.batch().unwrap_or_else(|error| {
            throttle::complain("net", &error);
            self.broken = true;
            self.interrupt.needs_reset();
            Next::Wait
        })
    }

    fn rest(&mut self) {
        self.receive.rest();
    }
}

#[cfg(test)]
mod tests;
