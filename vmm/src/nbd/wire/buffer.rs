//! What came and is not understood yet, in memory that grows as bytes come, not as lengths are claimed.
//!
//! ```text
//!   [ consumed | came, not yet understood | room ]
//!                                          ▲ the next bytes are put here
//! ```

/// How much is read at once, as long as no message is larger.
pub const STEP: usize = 256 << 10;

/// Bytes from a peer.
#[derive(Debug, Default)]
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    end: usize,
    wanted: usize,
}

impl Buffer {
    /// An empty one. It takes memory when bytes come.
    pub fn new() -> Self {
        Self::default()
    }

    /// What came.
    pub fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    /// What came, to be lent.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// So much of it was understood.
    pub fn consume(&mut self, len: usize) {
        self.start = self.end.min(self.start.saturating_add(len));
    }

    /// The message that is begun takes so many bytes, its beginning included. The caller has bounded it.
    pub fn want(&mut self, len: usize) {
        self.wanted = len;
    }

    /// Where the next bytes go: at least one fits, until all that was wanted is there.
    pub fn room(&mut self) -> &mut [u8] {
        let held = self.end - self.start;
        if held == 0 {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && (held <= 4096 || self.memory.len() - self.start < self.wanted) {
            self.memory.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, held);
        }
        if self.end == self.memory.len() {
            // Never more than twice what came.
            let larger = self.memory.len().saturating_mul(2).min(self.wanted.max(self.end + 1)).max(STEP);
            self.memory.resize(larger, 0);
        }
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes were put into the room.
    pub fn filled(&mut self, len: usize) {
        self.end = self.memory.len().min(self.end.saturating_add(len));
    }

    /// Takes bytes from memory.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let len = room.len().min(bytes.len());
            let (now, rest) = bytes.split_at(len);
            if let Some(place) = room.get_mut(..len) {
                place.copy_from_slice(now);
            }
            self.filled(len);
            bytes = rest;
        }
    }

    /// How much memory it has.
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }
}

/// Bytes for a peer.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// What is to be sent.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// So much of it was.
    pub fn sent(&mut self, len: usize) {
        self.sent = self.bytes.len().min(self.sent.saturating_add(len));
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
            // What one large reply needed is not kept for ever.
            if self.bytes.capacity() > 4 * STEP {
                self.bytes.shrink_to(STEP);
            }
        }
    }

    /// Where messages are appended.
    pub fn end(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_what_came_and_not_what_was_announced() {
        let mut buffer = Buffer::new();
        buffer.want(32 << 20);
        let mut came = 0;
        while came < 3 << 20 {
            let room = buffer.room().len();
            assert!(room > 0);
            buffer.filled(room.min(100_000));
            came += room.min(100_000);
            assert!(buffer.capacity() <= (2 * came).max(STEP));
        }
    }

    #[test]
    fn bytes_stay_in_order_across_moves() {
        let mut buffer = Buffer::new();
        let all: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
        let (mut fed, mut seen) = (0, 0);
        while seen < all.len() {
            let more = &all[fed..all.len().min(fed + 70_000)];
            buffer.feed(more);
            fed += more.len();
            let take = buffer.bytes().len().min(50_001);
            assert_eq!(&buffer.bytes()[..take], &all[seen..seen + take]);
            buffer.consume(take);
            seen += take;
        }
    }
}
