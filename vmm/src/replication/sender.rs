//! Sends what a feed has to the secondary, as fast as that confirms it.
//!
//! ```text
//!   feed.next ─► message ─► orders (no longer than the server takes) ─► client ─► socket
//!   feed.confirmed ◄─ the last of them is answered ◄────────────────────┘
//!            └─► question ─► block status ─► sums ─► feed.answered (if it is told to verify)
//!                      each second: which epoch is stable? ─► what is older may be forgotten
//! ```
//!
//! One thread does both directions, and waits for the socket and for the feed at once.

use super::bitmap::Dirty;
use super::feed::{Bytes, Change, Feed, Message, Next, Question, Receipt};
use super::layers::Epoch;
use crate::nbd::Errno;
use crate::nbd::client::{Answer, Client, Command, ConnectError, Done, Order, Refused, SumsError, turn};
use crate::nbd::transport::Transport;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// The most bytes of zeros in one order: requests have 32 bits for that.
const MOST_ZEROS: u64 = 1 << 30;
/// Between two questions which epoch is stable.
const ASK: Duration = Duration::from_secs(1);
/// What names the answer to that question; messages are numbered from 1.
const QUESTION: u64 = 0;

/// A connection that sends no more.
#[derive(Debug, Error)]
pub enum SendError {
    /// The connection.
    #[error(transparent)]
    Connection(#[from] ConnectError),
    /// The secondary's end.
    #[error("the secondary has ended the connection of the disk")]
    Ended,
    /// The secondary's disk.
    #[error(
        "the secondary refuses {what} at {offset:#x} of the disk: {text} ({errno:?}); see to the disk there"
    )]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Where.
        offset: u64,
        /// Why, as a number.
        errno: Errno,
        /// Why.
        text: String,
    },
    /// The secondary's disk is another one.
    #[error("the secondary's disk cannot follow this one: {0}")]
    Unsuitable(String),
    /// The secondary's sums.
    #[error("cannot verify what the secondary has of the disk at {offset:#x}: {source}")]
    Sums {
        /// Of what begins where.
        offset: u64,
        /// Why.
        source: SumsError,
    },
    /// The local disk.
    #[error("cannot read the local disk, to bring the secondary up to it, at {0}; see to the disk here")]
    Local(io::Error),
    /// To wait for the socket.
    #[error("cannot wait for the connection of the disk: {0}")]
    Wait(io::Error),
}

/// Bytes that are sent: a part of those of a message.
#[derive(Clone, Debug)]
pub struct Payload {
    bytes: Arc<Bytes>,
    part: Range<usize>,
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_slice().get(self.part.clone()).unwrap_or_default()
    }
}

/// A message of which not all is answered.
#[derive(Debug)]
struct Sent {
    receipt: Receipt,
    offset: u64,
    what: &'static str,
    /// Orders that are not answered yet.
    left: usize,
}

/// The connection of one disk.
#[derive(Debug)]
pub struct Sender<T> {
    feed: Arc<Feed>,
    dirty: Arc<Dirty>,
    transport: T,
    client: Client<Payload>,
    /// Orders that found no room yet, in their order.
    orders: VecDeque<Order<Payload>>,
    sent: HashMap<u64, Sent>,
    /// Questions that are not answered yet.
    asked: HashMap<u64, Question>,
    next: u64,
    ask: Instant,
    /// That question is not answered yet: a peer that is silent is not asked ever more.
    waits: bool,
}

impl<T: Transport> Sender<T> {
    /// For an export that was chosen, with `colo:epoch`. The feed has begun.
    pub fn new(
        feed: Arc<Feed>,
        dirty: Arc<Dirty>,
        transport: T,
        client: Client<Payload>,
    ) -> Result<Self, SendError> {
        let facts = client.facts();
        let wrong = |why: String| Err(SendError::Unsuitable(why));
        if facts.size != feed.size() {
            return wrong(format!("it has {} bytes, and this one {}", facts.size, feed.size()));
        }
        if facts.read_only() {
            return wrong("it cannot be written".to_owned());
        }
        if facts.epoch.is_none() {
            return wrong("whoever serves it knows nothing of epochs; is it a colo-vm secondary?".to_owned());
        }
        let (orders, sent, asked) = (VecDeque::new(), HashMap::new(), HashMap::new());
        let (next, ask, waits) = (QUESTION + 1, Instant::now(), false);
        Ok(Self { feed, dirty, transport, client, orders, sent, asked, next, ask, waits })
    }

    /// To verify: what the secondary has already is not sent, once, from the disk's beginning to its end. The
    /// contexts of sums were asked for.
    pub fn verifying(self) -> Result<Self, SendError> {
        if self.client.facts().sums.is_none() {
            return Err(SendError::Unsuitable(SumsError::None.to_string()));
        }
        self.feed.verify();
        Ok(self)
    }

    /// Sends until the connection ends. What was not confirmed by then is the feed's to forget.
    pub fn run(mut self) -> SendError {
        loop {
            if let Err(error) = self.turn() {
                return error;
            }
        }
    }

