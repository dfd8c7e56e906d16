//! Plain states to bytes and back, with a description of every field.
//!
//! ```text
//!                    encode                                    file or package
//!   a plain struct ─────────► bytes        00 00 00 07 01 …  ──────────────────►┐
//!                         └─► description  [{"name":"irq","type":"uint32",…},…]  │ inspect, QEMU's
//!                                                                                │ analyze-migration.py
//!   a plain struct ◄───────── bytes  ◄───────────────────────────────────────────┘
//!                    decode   (all of them, no more allocated than they can hold)
//! ```
//!
//! One serializer writes the fields and their description in the same step, so that one cannot be untrue of
//! the other. How a field lies in the bytes:
//!
//! | in the struct | in the bytes (big-endian) | as described |
//! |---|---|---|
//! | integers, `bool` | their bytes | `uint8` … `int64`, `bool` |
//! | `[u8; N]` | N bytes | `buffer` |
//! | `[T; N]`, tuples of one type | one after the other | `array_len`, or an `index` each where elements differ |
//! | `Vec<u8>`, `String` | a count of 4 bytes, then they | `NAME.len`, then `NAME`, a `buffer` |
//! | `Vec<T>` | a count of 4 bytes, then they | `NAME.len`, then `NAME` as an array |
//! | `Option<T>` | 0, or 1 and it | `NAME.present`, then `NAME` |
//! | a struct | its fields | `struct` |
//! | an enum | the variant's number in a byte, then what it holds | `uint8` with the variant's name |
//!
//! Maps, floats, `char` and integers of 128 bits have no form here and are an error.

mod de;
#[cfg(test)]
pub(crate) mod dice;
mod error;
mod field;
mod ser;

pub use error::{Cause, DecodeError, EncodeError};
pub use field::{Field, Struct};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// How deep structs, arrays and options may be nested: no state of ours comes near it.
const DEPTH: usize = 24;

/// A state that is a section of a stream.
///
/// A change of a field is a new version. What the last version wrote can still be read if
/// [`upgrade`](Self::upgrade) knows how.
pub trait Section: Serialize + DeserializeOwned {
    /// The section's name.
    const NAME: &'static str;
    /// The version that is written.
    const VERSION: u32;

    /// Reads what another version wrote: usually [`from_bytes`] of the struct as it was then, and the
    /// rest filled in.
    fn upgrade(version: u32, bytes: &[u8]) -> Result<Self, DecodeError> {
        let _ = bytes;
        Err(DecodeError::version(Self::NAME, version, Self::VERSION))
    }
}

/// A state as bytes, and what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The section's name.
    pub name: String,
    /// Which of several of that name.
    pub instance: u32,
    /// The version of its layout.
    pub version: u32,
    /// The fields.
    pub bytes: Vec<u8>,
    /// What the bytes are, in their order; empty if nobody asked for it.
    pub fields: Vec<Field>,
}

impl Encoded {
    /// The same as the so-manieth of its name.
    #[must_use]
    pub fn instance(self, instance: u32) -> Self {
        Self { instance, ..self }
    }
}

/// A section as bytes with their description, as a file has it. The instance is 0.
pub fn encode<T: Section>(state: &T) -> Result<Encoded, EncodeError> {
    section(state, true)
}

/// A section as the same bytes without a description, which takes a fraction of the time: for checkpoints.
pub fn encode_bare<T: Section>(state: &T) -> Result<Encoded, EncodeError> {
    section(state, false)
}

fn section<T: Section>(state: &T, describe: bool) -> Result<Encoded, EncodeError> {
    let (bytes, fields) = ser::serialize(state, describe).map_err(|error| error.of(T::NAME))?;
    Ok(Encoded { name: T::NAME.to_owned(), instance: 0, version: T::VERSION, bytes, fields })
}

/// The section that a version wrote: all of the bytes, or an error.
pub fn decode<T: Section>(version: u32, bytes: &[u8]) -> Result<T, DecodeError> {
    if version != T::VERSION {
        return T::upgrade(version, bytes).map_err(|error| error.of(T::NAME, version));
    }
    from_bytes(bytes).map_err(|error| error.of(T::NAME, version))
}

/// A struct from all of these bytes.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    de::deserialize(bytes)
}

#[cfg(test)]
mod tests;
