//! A queue being served: what is in flight, and what becomes of it.
//!
//! ```text
//!   begin ─► act ─┬─ pushed to the engine (left + 1 each) ──► finish (left − 1 each) ┐
//!                 └─ done here, or failed ────────────────────────────────────────────┴─► left = 0: used
//! ```

use super::buffers::Buffers;
use super::config::{MAX_RANGE, MAX_RANGES, SECTOR};
use super::request::{Kind, Request, gather, scatter};
use super::worker::{Command, Worker};
use crate::block::engine::{Act, Done, Engine, Span};
use crate::block::event_fd;
use crate::block::follow::Followed;
use crate::virtio::throttle::{self, Gate};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::sync::mpsc::Receiver;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::Bytes;
use vmm_sys_util::eventfd::EventFd;

/// What a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = VIRTIO_BLK_S_OK as u8,
    Error = VIRTIO_BLK_S_IOERR as u8,
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// A request that was begun.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: Request,
    /// What it moves bytes from or to.
    pub(super) buffers: Option<Buffers>,
    /// What somebody who follows the disk waits for.
    pub(super) followed: Option<Followed>,
    /// How many operations are in flight for it.
    pub(super) left: usize,
    /// How many bytes the kernel was to move for it, and has.
    pub(super) expected: usize,
    moved: usize,
    /// How many bytes were written into the driver's buffers.
    pub(super) written: usize,
    status: Status,
    /// Whether it has to be made stable after.
    sync: bool,
}

/// A worker at work.
pub(super) struct Running {
    pub(super) worker: Worker,
    pub(super) engine: Box<dyn Engine>,
    pub(super) pending: Vec<Option<Pending>>,
    free: Vec<usize>,
    pub(super) done: Vec<Done>,
    /// Set when the ring makes no sense: nothing is popped until a reset.
    broken: bool,
    signal: bool,
}

impl Running {
    pub(super) fn new(worker: Worker, engine: Box<dyn Engine>) -> Self {
        let size = usize::from(worker.queue.size());
        Self {
            worker,
            engine,
            pending: std::iter::repeat_with(|| None).take(size).collect(),
            free: (0..size).collect(),
            done: Vec::new(),
            broken: false,
            signal: false,
        }
    }

    pub(super) fn run(mut self, event: &EventFd, commands: &Receiver<Command>) {
        loop {
            let more = self.work();
            self.poll(event, more);
            while let Ok(command) = commands.try_recv() {
                match command {
                    Command::Pause(answer) => {
                        self.drain();
                        let _ = answer.send((self.worker.index, self.worker.queue.state()));
                        // Whatever comes now: Resume goes on, anything else but another Pause ends it.
                        loop {
                            match commands.recv() {
                                Ok(Command::Resume) => break,
                                Ok(Command::Rewind(avail, used)) => self.rewind(avail, used),
                                Ok(Command::Pause(answer)) => {
                                    let _ = answer.send((self.worker.index, self.worker.queue.state()));
                                }
                                Ok(Command::Stop) | Err(_) => return,
                            }
                        }
                    }
                    // One that runs has no other place to be at.
                    Command::Resume | Command::Rewind(..) => {}
                    Command::Stop => {
                        self.drain();
                        return;
                    }
                }
            }
        }
    }

    /// Goes on from another position, with nothing in flight.
    fn rewind(&mut self, next_avail: u16, next_used: u16) {
        self.worker.queue.set_next_avail(next_avail);
        self.worker.queue.set_next_used(next_used);
        (self.broken, self.signal) = (false, false);
    }

    /// Waits until there is something to do.
    fn poll(&mut self, event: &EventFd, more: bool) {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = more.then_some(&zero);
        let mut fds = [
            PollFd::from_borrowed_fd(event_fd(&self.worker.kick), PollFlags::IN),
            PollFd::from_borrowed_fd(self.engine.event(), PollFlags::IN),
            PollFd::from_borrowed_fd(event_fd(event), PollFlags::IN),
        ];
        // An interruption is a reason to look, too.
        let _ = poll(&mut fds, timeout);
        let ready = |fd: &PollFd<'_>| fd.revents().contains(PollFlags::IN);
        let (kicked, told) = (ready(&fds[0]), ready(&fds[2]));
        if kicked {
            let _ = self.worker.kick.read();
        }
        if told {
            let _ = event.read();
        }
    }

    /// Serves the queue. Says whether there may be more.
    fn work(&mut self) -> bool {
        self.reap();
        if self.broken {
            self.notify();
            return false;
        }
        let served = self.serve();
        self.notify();
        served.unwrap_or_else(|error| {
            self.broken = true;
            throttle::complain("disk", &error);
            self.worker.interrupt.needs_reset();
            false
        })
    }