    fn turn(&mut self) -> Result<(), SendError> {
        let full = self.fill()?;
        let mut answers = Vec::new();
        let turn = turn(&mut self.transport, &mut self.client, |done| answers.push(done))?;
        let answered = !answers.is_empty();
        answers.into_iter().try_for_each(|done| self.answered(done))?;
        if turn.ended {
            return Err(SendError::Ended);
        }
        if turn.again || full && answered {
            return Ok(());
        }
        // Who is full waits for answers alone.
        let mut fds = [
            PollFd::new(
                &self.transport,
                if turn.send { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN },
            ),
            PollFd::from_borrowed_fd(
                self.feed.event(),
                if full { PollFlags::empty() } else { PollFlags::IN },
            ),
        ];
        let left = self.ask.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(SendError::Wait(error.into())),
        }
    }

    /// Hands on what there is. Says whether there is more than there is room for.
    fn fill(&mut self) -> Result<bool, SendError> {
        if Instant::now() >= self.ask {
            self.ask = Instant::now() + ASK;
            if !std::mem::replace(&mut self.waits, true) {
                let command = Command::Status { offset: 0, len: 512, one: true };
                self.orders.push_back(Order { token: QUESTION, epoch: 0, command });
            }
        }
        loop {
            while let Some(order) = self.orders.pop_front() {
                match self.client.submit(order) {
                    Ok(()) => {}
                    Err(Refused::Full(order)) => {
                        self.orders.push_front(order);
                        return Ok(true);
                    }
                    Err(refused @ (Refused::Unsupported(..) | Refused::Wrong(..))) => {
                        return Err(SendError::Unsuitable(refused.to_string()));
                    }
                }
            }
            match self.feed.next().map_err(SendError::Local)? {
                Some(Next::Message(message)) => self.cut(message),
                Some(Next::Question(question)) => self.question(question),
                None => return Ok(false),
            }
        }
    }

    /// Makes an order of a question. The server has done what was sent before when it comes to it.
    fn question(&mut self, question: Question) {
        let command = Command::Status { offset: question.offset, len: question.len as u32, one: false };
        self.orders.push_back(Order { token: self.next, epoch: 0, command });
        self.asked.insert(self.next, question);
        self.next += 1;
    }

    /// Makes orders of a message.
    fn cut(&mut self, message: Message) {
        let (offset, receipt) = (message.offset, message.receipt());
        let epoch = if message.epoch == 0 { 0 } else { Epoch::new(message.epoch).tag() };
        let token = self.next;
        self.next += 1;
        let before = self.orders.len();
        let what = match message.change {
            Change::Write(bytes) => {
                let (bytes, most) = (Arc::new(bytes), self.client.facts().maximum as usize);
                let len = bytes.as_slice().len();
                for at in (0..len).step_by(most.max(512)) {
                    let data = Payload { bytes: bytes.clone(), part: at..len.min(at + most) };
                    let command = Command::Write { offset: offset + at as u64, data, fua: false };
                    self.orders.push_back(Order { token, epoch, command });
                }
                "a write"
            }
            Change::Zeroes { len, unmap } => {
                let mut at = 0;
                while at < len {
                    let now = (len - at).min(MOST_ZEROS);
                    let (offset, len) = (offset + at, now as u32);
                    let command = Command::Zero { offset, len, unmap, fast: false, fua: false };
                    self.orders.push_back(Order { token, epoch, command });
                    at += now;
                }
                "zeros"
            }
        };
        let left = self.orders.len() - before;
        if left == 0 {
            return self.feed.confirmed(receipt);
        }
        self.sent.insert(token, Sent { receipt, offset, what, left });
    }

    fn answered(&mut self, done: Done) -> Result<(), SendError> {
        let refused = |what, offset, (errno, text)| SendError::Refused { what, offset, errno, text };
        if done.token == QUESTION {
            self.waits = false;
            let answer = done.result.map_err(|why| refused("a question", 0, why))?;
            if let Answer::Status(contexts) = answer {
                let ours = contexts.iter().find(|(id, _)| Some(*id) == self.client.facts().epoch);
                let stable = ours.and_then(|(_, extents)| extents.first());
                if let Some(stable) = stable.and_then(|extent| Epoch::from_tag(extent.status)) {
                    self.dirty.rotate(stable.number(self.feed.epoch()));
                }
            }
            return Ok(());
        }
        if let Some(question) = self.asked.remove(&done.token) {
            let Question { offset, len, .. } = question;
            let answer = done.result.map_err(|why| refused("to sum what it has", offset, why))?;
            let status = if let Answer::Status(status) = answer { status } else { Vec::new() };
            let sums = self.client.facts().read_sums(&status, offset, len);
            let sums = sums.map_err(|source| SendError::Sums { offset, source })?;
            self.feed.answered(&question, &sums);
            return Ok(());
        }
        let Some(sent) = self.sent.get_mut(&done.token) else { return Ok(()) };
        done.result.map_err(|why| refused(sent.what, sent.offset, why))?;
        sent.left -= 1;
        if sent.left == 0
            && let Some(sent) = self.sent.remove(&done.token)
        {
            self.feed.confirmed(sent.receipt);
        }
        Ok(())
    }
}
