//! A queue whose requests are answered on the spot, one after the other.
//!
//! ```text
//!   kick ─► pop ─► Answer::answer ─► give back ─┐
//!            └◄────── a bounded batch ──────────┴─► publish, interrupt if one is due
//! ```

use super::ActiveQueue;
use super::ring::{Broken, Ring, Segment};
use super::throttle;
use super::worker::{Next, Work};
use crate::irq::Interrupt;
use crate::memory::GuestRam;
use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use virtio_queue::QueueState;
use vmm_sys_util::eventfd::EventFd;

/// Requests between two looks at the control eventfd.
const BATCH: usize = 16;

/// What answers.
pub trait Answer: Send + fmt::Debug + 'static {
    /// What logs call it.
    const NAME: &'static str;

    /// Answers a request that has these buffers, and says how many bytes of them it wrote.
    fn answer(&mut self, ram: &Arc<GuestRam>, request: &[Segment]) -> Result<u32, Broken>;
}

/// The queue's work.
#[derive(Debug)]
pub struct Answers<A> {
    index: u16,
    ring: Ring,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
    answer: A,
    segments: Vec<Segment>,
    /// Set when the ring makes no sense: nothing is popped until a reset.
    broken: bool,
}

impl<A: Answer> Answers<A> {
    /// For a queue that a driver has set up.
    pub fn new(
        queue: ActiveQueue,
        ram: Arc<GuestRam>,
        interrupt: Arc<dyn Interrupt>,
        answer: A,
    ) -> Result<Self, Broken> {
        let ring = Ring::new(ram, &queue.queue)?;
        let segments = Vec::new();
        Ok(Self { index: queue.index, ring, kick: queue.kick, interrupt, answer, segments, broken: false })
    }

    /// The queue's number, and how far both sides are.
    pub fn state(&self) -> (u16, QueueState) {
        (self.index, self.ring.state())
    }

    /// Goes on from another position.
    pub fn rewind(&mut self, position: &QueueState) {
        self.ring.rewind(position.next_avail, position.next_used);
        self.broken = false;
    }

    fn batch(&mut self) -> Result<Next, Broken> {
        for _ in 0..BATCH {
            self.segments.clear();
            let Some(head) = self.ring.pop(&mut self.segments)? else {
                self.flush()?;
                return Ok(if self.ring.kicks_on()? { Next::Again } else { Next::Wait });
            };
            let written = self.answer.answer(self.ring.ram(), &self.segments)?;
            self.ring.give_back(head, written)?;
        }
        self.flush()?;
        Ok(Next::Again)
    }

    fn flush(&mut self) -> Result<(), Broken> {
        self.ring.publish()?;
        if self.ring.interrupt_due()? {
            self.interrupt.queue(self.index);
        }
        Ok(())
    }
}

impl<A: Answer> Work for Answers<A> {
    fn sources(&self) -> Vec<RawFd> {
        vec![self.kick.as_raw_fd()]
    }

    fn run(&mut self) -> Next {
        if self.broken {
            return Next::Wait;
        }
        self.batch().unwrap_or_else(|error| {
            throttle::complain(A::NAME, &error);
            self.broken = true;
            self.interrupt.needs_reset();
            Next::Wait
        })
    }
}
