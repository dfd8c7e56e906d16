//! Latency: one pair in flight, the feeder asleep in poll until its frame comes out.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};

use super::contender::{Running, Sockets};
use super::feeder::{Outcome, nonblocking, thread_cpu};
use super::load::Busy;
use super::ring::Ring;
use super::stats::percentile;
use super::verify::Verifier;

/// Round trips before counting begins.
const WARM_UP: u64 = 500;

/// The middle and the tail of a distribution, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// The median.
    pub p50: u64,
    /// What one in a hundred exceeds.
    pub p99: u64,
}

impl Spread {
    fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        Self { p50: percentile(&times, 0.5), p99: percentile(&times, 0.99) }
    }
}

/// What one run gave.
#[derive(Clone, Debug)]
pub struct Trips {
    /// How it ended.
    pub outcome: Outcome,
    /// From before the primary's frame was written until all of it had come out.
    pub round: Spread,
    /// From before the secondary's frame was written, which a relay need not wait for.
    pub after_secondary: Spread,
    /// CPU time of the contender per pair.
    pub comparer_cpu: Duration,
    /// Which part of the two CPUs others had.
    pub foreign: f64,
}

/// Sends pairs one at a time: the primary's frame, then the secondary's, then waits.
pub fn measure(running: &Running, ring: &mut Ring, trips: u64) -> Result<Trips> {
    let mut verifier = Verifier::new(ring);
    let mut round = Vec::with_capacity(trips as usize);
    let mut after_secondary = Vec::with_capacity(trips as usize);
    let mut cpu = running.cpu_time()?;
    let mut outcome = Outcome::Complete;
    let (begun, busy, at_first, own) = (Instant::now(), Busy::now(running.cpus), cpu, thread_cpu());
    for trip in 0..WARM_UP + trips {
        if trip == WARM_UP {
            cpu = running.cpu_time()?;
        }
        ring.lay(trip + 1);
        let place = trip * ring.stride() as u64;
        let start = Instant::now();
        send(&running.sockets.primary, &ring.primary(place)[..ring.stride()])?;
        let middle = Instant::now();
        send(&running.sockets.secondary, &ring.secondary(place)[..ring.stride()])?;
        let arrived = receive(&running.sockets, ring, &mut verifier, place + ring.stride() as u64)?;
        let end = Instant::now();
        if let Some(fault) = verifier.fault() {
            outcome = Outcome::Corrupt(fault.to_owned());
        } else if !arrived {
            outcome = Outcome::Stalled(1);
        }
        if outcome != Outcome::Complete {
            break;
        }
        if trip >= WARM_UP {
            round.push((end - start).as_nanos() as u64);
            after_secondary.push((end - middle).as_nanos() as u64);
        }
    }
    let used = running.cpu_time()?;
    let ours = used.saturating_sub(at_first) + thread_cpu().saturating_sub(own);
    Ok(Trips {
        outcome,
        comparer_cpu: used.saturating_sub(cpu) / (round.len().max(1) as u32),
        round: Spread::of(round),
        after_secondary: Spread::of(after_secondary),
        foreign: Busy::now(running.cpus).foreign(busy, ours, begun.elapsed()),
    })
}

fn send(stream: &std::os::unix::net::UnixStream, frame: &[u8]) -> Result<()> {
    let sent = nonblocking(write(stream, frame)).context("feed")?;
    ensure!(sent == Some(frame.len()), "a single frame does not fit into an empty socket");
    Ok(())
}

/// Waits until the output has come this far; says whether it has.
fn receive(sockets: &Sockets, ring: &Ring, verifier: &mut Verifier, until: u64) -> Result<bool> {
    let mut buffer = [0; 4096];
    let timeout = Timespec { tv_sec: 2, tv_nsec: 0 };
    while verifier.bytes() < until && verifier.fault().is_none() {
        let mut fds = [PollFd::from_borrowed_fd(sockets.out.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if let Some(n) = nonblocking(read(&sockets.out, &mut buffer)).context("outdev")? {
            ensure!(n > 0, "the contender has closed outdev");
            verifier.feed(ring, &buffer[..n]);
        }
    }
    Ok(true)
}
