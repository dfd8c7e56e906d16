//! The handshake's messages.
//!
//! ```text
//!   server: NBDMAGIC IHAVEOPT flags              client: flags
//!   client: IHAVEOPT option length data …        server: magic option answer length data … ACK, or an error
//! ```

use super::WireError;
use super::cursor::{Cursor, push_string};
use super::numbers::{self, IHAVEOPT, MAX_OPTION, NBDMAGIC, OPTION_REPLY_MAGIC, answer, info};

/// What a server says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Of [`numbers::handshake`].
    pub flags: u16,
}

impl Greeting {
    /// Its length.
    pub const SIZE: usize = 18;

    /// Appends it.
    pub fn push(self, out: &mut Vec<u8>) {
        out.extend(NBDMAGIC.to_be_bytes());
        out.extend(IHAVEOPT.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
    }

    /// Reads it, once all of it is there.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let mut cursor = Cursor::new(bytes);
        let (Some(magic), Some(style), Some(flags)) = (cursor.u64(), cursor.u64(), cursor.u16()) else {
            return Ok(None);
        };
        match (magic, style) {
            (NBDMAGIC, IHAVEOPT) => Ok(Some(Self { flags })),
            _ => Err(WireError::Greeting(magic, style)),
        }
    }
}

/// The head of an option; its data follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHead {
    /// Of [`numbers::option`].
    pub option: u32,
    /// How much data follows.
    pub len: u32,
}

impl OptionHead {
    /// Its length.
    pub const SIZE: usize = 16;

    /// Reads it, once all of it is there.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let mut cursor = Cursor::new(bytes);
        let (Some(magic), Some(option), Some(len)) = (cursor.u64(), cursor.u32(), cursor.u32()) else {
            return Ok(None);
        };
        if magic == IHAVEOPT { Ok(Some(Self { option, len })) } else { Err(WireError::Option(magic)) }
    }
}

/// Appends an option with its data.
pub fn push_option(out: &mut Vec<u8>, option: u32, data: &[u8]) {
    out.extend(IHAVEOPT.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
}

/// The head of an answer; its data follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerHead {
    /// To what.
    pub option: u32,
    /// Of [`numbers::answer`].
    pub answer: u32,
    /// How much data follows.
    pub len: u32,
}

impl AnswerHead {
    /// Its length.
    pub const SIZE: usize = 20;

    /// Reads it, once all of it is there. Its data is no longer than we take.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let mut cursor = Cursor::new(bytes);
        let (Some(magic), Some(option), Some(answer), Some(len)) =
            (cursor.u64(), cursor.u32(), cursor.u32(), cursor.u32())
        else {
            return Ok(None);
        };
        match magic {
            OPTION_REPLY_MAGIC if len <= MAX_OPTION => Ok(Some(Self { option, answer, len })),
            OPTION_REPLY_MAGIC => Err(WireError::TooLong { what: "an answer to an option", len: len.into() }),
            _ => Err(WireError::Answer(magic)),
        }
    }
}

/// Appends an answer with its data.
pub fn push_answer(out: &mut Vec<u8>, option: u32, answer: u32, data: &[u8]) {
    out.extend(OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend(answer.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
}

/// The data of `INFO` and `GO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// Of which export.
    pub name: &'a str,
    /// What is asked about it, of [`numbers::info`].
    pub infos: Vec<u16>,
}

impl<'a> Choice<'a> {
    /// Reads it. Nothing may follow.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(data);
        let name = cursor.string()?;
        let count = usize::from(cursor.u16()?);
        if cursor.left() != 2 * count {
            return None;
        }
        Some(Self { name, infos: std::iter::from_fn(|| cursor.u16()).collect() })
    }

    /// The data.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(6 + self.name.len() + 2 * self.infos.len());
        push_string(&mut out, self.name);
        out.extend((self.infos.len() as u16).to_be_bytes());
        self.infos.iter().for_each(|info| out.extend(info.to_be_bytes()));
        out
    }
}

