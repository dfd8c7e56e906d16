//! Throughput in lock step: at most a window of pairs is in the contender and its sockets at any time.
//!
//! A window is needed because QEMU's comparer silently loses frames once one side is more than
//! `max_queue_size` ahead. The feeder writes the primary's bytes as far as the window allows, the
//! secondary's as far as the primary's, reads what has come out, and sleeps only when none of that moves.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};
use rustix::time::{ClockId, clock_gettime};

use super::contender::{Running, Sockets};
use super::load::Busy;
use super::ring::Ring;
use super::verify::Verifier;

/// The most one write hands over.
const WRITE: usize = 256 << 10;
/// The most one read asks for.
const READ: usize = 256 << 10;
/// A run without progress for this long has stalled.
const STALL: Duration = Duration::from_secs(2);
/// Notify is read at least once in so many passes, lest a flood of requests fill its socket.
const PASSES: u64 = 1024;
/// What a contender sends on notify to ask for a checkpoint, behind a length.
const CHECKPOINT: &[u8] = b"DO_CHECKPOINT";

/// How a run is fed.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The most pairs written and not yet come out.
    pub window: usize,
    /// How long new pairs are begun.
    pub duration: Duration,
    /// How long the feeder looks again before it sleeps.
    pub spin: Duration,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything came out, once and unharmed.
    Complete,
    /// Nothing moved any more; so many frames were still owed.
    Stalled(u64),
    /// What came out is not what went in.
    Corrupt(String),
}

/// What one run gave.
#[derive(Clone, Debug)]
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// Frames that came out.
    pub frames: u64,
    /// From the first byte in to the last byte out.
    pub elapsed: Duration,
    /// CPU time of the contender.
    pub comparer_cpu: Duration,
    /// The time in which the feeder moved bytes, rather than looked for some or slept.
    pub feeder_worked: Duration,
    /// Frames that came after a later one of their flow.
    pub reordered: u64,
    /// Requests for a checkpoint.
    pub checkpoints: u64,
    /// Which part of the two CPUs others had.
    pub foreign: f64,
}

impl Run {
    /// Frames out per second.
    pub fn rate(&self) -> f64 {
        self.frames as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Feeds a contender and takes the figures.
pub fn feed(running: &Running, ring: &mut Ring, pace: Pace) -> Result<Run> {
    let cpu = running.cpu_time()?;
    let own = thread_cpu();
    let busy = Busy::now(running.cpus);
    let begun = Instant::now();
    let mut feeder = Feeder::new(&running.sockets, ring, pace);
    let (outcome, elapsed) = feeder.run()?;
    let comparer_cpu = running.cpu_time()?.saturating_sub(cpu);
    let feeder_cpu = thread_cpu().saturating_sub(own);
    let foreign = Busy::now(running.cpus).foreign(busy, comparer_cpu + feeder_cpu, begun.elapsed());
    Ok(Run {
        outcome,
        frames: feeder.verifier.bytes() / feeder.ring.stride() as u64,
        elapsed,
        comparer_cpu,
        feeder_worked: feeder.worked,
        reordered: feeder.verifier.reordered(),
        checkpoints: feeder.requests.count,
        foreign,
    })
}

/// CPU time of the calling thread.
pub(super) fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

struct Feeder<'a> {
    sockets: &'a Sockets,
    ring: &'a mut Ring,
    pace: Pace,
    verifier: Verifier,
    requests: Requests,
    buffer: Vec<u8>,
    worked: Duration,
    /// Bytes of the endless streams that may be written, and that have been.
    allowed: u64,
    primary: u64,
    secondary: u64,
}

impl<'a> Feeder<'a> {
    fn new(sockets: &'a Sockets, ring: &'a mut Ring, pace: Pace) -> Self {
        let verifier = Verifier::new(ring);
        let buffer = vec![0; READ];
        let requests = Requests::default();
        let worked = Duration::ZERO;
        Self { sockets, ring, pace, verifier, requests, buffer, worked, allowed: 0, primary: 0, secondary: 0 }
    }

