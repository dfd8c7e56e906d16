//! A network between lab machines, which a test can cut, delay or make lose frames.
//!
//! ```text
//!   QEMU a ══ stream socket ══ reader ┐                ┌ queue ─ writer ══ QEMU b
//!                                     ├─ which port? ──┤
//!   QEMU b ══ stream socket ══ reader ┘  which faults? └ queue ─ writer ══ QEMU a
//! ```
//!
//! It is a switch: it learns where an address is, and a frame for an address that it does not know
//! goes to every port but its own. A queue is bounded; what does not fit is dropped, as by a switch.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The largest frame: what QEMU takes from a guest's NIC at once.
const FRAME_MAX: usize = 1 << 17;
/// Frames that wait for a slow port, or for their delay.
const QUEUE: usize = 4096;
/// Addresses that are remembered.
const ADDRESSES: usize = 4096;

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Nothing gets through.
    pub cut: bool,
    /// Each frame arrives this much later.
    pub delay: Duration,
    /// Of a thousand frames, so many are lost, by chance that is the same in each run.
    pub loss_per_mille: u16,
}

/// Frames so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed to a port.
    pub forwarded: u64,
    /// Lost by [`Faults`].
    pub faulted: u64,
    /// Lost because a port did not keep up, or was gone.
    pub overflowed: u64,
}

#[derive(Debug)]
struct Queued {
    due: Instant,
    frame: Arc<[u8]>,
}

#[derive(Debug)]
struct State {
    faults: Faults,
    chance: u64,
    places: HashMap<[u8; 6], usize>,
    ports: Vec<SyncSender<Queued>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    forwarded: AtomicU64,
    faulted: AtomicU64,
    overflowed: AtomicU64,
}

/// A link; it ends when the last of its ports has.
#[derive(Clone, Debug)]
pub struct Link(Arc<Shared>);

impl Default for Link {
    fn default() -> Self {
        let state = State {
            faults: Faults::default(),
            chance: 0x9e37_79b9_7f4a_7c15,
            places: HashMap::new(),
            ports: Vec::new(),
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            forwarded: AtomicU64::new(0),
            faulted: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
        }))
    }
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with it from now on.
    pub fn set(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Nothing gets through from now on.
    pub fn cut(&self) {
        self.set(Faults { cut: true, ..Faults::default() });
    }

    /// Nothing is wrong from now on.
    pub fn mend(&self) {
        self.set(Faults::default());
    }

    /// Each frame arrives so much later from now on.
    pub fn delay(&self, delay: Duration) {
        self.set(Faults { delay, ..Faults::default() });
    }

    /// So many of a thousand frames are lost from now on.
    pub fn lose(&self, per_mille: u16) {
        self.set(Faults { loss_per_mille: per_mille, ..Faults::default() });
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        let Shared { forwarded, faulted, overflowed, .. } = &*self.0;
        Counts {
            forwarded: forwarded.load(Relaxed),
            faulted: faulted.load(Relaxed),
            overflowed: overflowed.load(Relaxed),
        }
    }

    /// A port whose frames begin with their length in four bytes, as those of QEMU's `-netdev stream`.
    pub(super) fn add_stream(&self, stream: UnixStream) -> io::Result<()> {
        let mut from = BufReader::with_capacity(1 << 16, stream.try_clone()?);
        let mut to = stream;
        let read = move |frame: &mut Vec<u8>| {
            let mut length = [0; 4];
            from.read_exact(&mut length)?;
            let length = u32::from_be_bytes(length) as usize;
            if length > FRAME_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame longer than any"));
            }
            frame.resize(length, 0);
            from.read_exact(frame)
        };
        let write = move |frame: &[u8]| {
            let mut whole = (frame.len() as u32).to_be_bytes().to_vec();
            whole.extend(frame);
            to.write_all(&whole)
        };
        self.add(read, write);
        Ok(())
    }

    /// A port with its own way to read (until there is an error) and to write a frame.
    pub(super) fn add(
        &self,
        mut read: impl FnMut(&mut Vec<u8>) -> io::Result<()> + Send + 'static,
        mut write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
    ) {
        let (sender, queue) = mpsc::sync_channel::<Queued>(QUEUE);
        let port = {
            let mut state = self.state();
            state.ports.push(sender);
            state.ports.len() - 1
        };
        thread::spawn(move || {
            for queued in queue {
                thread::sleep(queued.due.saturating_duration_since(Instant::now()));
                if write(&queued.frame).is_err() {
                    // A dead machine; the queue goes, and senders see that it has.
                    return;
                }
            }
        });
        let link = self.clone();
        thread::spawn(move || {
            let mut frame = Vec::new();
            while read(&mut frame).is_ok() {
                link.forward(port, &frame);
            }
        });
    }

    fn forward(&self, from: usize, frame: &[u8]) {
        let Some((to, sender)) = addresses(frame) else { return };
        let mut state = self.state();
        if state.faults.cut || state.is_unlucky() {
            self.0.faulted.fetch_add(1, Relaxed);
            return;
        }
        if state.places.len() >= ADDRESSES {
            state.places.clear();
        }
        state.places.insert(sender, from);
        let place = state.places.get(&to).copied();
        let due = Instant::now() + state.faults.delay;
        let frame: Arc<[u8]> = frame.into();
        for (port, queue) in state.ports.iter().enumerate() {
            if port == from || place.is_some_and(|place| place != port) {
                continue;
            }
            let counter = match queue.try_send(Queued { due, frame: frame.clone() }) {
                Ok(()) => &self.0.forwarded,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => &self.0.overflowed,
            };
            counter.fetch_add(1, Relaxed);
        }
    }
}

