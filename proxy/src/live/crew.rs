//! The threads that compare the frames of the second queue and of those behind it.
//!
//! ```text
//!   guest's thread: queue 0, mailbox,            ┌──► order ──► thread: queue 1 of each NIC
//!   performers, map writes ──────────────────────┼──► order ──► thread: queue 2 of each NIC
//!        ▲                                       └ …                │
//!        └───────────── done so far, triggers, failures ◄───────────┘
//! ```
//!
//! An order is one step of a checkpoint, a mode, or a question. The guest's thread gives it to all, does
//! its own part, and waits until all have done theirs: so between two orders all are at the same step,
//! and none is more than one epoch behind the map. A thread never waits for the guest's, but for room
//! in the channel to it, which the guest's thread empties also while it waits.

use super::LiveError;
use super::bell::Bell;
use super::clock::Clock;
use super::lane::Queue;
use super::report::{self, LaneView};
use super::shard::Shard;
use super::spec::Guest;
use crate::engine::{Mode, Trigger};
use crate::link::Tap;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};

/// Reports that may wait. A thread has an answer and a request of each NIC to give, and rarely both.
const REPORTS: usize = 64;

/// What a thread is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// The next epoch begins.
    Begin,
    /// It counts; and whether output is compared from now on that passed before.
    Done {
        /// Whether it is.
        protect: bool,
    },
    /// It never was.
    Failed,
    /// Another mode.
    Mode(Mode),
    /// How it stands.
    Status,
}

/// What a thread says.
#[derive(Debug)]
enum Report {
    /// The order is carried out.
    Obeyed,
    /// How it stands with this queue of each NIC.
    Status(usize, Vec<LaneView>),
    /// A checkpoint is needed.
    Trigger(Trigger),
    /// It cannot go on.
    Failed(LiveError),
}

#[derive(Debug)]
struct Worker {
    orders: SyncSender<Order>,
    bell: Arc<Bell>,
    thread: JoinHandle<Vec<Tap>>,
}

/// The threads, as the guest's own sees them. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Crew {
    workers: Vec<Worker>,
    /// Taken at the end, so that nobody waits for room in it.
    reports: Option<Receiver<Report>>,
    bell: Arc<Bell>,
    /// What came while something else was waited for.
    triggers: Vec<Trigger>,
    guest: String,
}

impl Crew {
    /// Starts a thread for each item: the queues of one number, one for each NIC.
    pub(super) fn start(queues: Vec<Vec<Queue>>, guest: &Guest, clock: Clock) -> io::Result<Self> {
        let (sender, reports) = sync_channel(REPORTS);
        let bell = Arc::new(Bell::new()?);
        let mut crew = Self {
            workers: Vec::with_capacity(queues.len()),
            reports: Some(reports),
            bell,
            triggers: Vec::new(),
            guest: guest.name.clone(),
        };
        for (number, queues) in (1..).zip(queues) {
            let (orders, receiver) = sync_channel(1);
            let bell = Arc::new(Bell::new()?);
            let post = Post {
                number,
                orders: receiver,
                bell: Arc::clone(&bell),
                reports: sender.clone(),
                desk: Arc::clone(&crew.bell),
            };
            let guest = guest.clone();
            let thread = thread::Builder::new()
                .name(format!("queue {number} of {}", guest.name))
                .spawn(move || serve(queues, &guest, clock, &post))?;
            crew.workers.push(Worker { orders, bell, thread });
        }
        Ok(crew)
    }

    /// Gives an order to all. To be followed by one [`wait`](Self::wait).
    pub(super) fn order(&mut self, order: Order) -> Result<(), LiveError> {
        for Worker { orders, bell, .. } in &self.workers {
            if orders.send(order).is_err() {
                // It said why before it ended.
                self.look()?;
                return Err(LiveError::Panicked(self.guest.clone()));
            }
            bell.ring();
        }
        Ok(())
    }

    /// Waits until all have carried out the last order. What they said of their NICs, thread by thread.
    pub(super) fn wait(&mut self) -> Result<Vec<Vec<LaneView>>, LiveError> {
        let mut said = Vec::with_capacity(self.workers.len());
        let mut obeyed = 0;
        while obeyed + said.len() < self.workers.len() {
            let report = self.reports.as_ref().map_or(Err(RecvError), Receiver::recv);
            match report.map_err(|_| LiveError::Panicked(self.guest.clone()))? {
                Report::Obeyed => obeyed += 1,
                Report::Status(number, views) => said.push((number, views)),
                Report::Trigger(trigger) => self.triggers.push(trigger),
                Report::Failed(error) => return Err(error),
            }
        }
        // They answer in any order.
        said.sort_by_key(|(number, _)| *number);
        Ok(said.into_iter().map(|(_, views)| views).collect())
    }

