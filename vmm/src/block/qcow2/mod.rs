//! QEMU's format: a disk that takes the space of what was written to it.
//!
//! ```text
//!   find ──► L1 ──► L2 table (cached) ──► a cluster of the file below: in one piece, read and written there
//!                                     ──► no cluster: the backing image, or zeros
//!                                     ──► compressed, or to be allocated: Elsewhere
//!   write ─► a cluster is allocated, its counts and what is left of it are written, then the data;
//!            only then the table points there
//! ```
//!
//! The tables are the business of the crate `imago`, by people of QEMU: it reads and writes versions 2 and
//! 3, counts references, orders its writes and reads compressed clusters. It is asked for places
//! only; the guest's bytes do not go through it unless a cluster has to be made. It is synchronous here
//! and has no thread: who pauses the disk's worker has paused it.
//!
//! A fault in it is an error of this disk, not the end of the guest: a panic inside is caught, and the
//! image then answers everything with an error.

mod circles;
mod header;
mod storage;
mod sys;
#[cfg(test)]
mod tests;

pub use header::Refusal;
pub(super) use header::{Header, LEN, MAGIC};

use super::{Access, Format, Image, Place, inside, read_at, write_at, zero};
use imago::qcow2::Qcow2 as Tables;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, Mapping,
    io_buffers::{IoVector, IoVectorMut},
};
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use storage::Under;
use vm_memory::VolatileSlice;

/// The most zeros that are written at once where the format has no way to say them.
const ZEROS: u64 = 1 << 20;

/// A qcow2 image.
#[derive(Debug)]
pub struct Qcow2 {
    /// Shared to find, read and write; alone to free clusters, which nobody may then be using.
    tables: RwLock<FormatAccess<Under>>,
    below: Under,
    header: Header,
    read_only: bool,
    broken: AtomicBool,
}

impl Qcow2 {
    /// The image in a file (which is an image itself), over a backing image if it has one.
    pub fn new(
        file: Arc<dyn Image>,
        backing: Option<Arc<dyn Image>>,
        read_only: bool,
    ) -> Result<Self, Qcow2Error> {
        let mut bytes = [0; LEN];
        read_at(&*file, &mut bytes, 0)?;
        let header = Header::parse(&bytes, !read_only)?;
        let below = if read_only { Under::read(file) } else { Under::written(file)? };
        let under = below.twin();
        let open = || {
            let backing = backing.map(|image| imago::raw::Raw::open_image(Under::read(image), false));
            let backing = backing.transpose()?.map(FormatAccess::new);
            let builder = Tables::<Under>::builder(under).write(!read_only).backing(backing).data_file(None);
            Ok(FormatAccess::new(builder.open(DenyImplicitOpenGate::default())?))
        };
        let tables = contained(open)?;
        Ok(Self { tables: RwLock::new(tables), below, header, read_only, broken: AtomicBool::new(false) })
    }

    /// Makes an empty image in an empty file, over nothing.
    pub fn create(file: Arc<dyn Image>, size: u64) -> Result<Self, Qcow2Error> {
        let builder = Tables::<Under>::create_builder(Under::read(file.clone())).size(size);
        contained(|| builder.create())?;
        file.flush()?;
        Self::new(file, None, false)
    }

    fn shared(&self) -> RwLockReadGuard<'_, FormatAccess<Under>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, FormatAccess<Under>> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the library do something, unless it has failed before.
    fn ask<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(io::Error::other("an internal error has stopped this image"));
        }
        circles::begin();
        // A panic leaves tables in memory that nobody knows; none of them is looked at again.
        catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| {
            self.broken.store(true, Ordering::Relaxed);
            tracing::error!(
                "damaged tables, or a bug, have stopped a qcow2 image; every request to it fails from now on: \
                 end the guest and run `qemu-img check` on it"
            );
            Err(io::Error::other("an internal error has stopped this image"))
        })
    }

    fn writable(&self) -> io::Result<()> {
        if self.read_only { Err(rustix::io::Errno::ROFS.into()) } else { Ok(()) }
    }

    /// Writes zeros as data.
    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut room = vec![0; len.min(ZEROS) as usize];
        let mut at = offset;
        while at < offset + len {
            let piece = (offset + len - at).min(ZEROS);
            write_at(self, &mut room[..piece as usize], at)?;
            at += piece;
        }
        Ok(())
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        if let Err(error) = self.settle() {
            tracing::error!(%error, "cannot write back the tables of a qcow2 image; what was not flushed is lost");
        }
    }
}

