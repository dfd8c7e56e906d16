//! virtio-rng: randomness from the host's kernel (virtio 1.3 §5.4).
//!
//! ```text
//!   driver: a writable buffer ─► worker: getrandom, at most 4 KiB ─► used
//! ```
//!
//! It has no state but its queue's.

use crate::memory::GuestRam;
use crate::virtio::answers::{Answer, Answers};
use crate::virtio::gather::Gather;
use crate::virtio::ring::{Broken, Segment};
use crate::virtio::worker::Worker;
use crate::virtio::{Activation, Device, DeviceError, DeviceState, Kind, Mismatch};
use rustix::rand::{GetRandomFlags, getrandom};
use std::sync::Arc;
use virtio_queue::QueueState;

const QUEUE_SIZE: u16 = 64;
/// The most that one buffer gets; a driver asks again for more.
const MOST: usize = 4096;

/// A source of randomness.
#[derive(Debug, Default)]
pub struct Rng {
    worker: Option<Worker<Answers<Randomness>>>,
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
        let randomness = Randomness { gather: Gather::new(ram.clone(), 0) };
        let work = Answers::new(queue, ram, interrupt, randomness).map_err(|error| failed(error.into()))?;
        self.worker = Some(Worker::spawn("rng", work).map_err(|error| failed(error.into()))?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }

    fn save(&self) -> DeviceState {
        DeviceState::Rng
    }

    fn check(&self, state: &DeviceState) -> Result<(), Mismatch> {
        match state {
            DeviceState::Rng => Ok(()),
            theirs => Err(Mismatch::kind(theirs, &DeviceState::Rng)),
        }
    }

    fn rewind(&mut self, positions: &[(u16, QueueState)]) -> bool {
        match (self.worker.as_mut().and_then(Worker::pause), positions) {
            (Some(work), [(_, position)]) => {
                work.rewind(position);
                true
            }
            _ => false,
        }
    }

    fn call(&mut self) {
        self.worker.iter_mut().for_each(Worker::call);
    }

    fn pause(&mut self) -> Vec<(u16, QueueState)> {
        self.worker.as_mut().and_then(Worker::pause).map(|work| work.state()).into_iter().collect()
    }

    fn resume(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.resume();
        }
    }
}

/// What fills buffers.
#[derive(Debug)]
struct Randomness {
    gather: Gather,
}

impl Answer for Randomness {
    const NAME: &'static str = "rng";

    fn answer(&mut self, _ram: &Arc<GuestRam>, request: &[Segment]) -> Result<u32, Broken> {
        if request.first().is_some_and(|segment| !segment.writable) {
            return Err(Broken::Form("a readable buffer in a queue of writable ones"));
        }
        self.gather.clear();
        let mut room = 0_usize;
        for &segment in request {
            self.gather.push(segment);
            room = room.saturating_add(segment.len as usize);
        }
        let mut random = [0; MOST];
        // Once the kernel is seeded, which it is before a VMM runs, this gives what is asked for.
        let got = getrandom(&mut random[..room.min(MOST)], GetRandomFlags::empty()).unwrap_or(0);
        Ok(self.gather.write_at(0, &random[..got]) as u32)
    }
}

#[cfg(test)]
mod tests;