    fn serve(&mut self) -> Result<bool, virtio_queue::Error> {
        let ram = self.worker.ram.clone();
        self.worker.queue.disable_notification(&*ram)?;
        // A batch is as large as the queue: commands are looked at in between.
        for _ in 0..self.worker.queue.size() {
            if self.free.is_empty() {
                break;
            }
            let Some(chain) = self.worker.queue.iter(&*ram)?.next() else { break };
            match Request::parse(&ram, chain) {
                Ok(request) => self.begin(request),
                Err(broken) => {
                    complain(&broken.to_string());
                    if let Some(status) = broken.status {
                        let _ = ram.write_obj(Status::Error as u8, status);
                    }
                    self.used(broken.head, u32::from(broken.status.is_some()));
                }
            }
        }
        self.submit();
        self.reap();
        if self.free.is_empty() {
            // What is reaped makes room, and wakes us.
            return Ok(false);
        }
        self.worker.queue.enable_notification(&*ram)
    }

    fn submit(&mut self) {
        if let Err(error) = self.engine.submit() {
            complain(&format!("cannot submit: {error}"));
        }
    }

    /// Tells the driver, if it wants to know.
    fn notify(&mut self) {
        if std::mem::take(&mut self.signal)
            && self.worker.queue.needs_notification(&*self.worker.ram).unwrap_or(true)
        {
            self.worker.interrupt.queue(self.worker.index);
        }
    }

    /// Finishes all that was begun.
    fn drain(&mut self) {
        self.settle();
        self.notify();
    }

    /// Waits until nothing is in flight.
    fn settle(&mut self) {
        loop {
            self.reap();
            if self.engine.in_flight() == 0 {
                return;
            }
            if let Err(error) = self.engine.wait() {
                complain(&format!("cannot wait: {error}"));
            }
        }
    }

    fn begin(&mut self, request: Request) {
        let Some(slot) = self.free.pop() else { return };
        let sync = self.worker.write_through && matches!(request.kind, Kind::Write | Kind::WriteZeroes);
        let pending = Pending {
            request,
            buffers: None,
            followed: None,
            left: 1,
            expected: 0,
            moved: 0,
            written: 0,
            status: Status::Ok,
            sync,
        };
        self.pending[slot] = Some(pending);
        let status = match self.act(slot) {
            Ok(status) => status,
            Err(error) => {
                complain(&error.to_string());
                Status::Error
            }
        };
        // The one that was `left` from the beginning: none of its operations can end it before.
        self.one_less(slot, status);
    }

    fn act(&mut self, slot: usize) -> io::Result<Status> {
        let Some(pending) = &self.pending[slot] else { return Ok(Status::Error) };
        let (kind, sector, len) = (pending.request.kind, pending.request.sector, pending.request.len);
        match kind {
            Kind::Read | Kind::Write => {
                let Some(offset) = self.range(sector, len as u64) else { return Ok(Status::Error) };
                self.transfer(slot, kind, offset)
            }
            Kind::Flush => self.sync(slot),
            Kind::GetId => {
                let mut id = [0; 20];
                let serial = self.worker.serial.as_bytes();
                let len = serial.len().min(id.len());
                id[..len].copy_from_slice(&serial[..len]);
                let written = scatter(&self.worker.ram, &pending.request.data, &id);
                if let Some(pending) = &mut self.pending[slot] {
                    pending.written = written;
                }
                Ok(Status::Ok)
            }
            Kind::Discard | Kind::WriteZeroes => {
                let data = pending.request.data.clone();
                self.ranges(kind, &data, len)
            }
            Kind::Unknown => Ok(Status::Unsupported),
        }
    }