/// An image that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// It is none, or not one that can be served.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It cannot be read, or is damaged behind its header.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn contained<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    circles::begin();
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::InvalidData, "its tables are damaged")))
}

/// The name of the backing image in a header, and its format if the header says it.
pub(super) fn backing(file: &dyn Image, header: &Header) -> io::Result<Option<(String, Option<String>)>> {
    const BACKING_FORMAT: u32 = 0xe279_2aca;
    let Some((offset, len)) = header.backing else { return Ok(None) };
    let text = |bytes| {
        let error =
            |_| io::Error::new(io::ErrorKind::InvalidData, "the name of its backing image is not UTF-8");
        String::from_utf8(bytes).map_err(error)
    };
    let mut name = vec![0; len as usize];
    read_at(file, &mut name, offset)?;
    let (mut at, mut format) = (u64::from(header.len), None);
    while at + 8 <= header.cluster().min(offset) {
        let mut head = [0; 8];
        read_at(file, &mut head, at)?;
        let kind = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let len = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        if kind == 0 {
            break;
        }
        if kind == BACKING_FORMAT && len <= 16 {
            let mut bytes = vec![0; len as usize];
            read_at(file, &mut bytes, at + 8)?;
            format = Some(text(bytes)?);
        }
        at += 8 + u64::from(len).next_multiple_of(8);
    }
    Ok(Some((text(name)?, format)))
}

impl Image for Qcow2 {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn format(&self) -> Format {
        Format::Qcow2
    }

    fn alignment(&self) -> u32 {
        self.below.image.alignment()
    }

    fn find(&self, offset: u64, len: u64, access: Access) -> io::Result<(Place, u64)> {
        inside(self, offset, len)?;
        self.ask(|| {
            let tables = self.shared();
            let (mapping, len) = tables.get_mapping(offset, len)?;
            let place = match mapping {
                Mapping::Raw { storage, offset, writable, .. } if writable || access == Access::Read => {
                    return storage.image.find(offset, len, access);
                }
                Mapping::Zero { .. } if access == Access::Read => Place::Zeroes,
                _ => Place::Elsewhere,
            };
            Ok((place, len.max(1)))
        })
    }

    fn moves(&self) -> bool {
        true
    }

    fn read(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let all: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        let within = all.min(self.header.size.saturating_sub(offset));
        if within < all {
            zero(buffers);
        }
        // The library does not expect empty buffers.
        if within == 0 {
            return Ok(());
        }
        let (vector, _guard) = IoVectorMut::from_volatile_slice(buffers);
        let (vector, _beyond) = vector.split_at(within);
        self.ask(|| self.shared().readv(vector, offset))
    }

    fn write(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        self.writable()?;
        if buffers.iter().all(VolatileSlice::is_empty) {
            return inside(self, offset, 0);
        }
        let (vector, _guard) = IoVector::from_volatile_slice(buffers);
        inside(self, offset, vector.len())?;
        self.ask(|| self.shared().writev(vector, offset))
    }

    fn settle(&self) -> io::Result<Option<Arc<File>>> {
        if self.read_only {
            return Ok(None);
        }
        self.ask(|| {
            self.shared().flush()?;
            self.below.enter()?;
            // The caller's sync makes it stable; until then the barrier is only too careful.
            self.below.image.settle()
        })
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.writable()?;
        inside(self, offset, len)?;
        // Parts of clusters keep what they have.
        let first = offset.next_multiple_of(self.header.cluster());
        let end = offset + len;
        let end = if end == self.header.size { end } else { end & !(self.header.cluster() - 1) };
        if first >= end || self.header.version < 3 {
            return Ok(());
        }
        self.ask(|| self.alone().discard_to_zero(first, end - first))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.writable()?;
        inside(self, offset, len)?;
        if self.header.version < 3 {
            // Version 2 has no clusters of zeros.
            return self.write_zeros(offset, len);
        }
        self.ask(|| {
            let mut tables = self.alone();
            if unmap { tables.discard_to_zero(offset, len) } else { tables.write_zeroes(offset, len) }
        })
    }
}
