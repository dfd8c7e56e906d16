//! Reads and writes: where their bytes are in the image, and who moves them.
//!
//! ```text
//!   buffers (the driver's, or a follower's copy) ─► find ─► in a file ──► the engine, piece by piece
//!                                                    └────► elsewhere ──► the image itself, on this thread
//! ```

use super::buffers::Buffers;
use super::request::Kind;
use super::running::{Running, Status};
use crate::block::engine::{Act, Operation};
use crate::block::follow::Copy;
use crate::block::{Access, Place};
use std::fs::File;
use std::io;
use std::sync::Arc;

impl Running {
    pub(super) fn transfer(&mut self, slot: usize, kind: Kind, offset: u64) -> io::Result<Status> {
        let write = kind == Kind::Write;
        let image = self.worker.image.clone();
        if write && image.read_only() {
            return Ok(Status::Error);
        }
        let Some(buffers) = self.buffers(slot, write, offset)? else { return Ok(Status::Error) };
        let len = buffers.len();
        if let Some(pending) = &mut self.pending[slot] {
            pending.written = if write { 0 } else { len };
        }
        if !buffers.fit(&*image, offset) {
            return self.transfer_here(write, &buffers, offset);
        }
        let mut at = 0;
        while at < len {
            let access = if write { Access::Write } else { Access::Read };
            let here = offset + at as u64;
            let (place, found) = image.find(here, (len - at) as u64, access)?;
            let piece = (len - at).min(usize::try_from(found).unwrap_or(usize::MAX)).max(1);
            let part = if piece == len { buffers.clone() } else { buffers.part(at, piece) };
            match place {
                // Small clusters may begin where a large-blocked host disk has no block.
                Place::File { offset, .. } if !part.fit(&*image, offset) => {
                    self.transfer_here(write, &part, here)?;
                }
                Place::File { file, offset } => {
                    let act = if write { Act::Write } else { Act::Read };
                    self.push(slot, act, file, offset, part)?;
                }
                Place::Zeroes if !write => part.zero()?,
                Place::Elsewhere | Place::Zeroes => {
                    self.transfer_here(write, &part, here)?;
                }
            }
            at += piece;
        }
        Ok(Status::Ok)
    }

    /// What a request moves bytes from or to: for a write that is followed, the follower's copy.
    fn buffers(&mut self, slot: usize, write: bool, offset: u64) -> io::Result<Option<Buffers>> {
        let Some(pending) = &mut self.pending[slot] else { return Ok(None) };
        let ram = self.worker.ram.clone();
        let mut buffers = Buffers { ram, spans: pending.request.data.clone() };
        if let Some(follower) = self.worker.follower.as_ref().filter(|_| write) {
            let followed = buffers.slices(|slices| follower.write(offset, slices))?;
            if let Some(Copy { ram, span }) = followed.copy.clone() {
                buffers = Buffers { ram, spans: vec![span] };
            }
            pending.followed = Some(followed);
        }
        pending.buffers = Some(buffers.clone());
        Ok(Some(buffers))
    }

    /// Reads or writes on this thread.
    pub(super) fn transfer_here(&self, write: bool, buffers: &Buffers, offset: u64) -> io::Result<Status> {
        if write {
            buffers.write(&*self.worker.image, offset)?;
        } else {
            buffers.read(&*self.worker.image, offset)?;
        }
        Ok(Status::Ok)
    }

    /// Hands an operation of a request to the engine.
    pub(super) fn push(
        &mut self,
        slot: usize,
        act: Act,
        file: Arc<File>,
        offset: u64,
        buffers: Buffers,
    ) -> io::Result<()> {
        while self.engine.in_flight() >= self.engine.depth() {
            self.engine.wait()?;
            // What it belongs to is looked at later: a request is not ended while another begins.
            self.engine.reap(&mut self.done);
        }
        let len = buffers.len();
        let Buffers { ram, spans } = buffers;
        self.engine.push(Operation { act, file, offset, ram, spans, token: slot as u64 })?;
        if let Some(pending) = &mut self.pending[slot] {
            pending.left += 1;
            pending.expected += len;
        }
        Ok(())
    }
}
