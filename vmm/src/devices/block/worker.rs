//! The thread that serves a queue.
//!
//! ```text
//!   ┌► pop ─► begin ─► submit ─► reap ─► used, interrupt ─► poll (kick, engine, commands) ┐
//!   └──────────────────────────────────────────────────────────────────────────────────────┘
//!   Pause: pops nothing more, reaps until nothing is in flight, answers, waits for Resume or Stop
//! ```

use super::device::Disk;
use super::running::Running;
use crate::block::Image;
use crate::block::engine::{self, Choice, Engine};
use crate::block::follow::Follower;
use crate::irq::Interrupt;
use crate::memory::GuestRam;
use crate::sandbox::{self, Kind};
use crate::virtio::ActiveQueue;
use crate::virtio::throttle::Gate;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use virtio_queue::{Queue, QueueState, QueueT};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// What a worker is told.
pub(super) enum Command {
    /// Stand still, and say how far the queue is.
    Pause(Sender<(u16, QueueState)>),
    /// Take other positions in the queue, while standing still.
    Rewind(u16, u16),
    /// Go on.
    Resume,
    /// End.
    Stop,
}

/// A worker, as its device sees it. To drop it ends it.
#[derive(Debug)]
pub(super) struct Handle {
    commands: Sender<Command>,
    event: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    index: u16,
}

impl Handle {
    pub(super) fn start(worker: Worker, choice: Choice) -> io::Result<Self> {
        let index = worker.index;
        let event = Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?);
        let (commands, taken) = channel();
        let (told, started) = channel();
        let theirs = event.clone();
        let run = move || {
            // A ring belongs to the thread that made it.
            match worker.engine(choice) {
                Ok(engine) => {
                    let _ = told.send(Ok(()));
                    Running::new(worker, engine).run(&theirs, &taken);
                }
                Err(error) => drop(told.send(Err(error))),
            }
        };
        let thread = sandbox::spawn("disk", Kind::Worker, run)?;
        let handle = Self { commands, event, thread: Some(thread), index };
        started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))?;
        Ok(handle)
    }

    fn tell(&self, command: Command) {
        // Who has ended is as still as can be.
        let _ = self.commands.send(command);
        let _ = self.event.write(1);
    }

    pub(super) fn pause(&self) -> Receiver<(u16, QueueState)> {
        let (sender, answer) = channel();
        self.tell(Command::Pause(sender));
        answer
    }

    pub(super) fn index(&self) -> u16 {
        self.index
    }

    pub(super) fn rewind(&self, position: &QueueState) {
        self.tell(Command::Rewind(position.next_avail, position.next_used));
    }

    pub(super) fn resume(&self) {
        self.tell(Command::Resume);
    }

    pub(super) fn stop(&self) {
        self.tell(Command::Stop);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a worker works on.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) image: Arc<dyn Image>,
    pub(super) follower: Option<Arc<dyn Follower>>,
    pub(super) serial: String,
    pub(super) index: u16,
    pub(super) queue: Queue,
    pub(super) kick: EventFd,
    pub(super) ram: Arc<GuestRam>,
    pub(super) interrupt: Arc<dyn Interrupt>,
    pub(super) write_through: bool,
}

impl Worker {
    pub(super) fn new(
        disk: &Disk,
        queue: ActiveQueue,
        ram: &Arc<GuestRam>,
        interrupt: &Arc<dyn Interrupt>,
        write_through: bool,
    ) -> Self {
        let Disk { image, follower, serial, .. } = disk.clone();
        let ActiveQueue { index, queue, kick } = queue;
        Self {
            image,
            follower,
            serial,
            index,
            queue,
            kick,
            ram: ram.clone(),
            interrupt: interrupt.clone(),
            write_through,
        }
    }

    pub(super) fn engine(&self, choice: Choice) -> io::Result<Box<dyn Engine>> {
        /// A driver may begin as often as it likes.
        static GATE: Gate = Gate::new();
        // The file that most places are in; others are looked up by the kernel each time.
        let place = self.image.settle().unwrap_or_default();
        let engine = engine::start(choice, self.queue.size(), place.as_slice())?;
        if GATE.admit().is_some() {
            tracing::info!(queue = self.index, engine = engine.name(), "disk queue served");
        }
        Ok(engine)
    }
}
