//! What comes back: replies in any order, in chunks of any order, each checked against what was asked.
//!
//! ```text
//!   Head ─┬ simple ────────────────────────────────► [Data] ─► Done
//!         └ chunk ─┬ data: its bytes go where they belong as they come ──┐
//!                  ├ hole, status, error: read when all of it is there ──┤
//!                  └ none                                                └─► the last? ─► Done
//! ```

use super::session::{Answer, Client, ClientError, Done, Flight, weight};
use crate::nbd::wire::cursor::Cursor;
use crate::nbd::wire::numbers::{MAX_CONTEXTS, MAX_EXTENTS, MAX_STRING, chunk, command};
use crate::nbd::wire::requests::{parse_error, parse_status};
use crate::nbd::wire::{Errno, Extent, ReplyHead, WireError};
use std::collections::BTreeMap;

/// The most separate parts of one read that are kept apart until they meet.
const MAX_PIECES: usize = 4096;
/// The most chunks of one reply that say what went wrong.
const MAX_ERRORS: u32 = 64;

/// Where in the stream of replies we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Between two messages.
    Head,
    /// In the bytes of a read.
    Data {
        /// Whose, by the lower half of its cookie.
        low: u32,
        /// Where in it.
        at: usize,
        /// How many still come.
        left: usize,
        /// Whether that is all of the reply.
        done: bool,
    },
}

/// What came of reading on.
enum Read {
    /// More has to come.
    More,
    /// A part of a reply.
    Part,
    /// All of the reply to this one.
    Whole(u32),
}

/// As much of a reply as has come.
#[derive(Debug, Default)]
pub(super) struct Reply {
    data: Vec<u8>,
    /// Which parts of the data are there: from, to.
    pieces: BTreeMap<u32, u32>,
    status: Vec<(u32, Vec<Extent>)>,
    errors: u32,
    error: Option<(Errno, String)>,
}

impl Reply {
    pub(super) fn memory(&self) -> usize {
        let extents: usize = self.status.iter().map(|(_, extents)| extents.capacity()).sum();
        self.data.capacity() + extents * size_of::<Extent>()
    }
}

fn wrong<T>(why: &'static str) -> Result<T, ClientError> {
    Err(ClientError::Reply(why))
}

impl Flight {
    /// A part of what was read is there, or about to be. Gives where it goes.
    fn part(&mut self, offset: u64, len: u32) -> Result<usize, ClientError> {
        if self.command != command::READ {
            return wrong("bytes for a request that reads nothing");
        }
        let inside = offset.checked_sub(self.offset).and_then(|at| u32::try_from(at).ok());
        let end = inside.and_then(|at| at.checked_add(len)).filter(|end| *end <= self.len);
        let (Some(mut from), Some(mut to)) = (inside, end) else {
            return wrong("bytes that were not asked for");
        };
        let place = from as usize;
        let pieces = &mut self.reply.pieces;
        let before = pieces.range(..to).next_back().map(|(from, to)| (*from, *to));
        if len == 0 || before.is_some_and(|(_, end)| end > from) {
            return wrong("the same bytes twice, or none");
        }
        if let Some((start, end)) = before
            && end == from
        {
            pieces.remove(&start);
            from = start;
        }
        if let Some(end) = pieces.remove(&to) {
            to = end;
        }
        pieces.insert(from, to);
        if pieces.len() > MAX_PIECES {
            return wrong("bytes in more pieces than is sensible");
        }
        // As large as what we asked for, once any of it is there.
        if self.reply.data.is_empty() {
            self.reply.data = vec![0; self.len as usize];
        }
        Ok(place)
    }

    /// Reads the data of a chunk which is whole.
    fn chunk(&mut self, kind: u16, data: &[u8]) -> Result<(), ClientError> {
        if kind & chunk::IS_ERROR != 0 {
            let Some((error, message)) = parse_error(data) else { return wrong("an error without a number") };
            self.reply.errors += 1;
            if error == 0 || self.reply.errors > MAX_ERRORS {
                return wrong("errors that are none, or without end");
            }
            self.reply.error.get_or_insert_with(|| (Errno::from_number(error), message.to_owned()));
            return Ok(());
        }
        match kind {
            chunk::OFFSET_HOLE => {
                let mut cursor = Cursor::new(data);
                let (Some(offset), Some(len), 0) = (cursor.u64(), cursor.u32(), cursor.left()) else {
                    return wrong("a hole without a place");
                };
                self.part(offset, len).map(|_| ())
            }
            chunk::BLOCK_STATUS if self.command == command::BLOCK_STATUS => {
                let Some((context, extents)) = parse_status(data) else { return wrong("no extents") };
                let twice = self.reply.status.iter().any(|(of, _)| *of == context);
                if twice || extents.iter().any(|extent| extent.len == 0) {
                    return wrong("a context twice, or an extent of no bytes");
                }
                if self.reply.status.len() == MAX_CONTEXTS {
                    return wrong("more contexts than there are");
                }
                self.reply.status.push((context, extents));
                Ok(())
            }
            _ => wrong("a chunk that is no answer to the request"),
        }
    }

    fn finish(self) -> Result<Done, ClientError> {
        let (token, epoch) = (self.token, self.epoch);
        let result = match (self.reply.error, self.command) {
            (Some(error), _) => Err(error),
            (None, command::READ) => {
                if self.reply.pieces.get(&0) != Some(&self.len) {
                    return wrong("a part of what was to be read is missing");
                }
                Ok(Answer::Data(self.reply.data))
            }
            (None, command::BLOCK_STATUS) if self.reply.status.is_empty() => {
                return wrong("no extents");
            }
            (None, command::BLOCK_STATUS) => Ok(Answer::Status(self.reply.status)),
            (None, _) => Ok(Answer::Done),
        };
        Ok(Done { token, epoch, result })
    }
}

