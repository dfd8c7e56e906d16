//! Where bytes come from: a slice, or a reader with one buffer. Nothing is allocated for what is read.

use std::io::{self, Read};

/// Bytes in their order.
pub trait Source {
    /// The next bytes, no more than [`MOST`] at once.
    fn take(&mut self, wanted: usize) -> Result<&[u8], SourceError>;

    /// How many were taken.
    fn offset(&self) -> u64;
}

/// The most bytes that a source gives at once.
pub const MOST: usize = 4096;
const BUFFER: usize = 256 << 10;

/// Bytes that are not there.
#[derive(Debug)]
pub enum SourceError {
    /// The end came first.
    Short {
        /// How many were wanted.
        wanted: usize,
        /// How many were there.
        got: usize,
    },
    /// They cannot be read.
    Io(io::Error),
}

/// The next bytes as an array.
pub(super) fn array<const N: usize>(source: &mut impl Source) -> Result<[u8; N], SourceError> {
    let mut array = [0; N];
    array.copy_from_slice(source.take(N)?);
    Ok(array)
}

/// A slice, of which nothing is copied.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Slice<'a> {
    /// All of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next bytes, as long as the slice lives; any number.
    pub(super) fn slice(&mut self, wanted: usize) -> Result<&'a [u8], SourceError> {
        let rest = self.rest();
        let taken = rest.get(..wanted).ok_or(SourceError::Short { wanted, got: rest.len() })?;
        self.at += wanted;
        Ok(taken)
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }
}

impl Source for Slice<'_> {
    fn take(&mut self, wanted: usize) -> Result<&[u8], SourceError> {
        self.slice(wanted)
    }

    fn offset(&self) -> u64 {
        self.at as u64
    }
}

/// A reader, of which a buffer is filled at a time.
#[derive(Debug)]
pub struct Buffered<R> {
    reader: R,
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
    offset: u64,
}

impl<R: Read> Buffered<R> {
    /// From where the reader stands.
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: vec![0; BUFFER].into_boxed_slice(), begin: 0, end: 0, offset: 0 }
    }

    /// Makes sure that so many are in the buffer; fewer are at the end.
    fn fill(&mut self, wanted: usize) -> io::Result<usize> {
        if self.end - self.begin < wanted {
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        while self.end - self.begin < wanted {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.end - self.begin)
    }

    /// So many bytes, which the caller has bounded: they are allocated as they come.
    pub(super) fn vec(&mut self, len: usize) -> Result<Vec<u8>, SourceError> {
        let mut bytes = Vec::with_capacity(len.min(BUFFER));
        while bytes.len() < len {
            let piece = (len - bytes.len()).min(MOST);
            match self.take(piece) {
                Ok(taken) => bytes.extend_from_slice(taken),
                Err(SourceError::Short { got, .. }) => {
                    return Err(SourceError::Short { wanted: len, got: bytes.len() + got });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// Whether nothing is left.
    pub(super) fn is_at_end(&mut self) -> Result<bool, SourceError> {
        Ok(self.fill(1).map_err(SourceError::Io)? == 0)
    }
}

impl<R: Read> Source for Buffered<R> {
    fn take(&mut self, wanted: usize) -> Result<&[u8], SourceError> {
        let wanted = wanted.min(BUFFER);
        let got = self.fill(wanted).map_err(SourceError::Io)?;
        if got < wanted {
            return Err(SourceError::Short { wanted, got });
        }
        let at = self.begin;
        self.begin += wanted;
        self.offset += wanted as u64;
        Ok(&self.buffer[at..at + wanted])
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}
