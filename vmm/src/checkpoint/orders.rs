//! What the session's thread is told, and how it is woken for it.
//!
//! ```text
//!   QMP, comparator, heartbeat, machine ── Post ──► Orders ──► the session's thread
//!                                            └ urgent ones hang up the connection that it waits for
//! ```

use super::link::{Hangup, Lost};
use super::status::Cause;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Something to be done.
#[derive(Debug)]
pub enum Order {
    /// A checkpoint, because of what was seen in this epoch.
    Checkpoint {
        /// Why.
        cause: Cause,
        /// When.
        epoch: u64,
    },
    /// Another time between two checkpoints.
    Delay(Duration),
    /// The heart of this session's peer has stopped.
    Lost {
        /// Which session.
        session: u64,
        /// How.
        lost: Lost,
    },
    /// There is no peer any more: a primary goes on alone, a secondary takes over.
    NoPeer(SyncSender<()>),
    /// The guest has ended, or is to end.
    Ended,
}

/// Where orders are left.
#[derive(Clone, Debug)]
pub struct Post {
    sender: Sender<Order>,
    interrupt: Arc<Mutex<Option<Hangup>>>,
}

/// Where they are read.
#[derive(Debug)]
pub struct Orders {
    receiver: Receiver<Order>,
    /// Read already, while one was looked for.
    waiting: VecDeque<Order>,
    post: Post,
}

impl Orders {
    /// None yet.
    pub fn new() -> (Self, Post) {
        let (sender, receiver) = channel();
        let post = Post { sender, interrupt: Arc::default() };
        (Self { receiver, waiting: VecDeque::new(), post: post.clone() }, post)
    }

    /// Where to leave more.
    pub fn post(&self) -> Post {
        self.post.clone()
    }

    /// Who waits at this connection is woken by urgent orders.
    pub(super) fn interrupts(&self, hangup: Hangup) {
        *self.post.lock() = Some(hangup);
    }

    /// Nobody does any more.
    pub(super) fn uninterruptible(&self) {
        *self.post.lock() = None;
    }

    /// The next, if it is there.
    pub(super) fn now(&mut self) -> Option<Order> {
        self.waiting.pop_front().or_else(|| self.receiver.try_recv().ok())
    }

    /// The next, if it comes in time.
    pub(super) fn until(&mut self, until: Instant) -> Option<Order> {
        self.waiting.pop_front().or_else(|| {
            // We hold a sender ourselves, so only time ends this.
            self.receiver.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
        })
    }

    /// The next, whenever it comes.
    pub(super) fn ever(&mut self) -> Option<Order> {
        self.waiting.pop_front().or_else(|| self.receiver.recv().ok())
    }

    /// An order that ends a session, if one waits; others stay.
    pub(super) fn ending(&mut self) -> Option<Order> {
        let at = self.ending_at()?;
        self.waiting.remove(at)
    }

    /// Whether one waits. It stays.
    pub(super) fn is_ending(&mut self) -> bool {
        self.ending_at().is_some()
    }

    fn ending_at(&mut self) -> Option<usize> {
        self.waiting.extend(self.receiver.try_iter());
        self.waiting.iter().position(|order| matches!(order, Order::NoPeer(_) | Order::Ended))
    }

    /// Whether the guest is known to have ended, or soon is.
    pub(super) fn ends_within(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            match self.until(until) {
                Some(Order::Ended) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    }

    /// Waits until the heart of this session's peer has stopped, or somebody ends the session anyway, or it is time.
    pub(super) fn settle(&mut self, of: u64, until: Instant) {
        let settled = |order: &Order| match order {
            Order::Lost { session, .. } => *session == of,
            Order::NoPeer(_) | Order::Ended => true,
            Order::Checkpoint { .. } | Order::Delay(_) => false,
        };
        while !self.waiting.iter().any(settled) {
            match self.receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(order) => self.waiting.push_back(order),
                Err(_) => return,
            }
        }
    }

    /// How the heart of this session's peer stopped, if it did; other orders stay.
    pub(super) fn lost(&mut self, of: u64) -> Option<Lost> {
        self.waiting.extend(self.receiver.try_iter());
        let mut found = None;
        for order in std::mem::take(&mut self.waiting) {
            match order {
                Order::Lost { session, lost } if session == of => found = Some(lost),
                Order::Lost { session, .. } if session < of => {}
                other => self.waiting.push_back(other),
            }
        }
        found
    }
}

impl Post {
    /// Leaves one.
    pub fn send(&self, order: Order) -> bool {
        self.sender.send(order).is_ok()
    }

    /// Leaves one that cannot wait for a message to come.
    pub fn send_urgently(&self, order: Order) -> bool {
        let sent = self.send(order);
        if let Some(hangup) = &*self.lock() {
            hangup.hang_up();
        }
        sent
    }

    fn lock(&self) -> MutexGuard<'_, Option<Hangup>> {
        self.interrupt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