    /// Takes what was said without being asked.
    pub(super) fn look(&mut self) -> Result<(), LiveError> {
        self.bell.hush();
        for report in self.reports.iter().flat_map(Receiver::try_iter) {
            match report {
                Report::Trigger(trigger) => self.triggers.push(trigger),
                Report::Failed(error) => return Err(error),
                // Every answer is waited for.
                Report::Obeyed | Report::Status(..) => {}
            }
        }
        Ok(())
    }

    /// Requests that have not been passed on.
    pub(super) fn triggers(&mut self) -> impl Iterator<Item = Trigger> {
        self.triggers.drain(..)
    }

    /// Ends the threads and gives back their taps.
    pub(super) fn stop(mut self) -> Vec<Tap> {
        self.end()
    }

    fn end(&mut self) -> Vec<Tap> {
        self.reports = None;
        let mut threads = Vec::with_capacity(self.workers.len());
        for Worker { orders, bell, thread } in self.workers.drain(..) {
            drop(orders);
            bell.ring();
            threads.push(thread);
        }
        // One that has panicked has said so.
        threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.end();
    }
}

impl AsFd for Crew {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// A thread's end of the channels.
#[derive(Debug)]
struct Post {
    /// The queue.
    number: usize,
    orders: Receiver<Order>,
    bell: Arc<Bell>,
    reports: SyncSender<Report>,
    desk: Arc<Bell>,
}

/// The guest's thread does not listen any more.
struct Dismissed;

impl Post {
    fn report(&self, report: Report) -> Result<(), Dismissed> {
        self.reports.send(report).map_err(|_| Dismissed)?;
        self.desk.ring();
        Ok(())
    }
}

/// A thread, from its first frame to its last.
fn serve(queues: Vec<Queue>, guest: &Guest, clock: Clock, post: &Post) -> Vec<Tap> {
    let work = || {
        let mut shard = Shard::new(queues, guest, clock);
        let outcome = loop {
            match turn(&mut shard, post) {
                Ok(Ok(())) => {}
                Ok(Err(Dismissed)) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        (shard.into_taps(), outcome)
    };
    let (taps, outcome) = catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| (Vec::new(), Err(LiveError::Panicked(guest.name.clone()))));
    if let Err(error) = outcome {
        // Who does not listen any more ends all threads already.
        let _ = post.report(Report::Failed(error));
    }
    taps
}

fn turn(shard: &mut Shard, post: &Post) -> Result<Result<(), Dismissed>, LiveError> {
    let more = shard.has_more();
    if shard.is_to_poll(more) && is_called(shard, post, more)? {
        post.bell.hush();
    }
    // Every turn, because a guest may stand still until all have answered.
    loop {
        match post.orders.try_recv() {
            Ok(order) => {
                let report = obey(shard, post.number, order)?;
                if post.report(report).is_err() {
                    return Ok(Err(Dismissed));
                }
            }
            Err(TryRecvError::Empty) => break,
            Err(TryRecvError::Disconnected) => return Ok(Err(Dismissed)),
        }
    }
    shard.turn()?;
    Ok(shard.triggers().try_for_each(|trigger| post.report(Report::Trigger(trigger))))
}

/// Waits for frames, for a deadline, and for the bell. Whether that rang.
fn is_called(shard: &Shard, post: &Post, more: bool) -> Result<bool, LiveError> {
    let timeout = shard.patience(more, None);
    let mut fds = Vec::with_capacity(shard.lanes.len() + 1);
    fds.push(PollFd::new(&*post.bell, PollFlags::IN));
    fds.extend(shard.lanes.iter().map(|lane| PollFd::new(lane.exit.tap(), PollFlags::IN)));
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(LiveError::Poll(error.into())),
    }
    Ok(!fds[0].revents().is_empty())
}

fn obey(shard: &mut Shard, number: usize, order: Order) -> Result<Report, LiveError> {
    let now = shard.clock.now();
    match order {
        Order::Begin => shard.begin(),
        Order::Done { protect } => shard.done(protect, now),
        Order::Failed => shard.failed(now)?,
        Order::Mode(mode) => shard.set_mode(mode, now),
        Order::Status => return Ok(Report::Status(number, report::views(shard, now))),
    }
    Ok(Report::Obeyed)
}
