//! Moves bytes between files and the guest's memory, many requests at a time.
//!
//! ```text
//!   push, push, push ── submit ──► kernel (io_uring) or threads (preadv, pwritev)
//!   reap ◄── (token, result) ◄──── event: readable when something is done
//! ```
//!
//! An operation keeps the memory and the file alive that it works on. What was read into the guest's
//! memory is marked in its bitmap before `reap` tells of it.

mod sys;
#[cfg(test)]
mod tests;
mod threads;
mod uring;

use crate::memory::GuestRam;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Once};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// The most pieces of memory in one operation (`IOV_MAX`).
pub const MAX_SPANS: usize = 1024;

/// A piece of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub address: GuestAddress,
    /// How long it is.
    pub len: usize,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// From the file into memory.
    Read,
    /// From memory into the file.
    Write,
    /// Makes what was written stable.
    Sync,
}

/// One request to the kernel.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What it does.
    pub act: Act,
    /// The file.
    pub file: Arc<File>,
    /// Where in the file.
    pub offset: u64,
    /// The guest's memory.
    pub ram: Arc<GuestRam>,
    /// Where in the memory; each piece within one region, [`MAX_SPANS`] at most.
    pub spans: Vec<Span>,
    /// What [`Engine::reap`] tells when it is done.
    pub token: u64,
}

impl Operation {
    /// Marks what a read has written.
    fn mark(&self) {
        if self.act == Act::Read {
            for span in &self.spans {
                if let Ok(slice) = self.ram.get_slice(span.address, span.len) {
                    slice.bitmap().mark_dirty(0, span.len);
                }
            }
        }
    }
}

/// Something that is done: its token, and how many bytes were moved.
pub type Done = (u64, io::Result<usize>);

/// A way to move bytes. It belongs to one thread. To drop it waits for what is in flight.
pub trait Engine: fmt::Debug {
    /// Its name, for people.
    fn name(&self) -> &'static str;
    /// How many operations it takes before some of them have to be reaped.
    fn depth(&self) -> usize;
    /// How many are pushed and not reaped.
    fn in_flight(&self) -> usize;
    /// Takes an operation. It may begin at once, or with [`submit`](Self::submit).
    fn push(&mut self, operation: Operation) -> io::Result<()>;
    /// Begins all that was pushed.
    fn submit(&mut self) -> io::Result<()>;
    /// Readable when there is something to reap.
    fn event(&self) -> BorrowedFd<'_>;
    /// Takes all that is done.
    fn reap(&mut self, done: &mut Vec<Done>);
    /// Waits until there is something to reap, if anything is in flight.
    fn wait(&mut self) -> io::Result<()>;
}

/// How bytes are moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// `io_uring`, or threads where the kernel refuses it.
    #[default]
    Best,
    /// `io_uring`.
    Uring,
    /// Threads.
    Threads,
}

/// Makes an engine for these files, for use on the calling thread.
pub fn start(choice: Choice, depth: u16, files: &[Arc<File>]) -> io::Result<Box<dyn Engine>> {
    let ring = match choice {
        Choice::Threads => None,
        Choice::Uring => Some(uring::Uring::new(depth, files)?),
        Choice::Best => match uring::Uring::new(depth, files) {
            Ok(ring) => Some(ring),
            Err(error) => {
                // It will not be different the next time.
                static SAID: Once = Once::new();
                SAID.call_once(|| {
                    tracing::warn!(%error, "the kernel refuses io_uring; disks are served by threads, which are slower");
                });
                None
            }
        },
    };
    Ok(match ring {
        Some(ring) => Box::new(ring),
        None => Box::new(threads::Threads::new(depth)?),
    })
}
