//! Disks that fail when they are told to, and one with large blocks.

use crate::block::{Access, Format, Image, Place};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};
use vm_memory::VolatileSlice;

/// What is wrong with a disk.
#[derive(Debug, Default)]
pub(super) struct Wrong {
    /// Writes that touch it fail with this, after half of their bytes are written.
    pub(super) writes: Option<(Range<u64>, rustix::io::Errno)>,
    pub(super) syncs: bool,
    /// Writes wait until it ends.
    pub(super) stuck: bool,
}

/// A disk that can be broken.
#[derive(Debug)]
pub(super) struct Faulty {
    inner: Arc<dyn Image>,
    wrong: Mutex<Wrong>,
    changed: Condvar,
    written: Mutex<Vec<Range<u64>>>,
}

impl Faulty {
    pub(super) fn new(inner: Arc<dyn Image>) -> Arc<Self> {
        Arc::new(Self { inner, wrong: Mutex::default(), changed: Condvar::new(), written: Mutex::default() })
    }

    pub(super) fn set(&self, wrong: Wrong) {
        *self.wrong.lock().unwrap() = wrong;
        self.changed.notify_all();
    }

    /// The ranges that were written, in that order.
    pub(super) fn written(&self) -> Vec<Range<u64>> {
        self.written.lock().unwrap().clone()
    }

    fn check(&self, range: &Range<u64>) -> io::Result<()> {
        let mut wrong = self.wrong.lock().unwrap();
        while wrong.stuck {
            wrong = self.changed.wait(wrong).unwrap();
        }
        match &wrong.writes {
            Some((bad, errno)) if bad.start < range.end && range.start < bad.end => Err((*errno).into()),
            _ => {
                self.written.lock().unwrap().push(range.clone());
                Ok(())
            }
        }
    }
}

impl Image for Faulty {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn format(&self) -> Format {
        self.inner.format()
    }
    fn alignment(&self) -> u32 {
        self.inner.alignment()
    }
    fn find(&self, offset: u64, len: u64, access: Access) -> io::Result<(Place, u64)> {
        self.inner.find(offset, len, access)
    }
    fn moves(&self) -> bool {
        self.inner.moves()
    }
    fn read(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        self.inner.read(buffers, offset)
    }
    fn write(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let len: usize = buffers.iter().map(VolatileSlice::len).sum();
        self.check(&(offset..offset + len as u64)).inspect_err(|_| {
            let part = buffers[0].subslice(0, buffers[0].len() / 2).unwrap();
            self.inner.write(&[part], offset).unwrap();
        })?;
        self.inner.write(buffers, offset)
    }
    fn settle(&self) -> io::Result<Option<Arc<File>>> {
        self.inner.settle()
    }
    fn flush(&self) -> io::Result<()> {
        if self.wrong.lock().unwrap().syncs { Err(rustix::io::Errno::IO.into()) } else { self.inner.flush() }
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check(&(offset..offset + len))?;
        self.inner.discard(offset, len)
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.check(&(offset..offset + len))?;
        self.inner.write_zeroes(offset, len, unmap)
    }
}

/// A disk with blocks of 4 KiB: what is smaller is read, changed, and written again, as with direct I/O.
/// It is done slowly, so that who would write the same block at the same time loses something.
#[derive(Debug)]
pub(super) struct Blocks(pub(super) Arc<dyn Image>);

impl Image for Blocks {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn format(&self) -> Format {
        self.0.format()
    }
    fn alignment(&self) -> u32 {
        4096
    }
    fn find(&self, offset: u64, len: u64, access: Access) -> io::Result<(Place, u64)> {
        self.0.find(offset, len, access)
    }
    fn moves(&self) -> bool {
        self.0.moves()
    }
    fn read(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.read(buffers, offset)
    }
    fn write(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let len: usize = buffers.iter().map(VolatileSlice::len).sum();
        let (from, to) = (offset & !4095, (offset + len as u64).next_multiple_of(4096));
        let mut blocks = vec![0; (to - from) as usize];
        self.0.read(&[VolatileSlice::from(&mut blocks[..])], from)?;
        std::thread::yield_now();
        let mut at = (offset - from) as usize;
        for buffer in buffers {
            at += buffer.copy_to(&mut blocks[at..]);
        }
        self.0.write(&[VolatileSlice::from(&mut blocks[..])], from)
    }
    fn settle(&self) -> io::Result<Option<Arc<File>>> {
        self.0.settle()
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.discard(offset, len)
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.0.write_zeroes(offset, len, unmap)
    }
}
