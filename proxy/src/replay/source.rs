//! Bytes from a file, with the place in it, so that every complaint can name it.

use super::ReplayError;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// A reader that knows how far it is.
#[derive(Debug)]
pub(super) struct Source<R> {
    path: PathBuf,
    reader: R,
    offset: u64,
}

/// A record that is being read: where it starts, and what it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) what: &'static str,
}

impl<R: Read> Source<R> {
    pub(super) fn new(path: &Path, reader: R) -> Self {
        Self { path: path.to_owned(), reader, offset: 0 }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes have been read.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The record that starts here.
    pub(super) fn place(&self, what: &'static str) -> Place {
        Place { offset: self.offset, what }
    }

    /// Reads as much of `buf` as there is.
    fn read_up_to(&mut self, buf: &mut [u8]) -> Result<usize, ReplayError> {
        let mut have = 0;
        while have < buf.len() {
            match self.reader.read(&mut buf[have..]) {
                Ok(0) => break,
                Ok(count) => {
                    have += count;
                    self.offset += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(have)
    }

    /// The first bytes of a record; none at the end of the file.
    pub(super) fn begin<const N: usize>(&mut self, place: Place) -> Result<Option<[u8; N]>, ReplayError> {
        let mut buf = [0; N];
        match self.read_up_to(&mut buf)? {
            0 => Ok(None),
            have if have == N => Ok(Some(buf)),
            _ => Err(self.truncated(place)),
        }
    }

    /// The next bytes of a record.
    pub(super) fn array<const N: usize>(&mut self, place: Place) -> Result<[u8; N], ReplayError> {
        let mut buf = [0; N];
        let have = self.read_up_to(&mut buf)?;
        if have < N { Err(self.truncated(place)) } else { Ok(buf) }
    }

    /// The next bytes of a record; the caller has bounded `len`.
    pub(super) fn bytes(&mut self, place: Place, len: usize) -> Result<Vec<u8>, ReplayError> {
        let mut buf = vec![0; len];
        let have = self.read_up_to(&mut buf)?;
        if have < len { Err(self.truncated(place)) } else { Ok(buf) }
    }

    /// Passes over bytes of a record.
    pub(super) fn skip(&mut self, place: Place, len: u64) -> Result<(), ReplayError> {
        let copied = io::copy(&mut (&mut self.reader).take(len), &mut io::sink());
        let copied = copied.map_err(|error| self.failed(error))?;
        self.offset += copied;
        if copied < len { Err(self.truncated(place)) } else { Ok(()) }
    }

    fn failed(&self, source: io::Error) -> ReplayError {
        ReplayError::Read { path: self.path.clone(), offset: self.offset, source }
    }

    fn truncated(&self, place: Place) -> ReplayError {
        let Place { offset, what } = place;
        ReplayError::Truncated { path: self.path.clone(), offset, what, have: self.offset - offset }
    }

    pub(super) fn damaged(&self, place: Place, why: impl Into<String>) -> ReplayError {
        let why = format!("the {} {}", place.what, why.into());
        ReplayError::Damaged { path: self.path.clone(), offset: place.offset, why }
    }
}