/// The data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queries<'a> {
    /// Of which export.
    pub name: &'a str,
    /// Contexts.
    pub queries: Vec<&'a str>,
}

impl<'a> Queries<'a> {
    /// Reads it. Nothing may follow.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(data);
        let name = cursor.string()?;
        let count = cursor.u32()? as usize;
        // Each takes four bytes at least, so what is there bounds them.
        if count > cursor.left() / 4 {
            return None;
        }
        let queries = (0..count).map(|_| cursor.string()).collect::<Option<Vec<_>>>()?;
        (cursor.left() == 0).then_some(Self { name, queries })
    }

    /// The data.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        push_string(&mut out, self.name);
        out.extend((self.queries.len() as u32).to_be_bytes());
        self.queries.iter().for_each(|query| push_string(&mut out, query));
        out
    }
}

/// Something about an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Info<'a> {
    /// Its size, and flags of [`numbers::transmission`].
    Export {
        /// In bytes.
        size: u64,
        /// What it can do.
        flags: u16,
    },
    /// Its name.
    Name(&'a str),
    /// What a person reads.
    Description(&'a str),
    /// What requests are multiples of, should be multiples of, and are not longer than.
    BlockSize {
        /// At least.
        minimum: u32,
        /// At best.
        preferred: u32,
        /// At most.
        maximum: u32,
    },
    /// What we do not know.
    Other(u16),
}

impl<'a> Info<'a> {
    /// Reads it. `None`: it is malformed.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(data);
        let kind = cursor.u16()?;
        let text = |mut cursor: Cursor<'a>| std::str::from_utf8(cursor.take(cursor.left())?).ok();
        let (info, len) = match kind {
            info::EXPORT => (Self::Export { size: cursor.u64()?, flags: cursor.u16()? }, 12),
            info::NAME => (Self::Name(text(cursor)?), data.len()),
            info::DESCRIPTION => (Self::Description(text(cursor)?), data.len()),
            info::BLOCK_SIZE => {
                let (minimum, preferred, maximum) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
                (Self::BlockSize { minimum, preferred, maximum }, 14)
            }
            other => (Self::Other(other), data.len()),
        };
        (data.len() == len).then_some(info)
    }

    /// Appends it, as an answer to an option.
    pub fn push(self, out: &mut Vec<u8>, option: u32) {
        let mut data = Vec::new();
        match self {
            Self::Export { size, flags } => {
                data.extend(info::EXPORT.to_be_bytes());
                data.extend(size.to_be_bytes());
                data.extend(flags.to_be_bytes());
            }
            Self::Name(text) => {
                data.extend(info::NAME.to_be_bytes());
                data.extend(text.as_bytes());
            }
            Self::Description(text) => {
                data.extend(info::DESCRIPTION.to_be_bytes());
                data.extend(text.as_bytes());
            }
            Self::BlockSize { minimum, preferred, maximum } => {
                data.extend(info::BLOCK_SIZE.to_be_bytes());
                [minimum, preferred, maximum].iter().for_each(|size| data.extend(size.to_be_bytes()));
            }
            Self::Other(kind) => data.extend(kind.to_be_bytes()),
        }
        push_answer(out, option, answer::INFO, &data);
    }
}

/// Appends the answer that names a context.
pub fn push_context(out: &mut Vec<u8>, option: u32, id: u32, name: &str) {
    let mut data = id.to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    push_answer(out, option, answer::META_CONTEXT, &data);
}

/// Reads the data of such an answer.
pub fn parse_context(data: &[u8]) -> Option<(u32, &str)> {
    let mut cursor = Cursor::new(data);
    let id = cursor.u32()?;
    let name = std::str::from_utf8(cursor.take(cursor.left())?).ok()?;
    (name.len() <= numbers::MAX_STRING).then_some((id, name))
}

/// Appends the answer that names an export.
pub fn push_server(out: &mut Vec<u8>, option: u32, name: &str) {
    let mut data = Vec::with_capacity(4 + name.len());
    push_string(&mut data, name);
    push_answer(out, option, answer::SERVER, &data);
}
