//! Threads that read and write, for kernels without `io_uring` (containers often forbid it).

use super::sys::Pinned;
use super::{Done, Engine, Operation};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// How many requests of a disk wait for the kernel at a time.
const THREADS: usize = 8;

/// A pool of threads.
#[derive(Debug)]
pub(super) struct Threads {
    depth: usize,
    in_flight: usize,
    /// `None` once the threads are to end.
    work: Option<Sender<Pinned>>,
    results: Receiver<Done>,
    /// What `wait` took out already.
    ready: Vec<Done>,
    event: Arc<EventFd>,
    pool: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn new(depth: u16) -> io::Result<Self> {
        let event = Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?);
        let (work, taken) = channel::<Pinned>();
        let taken = Arc::new(Mutex::new(taken));
        let (result, results) = channel();
        let start = |_| {
            let (taken, result, event) = (taken.clone(), result.clone(), event.clone());
            let run = move || {
                loop {
                    let next = taken.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(pinned) = next else { return };
                    let outcome = pinned.perform();
                    pinned.operation.mark();
                    if result.send((pinned.operation.token, outcome)).is_err() {
                        return;
                    }
                    let _ = event.write(1);
                }
            };
            std::thread::Builder::new().name("disk-io".to_owned()).spawn(run)
        };
        let pool = (0..THREADS).map(start).collect::<io::Result<_>>()?;
        let depth = usize::from(depth.max(1)).next_power_of_two();
        Ok(Self { depth, in_flight: 0, work: Some(work), results, ready: Vec::new(), event, pool })
    }
}

impl Engine for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn push(&mut self, operation: Operation) -> io::Result<()> {
        if self.in_flight == self.depth {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let pinned = Pinned::new(operation)?;
        let gone = || io::Error::other("the disk's threads have ended");
        self.work.as_ref().ok_or_else(gone)?.send(pinned).map_err(|_| gone())?;
        self.in_flight += 1;
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn event(&self) -> BorrowedFd<'_> {
        crate::block::event_fd(&self.event)
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        let _ = self.event.read();
        let before = done.len();
        done.append(&mut self.ready);
        done.extend(self.results.try_iter());
        self.in_flight -= done.len() - before;
    }

    fn wait(&mut self) -> io::Result<()> {
        if self.in_flight > 0 && self.ready.is_empty() {
            let gone = |_| io::Error::other("the disk's threads have ended");
            self.ready.push(self.results.recv().map_err(gone)?);
        }
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // They finish what they have been given, and see that there will be no more.
        self.work = None;
        for thread in self.pool.drain(..) {
            let _ = thread.join();
        }
    }
}
