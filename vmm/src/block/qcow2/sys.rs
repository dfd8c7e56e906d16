//! What the library calls to reach the file under an image: its trait has functions that are unsafe to call.
#![expect(
    unsafe_code,
    reason = "the trait's functions are unsafe to call; none of them does anything unsafe itself, but for writing \
              from a slice whose type could be read into"
)]

use super::circles;
use super::storage::Under;
use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;
use std::io;
use vm_memory::VolatileSlice;

impl Storage for Under {
    fn mem_align(&self) -> usize {
        circles::plan();
        self.image.alignment() as usize
    }

    fn req_align(&self) -> usize {
        self.image.alignment() as usize
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.image.size())
    }

    unsafe fn pure_readv(&self, buffers: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        circles::begin();
        let mut buffers = buffers.into_inner();
        let slices: Vec<_> = buffers.iter_mut().map(|buffer| VolatileSlice::from(&mut **buffer)).collect();
        self.image.read(&slices, offset)
    }

    unsafe fn pure_writev(&self, buffers: IoVector<'_>, offset: u64) -> io::Result<()> {
        circles::begin();
        let len = buffers.len();
        let buffers: Vec<std::io::IoSlice<'_>> = buffers.into_inner();
        if self.keep(&buffers, offset, len) {
            return Ok(());
        }
        // SAFETY: the buffers live until after the call, and a write reads them only.
        let slice = |buffer: &std::io::IoSlice<'_>| unsafe {
            VolatileSlice::new(buffer.as_ptr().cast_mut(), buffer.len())
        };
        let slices: Vec<_> = buffers.iter().map(slice).collect();
        self.order(offset)?;
        self.image.write(&slices, offset)?;
        self.reload(offset, len)
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let dirty = self.make_room(offset, end)?;
        if dirty > 0 {
            self.order(offset)?;
            self.image.write_zeroes(offset, dirty, true)?;
        }
        self.reload(offset, len)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.image.flush()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }
}
