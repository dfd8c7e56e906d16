//! The command queue: how many queue pairs a driver uses (virtio 1.3 §5.1.6.5).

use super::Shared;
use crate::irq::Interrupt;
use crate::virtio::gather::Gather;
use crate::virtio::ring::{Broken, Ring, Segment};
use crate::virtio::throttle;
use crate::virtio::worker::{Next, Work};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

const CLASS_MQ: u8 = 4;
const PAIRS_SET: u8 = 0;
const OK: u8 = 0;
const ERROR: u8 = 1;
/// Commands between two looks at the control eventfd.
const BATCH: usize = 16;

/// The command queue's work.
#[derive(Debug)]
pub(super) struct Commands {
    pub(super) index: u16,
    pub(super) ring: Ring,
    pub(super) kick: EventFd,
    pub(super) interrupt: Arc<dyn Interrupt>,
    pub(super) shared: Arc<Shared>,
    pub(super) broken: bool,
}

impl Commands {
    fn batch(&mut self) -> Result<Next, Broken> {
        let mut segments: Vec<Segment> = Vec::new();
        for _ in 0..BATCH {
            segments.clear();
            let Some(head) = self.ring.pop(&mut segments)? else {
                self.flush()?;
                return Ok(if self.ring.kicks_on()? { Next::Again } else { Next::Wait });
            };
            let mut command = Gather::new(self.ring.ram().clone(), 0);
            let mut answer = Gather::new(self.ring.ram().clone(), 0);
            for segment in segments.drain(..) {
                if segment.writable { &mut answer } else { &mut command }.push(segment);
            }
            let status = self.execute(&command);
            let written = answer.write_at(0, &[status]);
            self.ring.give_back(head, written as u32)?;
        }
        self.flush()?;
        Ok(Next::Again)
    }

    fn execute(&self, command: &Gather) -> u8 {
        let mut bytes = [0; 4];
        let whole = command.read_at(0, &mut bytes) == bytes.len();
        match bytes {
            [CLASS_MQ, PAIRS_SET, low, high] if whole => {
                let pairs = u16::from_le_bytes([low, high]);
                if self.shared.use_pairs(pairs) { OK } else { ERROR }
            }
            _ => ERROR,
        }
    }

    fn flush(&mut self) -> Result<(), Broken> {
        self.ring.publish()?;
        if self.ring.interrupt_due()? {
            self.interrupt.queue(self.index);
        }
        Ok(())
    }
}

impl Work for Commands {
    fn sources(&self) -> Vec<RawFd> {
        vec![self.kick.as_raw_fd()]
    }

    fn run(&mut self) -> Next {
        if self.broken {
            return Next::Wait;
        }
        self.batch().unwrap_or_else(|error| {
            throttle::complain("net", &error);
            self.broken = true;
            self.interrupt.needs_reset();
            Next::Wait
        })
    }
}
