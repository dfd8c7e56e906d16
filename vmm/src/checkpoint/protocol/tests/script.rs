//! A peer that says what it was told to say, and then nothing more.

use super::super::{Channel, Header};
use std::io::{self, IoSlice};
use std::time::Instant;

/// What is yet to be said; whether it hangs up after that, or is silent; what was said to it, and in how many
/// writes.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) says: Vec<u8>,
    pub(super) silent: bool,
    pub(super) heard: Vec<Vec<u8>>,
    /// The most that was asked for at once.
    pub(super) asked: usize,
    /// How many bytes it still takes, if it does not take all.
    pub(super) takes: Option<usize>,
}

impl Script {
    pub(super) fn says(messages: &[Vec<u8>]) -> Self {
        Self { says: messages.concat(), ..Self::default() }
    }
}

/// A message, by hand.
pub(super) fn message(code: u32, epoch: u64, payload: &[u8]) -> Vec<u8> {
    [&Header { code, epoch, len: payload.len() as u64 }.to_bytes(), payload].concat()
}

impl Channel for Script {
    fn send(&mut self, parts: &mut [IoSlice<'_>], _: Instant) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        if let Some(takes) = &mut self.takes {
            *takes = takes.checked_sub(bytes.len()).ok_or(io::ErrorKind::TimedOut)?;
        }
        self.heard.push(bytes);
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8], _: Instant) -> io::Result<usize> {
        self.asked = self.asked.max(buffer.len());
        let count = self.says.len().min(buffer.len());
        if count < buffer.len() && self.silent {
            return Err(io::ErrorKind::TimedOut.into());
        }
        buffer[..count].copy_from_slice(&self.says[..count]);
        self.says.drain(..count);
        Ok(count)
    }
}
