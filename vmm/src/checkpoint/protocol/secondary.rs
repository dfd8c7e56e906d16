//! The secondary's side: a type per phase.
//!
//! ```text
//!   Syncing ─next─► Synced ─ready─► Level ─next─► Requested ─reply─► Replied ─pages─► PagesSent
//!    ▲ │ ram                        ▲ ▲ │ ram                        ▲ │ ram           │ package (waits)
//!    └─┘                (epoch + 1) │ └─┘                            └─┘               ▼
//!                                   └───────loaded── Received ◄─────received── Shipped ◄─┘
//! ```
//!
//! Nothing that comes before [`Shipped`] may touch the guest: until then the previous checkpoint is the last one.

use super::buffer::Buffer;
use super::error::{Error, Phase};
use super::message::{Code, Limits};
use super::wire::{Channel, Due, Patience, Wire};
use std::io::IoSlice;

/// All of RAM comes for the first time.
#[derive(Debug)]
pub struct Syncing<C>(Wire<C>);

/// All has come.
#[derive(Debug)]
pub struct Synced<C>(Wire<C>);

/// Between checkpoints.
#[derive(Debug)]
pub struct Level<C>(Wire<C>);

/// A checkpoint is asked for: in COLO mode the guest is to stand before the reply.
#[derive(Debug)]
pub struct Requested<C>(Wire<C>);

/// The primary makes its copy.
#[derive(Debug)]
pub struct Replied<C>(Wire<C>);

/// The epoch's pages have come.
#[derive(Debug)]
pub struct PagesSent<C>(Wire<C>);

/// All of the epoch has come.
#[derive(Debug)]
pub struct Shipped<C>(Wire<C>);

/// The primary knows that all has come; it is to be applied.
#[derive(Debug)]
pub struct Received<C>(Wire<C>);

/// What came in the first sync.
#[derive(Debug)]
pub enum FirstSync<C> {
    /// A piece of RAM records, which the buffer has.
    Ram(Syncing<C>),
    /// There are no more.
    Synced(Synced<C>),
    /// What is held is gone on from.
    Resume(Synced<C>),
    /// The primary's guest has ended; nobody is to go on.
    Ended,
}

/// What came between checkpoints.
#[derive(Debug)]
pub enum Next<C> {
    /// A piece of RAM records of the coming epoch, which the buffer has.
    Ram(Level<C>),
    /// A checkpoint begins.
    Request(Requested<C>),
    /// The primary's guest has ended; nobody is to go on.
    Ended,
}

/// What came of a checkpoint's pages.
#[derive(Debug)]
pub enum Pages<C> {
    /// A piece of RAM records, which the buffer has; more follow.
    More(Replied<C>),
    /// The last piece, which the buffer has.
    All(PagesSent<C>),
}

impl<C: Channel> Syncing<C> {
    /// Begins after the hellos.
    pub fn new(channel: C, limits: Limits, patience: Patience) -> Self {
        Self(Wire::new(channel, limits, patience))
    }

    /// Waits for what comes next.
    pub fn next(mut self, records: &mut Buffer) -> Result<FirstSync<C>, Error> {
        const WANTED: &[Code] = &[Code::Ram, Code::Synced, Code::Ended, Code::Resume];
        let due = Due { wanted: WANTED, phase: Phase::FirstSync, idle: true };
        match self.0.receive(due, records)? {
            Code::Synced => Ok(FirstSync::Synced(Synced(self.0))),
            Code::Resume => Ok(FirstSync::Resume(Synced(self.0))),
            Code::Ended => Ok(FirstSync::Ended),
            // Nothing else is wanted.
            _ => Ok(FirstSync::Ram(self)),
        }
    }
}

impl<C: Channel> Synced<C> {
    /// Says that checkpoints may begin.
    pub fn ready(mut self) -> Result<Level<C>, Error> {
        self.0.send(Code::CheckpointReady, &[])?;
        Ok(Level(self.0.advance()))
    }
}

impl<C: Channel> Level<C> {
    /// The epoch that the next checkpoint ends.
    pub fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    /// Waits for what comes next.
    pub fn next(mut self, records: &mut Buffer) -> Result<Next<C>, Error> {
        const WANTED: &[Code] = &[Code::Ram, Code::CheckpointRequest, Code::Ended];
        let due = Due { wanted: WANTED, phase: Phase::Level, idle: true };
        match self.0.receive(due, records)? {
            Code::CheckpointRequest => Ok(Next::Request(Requested(self.0))),
            Code::Ended => Ok(Next::Ended),
            // Nothing else is wanted.
            _ => Ok(Next::Ram(self)),
        }
    }
}

impl<C: Channel> Requested<C> {
    /// The epoch that this checkpoint ends.
    pub fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    /// Says that the guest stands, and which ranges of pages it has dirtied: the primary sends those too.
    pub fn reply(mut self, ranges: &[IoSlice<'_>]) -> Result<Replied<C>, Error> {
        self.0.send(Code::CheckpointReply, ranges)?;
        Ok(Replied(self.0))
    }
}

impl<C: Channel> Replied<C> {
    /// Waits for RAM records of the epoch that were not sent ahead.
    pub fn pages(mut self, records: &mut Buffer) -> Result<Pages<C>, Error> {
        const WANTED: &[Code] = &[Code::Ram, Code::VmstateSend];
        let due = Due { wanted: WANTED, phase: Phase::Replied, idle: false };
        match self.0.receive(due, records)? {
            Code::Ram => Ok(Pages::More(self)),
            // Nothing else is wanted.
            _ => Ok(Pages::All(PagesSent(self.0))),
        }
    }
}

impl<C: Channel> PagesSent<C> {
    /// Waits for the package of device state.
    pub fn package(mut self, package: &mut Buffer) -> Result<Shipped<C>, Error> {
        let due = Due { wanted: &[Code::VmstateSize], phase: Phase::PagesSent, idle: false };
        self.0.receive(due, package)?;
        Ok(Shipped(self.0))
    }
}

impl<C: Channel> Shipped<C> {
    /// The epoch that this checkpoint ends.
    pub fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    /// Says that all of it is here: this promises that it will be applied, whatever happens to the primary.
    pub fn received(mut self) -> Result<Received<C>, Error> {
        self.0.send(Code::VmstateReceived, &[])?;
        Ok(Received(self.0))
    }
}

impl<C: Channel> Received<C> {
    /// The epoch that this checkpoint ends.
    pub fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    /// Says that it is level with the primary. The next epoch begins.
    pub fn loaded(mut self) -> Result<Level<C>, Error> {
        self.0.send(Code::VmstateLoaded, &[])?;
        Ok(Level(self.0.advance()))
    }
}
