//! virtio-rng: randomness from the host's kernel (virtio 1.3 §5.4).
//!
//! ```text
//!   driver: a writable buffer ─► worker: getrandom, at most 4 KiB ─► used
//! ```
//!
//! It has no state but its queue's.

use crate::irq::Interrupt;
use crate::virtio::gather::Gather;
use crate::virtio::ring::{Broken, Ring, Segment};
use crate::virtio::throttle;
use crate::virtio::worker::{Next, Work, Worker};
use crate::virtio::{Activation, Device, DeviceError, Kind};
use rustix::rand::{GetRandomFlags, getrandom};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use virtio_queue::QueueState;
use vmm_sys_util::eventfd::EventFd;

const QUEUE_SIZE: u16 = 64;
/// The most that one buffer gets; a driver asks again for more.
const MOST: usize = 4096;
/// Buffers between two looks at the control eventfd.
const BATCH: usize = 16;

/// A source of randomness.
#[derive(Debug, Default)]
pub struct Rng {
    worker: Option<Worker<RngWork>>,
}

impl Device for Rng {
    fn kind(&self) -> Kind {
        Kind::Rng
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let failed = |reason| DeviceError { what: "cannot begin virtio-rng".into(), reason };
        let Activation { ram, queues, interrupt, .. } = activation;
        // A driver without the queue gets nothing, and is wrong about nothing.
        let Some(queue) = queues.into_iter().next() else { return Ok(()) };
        let ring = Ring::new(ram.clone(), &queue.queue).map_err(|error| failed(error.into()))?;
        let work = RngWork { ring, kick: queue.kick, interrupt, gather: Gather::new(ram, 0), broken: false };
        self.worker = Some(Worker::spawn("rng", work).map_err(|error| failed(error.into()))?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }

    fn pause(&mut self) -> Vec<(u16, QueueState)> {
        self.worker.as_mut().and_then(Worker::pause).map(|work| (0, work.ring.state())).into_iter().collect()
    }

    fn resume(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.resume();
        }
    }
}

#[derive(Debug)]
struct RngWork {
    ring: Ring,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
    gather: Gather,
    broken: bool,
}

impl RngWork {
    fn batch(&mut self) -> Result<Next, Broken> {
        let mut segments: Vec<Segment> = Vec::new();
        for _ in 0..BATCH {
            segments.clear();
            let Some(head) = self.ring.pop(&mut segments)? else {
                self.flush()?;
                return Ok(if self.ring.kicks_on()? { Next::Again } else { Next::Wait });
            };
            if segments.first().is_some_and(|segment| !segment.writable) {
                return Err(Broken::Form("a readable buffer in a queue of writable ones"));
            }
            self.gather.clear();
            let mut room = 0_usize;
            for &segment in &segments {
                self.gather.push(segment);
                room = room.saturating_add(segment.len as usize);
            }
            let mut random = [0; MOST];
            // Once the kernel is seeded, which it is before a VMM runs, this gives what is asked for.
            let got = getrandom(&mut random[..room.min(MOST)], GetRandomFlags::empty()).unwrap_or(0);
            let len = self.gather.write_at(0, &random[..got]);
            self.ring.give_back(head, len as u32)?;
        }
        self.flush()?;
        Ok(Next::Again)
    }

    fn flush(&mut self) -> Result<(), Broken> {
        self.ring.publish()?;
        if self.ring.interrupt_due()? {
            self.interrupt.queue(0);
        }
        Ok(())
    }
}

impl Work for RngWork {
    fn sources(&self) -> Vec<RawFd> {
        vec![self.kick.as_raw_fd()]
    }

    fn run(&mut self) -> Next {
        if self.broken {
            return Next::Wait;
        }
        self.batch().unwrap_or_else(|error| {
            throttle::complain("rng", &error);
            self.broken = true;
            self.interrupt.needs_reset();
            Next::Wait
        })
    }
}

#[cfg(test)]
mod tests;
