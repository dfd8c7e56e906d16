//! A disk in memory, which is what the others are compared with: it shares nothing with what is tested.
//!
//! ```text
//!   Plug: an image ──► Memory: blocks of 4 KiB, each with its bytes and, since the last sync, those before it
//!     fails as told      power loss: of each sector that was not synced, the old or the new
//! ```

use crate::block::{Access, Format, Image, Place};
use fastrand::Rng;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use vm_memory::VolatileSlice;

const BLOCK: usize = 4096;

#[derive(Debug)]
struct Block {
    now: Vec<u8>,
    /// What is stable, where that is not the same.
    stable: Option<Vec<u8>>,
}

/// The disk itself.
#[derive(Debug)]
pub(super) struct Memory {
    size: usize,
    blocks: Vec<Mutex<Block>>,
}

impl Memory {
    pub(super) fn new(size: usize) -> Arc<Self> {
        let block = |at: usize| Block { now: vec![0; BLOCK.min(size - at)], stable: None };
        Arc::new(Self { size, blocks: (0..size).step_by(BLOCK).map(|at| Mutex::new(block(at))).collect() })
    }

    /// With bytes of which none are zero.
    pub(super) fn random(size: usize, rng: &mut Rng) -> Arc<Self> {
        let memory = Self::new(size);
        for block in &memory.blocks {
            block.lock().unwrap().now.fill_with(|| rng.u8(1..));
        }
        memory
    }

    /// Block by block, each at once, as a page cache does it.
    fn each(&self, range: Range<usize>, mut act: impl FnMut(&mut Block, Range<usize>, usize)) {
        let mut at = range.start;
        while at < range.end {
            let within = at % BLOCK;
            let len = (BLOCK - within).min(range.end - at);
            act(&mut self.blocks[at / BLOCK].lock().unwrap(), within..within + len, at - range.start);
            at += len;
        }
    }

    fn change(&self, range: Range<usize>, mut act: impl FnMut(&mut [u8], usize)) {
        self.each(range, |block, within, at| {
            if block.stable.is_none() {
                block.stable = Some(block.now.clone());
            }
            act(&mut block.now[within], at);
        });
    }

    /// All of it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.blocks.iter().flat_map(|block| block.lock().unwrap().now.clone()).collect()
    }

    fn sync(&self) {
        self.blocks.iter().for_each(|block| block.lock().unwrap().stable = None);
    }

    /// The host loses its power: what was not synced is there or is not, sector by sector.
    pub(super) fn lose_power(&self, rng: &mut Rng) {
        for block in &self.blocks {
            let mut block = block.lock().unwrap();
            if let Some(stable) = block.stable.take() {
                for (now, stable) in block.now.chunks_mut(512).zip(stable.chunks(512)) {
                    if rng.bool() {
                        now.copy_from_slice(stable);
                    }
                }
            }
        }
    }
}

/// What is wrong with a disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Wrong {
    /// Reads that touch it fail.
    pub(super) reads: Option<(Range<u64>, rustix::io::Errno)>,
    /// Writes that touch it fail, after half of their bytes are written.
    pub(super) writes: Option<(Range<u64>, rustix::io::Errno)>,
    pub(super) syncs: bool,
    /// Reads and writes wait until this is over.
    pub(super) stuck: bool,
}

/// A way to a disk.
#[derive(Debug)]
pub(super) struct Plug {
    memory: Arc<Memory>,
    wrong: Mutex<Wrong>,
    over: Condvar,
    waiting: AtomicUsize,
    pulled: AtomicBool,
}

impl Plug {
    pub(super) fn new(memory: &Arc<Memory>) -> Arc<Self> {
        let (wrong, over, waiting) = (Mutex::default(), Condvar::new(), AtomicUsize::new(0));
        Arc::new(Self { memory: memory.clone(), wrong, over, waiting, pulled: AtomicBool::new(false) })
    }

    pub(super) fn set(&self, wrong: Wrong) {
        *self.wrong.lock().unwrap() = wrong;
        self.over.notify_all();
    }

    /// Nothing comes through any more.
    pub(super) fn pull(&self) {
        self.pulled.store(true, Ordering::SeqCst);
    }

    /// How many wait until something is over.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    fn inside(&self, offset: u64, len: usize) -> io::Result<Range<usize>> {
        let range = offset as usize..offset as usize + len;
        if range.end > self.memory.size { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(range) }
    }

    /// Whether it is to fail, and after how many bytes.
    fn fails(&self, range: &Range<usize>, write: bool) -> Option<(rustix::io::Errno, usize)> {
        let mut wrong = self.wrong.lock().unwrap();
        while wrong.stuck {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            wrong = self.over.wait(wrong).unwrap();
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        if self.pulled.load(Ordering::SeqCst) {
            return Some((rustix::io::Errno::IO, 0));
        }
        let (bad, errno) = if write { wrong.writes.clone() } else { wrong.reads.clone() }?;
        let touched = bad.start < range.end as u64 && (range.start as u64) < bad.end;
        touched.then_some((errno, range.len() / 1024 * 512))
    }

    /// Does what it does of a change: all, or what is done before it fails.
    fn change(&self, range: Range<usize>, act: impl FnMut(&mut [u8], usize)) -> io::Result<()> {
        match self.fails(&range, true) {
            None => self.memory.change(range, act),
            Some((errno, part)) => {
                self.memory.change(range.start..range.start + part, act);
                return Err(errno.into());
            }
        }
        Ok(())
    }
}

impl Image for Plug {
    fn size(&self) -> u64 {
        self.memory.size as u64
    }

    fn read_only(&self) -> bool {
        false
    }

    fn format(&self) -> Format {
        Format::Raw
    }

    fn alignment(&self) -> u32 {
        1
    }

    fn find(&self, _: u64, len: u64, _: Access) -> io::Result<(Place, u64)> {
        Ok((Place::Elsewhere, len))
    }

    fn moves(&self) -> bool {
        false
    }

    fn read(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for buffer in buffers {
            let range = self.inside(at, buffer.len())?;
            if let Some((errno, _)) = self.fails(&range, false) {
                return Err(errno.into());
            }
            self.memory.each(range, |block, within, done| {
                buffer.offset(done).unwrap().copy_from(&block.now[within]);
            });
            at += buffer.len() as u64;
        }
        Ok(())
    }

    fn write(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for buffer in buffers {
            let range = self.inside(at, buffer.len())?;
            self.change(range, |to, done| {
                buffer.subslice(done, to.len()).unwrap().copy_to(to);
            })?;
            at += buffer.len() as u64;
        }
        Ok(())
    }

    fn settle(&self) -> io::Result<Option<Arc<File>>> {
        if self.wrong.lock().unwrap().syncs || self.pulled.load(Ordering::SeqCst) {
            return Err(super::eio());
        }
        self.memory.sync();
        Ok(None)
    }

    /// Every other block is let go.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let range = self.inside(offset, len as usize)?;
        let start = range.start;
        self.change(range, |to, done| {
            if ((start + done) / BLOCK).is_multiple_of(2) {
                to.fill(0);
            }
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        self.change(self.inside(offset, len as usize)?, |to, _| to.fill(0))
    }
}
