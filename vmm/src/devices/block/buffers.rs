//! The memory that a request moves bytes from or to: the driver's buffers, or a copy of what they held.

use super::request::part;
use crate::block::engine::Span;
use crate::block::{Image, plain, zero};
use crate::memory::GuestRam;
use std::io;
use std::sync::Arc;
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryBackend, VolatileSlice};

/// Pieces of memory, as one run of bytes.
#[derive(Clone, Debug)]
pub(super) struct Buffers {
    pub(super) ram: Arc<GuestRam>,
    pub(super) spans: Vec<Span>,
}

impl Buffers {
    pub(super) fn len(&self) -> usize {
        self.spans.iter().map(|span| span.len).sum()
    }

    /// A part of them.
    pub(super) fn part(&self, skip: usize, len: usize) -> Self {
        Self { ram: self.ram.clone(), spans: part(&self.spans, skip, len) }
    }

    pub(super) fn slices<T>(&self, act: impl FnOnce(&[VolatileSlice<'_>]) -> T) -> io::Result<T> {
        let slice = |span: &Span| self.ram.get_slice(span.address, span.len).map(|slice| plain(&slice));
        let slices = self.spans.iter().map(slice).collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
        Ok(act(&slices))
    }

    /// Marks what was written into memory behind the back of its accessors.
    fn mark(&self) {
        for span in &self.spans {
            if let Ok(slice) = self.ram.get_slice(span.address, span.len) {
                slice.bitmap().mark_dirty(0, span.len);
            }
        }
    }

    /// Fills them from an image, on this thread.
    pub(super) fn read(&self, image: &dyn Image, offset: u64) -> io::Result<()> {
        let outcome = self.slices(|slices| image.read(slices, offset))?;
        self.mark();
        outcome
    }

    /// Writes them to an image, on this thread.
    pub(super) fn write(&self, image: &dyn Image, offset: u64) -> io::Result<()> {
        self.slices(|slices| image.write(slices, offset))?
    }

    pub(super) fn zero(&self) -> io::Result<()> {
        self.slices(zero)?;
        self.mark();
        Ok(())
    }

    /// Whether the kernel takes them as they are, for such an offset in a file.
    pub(super) fn fit(&self, image: &dyn Image, offset: u64) -> bool {
        let mask = u64::from(image.alignment()) - 1;
        // Guest memory is mapped at pages, so its addresses are aligned as the host's are.
        mask == 0
            || offset & mask == 0
                && self.spans.iter().all(|span| (span.address.0 | span.len as u64) & mask == 0)
    }
}
