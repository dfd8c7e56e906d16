//! What is wrong with a stream: where, in which section, and why.

use super::package::PackageError;
use super::ram::RecordError;
use std::fmt;
use std::io;
use thiserror::Error;

/// A stream that cannot be read.
#[derive(Debug, Error)]
#[error("the stream is bad at byte {offset} ({place}): {cause}")]
pub struct StreamError {
    /// How many bytes come before what is wrong.
    pub offset: u64,
    /// The section.
    pub place: Place,
    /// Why.
    pub cause: StreamCause,
}

/// A section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Magic and version.
    Header,
    /// The machine's name.
    Configuration,
    /// Between sections.
    Between,
    /// A section of this name.
    Section(String),
    /// A package of devices.
    Package,
    /// The description after the end.
    Description,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Configuration => f.write_str("configuration"),
            Self::Between => f.write_str("between sections"),
            Self::Section(name) => write!(f, "section {name}"),
            Self::Package => f.write_str("package"),
            Self::Description => f.write_str("description"),
        }
    }
}

/// Why a stream cannot be read.
#[derive(Debug, Error)]
pub enum StreamCause {
    /// It ends inside something.
    #[error("it ends: {wanted} bytes are wanted, {got} are there; it was cut off")]
    Short {
        /// How many should be there.
        wanted: u64,
        /// How many are.
        got: u64,
    },
    /// It cannot be read at all.
    #[error("it cannot be read: {0}")]
    Io(io::Error),
    /// Not a stream.
    #[error("it begins with {0:#010x}, not with QEVM: it is no saved machine")]
    Magic(u32),
    /// Another version.
    #[error("it is a stream of version {0}; version 3 can be read")]
    Version(u32),
    /// Another machine.
    #[error("it was saved by {0:?}, not by colo-vm; `colo-vm inspect` can show it")]
    Machine(String),
    /// Something else should come here.
    #[error("{found}, where {expected} should come")]
    Order {
        /// What comes.
        found: String,
        /// What should.
        expected: &'static str,
    },
    /// A section comes twice.
    #[error("{0} is there twice")]
    Twice(String),
    /// A section's version.
    #[error("version {found} of it is not known, version {known} is")]
    SectionVersion {
        /// What the stream says.
        found: u32,
        /// What can be read.
        known: u32,
    },
    /// A section's end does not name it.
    #[error("its footer should be 0x7e and {expected}, and is {byte:#04x} and {found}")]
    Footer {
        /// The section's id.
        expected: u32,
        /// The first byte.
        byte: u8,
        /// The id.
        found: u32,
    },
    /// More than there can be.
    #[error("{what} of {size}, more than {limit}, which is the most")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large it says it is.
        size: u64,
        /// How large it may be.
        limit: u64,
    },
    /// A text that is none.
    #[error("a name that is not UTF-8")]
    Name,
    /// Blocks that do not add up.
    #[error("the blocks of memory {0}")]
    Blocks(String),
    /// A command of which nothing is known.
    #[error("command {0}, which a saved machine has not")]
    Command(u16),
    /// A record of memory.
    #[error(transparent)]
    Record(RecordError),
    /// A package.
    #[error(transparent)]
    Package(PackageError),
    /// A description that cannot be read, or is not of this stream.
    #[error("the description {0}")]
    Description(String),
    /// The machine cannot take it.
    #[error("this machine cannot take it: {0}")]
    Machinery(String),
    /// There is more after the last byte.
    #[error("there are bytes after the end")]
    Trailing,
}