    fn run(&mut self) -> Result<(Outcome, Duration)> {
        let start = Instant::now();
        let mut moved_at = start;
        let mut looked_at = start;
        let mut passes = 0_u64;
        loop {
            passes += 1;
            if passes.is_multiple_of(PASSES) {
                self.requests.read(self.sockets)?;
            }
            let moved = self.pass(moved_at.duration_since(start) < self.pace.duration)?;
            if let Some(fault) = self.verifier.fault() {
                return Ok((Outcome::Corrupt(fault.to_owned()), start.elapsed()));
            }
            let now = Instant::now();
            let took = now.duration_since(looked_at);
            looked_at = now;
            if moved {
                self.worked += took;
                moved_at = now;
                continue;
            }
            if self.verifier.bytes() == self.allowed && now.duration_since(start) >= self.pace.duration {
                break;
            }
            if now.duration_since(moved_at) >= STALL {
                let owed = (self.allowed - self.verifier.bytes()).div_ceil(self.ring.stride() as u64);
                return Ok((Outcome::Stalled(owed), moved_at.duration_since(start)));
            }
            if now.duration_since(moved_at) >= self.pace.spin {
                self.sleep()?;
                looked_at = Instant::now();
            }
        }
        let elapsed = moved_at.duration_since(start);
        self.requests.read(self.sockets)?;
        Ok((Outcome::Complete, elapsed))
    }

    /// Tries everything once; says whether anything moved.
    fn pass(&mut self, more: bool) -> Result<bool> {
        let mut moved = false;
        if let Some(n) = nonblocking(read(&self.sockets.out, self.buffer.as_mut_slice())).context("outdev")? {
            anyhow::ensure!(n > 0, "the contender has closed outdev");
            self.verifier.feed(self.ring, &self.buffer[..n]);
            moved = true;
        }
        if more {
            self.open_window();
        }
        moved |= self.write(Side::Primary)?;
        moved |= self.write(Side::Secondary)?;
        Ok(moved)
    }

    /// Allows as many frames as the window has room for, in lots of half a window.
    fn open_window(&mut self) {
        let stride = self.ring.stride() as u64;
        let window = self.pace.window as u64;
        let allowed = self.allowed / stride;
        let until = self.verifier.bytes() / stride + window;
        if until - allowed >= window.div_ceil(2) {
            self.ring.lay(until);
            self.allowed = until * stride;
        }
    }

    fn write(&mut self, side: Side) -> Result<bool> {
        let (stream, bytes, place, until) = match side {
            Side::Primary => {
                let bytes = self.ring.primary(self.primary);
                (&self.sockets.primary, bytes, &mut self.primary, self.allowed)
            }
            Side::Secondary => {
                let bytes = self.ring.secondary(self.secondary);
                (&self.sockets.secondary, bytes, &mut self.secondary, self.primary)
            }
        };
        let len = ((until - *place) as usize).min(bytes.len()).min(WRITE);
        if len == 0 {
            return Ok(false);
        }
        let Some(n) = nonblocking(write(stream, &bytes[..len])).context("feed")? else { return Ok(false) };
        *place += n as u64;
        Ok(true)
    }

    fn sleep(&mut self) -> Result<()> {
        let wish = |wanted: bool| if wanted { PollFlags::OUT } else { PollFlags::empty() };
        let mut fds = [
            PollFd::from_borrowed_fd(self.sockets.out.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.sockets.notify.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.sockets.primary.as_fd(), wish(self.primary < self.allowed)),
            PollFd::from_borrowed_fd(self.sockets.secondary.as_fd(), wish(self.secondary < self.primary)),
        ];
        let timeout = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if fds[1].revents().is_empty() { Ok(()) } else { self.requests.read(self.sockets) }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Primary,
    Secondary,
}

/// The bytes moved, or nothing if the socket would have blocked.
pub(super) fn nonblocking(result: rustix::io::Result<usize>) -> Result<Option<usize>> {
    match result {
        Ok(n) => Ok(Some(n)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Counts requests for a checkpoint.
#[derive(Default)]
struct Requests {
    rest: Vec<u8>,
    count: u64,
}

impl Requests {
    /// Takes what notify has to say.
    fn read(&mut self, sockets: &Sockets) -> Result<()> {
        let mut buffer = [0; 4096];
        while let Some(n) = nonblocking(read(&sockets.notify, &mut buffer)).context("notify")? {
            if n == 0 {
                break;
            }
            self.take(&buffer[..n]);
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(head) = self.rest[at..].first_chunk::<4>() {
            let end = at + 4 + u32::from_be_bytes(*head) as usize;
            let Some(message) = self.rest.get(at + 4..end) else { break };
            self.count += u64::from(message == CHECKPOINT);
            at = end;
        }
        self.rest.drain(..at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_however_cut() {
        let mut bytes = Vec::new();
        for message in [&b"DO_CHECKPOINT"[..], b"", b"SOMETHING_ELSE", b"DO_CHECKPOINT"] {
            bytes.extend((message.len() as u32).to_be_bytes());
            bytes.extend(message);
        }
        for piece in [1, 5, 1000] {
            let mut requests = Requests::default();
            for chunk in bytes.chunks(piece) {
                requests.take(chunk);
            }
            assert_eq!((requests.count, requests.rest.len()), (2, 0));
        }
    }
}