    /// Where a request is, if it is on the disk and of whole sectors.
    fn range(&self, sector: u64, len: u64) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(len)?;
        (len.is_multiple_of(SECTOR) && end <= self.worker.image.size()).then_some(offset)
    }

    /// Makes stable what was written.
    fn sync(&mut self, slot: usize) -> io::Result<Status> {
        if let Some(file) = self.worker.image.settle()? {
            self.push(slot, Act::Sync, file, 0, Buffers { ram: self.worker.ram.clone(), spans: Vec::new() })?;
        }
        Ok(Status::Ok)
    }

    /// Discards or zeroes the ranges that a driver has written.
    fn ranges(&mut self, kind: Kind, data: &[Span], len: usize) -> io::Result<Status> {
        const RANGE: usize = 16;
        if len == 0
            || !len.is_multiple_of(RANGE)
            || len > RANGE * MAX_RANGES as usize
            || self.worker.image.read_only()
        {
            return Ok(Status::Error);
        }
        let mut bytes = vec![0; len];
        gather(&self.worker.ram, data, &mut bytes);
        let mut ranges = Vec::with_capacity(len / RANGE);
        for bytes in bytes.chunks_exact(RANGE) {
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
            let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
            let (sectors, flags) = (word(8), word(12));
            let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
            if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 || unmap && kind == Kind::Discard {
                return Ok(Status::Unsupported);
            }
            let len = u64::from(sectors) * SECTOR;
            match self.range(sector, len) {
                Some(offset) if sectors <= MAX_RANGE => ranges.push((offset, len, unmap)),
                _ => return Ok(Status::Error),
            }
        }
        if self.worker.image.moves() {
            // What is in flight may be on its way to what is freed here and then becomes another's.
            while self.engine.in_flight() > 0 {
                self.engine.wait()?;
                self.engine.reap(&mut self.done);
            }
        }
        for (offset, len, unmap) in ranges {
            self.clear(kind, offset, len, unmap)?;
        }
        Ok(Status::Ok)
    }

    /// Discards or zeroes a range. Where somebody follows, both must end alike: what is discarded becomes zeros.
    fn clear(&self, kind: Kind, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let Worker { image, follower, .. } = &self.worker;
        let Some(follower) = follower else {
            return match kind {
                Kind::Discard => image.discard(offset, len),
                _ => image.write_zeroes(offset, len, unmap),
            };
        };
        let unmap = unmap || kind == Kind::Discard;
        let followed = follower.zeroes(offset, len, unmap);
        let outcome = image.write_zeroes(offset, len, unmap);
        follower.done(followed, outcome.is_ok());
        outcome
    }

    /// Takes what the engine has done.
    fn reap(&mut self) {
        self.engine.reap(&mut self.done);
        // A request that ends may begin to sync, and wait for room, and so find more that is done.
        while !self.done.is_empty() {
            for (token, result) in std::mem::take(&mut self.done) {
                self.finish(token as usize, result);
            }
            self.submit();
        }
    }

    /// An operation of a request is done.
    fn finish(&mut self, slot: usize, result: io::Result<usize>) {
        let status = match result {
            Ok(len) => {
                if let Some(Some(pending)) = self.pending.get_mut(slot) {
                    pending.moved += len;
                }
                Status::Ok
            }
            Err(error) => {
                complain(&error.to_string());
                Status::Error
            }
        };
        self.one_less(slot, status);
    }

    /// One part of a request is done; with the last one, the request is.
    fn one_less(&mut self, slot: usize, status: Status) {
        let Some(Some(pending)) = self.pending.get_mut(slot) else { return };
        pending.left -= 1;
        if pending.status == Status::Ok {
            pending.status = status;
        }
        if pending.left > 0 {
            return;
        }
        if pending.status == Status::Ok && pending.moved < pending.expected {
            let status = self.repeat(slot);
            if let Some(Some(pending)) = self.pending.get_mut(slot) {
                pending.status = status;
            }
        }
        let Some(Some(pending)) = self.pending.get_mut(slot) else { return };
        if pending.status == Status::Ok && std::mem::take(&mut pending.sync) {
            pending.left = 1;
            let status = self.sync(slot).unwrap_or(Status::Error);
            return self.one_less(slot, status);
        }
        if let Some(mut pending) = self.pending[slot].take() {
            self.free.push(slot);
            if let (Some(follower), Some(followed)) = (&self.worker.follower, pending.followed.take()) {
                follower.done(followed, pending.status == Status::Ok);
            }
            let _ = self.worker.ram.write_obj(pending.status as u8, pending.request.status);
            self.used(pending.request.head, pending.written as u32 + 1);
        }
    }

    /// Does a request again, on this thread, of which the kernel did a part only: at the end of a file,
    /// or of its space.
    fn repeat(&mut self, slot: usize) -> Status {
        let Some(Some(pending)) = self.pending.get_mut(slot) else { return Status::Error };
        pending.expected = pending.moved;
        let Some(buffers) = pending.buffers.clone() else { return Status::Error };
        let write = pending.request.kind == Kind::Write;
        let offset = pending.request.sector * SECTOR;
        self.transfer_here(write, &buffers, offset).unwrap_or_else(|error| {
            complain(&error.to_string());
            Status::Error
        })
    }

    fn used(&mut self, head: u16, len: u32) {
        self.signal = true;
        if let Err(error) = self.worker.queue.add_used(&*self.worker.ram, head, len) {
            complain(&format!("cannot return a buffer: {error}"));
        }
    }
}

/// A request that failed: what a guest makes us say, at most once a second, however often it begins anew.
fn complain(what: &str) {
    static GATE: Gate = Gate::new();
    if let Some(silenced) = GATE.admit() {
        tracing::warn!(silenced, "a disk request failed: {what}");
    }
}
