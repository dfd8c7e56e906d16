//! The messages of transmission.
//!
//! ```text
//!   request     magic flags command cookie offset length [bytes to be written]
//!   simple      magic error cookie [bytes that were read]
//!   structured  magic flags type cookie length [data of the chunk] …  until the flag DONE
//! ```

use super::cursor::Cursor;
use super::numbers::{
    MAX_EXTENTS, MAX_STRING, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk, command,
};
use super::{Errno, WireError};

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Of [`numbers::flag`](super::numbers::flag).
    pub flags: u16,
    /// Of [`numbers::command`](super::numbers::command).
    pub command: u16,
    /// What its reply is known by.
    pub cookie: u64,
    /// Where.
    pub offset: u64,
    /// How much.
    pub len: u32,
}

impl Request {
    /// The length of its head.
    pub const SIZE: usize = 28;

    /// Reads it, once all of it is there.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let mut cursor = Cursor::new(bytes);
        let head = (cursor.u32(), cursor.u16(), cursor.u16(), cursor.u64(), cursor.u64(), cursor.u32());
        let (Some(magic), Some(flags), Some(command), Some(cookie), Some(offset), Some(len)) = head else {
            return Ok(None);
        };
        if magic == REQUEST_MAGIC {
            Ok(Some(Self { flags, command, cookie, offset, len }))
        } else {
            Err(WireError::Request(magic))
        }
    }

    /// The head. What is to be written follows it.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..].copy_from_slice(&self.len.to_be_bytes());
        out
    }

    /// How many bytes follow the head.
    pub fn payload(&self) -> u32 {
        if self.command == command::WRITE { self.len } else { 0 }
    }
}

/// The head of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyHead {
    /// All of it; what was read follows, if nothing went wrong.
    Simple {
        /// What went wrong, as a number.
        error: u32,
        /// Of which request.
        cookie: u64,
    },
    /// A part of it.
    Chunk {
        /// Whether it is the last.
        done: bool,
        /// Of [`numbers::chunk`](super::numbers::chunk).
        kind: u16,
        /// Of which request.
        cookie: u64,
        /// How much follows.
        len: u32,
    },
}

impl ReplyHead {
    /// The length of a simple reply's head.
    pub const SIMPLE: usize = 16;
    /// The length of a chunk's head.
    pub const CHUNK: usize = 20;

    /// Reads it, once all of it is there.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let mut cursor = Cursor::new(bytes);
        match cursor.u32() {
            None => Ok(None),
            Some(SIMPLE_REPLY_MAGIC) => {
                let (Some(error), Some(cookie)) = (cursor.u32(), cursor.u64()) else { return Ok(None) };
                Ok(Some(Self::Simple { error, cookie }))
            }
            Some(STRUCTURED_REPLY_MAGIC) => {
                let head = (cursor.u16(), cursor.u16(), cursor.u64(), cursor.u32());
                let (Some(flags), Some(kind), Some(cookie), Some(len)) = head else { return Ok(None) };
                Ok(Some(Self::Chunk { done: flags & chunk::DONE != 0, kind, cookie, len }))
            }
            Some(other) => Err(WireError::Reply(other)),
        }
    }

    /// Appends it.
    pub fn push(self, out: &mut Vec<u8>) {
        match self {
            Self::Simple { error, cookie } => {
                out.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
                out.extend(error.to_be_bytes());
                out.extend(cookie.to_be_bytes());
            }
            Self::Chunk { done, kind, cookie, len } => {
                out.extend(STRUCTURED_REPLY_MAGIC.to_be_bytes());
                out.extend(if done { chunk::DONE } else { 0 }.to_be_bytes());
                out.extend(kind.to_be_bytes());
                out.extend(cookie.to_be_bytes());
                out.extend(len.to_be_bytes());
            }
        }
    }
}

/// Appends the only chunk of a reply that says what went wrong.
pub fn push_error(out: &mut Vec<u8>, cookie: u64, error: Errno, message: &str) {
    let message = cut(message);
    ReplyHead::Chunk { done: true, kind: chunk::ERROR, cookie, len: 6 + message.len() as u32 }.push(out);
    out.extend((error as u32).to_be_bytes());
    out.extend((message.len() as u16).to_be_bytes());
    out.extend(message.as_bytes());
}

/// As much of a message as a string may have.
fn cut(message: &str) -> &str {
    message.get(..message.floor_char_boundary(MAX_STRING)).unwrap_or_default()
}

/// Reads the data of a chunk that says what went wrong, of whatever kind.
pub fn parse_error(data: &[u8]) -> Option<(u32, &str)> {
    let mut cursor = Cursor::new(data);
    let error = cursor.u32()?;
    let len = usize::from(cursor.u16()?);
    let message = cursor.take(len)?;
    Some((error, std::str::from_utf8(message).unwrap_or("(a message that is no text)")))
}

/// What a context says of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How long it is.
    pub len: u32,
    /// What is so of it.
    pub status: u32,
}

/// Appends a chunk of block status.
pub fn push_status(out: &mut Vec<u8>, done: bool, cookie: u64, context: u32, extents: &[Extent]) {
    let len = 4 + 8 * extents.len() as u32;
    ReplyHead::Chunk { done, kind: chunk::BLOCK_STATUS, cookie, len }.push(out);
    out.extend(context.to_be_bytes());
    for extent in extents {
        out.extend(extent.len.to_be_bytes());
        out.extend(extent.status.to_be_bytes());
    }
}

/// Reads the data of such a chunk.
pub fn parse_status(data: &[u8]) -> Option<(u32, Vec<Extent>)> {
    let mut cursor = Cursor::new(data);
    let context = cursor.u32()?;
    let count = cursor.left() / 8;
    if !cursor.left().is_multiple_of(8) || count == 0 || count > MAX_EXTENTS {
        return None;
    }
    let mut next = || Some(Extent { len: cursor.u32()?, status: cursor.u32()? });
    (0..count).map(|_| next()).collect::<Option<Vec<_>>>().map(|extents| (context, extents))
}
