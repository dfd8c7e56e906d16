//! The primary's side: a type per phase.
//!
//! ```text
//!   Syncing ─synced─► Synced ─ready─► Level ─request─► Requested ─reply─► Replied ─pages─► PagesSent
//!    │ ram   resume    (waits)        ▲  │ ram           (waits)          │ ram                │ package
//!    └─ended             (epoch + 1)  │  └─ended                                              ▼
//!                                     └──────loaded── Received ◄──────received── Shipped ◄────┘
//!                                                      (waits)                    (waits)
//! ```
//!
//! A transition that fails has taken its phase with it: the session is over, and nothing can be said in it any more.

use super::buffer::Buffer;
use super::error::{Error, Phase};
use super::message::{Code, Limits};
use super::wire::{Channel, Due, Patience, Wire};
use std::io::IoSlice;

/// All of RAM is sent for the first time, while the guest runs.
#[derive(Debug)]
pub struct Syncing<C>(Wire<C>);

/// All was sent.
#[derive(Debug)]
pub struct Synced<C>(Wire<C>);

/// Between checkpoints.
#[derive(Debug)]
pub struct Level<C>(Wire<C>);

/// A checkpoint was asked for.
#[derive(Debug)]
pub struct Requested<C>(Wire<C>);

/// The secondary's guest stands: now the primary's is paused, copied, and goes on.
#[derive(Debug)]
pub struct Replied<C>(Wire<C>);

/// The epoch's pages were sent.
#[derive(Debug)]
pub struct PagesSent<C>(Wire<C>);

/// All of the epoch was sent.
#[derive(Debug)]
pub struct Shipped<C>(Wire<C>);

/// The secondary has all of the epoch. What was held because of it may go.
#[derive(Debug)]
pub struct Received<C>(Wire<C>);

/// A message without payload is due.
fn hear<C: Channel>(wire: &mut Wire<C>, wanted: &'static [Code], phase: Phase) -> Result<(), Error> {
    wire.receive(Due { wanted, phase, idle: false }, &mut Buffer::new()).map(|_| ())
}

impl<C: Channel> Syncing<C> {
    /// Begins after the hellos.
    pub fn new(channel: C, limits: Limits, patience: Patience) -> Self {
        Self(Wire::new(channel, limits, patience))
    }

    /// Sends a piece of RAM records.
    pub fn ram(&mut self, records: &[IoSlice<'_>]) -> Result<(), Error> {
        self.0.send(Code::Ram, records)
    }

    /// Nothing is sent again: the secondary holds a checkpoint that both know.
    pub fn resume(mut self) -> Result<Synced<C>, Error> {
        self.0.send(Code::Resume, &[])?;
        Ok(Synced(self.0))
    }

    /// Every page has been sent once.
    pub fn synced(mut self) -> Result<Synced<C>, Error> {
        self.0.send(Code::Synced, &[])?;
        Ok(Synced(self.0))
    }

    /// The guest has ended, and nobody is to go on in its place.
    pub fn ended(mut self) -> Result<C, Error> {
        self.0.send(Code::Ended, &[])?;
        Ok(self.0.into_channel())
    }
}

impl<C: Channel> Synced<C> {
    /// Waits until the secondary is ready.
    pub fn ready(mut self) -> Result<Level<C>, Error> {
        hear(&mut self.0, &[Code::CheckpointReady], Phase::Synced)?;
        Ok(Level(self.0.advance()))
    }
}

impl<C: Channel> Level<C> {
    /// The epoch that the next checkpoint ends.
    pub fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    /// Sends a piece of RAM records ahead, while the guest runs.
    pub fn ram(&mut self, records: &[IoSlice<'_>]) -> Result<(), Error> {
        self.0.send(Code::Ram, records)
    }

    /// Begins a checkpoint.
    pub fn request(mut self) -> Result<Requested<C>, Error> {
        self.0.send(Code::CheckpointRequest, &[])?;
        Ok(Requested(self.0))
    }

    /// The guest has ended, and nobody is to go on in its place.
    pub fn ended(mut self) -> Result<C, Error> {
        self.0.send(Code::Ended, &[])?;
        Ok(self.0.into_channel())
    }
}

impl<C: Channel> Requested<C> {
    #[cfg(test)]
    pub(super) fn channel(&mut self) -> &mut C {
        self.0.channel()
    }

    /// The epoch that this checkpoint ends.
    pub fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    /// Waits until the secondary's guest stands. The buffer then has the ranges of pages that it has dirtied.
    pub fn reply(mut self, ranges: &mut Buffer) -> Result<Replied<C>, Error> {
        let due = Due { wanted: &[Code::CheckpointReply], phase: Phase::Requested, idle: false };
        self.0.receive(due, ranges)?;
        Ok(Replied(self.0))
    }
}

impl<C: Channel> Replied<C> {
    /// The epoch that this checkpoint ends.
    pub fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    /// Sends a piece of the RAM records of the epoch that were not sent ahead.
    pub fn ram(&mut self, records: &[IoSlice<'_>]) -> Result<(), Error> {
        self.0.send(Code::Ram, records)
    }

    /// Sends the last piece of them.
    pub fn pages(mut self, records: &[IoSlice<'_>]) -> Result<PagesSent<C>, Error> {
        self.0.send(Code::VmstateSend, records)?;
        Ok(PagesSent(self.0))
    }
}

impl<C: Channel> PagesSent<C> {
    /// Sends the package of device state.
    pub fn package(mut self, package: &[IoSlice<'_>]) -> Result<Shipped<C>, Error> {
        self.0.send(Code::VmstateSize, package)?;
        Ok(Shipped(self.0))
    }
}

impl<C: Channel> Shipped<C> {
    /// Waits until the secondary has all of it.
    pub fn received(mut self) -> Result<Received<C>, Error> {
        hear(&mut self.0, &[Code::VmstateReceived], Phase::Shipped)?;
        Ok(Received(self.0))
    }
}

impl<C: Channel> Received<C> {
    /// The epoch that this checkpoint ends.
    pub fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    /// Waits until the secondary is level. The next epoch begins.
    pub fn loaded(mut self) -> Result<Level<C>, Error> {
        hear(&mut self.0, &[Code::VmstateLoaded], Phase::Received)?;
        Ok(Level(self.0.advance()))
    }
}
