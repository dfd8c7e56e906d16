//! What a state cannot be written or read for.

use std::fmt;
use thiserror::Error;

/// A state that cannot be encoded: a mistake in its type, not in its values.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot write section {section}{}: {what}", At(.path))]
pub struct EncodeError {
    section: String,
    /// The field, innermost first.
    path: Vec<String>,
    what: String,
}

impl EncodeError {
    pub(super) fn new(what: impl fmt::Display) -> Self {
        Self { section: String::new(), path: Vec::new(), what: what.to_string() }
    }

    pub(super) fn of(self, section: &str) -> Self {
        Self { section: section.to_owned(), ..self }
    }

    pub(super) fn inside(mut self, field: impl fmt::Display) -> Self {
        self.path.push(field.to_string());
        self
    }
}

impl serde::ser::Error for EncodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message)
    }
}

/// Bytes that are no such state.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot read section {section} (version {version}){}, byte {offset} of its data: {cause}", At(.path))]
pub struct DecodeError {
    section: String,
    version: u32,
    /// The field, innermost first.
    path: Vec<String>,
    offset: usize,
    cause: Cause,
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Cause {
    /// The section is of a version that is not known.
    #[error(
        "version {found} is not known here, version {known} is; a colo-vm of the version that wrote it can \
         read it"
    )]
    Version {
        /// What the stream says.
        found: u32,
        /// What this program writes.
        known: u32,
    },
    /// The bytes end inside a field.
    #[error("the data end: {wanted} bytes are wanted, {left} are left")]
    Short {
        /// How many the field takes.
        wanted: usize,
        /// How many there are.
        left: usize,
    },
    /// There are more bytes than fields.
    #[error("{0} bytes are left after the last field")]
    Trailing(usize),
    /// A count that cannot be true.
    #[error("a count of {count} elements, with {left} bytes left")]
    Count {
        /// What it says.
        count: u32,
        /// How many bytes follow.
        left: usize,
    },
    /// Neither 0 nor 1.
    #[error("{0} where only 0 and 1 mean something")]
    Bool(u8),
    /// Text that is none.
    #[error("a text that is not UTF-8")]
    Text,
    /// Deeper than any state.
    #[error("nested too deep")]
    Depth,
    /// The type asks for what this form has not.
    #[error("there is no form for {0}")]
    Unsupported(&'static str),
    /// What the type itself says.
    #[error("{0}")]
    Value(String),
}

impl DecodeError {
    pub(super) fn new(offset: usize, cause: Cause) -> Self {
        Self { section: String::new(), version: 0, path: Vec::new(), offset, cause }
    }

    /// The error of a version that is not known.
    pub fn version(section: &str, found: u32, known: u32) -> Self {
        Self::new(0, Cause::Version { found, known }).of(section, found)
    }

    /// An error of values that can be read but make no sense, for a [`Section::upgrade`](super::Section::upgrade)
    /// or whoever applies a state.
    pub fn value(section: &str, version: u32, why: impl fmt::Display) -> Self {
        Self::new(0, Cause::Value(why.to_string())).of(section, version)
    }

    pub(super) fn of(self, section: &str, version: u32) -> Self {
        Self { section: section.to_owned(), version, ..self }
    }

    pub(super) fn inside(mut self, field: impl fmt::Display) -> Self {
        self.path.push(field.to_string());
        self
    }

    /// Why.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Where in the section's data.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        // Where it was is added by whoever knows.
        Self::new(usize::MAX, Cause::Value(message.to_string()))
    }
}

impl DecodeError {
    /// An error of a type's own says nothing of the place.
    pub(super) fn at(self, offset: usize) -> Self {
        if self.offset == usize::MAX { Self { offset, ..self } } else { self }
    }
}

/// A path from the innermost name, as people write it.
struct At<'a>(&'a [String]);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.0.iter().rev().enumerate() {
            f.write_str(if at == 0 { ", field " } else { "." })?;
            f.write_str(name)?;
        }
        Ok(())
    }
}
