//! Any disk image, served.

use super::{Export, Range, Tag, Zeroing};
use crate::block::{self, Access, Image, Place};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno as Os;
use std::fs::File;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// An image behind a name. Writes go straight into it, whatever epoch they are of.
#[derive(Debug)]
pub struct ImageExport {
    image: Arc<dyn Image>,
    /// Held alone by who reads blocks to write a part of them, and by who looks for places that can move.
    order: RwLock<()>,
}

impl ImageExport {
    /// This one.
    pub fn new(image: Arc<dyn Image>) -> Self {
        Self { image, order: RwLock::new(()) }
    }

    fn shared(&self) -> RwLockReadGuard<'_, ()> {
        self.order.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.order.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request touches a part of a block, that others may write the rest of.
    fn partial(&self, offset: u64, len: u64) -> bool {
        (offset | len) & u64::from(self.image.alignment()).saturating_sub(1) != 0
    }

    fn change(&self, offset: u64, len: u64, run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.image.moves() || self.partial(offset, len) {
            let _alone = self.alone();
            run()
        } else {
            let _shared = self.shared();
            run()
        }
    }
}

impl Export for ImageExport {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn read_only(&self) -> bool {
        self.image.read_only()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let _shared = self.shared();
        block::read_at(&*self.image, buffer, offset)
    }

    fn write(&self, _: Tag, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let len = bytes.len() as u64;
        self.change(offset, len, || block::write_at(&*self.image, bytes, offset))
    }

    fn zero(&self, _: Tag, offset: u64, len: u64, how: Zeroing) -> io::Result<()> {
        if how.fast {
            // Whether the host's file system can is known only once it has.
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.change(offset, len, || self.image.write_zeroes(offset, len, how.unmap))
    }

    fn trim(&self, _: Tag, offset: u64, len: u64) -> io::Result<()> {
        self.change(offset, len, || self.image.discard(offset, len))
    }

    fn flush(&self, _: Tag) -> io::Result<()> {
        let _shared = self.shared();
        self.image.flush()
    }

    fn status(&self, offset: u64, len: u64) -> io::Result<Range> {
        // One thread alone looks for places that move, and none is used outside.
        let alone = self.image.moves().then(|| self.alone());
        let (place, found) = self.image.find(offset, len, Access::Read)?;
        let found = found.clamp(1, len.max(1));
        let range = match place {
            Place::Zeroes => Range::hole(found),
            Place::Elsewhere => Range::data(found),
            Place::File { file, offset } => in_file(&file, offset, found)?,
        };
        drop(alone);
        Ok(range)
    }

    fn multi_conn(&self) -> bool {
        true
    }
}

/// What a file has at a place. Its position is moved, which nobody uses.
fn in_file(file: &File, offset: u64, len: u64) -> io::Result<Range> {
    let end = offset.saturating_add(len);
    let cut = |at: u64| at.clamp(offset.saturating_add(1), end) - offset;
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) if data > offset => Ok(Range::hole(cut(data))),
        Ok(_) => match seek(file, SeekFrom::Hole(offset)) {
            Ok(hole) => Ok(Range::data(cut(hole))),
            Err(Os::NXIO | Os::INVAL | Os::OPNOTSUPP) => Ok(Range::data(len)),
            Err(error) => Err(error.into()),
        },
        // Nothing but a hole from here to its end, or an end before here.
        Err(Os::NXIO) => Ok(Range::hole(len)),
        Err(Os::INVAL | Os::OPNOTSUPP) => Ok(Range::data(len)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::raw::Raw;
    use crate::block::{Format, Options};

    fn raw(size: u64) -> (Arc<dyn Image>, ImageExport) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        let image: Arc<dyn Image> = Arc::new(Raw::new(file, false, false).unwrap());
        (Arc::clone(&image), ImageExport::new(image))
    }

    #[test]
    fn what_was_never_written_is_a_hole_and_the_rest_is_data() {
        let (_image, export) = raw(1 << 20);
        assert_eq!(export.status(0, 1 << 20).unwrap(), Range::hole(1 << 20));
        export.write(None, &mut vec![7; 65536], 65536).unwrap();
        assert_eq!(export.status(0, 1 << 20).unwrap(), Range::hole(65536));
        assert_eq!(export.status(65536, 1 << 19).unwrap(), Range::data(65536));
        assert_eq!(export.status(65537, 10).unwrap(), Range::data(10));
        assert_eq!(export.status(131_072, 5).unwrap(), Range::hole(5));
    }

    #[test]
    fn two_connections_write_the_halves_of_a_block_and_none_is_lost() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let options = Options { format: Some(Format::Raw), direct: true, ..Options::new(file.path()) };
        let image = block::open(&options).unwrap();
        assert!(image.alignment() > 1, "a part of a block is read and written back");
        let export = ImageExport::new(image);
        for round in 1..=200 {
            let half = |offset| export.write(None, &mut [round; 256], offset).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| half(0));
                half(256);
            });
            let mut block = [0; 512];
            export.read(&mut block, 0).unwrap();
            assert_eq!(block, [round; 512]);
        }
    }

    #[test]
    fn fast_zeroes_are_refused_and_others_are_zeroes() {
        let (image, export) = raw(8192);
        export.write(Some(3), &mut [7; 8192], 0).unwrap();
        let fast = export.zero(None, 0, 10, Zeroing { unmap: true, fast: true }).unwrap_err();
        assert_eq!(crate::nbd::Errno::of(&fast), crate::nbd::Errno::Notsup);
        export.zero(None, 1, 8190, Zeroing { unmap: true, fast: false }).unwrap();
        let mut bytes = [1; 8192];
        block::read_at(&*image, &mut bytes, 0).unwrap();
        assert!(bytes[0] == 7 && bytes[8191] == 7 && bytes[1..8191].iter().all(|byte| *byte == 0));
    }
}
