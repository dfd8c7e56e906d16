//! Signs of life, both ways, beside the checkpoints.
//!
//! ```text
//!   every interval:  read what is there ─► something? missed := 0      (a farewell: the peer ends in order)
//!                                          nothing?   missed += 1 ─► too many: lost
//!                    send a beat
//!   the connection ends, or breaks:  lost at once
//! ```
//!
//! Silence is counted in looks, not in seconds. A process that was itself stopped, or had no processor, finds on
//! its first look what has come meanwhile; if nothing has, that counts as one missed beat, however long it was
//! away. So a lost peer is noticed after as many intervals *in which we were there*, and nobody is declared lost
//! for our own absence.
//!
//! Who ends a session says why, as far as that can be said: a peer that hears that the other lives need not go on in
//! its place. The last word waits in the connection for one that was stopped.

use super::socket::wait;
use super::stream::{Hangup, Stream};
use crate::checkpoint::protocol::Channel as _;
use crate::sandbox::{self, Kind};
use rustix::event::PollFlags;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thiserror::Error;

/// On the wire: I live.
const BEAT: u8 = 0x42;
/// On the wire: I go, and all is well.
const FAREWELL: u8 = 0x45;
/// On the wire: I give this session up, and live.
const PARTED: u8 = 0x50;
/// On the wire: somebody has told me that you are gone; I go on without you.
const ALONE: u8 = 0x41;

/// How often, and how long silence is borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// Between two beats.
    pub interval: Duration,
    /// Of silence; at least two beats may be missed.
    pub timeout: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { interval: Duration::from_millis(100), timeout: Duration::from_secs(1) }
    }
}

impl Rhythm {
    /// How many beats may be missed.
    fn limit(&self) -> u64 {
        let interval = self.interval.as_nanos().max(1);
        u64::try_from(self.timeout.as_nanos().div_ceil(interval)).unwrap_or(u64::MAX).max(2)
    }
}

/// Why nothing more is to be expected from the peer.
#[derive(Debug, Error)]
pub enum Lost {
    /// It said that it goes.
    #[error("the peer has ended in order")]
    Farewell,
    /// It said that it lives.
    #[error("the peer has given this session up, or is being ended; it lived when it said so")]
    Parted,
    /// It said that it goes on.
    #[error("the peer goes on alone, as somebody has told it; this guest must not serve, too")]
    Alone,
    /// The connection has ended.
    #[error("the peer's heartbeat connection has ended: its process is gone")]
    Closed,
    /// The connection is broken.
    #[error("the heartbeat connection is broken: {0}")]
    Broken(io::Error),
    /// Nothing comes.
    #[error(
        "the peer has missed {missed} heartbeats, one is due every {interval:?}: it, its host or the network stands"
    )]
    Silent {
        /// So many.
        missed: u64,
        /// Of these.
        interval: Duration,
    },
    /// Something else comes.
    #[error("the peer sent {0:#04x} for a heartbeat, which is none; is it of another version?")]
    Garbage(u8),
}

impl Lost {
    /// Whether the peer has said so itself.
    fn is_said(&self) -> bool {
        matches!(self, Self::Farewell | Self::Parted | Self::Alone)
    }

    /// Whether the peer lives, as far as its last word tells.
    pub fn lives(&self) -> bool {
        matches!(self, Self::Parted | Self::Alone | Self::Garbage(_))
    }
}

/// Figures, for whoever watches.
#[derive(Debug, Default)]
pub struct Beats {
    sent: AtomicU64,
    heard: AtomicU64,
    missed: AtomicU64,
}

impl Beats {
    /// Beats sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Beats heard.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Looks that found none, all in all.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

/// What the thread is to do: to say this, again and again or as its last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Order {
    Beat = BEAT,
    Farewell = FAREWELL,
    Part = PARTED,
    Alone = ALONE,
    /// Nothing more.
    Stop = 0,
}

/// A heart that beats while this lives.
#[derive(Debug)]
pub struct Heartbeat {
    order: Arc<AtomicU8>,
    hangup: Hangup,
    beats: Arc<Beats>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Starts it. When the peer is lost `tell` is called, once, in the heart's own thread. It is not called when
    /// this side ends the heartbeat itself.
    pub fn start(
        stream: Stream,
        rhythm: Rhythm,
        tell: impl FnOnce(Lost) + Send + 'static,
    ) -> io::Result<Self> {
        let order = Arc::new(AtomicU8::new(Order::Beat as u8));
        let (beats, hangup) = (Arc::new(Beats::default()), stream.hangup());
        let mut heart =
            Heart { stream, rhythm, order: Arc::clone(&order), beats: Arc::clone(&beats), missed: 0 };
        let thread = sandbox::spawn("heartbeat", Kind::Control, move || {
            if let Some(lost) = heart.run() {
                tell(lost);
            }
        })?;
        Ok(Self { order, hangup, beats, thread: Some(thread) })
    }

    /// Its figures.
    pub fn beats(&self) -> &Arc<Beats> {
        &self.beats
    }

