//! A thread that works for a device while the guest runs, and gives the work back when it pauses.
//!
//! ```text
//!   spawn ─► work ──────────────► thread: epoll over sources + control
//!                                   │  run, run, … until it has to wait
//!   pause ─ control eventfd ──────► │  rest: what is in flight ends
//!         ◄───────── work ───────── ┘  (the thread sleeps, and owns nothing)
//!   resume ───────── work ────────► …
//! ```
//!
//! Whoever owns the work may touch it: a paused worker *cannot* have anything in flight, for its work is
//! elsewhere. Sources are watched edge-triggered: a batch costs no read of an eventfd, and what happens
//! while the work rests is told when it goes on.

use crate::sandbox::{self, Kind};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The control eventfd's number among the sources.
const CONTROL: u64 = u64::MAX;
/// Events that one look takes.
const EVENTS: usize = 8;

/// What to do after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is more: go on after a look at the control eventfd.
    Again,
    /// Nothing to do until a source says so.
    Wait,
}

/// What a thread does for a device.
pub trait Work: Send + fmt::Debug + 'static {
    /// The descriptors to watch. They live as long as the work, and are the same ones always.
    fn sources(&self) -> Vec<RawFd>;
    /// A source (by its place in the list) may be read or written again. `run` follows.
    fn ready(&mut self, _source: usize) {}
    /// Does a bounded batch. It is called at the beginning, without an event, too.
    fn run(&mut self) -> Next;
    /// Ends what is in flight: the work is about to be given back.
    fn rest(&mut self) {}
}

enum State<W> {
    Running,
    /// It was told to give its work back.
    Called,
    Paused(Box<W>),
    /// The thread has died of a bug.
    Lost,
}

/// A thread and its work.
pub struct Worker<W: Work> {
    name: String,
    control: EventFd,
    give: Option<Sender<Box<W>>>,
    take: Receiver<Box<W>>,
    thread: Option<JoinHandle<()>>,
    state: State<W>,
}

impl<W: Work> Worker<W> {
    /// Begins to work on a thread of its own.
    pub fn spawn(name: &str, work: W) -> io::Result<Self> {
        let control = EventFd::new(EFD_NONBLOCK)?;
        let epoll = Epoll::new()?;
        let watch = |fd, events, data| epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, data));
        watch(control.as_raw_fd(), EventSet::IN, CONTROL)?;
        for (number, fd) in work.sources().into_iter().enumerate() {
            watch(fd, EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED, number as u64)?;
        }
        let (give, inbox) = channel::<Box<W>>();
        let (outbox, take) = channel();
        let shared = control.try_clone()?;
        let thread = sandbox::spawn(name, Kind::Worker, move || {
            for mut work in inbox {
                until_called(&epoll, &shared, &mut *work);
                work.rest();
                if outbox.send(work).is_err() {
                    return;
                }
            }
        })?;
        // The thread holds the other end until `give` is dropped.
        let state = match give.send(Box::new(work)) {
            Ok(()) => State::Running,
            Err(_) => State::Lost,
        };
        Ok(Self { name: name.into(), control, give: Some(give), take, thread: Some(thread), state })
    }

    /// Asks for the work, and does not wait for it: several are asked before any is waited for.
    pub fn call(&mut self) {
        if matches!(self.state, State::Running) && self.control.write(1).is_ok() {
            self.state = State::Called;
        }
    }

    /// Takes the work back: when this returns nothing is in flight. Paused already is fine. None if the
    /// thread has died.
    pub fn pause(&mut self) -> Option<&mut W> {
        self.call();
        if matches!(self.state, State::Running | State::Called) {
            let called = matches!(self.state, State::Called);
            self.state = if let Some(work) = called.then(|| self.take.recv().ok()).flatten() {
                State::Paused(work)
            } else {
                tracing::error!(worker = self.name, "it has died, and its queues stand still");
                State::Lost
            };
        }
        match &mut self.state {
            State::Paused(work) => Some(work),
            State::Running | State::Called | State::Lost => None,
        }
    }

    /// Goes on. Running already is fine.
    pub fn resume(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Lost) {
            State::Paused(work) => match self.give.as_ref().map(|give| give.send(work)) {
                Some(Ok(())) => State::Running,
                _ => State::Lost,
            },
            // One that was called gives its work first: `pause` comes before.
            other => other,
        };
    }

    /// Ends the thread and gives the work.
    pub fn stop(mut self) -> Option<W> {
        self.pause();
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Paused(work) => Some(*work),
            State::Running | State::Called | State::Lost => None,
        }
    }
}

impl<W: Work> Drop for Worker<W> {
    fn drop(&mut self) {
        self.pause();
        self.give = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(worker = self.name, "it has died of a bug");
        }
    }
}

impl<W: Work> fmt::Debug for Worker<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Running | State::Called => "running",
            State::Paused(_) => "paused",
            State::Lost => "lost",
        };
        f.debug_struct("Worker").field("name", &self.name).field("state", &state).finish_non_exhaustive()
    }
}

/// Works until the control eventfd is written.
fn until_called<W: Work>(epoll: &Epoll, control: &EventFd, work: &mut W) {
    let mut events = [EpollEvent::default(); EVENTS];
    let mut next = work.run();
    loop {
        let timeout = if next == Next::Again { 0 } else { -1 };
        let count = match epoll.wait(timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                // Only a bug of ours can do this; to go on would be a busy loop.
                tracing::error!(%error, "cannot wait for a device's events");
                return;
            }
        };
        for event in events.iter().take(count) {
            if event.data() == CONTROL {
                // Not blocking, and nobody else reads it.
                let _ = control.read();
                return;
            }
            work.ready(event.data() as usize);
        }
        if count > 0 || next == Next::Again {
            next = work.run();
        }
    }
}

#[cfg(test)]
mod tests;
