//! A file or a block device whose bytes are the guest's.

use super::{Access, Format, Image, Place, inside, sys};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::VolatileSlice;

/// How many zeros are written at once where the kernel cannot make them.
const ZEROS: usize = 1 << 20;

/// A raw image.
#[derive(Debug)]
pub struct Raw {
    file: Arc<File>,
    size: AtomicU64,
    read_only: bool,
    alignment: u32,
}

impl Raw {
    /// An open file or block device as an image. `direct` says that it was opened with `O_DIRECT`.
    pub fn new(file: File, read_only: bool, direct: bool) -> io::Result<Self> {
        // A block device has its size where it ends, and zero in its metadata.
        let size = (&file).seek(SeekFrom::End(0))?;
        let alignment = if direct { direct_alignment(&file)? } else { 1 };
        Ok(Self { file: Arc::new(file), size: AtomicU64::new(size), read_only, alignment })
    }

    fn writable(&self) -> io::Result<()> {
        if self.read_only { Err(Errno::ROFS.into()) } else { Ok(()) }
    }

    /// Has the kernel do something to a range. `false`: it cannot, here.
    fn allocate(&self, how: FallocateFlags, offset: u64, len: u64) -> io::Result<bool> {
        loop {
            match fallocate(&*self.file, how, offset, len) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn aligned(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> bool {
        let mask = u64::from(self.alignment) - 1;
        offset & mask == 0
            && buffers
                .iter()
                .all(|buffer| (buffer.ptr_guard().as_ptr() as u64 | buffer.len() as u64) & mask == 0)
    }

    /// Does an unaligned request through an aligned copy of the blocks that it touches.
    fn bounce(&self, buffers: &[VolatileSlice<'_>], offset: u64, write: bool) -> io::Result<()> {
        let align = self.alignment as usize;
        let mut at = offset;
        // Room for a piece and for the blocks at both of its ends.
        let mut room = vec![0_u8; ZEROS + 3 * align];
        let first = room.as_ptr().align_offset(align);
        for buffer in buffers {
            let mut done = 0;
            while done < buffer.len() {
                let piece = (buffer.len() - done).min(ZEROS);
                let before = (at % align as u64) as usize;
                let whole = (before + piece).next_multiple_of(align);
                let blocks = room.get_mut(first..first + whole).ok_or(io::ErrorKind::InvalidInput)?;
                let start = at - before as u64;
                if !write || whole != piece {
                    sys::read(&self.file, &[VolatileSlice::from(&mut *blocks)], start)?;
                }
                let part = buffer.subslice(done, piece).map_err(io::Error::other)?;
                if write {
                    part.copy_to(&mut blocks[before..before + piece]);
                    sys::write(&self.file, &[VolatileSlice::from(&mut *blocks)], start)?;
                } else {
                    part.copy_from(&blocks[before..before + piece]);
                }
                done += piece;
                at += piece as u64;
            }
        }
        Ok(())
    }
}

/// What direct I/O has to be aligned to: tried out, since not every file system tells.
fn direct_alignment(file: &File) -> io::Result<u32> {
    let mut room = vec![0_u8; 3 * 4096];
    let first = room.as_ptr().align_offset(4096);
    for align in [512_u32, 4096] {
        // Memory at an odd multiple of the alignment, as a guest may have it.
        let start = first + if align == 512 { 512 } else { 0 };
        let block = &mut room[start..start + align as usize];
        match sys::read(file, &[VolatileSlice::from(block)], 0) {
            Ok(()) => return Ok(align),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "its blocks are larger than 4096 bytes"))
}

impl Image for Raw {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn format(&self) -> Format {
        Format::Raw
    }

    fn alignment(&self) -> u32 {
        self.alignment
    }

    fn find(&self, offset: u64, len: u64, _: Access) -> io::Result<(Place, u64)> {
        Ok((Place::File { file: self.file.clone(), offset }, len))
    }

    fn moves(&self) -> bool {
        false
    }

    fn read(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        if self.alignment > 1 && !self.aligned(buffers, offset) {
            return self.bounce(buffers, offset, false);
        }
        sys::read(&self.file, buffers, offset)
    }

    fn write(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        self.writable()?;
        if self.alignment > 1 && !self.aligned(buffers, offset) {
            self.bounce(buffers, offset, true)?;
        } else {
            sys::write(&self.file, buffers, offset)?;
        }
        let len: usize = buffers.iter().map(VolatileSlice::len).sum();
        self.size.fetch_max(offset.saturating_add(len as u64), Ordering::Relaxed);
        Ok(())
    }

    fn settle(&self) -> io::Result<Option<Arc<File>>> {
        Ok((!self.read_only).then(|| self.file.clone()))
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.writable()?;
        inside(self, offset, len)?;
        if len > 0 {
            // Where holes are not known, nothing is lost but space.
            self.allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?;
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.writable()?;
        inside(self, offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zeros = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if unmap && self.allocate(hole, offset, len)? || self.allocate(zeros, offset, len)? {
            return Ok(());
        }
        let mut room = vec![0; ZEROS.min(len as usize)];
        let mut at = offset;
        while at < offset + len {
            let piece = (offset + len - at).min(room.len() as u64) as usize;
            self.write(&[VolatileSlice::from(&mut room[..piece])], at)?;
            at += piece as u64;
        }
        Ok(())
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        self.writable()?;
        let metadata = self.file.metadata()?;
        if metadata.file_type().is_block_device() {
            return if size <= self.size() { Ok(()) } else { Err(Errno::NOSPC.into()) };
        }
        // `ftruncate` could cut off what a request in flight appends; this never shrinks a file.
        if metadata.len() < size && !self.allocate(FallocateFlags::empty(), size - 1, 1)? {
            self.file.set_len(size)?;
        }
        self.size.fetch_max(size.max(metadata.len()), Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{read_at, write_at};
    use rustix::fs::OFlags;
    use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

    fn raw(size: u64) -> (File, Raw) {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.set_len(size).unwrap();
        (file.try_clone().unwrap(), Raw::new(file, false, false).unwrap())
    }

    #[test]
    fn what_is_written_is_in_the_file() {
        let (file, raw) = raw(8192);
        let (mut one, mut two) = ([1; 300], [2; 700]);
        raw.write(&[VolatileSlice::from(&mut one[..]), VolatileSlice::from(&mut two[..])], 4000).unwrap();
        let mut found = [0; 1000];
        file.read_exact_at(&mut found, 4000).unwrap();
        assert_eq!(found, *[&one[..], &two[..]].concat());
        let (mut head, mut tail) = ([0; 500], [0; 500]);
        raw.read(&[VolatileSlice::from(&mut head[..]), VolatileSlice::from(&mut tail[..])], 4000).unwrap();
        assert_eq!([head, tail].concat(), found);
        raw.flush().unwrap();
    }

    #[test]
    fn beyond_the_end_of_the_file_are_zeros() {
        let (_, raw) = raw(1000);
        write_at(&raw, &mut [7; 1000], 0).unwrap();
        let mut found = [9; 512];
        read_at(&raw, &mut found, 700).unwrap();
        assert_eq!(found, *[[7; 300].as_slice(), &[0; 212]].concat());
    }

    #[test]
    fn discarded_space_is_given_back_and_zeros_are_zeros() {
        let (file, raw) = raw(1 << 20);
        write_at(&raw, &mut vec![7; 1 << 20], 0).unwrap();
        let before = file.metadata().unwrap().blocks();
        raw.discard(0, 1 << 19).unwrap();
        assert!(file.metadata().unwrap().blocks() < before);
        for unmap in [false, true] {
            write_at(&raw, &mut [7; 8192], 1 << 19).unwrap();
            raw.write_zeroes((1 << 19) + 100, 5000, unmap).unwrap();
            let mut found = [9; 8192];
            read_at(&raw, &mut found, 1 << 19).unwrap();
            let expected = [[7; 100].as_slice(), &[0; 5000], &[7; 3092]].concat();
            assert_eq!(found, *expected);
        }
        assert!(raw.discard(1 << 20, 1).is_err());
        assert!(raw.write_zeroes(u64::MAX, 2, true).is_err());
    }

    #[test]
    fn a_read_only_image_is_not_written() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let raw = Raw::new(file, true, false).unwrap();
        assert!(write_at(&raw, &mut [1], 0).is_err());
        assert!(raw.discard(0, 512).is_err());
        assert!(raw.write_zeroes(0, 512, false).is_err());
        assert!(raw.grow(1).is_err());
    }

    #[test]
    fn unaligned_requests_go_round_the_page_cache_as_well() {
        let path = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        path.as_file().set_len(3 << 20).unwrap();
        let mut options = File::options();
        options.read(true).write(true).custom_flags(OFlags::DIRECT.bits() as i32);
        let raw = Raw::new(options.open(path.path()).unwrap(), false, true).unwrap();
        assert!(raw.alignment() >= 512);
        let mut data: Vec<u8> = (0..2_000_003_u32).map(|n| (n % 251) as u8).collect();
        write_at(&raw, &mut data, 777).unwrap();
        let mut found = vec![0; data.len()];
        read_at(&raw, &mut found, 777).unwrap();
        assert!(found == data);
        path.as_file().read_exact_at(&mut found, 777).unwrap();
        assert!(found == data, "another reader sees the same");
    }
}
