//! What the guest said and nobody has read yet.

use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes, the newest of them.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// How many bytes came before the first that is here.
    passed: u64,
    dropped: u64,
}

impl Ring {
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), capacity, passed: 0, dropped: 0 }
    }

    /// Adds; drops the oldest to make room.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let over = (self.bytes.len() + bytes.len()).saturating_sub(self.capacity);
        let old = over.min(self.bytes.len());
        self.bytes.drain(..old);
        let new = bytes.get(over - old..).unwrap_or_default();
        self.bytes.extend(new);
        self.passed += over as u64;
        self.dropped += over as u64;
    }

    /// Some of the oldest bytes, and the place of the first.
    pub(super) fn oldest(&self, most: usize) -> (u64, Vec<u8>) {
        (self.passed, self.bytes.iter().take(most).copied().collect())
    }

    /// Everything before this place has been read. Some of it may have been dropped meanwhile.
    pub(super) fn read_until(&mut self, place: u64) {
        let read = place.saturating_sub(self.passed).min(self.bytes.len() as u64);
        self.bytes.drain(..read as usize);
        self.passed += read;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Where a serial port writes. It never waits for a reader.
#[derive(Clone, Debug)]
pub struct Output(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    wake: OwnedFd,
}

impl Output {
    pub(super) fn new(capacity: usize) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { ring: Mutex::new(Ring::new(capacity)), wake })))
    }

    /// How many bytes nobody will read.
    pub fn dropped(&self) -> u64 {
        self.ring().dropped
    }

    pub(super) fn ring(&self) -> MutexGuard<'_, Ring> {
        // Whoever panicked did so between two whole steps.
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable when there may be something to do.
    pub(super) fn wake_fd(&self) -> &OwnedFd {
        &self.0.wake
    }

    pub(super) fn wake(&self) {
        // It fails when the counter is full, and then it is awake.
        let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut ring = self.ring();
        let sleeping = ring.is_empty();
        ring.push(bytes);
        let awake = !sleeping || ring.is_empty();
        drop(ring);
        if !awake {
            self.wake();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Read(usize),
        /// Reads while this much is pushed.
        Race(usize, usize),
    }

    proptest! {
        /// The oracle is the stream itself: byte `n` is a function of `n`.
        #[test]
        fn what_is_read_is_the_stream_with_whole_pieces_missing(
            capacity in 0usize..20,
            steps in prop::collection::vec(prop_oneof![
                (0usize..30).prop_map(Step::Push),
                (0usize..30).prop_map(Step::Read),
                (0usize..30, 0usize..30).prop_map(|(read, push)| Step::Race(read, push)),
            ], 0..40),
        ) {
            let byte = |place: u64| (place * 7 % 251) as u8;
            let mut ring = Ring::new(capacity);
            let (mut pushed, mut read, mut next) = (0u64, 0u64, 0u64);
            let push = |ring: &mut Ring, count: usize, pushed: &mut u64| {
                let bytes: Vec<u8> = (0..count as u64).map(|at| byte(*pushed + at)).collect();
                ring.push(&bytes);
                *pushed += count as u64;
            };
            for step in steps {
                let (most, race) = match step {
                    Step::Push(count) => {
                        push(&mut ring, count, &mut pushed);
                        continue;
                    }
                    Step::Read(most) => (most, 0),
                    Step::Race(most, race) => (most, race),
                };
                let (place, bytes) = ring.oldest(most);
                prop_assert!(place >= next, "nothing is read twice");
                for (at, got) in bytes.iter().enumerate() {
                    prop_assert_eq!(*got, byte(place + at as u64));
                }
                push(&mut ring, race, &mut pushed);
                let held = ring.bytes.len() as u64;
                let first = ring.passed;
                ring.read_until(place + bytes.len() as u64);
                // What was dropped before it was marked as read was read all the same.
                read += (place + bytes.len() as u64).saturating_sub(first).min(held);
                next = place + bytes.len() as u64;
                prop_assert!(ring.bytes.len() <= capacity);
            }
            prop_assert_eq!(pushed, read + ring.dropped + ring.bytes.len() as u64);
        }
    }

    #[test]
    fn who_writes_never_waits() {
        use io::Write as _;
        let mut output = Output::new(4).unwrap();
        output.write_all(b"abc").unwrap();
        output.write_all(b"defgh").unwrap();
        assert_eq!(output.ring().oldest(10), (4, b"efgh".to_vec()));
        assert_eq!(output.dropped(), 4);
    }
}
