//! A buffer that payloads are received into, again and again.
//!
//! It grows as bytes come, not as they are announced: a peer that says "1 TiB follows" costs what it sends. What
//! it has grown to is kept and not cleared, so that the next epoch writes nothing twice.

use std::collections::TryReserveError;

/// Received bytes.
#[derive(Debug, Default)]
pub struct Buffer {
    /// As long as it ever was; what is behind `len` is of another message.
    bytes: Vec<u8>,
    len: usize,
}

impl Buffer {
    /// How much is allocated ahead of what has come.
    pub const STEP: usize = 1 << 20;

    /// Nothing yet.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), len: 0 }
    }

    /// What was received last.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// How much memory it has taken.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Gives memory back, down to so much. Its content is gone.
    pub fn shrink(&mut self, to: usize) {
        self.len = 0;
        self.bytes.truncate(to);
        self.bytes.shrink_to(to);
    }

    /// It holds nothing.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Room for more, of which there will be `left` bytes in all: what it has, and at least a step.
    pub(super) fn room(&mut self, left: usize) -> Result<&mut [u8], TryReserveError> {
        let held = self.bytes.len() - self.len;
        if held < left.min(Self::STEP) {
            let more = left.min(Self::STEP) - held;
            // No more than that: what is kept by each side is bounded.
            self.bytes.try_reserve_exact(more)?;
            self.bytes.resize(self.bytes.len() + more, 0);
        }
        let end = self.bytes.len().min(self.len.saturating_add(left));
        Ok(self.bytes.get_mut(self.len..end).unwrap_or_default())
    }

    /// So much of the room was used.
    pub(super) fn filled(&mut self, count: usize) {
        self.len = self.len.saturating_add(count).min(self.bytes.len());
    }
}

impl From<Vec<u8>> for Buffer {
    /// As if these had been received.
    fn from(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self { bytes, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_memory_as_bytes_come() {
        let mut buffer = Buffer::new();
        let room = buffer.room(usize::MAX).unwrap().len();
        assert_eq!(room, Buffer::STEP);
        buffer.filled(10);
        assert!(buffer.capacity() < 2 * Buffer::STEP);
        assert_eq!(buffer.bytes().len(), 10);
    }

    #[test]
    fn what_it_has_is_used_again() {
        let mut buffer = Buffer::new();
        for _ in 0..4 {
            let room = buffer.room(Buffer::STEP).unwrap().len();
            buffer.filled(room);
        }
        let capacity = buffer.capacity();
        buffer.clear();
        assert!(buffer.bytes().is_empty());
        assert_eq!(buffer.room(4 * Buffer::STEP).unwrap().len(), 4 * Buffer::STEP);
        assert_eq!(buffer.room(7).unwrap().len(), 7);
        assert_eq!(buffer.capacity(), capacity);
        buffer.shrink(100);
        assert!(buffer.capacity() < capacity);
    }
}
