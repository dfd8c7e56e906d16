//! Writing down what goes over an interface, from beginning to end.

use super::packet::{Frame, PacketSocket};
use super::space::Space;
use anyhow::{Result, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// What was seen.
#[derive(Debug, Default)]
pub struct Record {
    /// Frames in their order.
    pub frames: Vec<Frame>,
    /// How many this host sent.
    pub sent: u64,
    /// How many arrived.
    pub arrived: u64,
}

impl Record {
    /// What this host sent.
    pub fn outgoing(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(|frame| frame.outgoing)
    }

    /// What arrived.
    pub fn incoming(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(|frame| !frame.outgoing)
    }
}

/// Records until it is stopped.
#[derive(Debug)]
pub struct Recorder {
    stop: Arc<AtomicBool>,
    seen: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<Record>>>,
}

impl Recorder {
    /// Whole frames, all of them.
    pub fn start(space: &Space, interface: &str) -> Result<Self> {
        Self::of(space, interface, super::packet::LONGEST, |_| true)
    }

    /// So many bytes of each frame that `keep` wants.
    pub fn of(
        space: &Space,
        interface: &str,
        bytes: usize,
        keep: impl Fn(&Frame) -> bool + Send + 'static,
    ) -> Result<Self> {
        let socket = PacketSocket::listener(space, interface)?;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            move || record(socket, bytes, keep, &stop, &seen)
        });
        Ok(Self { stop, seen, thread: Some(thread) })
    }

    /// How many frames it has seen so far, both ways.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// What it saw. An incomplete record proves nothing and is an error.
    pub fn stop(mut self) -> Result<Record> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| anyhow!("stopped twice"))?;
        thread.join().map_err(|_| anyhow!("the recorder panicked"))?
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn record(
    mut socket: PacketSocket,
    bytes: usize,
    keep: impl Fn(&Frame) -> bool,
    stop: &AtomicBool,
    seen: &AtomicU64,
) -> Result<Record> {
    let mut record = Record::default();
    loop {
        // Asked before the queue is emptied, so that what was there when it came is still read.
        let last = stop.load(Ordering::Relaxed);
        while let Some(frame) = socket.receive(bytes)? {
            seen.fetch_add(1, Ordering::Relaxed);
            let count = if frame.outgoing { &mut record.sent } else { &mut record.arrived };
            *count += 1;
            if keep(&frame) {
                record.frames.push(frame);
            }
        }
        if last {
            let lost = socket.lost()?;
            ensure!(lost == 0, "the recorder could not keep up: {lost} frames are missing");
            return Ok(record);
        }
        let wait = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let mut set = [PollFd::new(socket.descriptor(), PollFlags::IN)];
        // A signal or an error of the interface: the next look tells.
        let _ = poll(&mut set, Some(&wait));
    }
}