impl<P: AsRef<[u8]>> Client<P> {
    /// The next order that was answered, if all of a reply is there. After an error nothing makes sense any more.
    pub fn next_done(&mut self) -> Result<Option<Done>, ClientError> {
        loop {
            let read = match self.reading {
                Reading::Head => self.head()?,
                Reading::Data { low, at, left, done } => self.data(low, at, left, done)?,
            };
            match read {
                Read::Part => {}
                Read::Whole(low) => return self.complete(low).map(Some),
                Read::More => return Ok(None),
            }
        }
    }

    fn complete(&mut self, low: u32) -> Result<Done, ClientError> {
        let Some(flight) = self.flights.remove(&low) else { return wrong("a reply to nothing") };
        self.bytes = self.bytes.saturating_sub(weight(flight.command, flight.len.into()));
        let done = flight.finish()?;
        self.advance();
        Ok(done)
    }

    fn head(&mut self) -> Result<Read, ClientError> {
        let Some(head) = ReplyHead::parse(self.input.bytes())? else {
            self.input.want(ReplyHead::CHUNK);
            return Ok(Read::More);
        };
        match head {
            ReplyHead::Simple { error, cookie } => self.simple(error, cookie),
            ReplyHead::Chunk { .. } if !self.facts.structured => wrong("chunks that were not agreed"),
            ReplyHead::Chunk { done, kind, cookie, len } => self.chunk(done, kind, cookie, len),
        }
    }

    fn simple(&mut self, error: u32, cookie: u64) -> Result<Read, ClientError> {
        let structured = self.facts.structured;
        let (low, flight) = self.flight(cookie)?;
        let chunks = matches!(flight.command, command::READ | command::BLOCK_STATUS);
        if structured && chunks {
            return wrong("a simple reply where chunks were agreed");
        }
        if error != 0 {
            flight.reply.error = Some((Errno::from_number(error), String::new()));
        }
        let reads = flight.command == command::READ && error == 0;
        if reads {
            let (offset, len) = (flight.offset, flight.len);
            let at = flight.part(offset, len)?;
            self.reading = Reading::Data { low, at, left: len as usize, done: true };
        }
        self.input.consume(ReplyHead::SIMPLE);
        Ok(if reads { Read::Part } else { Read::Whole(low) })
    }

    fn flight(&mut self, cookie: u64) -> Result<(u32, &mut Flight), ClientError> {
        let low = cookie as u32;
        let flight = self.flights.get_mut(&low).filter(|flight| flight.cookie == cookie);
        flight.map(|flight| (low, flight)).ok_or(ClientError::Cookie(cookie))
    }

    fn chunk(&mut self, done: bool, kind: u16, cookie: u64, len: u32) -> Result<Read, ClientError> {
        let (low, flight) = self.flight(cookie)?;
        let (longest, what) = match kind {
            chunk::NONE if done && len == 0 => (0, "an empty chunk"),
            chunk::NONE => return wrong("an empty chunk that is not empty, or not the last"),
            chunk::OFFSET_DATA if len > 8 => (flight.len.saturating_add(8), "a chunk of bytes"),
            chunk::OFFSET_DATA => return wrong("a chunk of no bytes"),
            chunk::OFFSET_HOLE => (12, "a hole"),
            chunk::BLOCK_STATUS => (4 + 8 * MAX_EXTENTS as u32, "a block status"),
            kind if kind & chunk::IS_ERROR != 0 => (6 + MAX_STRING as u32 + 8, "an error"),
            _ => return wrong("a chunk of an unknown kind"),
        };
        if len > longest {
            return Err(WireError::TooLong { what, len: len.into() }.into());
        }
        // Bytes go where they belong as they come; all other data is short, and waited for.
        let needed = ReplyHead::CHUNK + if kind == chunk::OFFSET_DATA { 8 } else { len as usize };
        let Some(data) = self.input.bytes().get(ReplyHead::CHUNK..needed) else {
            self.input.want(needed);
            return Ok(Read::More);
        };
        let Some(flight) = self.flights.get_mut(&low) else { return wrong("a reply to nothing") };
        match kind {
            chunk::NONE => {}
            chunk::OFFSET_DATA => {
                let offset = Cursor::new(data).u64().unwrap_or(u64::MAX);
                let at = flight.part(offset, len - 8)?;
                self.reading = Reading::Data { low, at, left: len as usize - 8, done };
            }
            kind => flight.chunk(kind, data)?,
        }
        self.input.consume(needed);
        Ok(if done && kind != chunk::OFFSET_DATA { Read::Whole(low) } else { Read::Part })
    }

    fn data(&mut self, low: u32, at: usize, left: usize, done: bool) -> Result<Read, ClientError> {
        let came = self.input.bytes();
        let count = came.len().min(left);
        let place = self.flights.get_mut(&low).and_then(|flight| flight.reply.data.get_mut(at..at + count));
        let (Some(place), Some(bytes)) = (place, came.get(..count)) else {
            return wrong("bytes that belong nowhere");
        };
        place.copy_from_slice(bytes);
        self.input.consume(count);
        if count < left {
            self.input.want(1);
            self.reading = Reading::Data { low, at: at + count, left: left - count, done };
            return Ok(Read::More);
        }
        self.reading = Reading::Head;
        Ok(if done { Read::Whole(low) } else { Read::Part })
    }
}
