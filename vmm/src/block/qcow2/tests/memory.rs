//! A file in memory that remembers each change.

use crate::block::{Access, Format, Image, Place};
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};
use vm_memory::VolatileSlice;

/// What happened to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    Sync,
}

/// A file in memory.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<(Vec<u8>, Vec<Change>)>);

/// Applies a write.
pub(super) fn apply(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + data.len());
    bytes.resize(bytes.len().max(to), 0);
    bytes[from..to].copy_from_slice(data);
}

impl Memory {
    pub(super) fn of(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self(Mutex::new((bytes, Vec::new()))))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.clone()
    }

    pub(super) fn changes(&self) -> Vec<Change> {
        self.0.lock().unwrap().1.clone()
    }

    fn change(&self, offset: u64, data: Vec<u8>) -> io::Result<()> {
        // A damaged image may point anywhere.
        room(offset.checked_add(data.len() as u64))?;
        let mut this = self.0.lock().unwrap();
        apply(&mut this.0, offset, &data);
        this.1.push(Change::Write(offset, data));
        Ok(())
    }
}

/// Whether a file in memory may be so large.
fn room(end: Option<u64>) -> io::Result<()> {
    if end.is_some_and(|end| end <= 64 << 20) { Ok(()) } else { Err(io::ErrorKind::FileTooLarge.into()) }
}

impl Image for Memory {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().0.len() as u64
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
        let bytes = &self.0.lock().unwrap().0;
        let mut at = offset;
        for buffer in buffers {
            let from = usize::try_from(at).unwrap().min(bytes.len());
            let mut data = bytes[from..(from + buffer.len()).min(bytes.len())].to_vec();
            data.resize(buffer.len(), 0);
            buffer.copy_from(&data);
            at += buffer.len() as u64;
        }
        Ok(())
    }
    fn write(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let mut all = Vec::new();
        for buffer in buffers {
            let mut data = vec![0; buffer.len()];
            buffer.copy_to(&mut data);
            all.extend(data);
        }
        self.change(offset, all)
    }
    fn settle(&self) -> io::Result<Option<Arc<File>>> {
        self.0.lock().unwrap().1.push(Change::Sync);
        Ok(None)
    }
    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        room(offset.checked_add(len))?;
        self.change(offset, vec![0; len as usize])
    }
    fn grow(&self, size: u64) -> io::Result<()> {
        room(Some(size))?;
        let bytes = &mut self.0.lock().unwrap().0;
        let len = bytes.len().max(size as usize);
        bytes.resize(len, 0);
        Ok(())
    }
}