impl State {
    /// Chance by xorshift (Marsaglia 2003), from the same start in each run.
    fn is_unlucky(&mut self) -> bool {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % 1000 < u64::from(self.faults.loss_per_mille)
    }
}

/// To whom a frame is, and from whom.
fn addresses(frame: &[u8]) -> Option<([u8; 6], [u8; 6])> {
    Some((*frame.first_chunk()?, *frame.get(6..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const ALL: [u8; 6] = [255; 6];

    fn port(link: &Link) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        link.add_stream(theirs).unwrap();
        ours
    }

    fn send(port: &mut UnixStream, to: [u8; 6], from: [u8; 6], body: &[u8]) {
        let frame = [&to[..], &from, body].concat();
        port.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
        port.write_all(&frame).unwrap();
    }

    fn body(port: &mut UnixStream) -> Vec<u8> {
        let mut length = [0; 4];
        port.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        port.read_exact(&mut frame).unwrap();
        frame.split_off(12)
    }

    #[test]
    fn it_learns_where_an_address_is() {
        let link = Link::default();
        let (mut a, mut b, mut c) = (port(&link), port(&link), port(&link));
        send(&mut a, ALL, A, b"who?");
        assert_eq!((body(&mut b), body(&mut c)), (b"who?".to_vec(), b"who?".to_vec()));
        send(&mut b, A, B, b"me");
        assert_eq!(body(&mut a), b"me");
        send(&mut a, B, A, b"then");
        assert_eq!(body(&mut b), b"then");
        // The third port heard the first frame and none of the others.
        send(&mut a, ALL, A, b"last");
        assert_eq!(body(&mut c), b"last");
        // An address that moves, as when the other host takes over, is found at its new place.
        send(&mut c, ALL, B, b"here now");
        assert_eq!((body(&mut a), body(&mut b).len()), (b"here now".to_vec(), 4));
        send(&mut a, B, A, b"to c");
        assert_eq!(body(&mut c), b"to c");
        assert_eq!(link.counts().overflowed, 0);
    }

    #[test]
    fn faults_are_what_a_test_says() {
        let link = Link::default();
        let (mut a, mut b) = (port(&link), port(&link));
        let seen = |count: u64| {
            while link.counts().faulted < count {
                thread::yield_now();
            }
        };
        link.cut();
        send(&mut a, B, A, b"lost");
        seen(1);
        link.mend();
        send(&mut a, B, A, b"found");
        assert_eq!(body(&mut b), b"found");
        link.lose(1000);
        send(&mut a, B, A, b"lost");
        seen(2);
        link.lose(250);
        for number in 0..1000u16 {
            send(&mut a, B, A, &number.to_be_bytes());
        }
        link_has(&link, 1003);
        let lost = link.counts().faulted - 2;
        assert!((150..350).contains(&lost), "{lost} of 1000");
        link.delay(Duration::from_millis(30));
        let before = Instant::now();
        send(&mut a, B, A, b"late");
        while body(&mut b) != b"late" {}
        assert!(before.elapsed() >= Duration::from_millis(30));
    }

    fn link_has(link: &Link, frames: u64) {
        while link.counts().forwarded + link.counts().faulted < frames {
            thread::yield_now();
        }
    }

    #[test]
    fn a_dead_port_holds_nobody_up() {
        let link = Link::default();
        let (mut a, b, mut c) = (port(&link), port(&link), port(&link));
        drop(b);
        for number in 0..2 * QUEUE as u16 {
            send(&mut a, ALL, A, &number.to_be_bytes());
            assert_eq!(body(&mut c), number.to_be_bytes());
        }
        assert!(link.counts().forwarded >= 2 * QUEUE as u64);
    }
}
