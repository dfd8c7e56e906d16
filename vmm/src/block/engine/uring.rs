//! `io_uring`: a batch of requests is one system call, and none of them needs a thread of ours.

use super::sys::Pinned;
use super::{Done, Engine, Operation};
use io_uring::IoUring;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// A ring, and what is in it.
pub(super) struct Uring {
    ring: IoUring,
    /// What is in flight, by the number that the kernel has for it; free places are `None`.
    slots: Vec<Option<Box<Pinned>>>,
    free: Vec<usize>,
    /// Registered files, which the kernel need not look up; their numbers are their places.
    files: Vec<(RawFd, Arc<File>)>,
    event: EventFd,
    unsubmitted: usize,
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl Uring {
    pub(super) fn new(depth: u16, files: &[Arc<File>]) -> io::Result<Self> {
        let depth = usize::from(depth.max(1)).next_power_of_two();
        // One thread submits and reaps: it need not be interrupted when something is done.
        let ring = IoUring::builder().setup_coop_taskrun().setup_single_issuer().build(depth as u32);
        // Kernels before 6.0 do not know that.
        let ring = ring.or_else(|_| IoUring::new(depth as u32))?;
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let files: Vec<_> = files.iter().map(|file| (file.as_raw_fd(), file.clone())).collect();
        let fds: Vec<_> = files.iter().map(|(fd, _)| *fd).collect();
        if !fds.is_empty() {
            ring.submitter().register_files(&fds)?;
        }
        let slots = std::iter::repeat_with(|| None).take(depth).collect();
        Ok(Self { ring, slots, free: (0..depth).collect(), files, event, unsubmitted: 0 })
    }
}

impl Engine for Uring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn depth(&self) -> usize {
        self.slots.len()
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn push(&mut self, operation: Operation) -> io::Result<()> {
        let pinned = Box::new(Pinned::new(operation)?);
        let Some(slot) = self.free.pop() else { return Err(io::ErrorKind::WouldBlock.into()) };
        let fd = pinned.operation.file.as_raw_fd();
        let fixed = self.files.iter().position(|(known, _)| *known == fd).map(|index| index as u32);
        match pinned.enqueue(&mut self.ring, fixed, slot as u64) {
            Ok(()) => {
                self.slots[slot] = Some(pinned);
                self.unsubmitted += 1;
                Ok(())
            }
            Err(error) => {
                self.free.push(slot);
                Err(error)
            }
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        while self.unsubmitted > 0 {
            match self.ring.submit() {
                Ok(count) => self.unsubmitted -= count.min(self.unsubmitted),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn event(&self) -> BorrowedFd<'_> {
        crate::block::event_fd(&self.event)
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        // Cleared first: what is done after this is a new event.
        let _ = self.event.read();
        for entry in self.ring.completion() {
            let slot = entry.user_data() as usize;
            let Some(pinned) = self.slots.get_mut(slot).and_then(Option::take) else { continue };
            self.free.push(slot);
            let result =
                usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
            pinned.operation.mark();
            done.push((pinned.operation.token, result));
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        if self.in_flight() == 0 {
            return Ok(());
        }
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(count) => {
                    self.unsubmitted -= count.min(self.unsubmitted);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.in_flight() > 0 {
            if self.wait().is_err() {
                // The kernel may still write there: what it writes to must not be given back.
                self.slots.drain(..).flatten().for_each(std::mem::forget);
                return;
            }
            self.reap(&mut done);
        }
        // The kernel takes a ring apart later; a file that it still had open would still be locked.
        let _ = self.ring.submitter().unregister_files();
    }
}
