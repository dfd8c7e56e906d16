//! Transmission: one request, and its reply.
//!
//! ```text
//!   head ─► not well formed, not inside, not allowed? ─► error (and its bytes are let go)
//!        ─► all of its bytes there? ─► Export ─► FUA? flush ─► reply: simple, or one chunk
//!                                        read: into the output itself, a chunk of data, or of zeros
//! ```

use super::options::{ALLOCATION_ID, EPOCH_ID, SUM_IDS};
use super::{Phase, Session, SessionError, Step};
use crate::nbd::export::{Export, Tag, Zeroing};
use crate::nbd::sum::pieces;
use crate::nbd::wire::numbers::{MAX_PAYLOAD, MAX_SUMMED, chunk, command, flag};
use crate::nbd::wire::requests::{Extent, push_error, push_status};
use crate::nbd::wire::{Errno, ReplyHead, Request};
use std::io;

/// The most extents that one block status is answered with.
const EXTENTS: usize = 1024;

/// What went wrong with a request, and what the client is told of it.
struct Failure(Errno, String);

impl Failure {
    fn new(errno: Errno, why: &str) -> Self {
        Self(errno, why.to_owned())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(Errno::of(&error), error.to_string())
    }
}

impl Session {
    pub(super) fn request(&mut self, export: &dyn Export) -> Result<Step, SessionError> {
        let Some(request) = Request::parse(self.input.bytes())? else {
            return Ok(self.receive(Request::SIZE));
        };
        if request.command == command::DISC {
            self.phase = Phase::Ended;
            self.input.consume(Request::SIZE);
            return Ok(Step::Again);
        }
        if let Err(failure) = self.judge(&request, export) {
            self.input.consume(Request::SIZE);
            self.skip = request.payload().into();
            self.fail(&request, &failure);
            return Ok(Step::Again);
        }
        // It is bounded: it was judged.
        let whole = Request::SIZE + request.payload() as usize;
        if self.input.bytes().len() < whole {
            return Ok(self.receive(whole));
        }
        let sums = request.command == command::BLOCK_STATUS && self.agreed.contexts.summed();
        let slow = sums || request.command == command::FLUSH || request.flags & flag::FUA != 0;
        if slow && !self.output.bytes().is_empty() {
            return Ok(Step::Send);
        }
        match request.command {
            command::READ => self.read(&request, export),
            command::BLOCK_STATUS => self.status(&request, export),
            _ => match self.change(&request, export) {
                Ok(()) => self.done(&request),
                Err(failure) => self.fail(&request, &failure),
            },
        }
        self.input.consume(whole);
        Ok(Step::Again)
    }