    /// Ends it in order: the peer hears that this is no loss.
    pub fn farewell(self) {
        self.end(Order::Farewell);
    }

    /// Ends it because the session has failed: the peer hears that this side lives.
    pub fn part(self) {
        self.end(Order::Part);
    }

    /// Ends it because this side goes on alone: the peer hears that it must not.
    pub fn alone(self) {
        self.end(Order::Alone);
    }

    fn end(self, order: Order) {
        self.order.store(order as u8, Ordering::Release);
        // The rest is done by dropping it.
    }
}

impl Drop for Heartbeat {
    /// The peer finds the connection ended. `tell` may be what drops this, so its own thread is not waited for.
    fn drop(&mut self) {
        let thread = self.thread.take();
        let own = thread.as_ref().is_some_and(|thread| thread.thread().id() == std::thread::current().id());
        if self.order.load(Ordering::Acquire) == Order::Beat as u8 {
            self.order.store(Order::Stop as u8, Ordering::Release);
            self.hangup.hang_up();
        } else {
            // It says farewell first: its next look is soon.
            self.hangup.wake();
        }
        if let Some(thread) = thread.filter(|_| !own) {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

struct Heart {
    stream: Stream,
    rhythm: Rhythm,
    order: Arc<AtomicU8>,
    beats: Arc<Beats>,
    missed: u64,
}

impl Heart {
    /// Beats until the peer is lost, or it is told to stop.
    fn run(&mut self) -> Option<Lost> {
        let mut heard = false;
        loop {
            if let Err(lost) = self.say(BEAT) {
                // A last word that is on its way says more than that nothing is taken any more.
                let lost = self.listen().err().filter(Lost::is_said).unwrap_or(lost);
                return self.unless_stopped(lost);
            }
            self.beats.sent.fetch_add(1, Ordering::Relaxed);
            let next = Instant::now() + self.rhythm.interval;
            loop {
                let waited = wait(&self.stream, PollFlags::IN, next);
                // Whatever has come counts before time does.
                match self.listen() {
                    Ok(came) => heard |= came,
                    Err(lost) => return self.unless_stopped(lost),
                }
                match waited {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::TimedOut => break,
                    Err(error) => return self.unless_stopped(Lost::Broken(error)),
                }
                if Instant::now() >= next {
                    break;
                }
            }
            if self.order.load(Ordering::Acquire) != Order::Beat as u8 {
                return self.unless_stopped(Lost::Closed);
            }
            if std::mem::take(&mut heard) {
                self.missed = 0;
                continue;
            }
            self.missed += 1;
            self.beats.missed.fetch_add(1, Ordering::Relaxed);
            if self.missed >= self.rhythm.limit() {
                // It may be that it only stands, and hears this later.
                let _ = self.say(PARTED);
                return Some(Lost::Silent { missed: self.missed, interval: self.rhythm.interval });
            }
        }
    }

    /// What is done by our own order is no loss; if it is to end in order, the peer is told.
    fn unless_stopped(&mut self, lost: Lost) -> Option<Lost> {
        let order = self.order.load(Ordering::Acquire);
        if order == Order::Beat as u8 {
            return Some(lost);
        }
        if order != Order::Stop as u8 {
            // A peer that cannot hear it finds the connection ended.
            let _ = self.say(order);
        }
        self.stream.hangup().hang_up();
        None
    }

    fn say(&mut self, what: u8) -> Result<(), Lost> {
        match self.stream.send(&mut [IoSlice::new(&[what])], Instant::now()) {
            // The peer does not read. Its own beats say whether it lives.
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
            Err(error) => Err(Lost::Broken(error)),
            Ok(()) => Ok(()),
        }
    }

    /// Takes what is there; says whether there was a beat.
    fn listen(&mut self) -> Result<bool, Lost> {
        let mut heard = false;
        let mut bytes = [0; 64];
        loop {
            let count = match self.stream.try_receive(&mut bytes) {
                Ok(None) => return Ok(heard),
                Ok(Some(0)) => return Err(Lost::Closed),
                Ok(Some(count)) => count,
                Err(error) => return Err(Lost::Broken(error)),
            };
            for byte in bytes.iter().take(count) {
                match *byte {
                    BEAT => {
                        heard = true;
                        self.beats.heard.fetch_add(1, Ordering::Relaxed);
                    }
                    FAREWELL => return Err(Lost::Farewell),
                    PARTED => return Err(Lost::Parted),
                    ALONE => return Err(Lost::Alone),
                    other => return Err(Lost::Garbage(other)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_borne_for_its_timeout_and_at_least_two_beats() {
        let rhythm = |interval, timeout| {
            let of = Duration::from_millis;
            Rhythm { interval: of(interval), timeout: of(timeout) }.limit()
        };
        assert_eq!(Rhythm::default().limit(), 10);
        assert_eq!(rhythm(100, 101), 2);
        assert_eq!(rhythm(300, 1000), 4);
        assert_eq!(rhythm(100, 0), 2);
        assert_eq!(rhythm(0, 1), 1_000_000);
    }
}
