//! The fields of a hello.

use super::{HelloError, MACHINE};
use crate::config::Name;

pub(super) fn put_name(bytes: &mut Vec<u8>, name: &Name) {
    // A name has at most 64 bytes.
    bytes.push(name.as_str().len() as u8);
    bytes.extend(name.as_str().as_bytes());
}

/// What has not been read yet.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], HelloError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(HelloError::Short(field))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn byte(&mut self, field: &'static str) -> Result<u8, HelloError> {
        self.array(field).map(u8::from_be_bytes)
    }

    pub(super) fn be32(&mut self, field: &'static str) -> Result<u32, HelloError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn be64(&mut self, field: &'static str) -> Result<u64, HelloError> {
        self.array(field).map(u64::from_be_bytes)
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<String, HelloError> {
        let len = usize::from(self.array(field).map(u16::from_be_bytes)?);
        let (text, rest): (&'a [u8], _) = self.0.split_at_checked(len).ok_or(HelloError::Short(field))?;
        self.0 = rest;
        let text = std::str::from_utf8(text).map_err(|_| HelloError::Text(field))?;
        if len > MACHINE || text.contains(char::is_control) {
            return Err(HelloError::Text(field));
        }
        Ok(text.to_owned())
    }

    pub(super) fn name(&mut self, field: &'static str) -> Result<Name, HelloError> {
        let len = usize::from(self.byte(field)?);
        let (text, rest): (&'a [u8], _) = self.0.split_at_checked(len).ok_or(HelloError::Short(field))?;
        self.0 = rest;
        let text = std::str::from_utf8(text).map_err(|_| HelloError::Name(field))?;
        text.parse().map_err(|_| HelloError::Name(field))
    }
}