    /// Refuses what cannot be asked.
    fn judge(&self, request: &Request, export: &dyn Export) -> Result<(), Failure> {
        let Request { flags, command, offset, len, .. } = *request;
        let known = flag::FUA
            | match command {
                command::READ if self.agreed.structured => flag::DF,
                command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
                command::BLOCK_STATUS => flag::REQ_ONE,
                _ => 0,
            };
        if flags & !known != 0 {
            return Err(Failure::new(Errno::Inval, "a flag is not known for this command"));
        }
        let writes = matches!(command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        match command {
            command::FLUSH => return Ok(()),
            command::READ | command::WRITE | command::TRIM | command::CACHE | command::WRITE_ZEROES => {}
            command::BLOCK_STATUS if self.agreed.contexts.any() => {
                if len == 0 {
                    return Err(Failure::new(Errno::Inval, "nothing can be said of no bytes"));
                }
            }
            command::BLOCK_STATUS => {
                return Err(Failure::new(Errno::Inval, "no context was chosen"));
            }
            _ => return Err(Failure::new(Errno::Inval, "this command is not known here")),
        }
        if writes && export.read_only() {
            return Err(Failure::new(Errno::Perm, "this export cannot be written"));
        }
        if matches!(command, command::READ | command::WRITE) && len > MAX_PAYLOAD {
            return Err(Failure::new(Errno::Inval, "the request is longer than was agreed"));
        }
        match offset.checked_add(len.into()) {
            Some(end) if end <= export.size() => Ok(()),
            _ if writes => Err(Failure::new(Errno::Nospc, "the request is beyond the end")),
            _ => Err(Failure::new(Errno::Inval, "the request is beyond the end")),
        }
    }

    fn tag(&self, request: &Request) -> Tag {
        self.agreed.contexts.epoch.then_some((request.cookie >> 32) as u32)
    }

    /// What changes the disk, or nothing.
    fn change(&mut self, request: &Request, export: &dyn Export) -> Result<(), Failure> {
        let (tag, offset, len) = (self.tag(request), request.offset, u64::from(request.len));
        match request.command {
            command::FLUSH => return Ok(export.flush(tag)?),
            _ if len == 0 => return Ok(()),
            command::WRITE => {
                let bytes = self.input.bytes_mut().get_mut(Request::SIZE..Request::SIZE + len as usize);
                export.write(tag, bytes.unwrap_or_default(), offset)?;
            }
            command::TRIM => export.trim(tag, offset, len)?,
            command::WRITE_ZEROES => {
                let unmap = request.flags & flag::NO_HOLE == 0;
                let fast = request.flags & flag::FAST_ZERO != 0;
                export.zero(tag, offset, len, Zeroing { unmap, fast })?;
            }
            // Of `CACHE`: the host's page cache knows best.
            _ => return Ok(()),
        }
        if request.flags & flag::FUA != 0 {
            export.flush_range(tag, offset, len)?;
        }
        Ok(())
    }

    fn read(&mut self, request: &Request, export: &dyn Export) {
        let (cookie, len) = (request.cookie, request.len as usize);
        let out = self.output.end();
        let begin = out.len();
        if !self.agreed.structured {
            ReplyHead::Simple { error: 0, cookie }.push(out);
        } else if len == 0 {
            return ReplyHead::Chunk { done: true, kind: chunk::NONE, cookie, len: 0 }.push(out);
        } else {
            ReplyHead::Chunk { done: true, kind: chunk::OFFSET_DATA, cookie, len: 8 + request.len }.push(out);
            out.extend(request.offset.to_be_bytes());
        }
        let at = out.len();
        out.resize(at + len, 0);
        let bytes = out.get_mut(at..).unwrap_or_default();
        match export.read(bytes, request.offset) {
            Err(error) => {
                out.truncate(begin);
                self.fail(request, &error.into());
            }
            // Zeros have a chunk of their own, which is short.
            Ok(()) if self.agreed.structured && zeros(bytes) => {
                out.truncate(begin);
                ReplyHead::Chunk { done: true, kind: chunk::OFFSET_HOLE, cookie, len: 12 }.push(out);
                out.extend(request.offset.to_be_bytes());
                out.extend(request.len.to_be_bytes());
            }
            Ok(()) => {}
        }
    }

    fn status(&mut self, request: &Request, export: &dyn Export) {
        match self.said(request, export) {
            Err(error) => self.fail(request, &error.into()),
            Ok(said) => {
                let out = self.output.end();
                for (at, (context, extents)) in said.iter().enumerate() {
                    push_status(out, at + 1 == said.len(), request.cookie, *context, extents);
                }
            }
        }
    }

    /// What each of the chosen contexts says.
    fn said(&self, request: &Request, export: &dyn Export) -> io::Result<Vec<(u32, Vec<Extent>)>> {
        let contexts = &self.agreed.contexts;
        let mut said = Vec::new();
        if contexts.allocation {
            said.push((ALLOCATION_ID, extents(request, export)?));
        }
        if contexts.epoch {
            // One epoch is stable on all of the disk.
            said.push((EPOCH_ID, vec![Extent { len: request.len, status: export.stable_epoch() }]));
        }
        if contexts.summed() {
            let quarters = SUM_IDS.into_iter().zip(sums(request, export)?).zip(contexts.sums);
            said.extend(quarters.filter(|(_, so)| *so).map(|(said, _)| said));
        }
        Ok(said)
    }

    /// With nothing to carry, a simple reply does, whatever was agreed.
    fn done(&mut self, request: &Request) {
        ReplyHead::Simple { error: 0, cookie: request.cookie }.push(self.output.end());
    }

    fn fail(&mut self, request: &Request, Failure(errno, why): &Failure) {
        let (cookie, out) = (request.cookie, self.output.end());
        if self.agreed.structured {
            push_error(out, cookie, *errno, why);
        } else {
            ReplyHead::Simple { error: *errno as u32, cookie }.push(out);
        }
    }
}

/// Whether there is nothing else. Whole blocks are compared at once: most that are read begin otherwise.
fn zeros(bytes: &[u8]) -> bool {
    const BLOCK: [u8; 4096] = [0; 4096];
    bytes.chunks(BLOCK.len()).all(|block| BLOCK.starts_with(block))
}

/// The quarters of each region's sum, of as much as one request may have summed.
fn sums(request: &Request, export: &dyn Export) -> io::Result<[Vec<Extent>; 4]> {
    let most = if request.flags & flag::REQ_ONE == 0 { usize::MAX } else { 1 };
    let mut out = [const { Vec::new() }; 4];
    for (offset, len) in pieces(request.offset, request.len.min(MAX_SUMMED).into()).take(most) {
        let quarters = export.sum(offset, len)?.quarters();
        for (extents, status) in out.iter_mut().zip(quarters) {
            extents.push(Extent { len: len as u32, status });
        }
    }
    Ok(out)
}

/// What is so of a range: equal neighbours are one, and there is at least one.
fn extents(request: &Request, export: &dyn Export) -> io::Result<Vec<Extent>> {
    let one = request.flags & flag::REQ_ONE != 0;
    let mut out: Vec<Extent> = Vec::new();
    let (mut at, end) = (request.offset, request.offset.saturating_add(request.len.into()));
    // An image of many small pieces that are alike costs no more time than one of many that differ.
    for _ in 0..4 * EXTENTS {
        if at >= end {
            break;
        }
        let range = export.status(at, end - at)?;
        let len = range.len.clamp(1, end - at);
        let extent = Extent { len: len as u32, status: range.status() };
        let full = out.len() == if one { 1 } else { EXTENTS };
        match out.last_mut() {
            Some(last) if last.status == extent.status => last.len += extent.len,
            _ if full => break,
            _ => out.push(extent),
        }
        at += len;
    }
    Ok(out)
}
