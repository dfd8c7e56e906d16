//! The guest's memory, as a stream sees it: blocks of pages with names.

use super::ram::Block;
use crate::memory::GuestRam;
use std::io;
use thiserror::Error;
use vm_memory::{Bytes as _, GuestMemoryBackend as _, GuestMemoryRegion as _, MemoryRegionAddress};

/// The names of the blocks, in the order of their addresses.
const NAMES: [&str; 2] = ["pc.ram", "pc.ram.high"];

/// Memory that is not there.
#[derive(Debug, Error)]
#[error("cannot reach {len} bytes at {offset:#x} of memory block {block}: {why}")]
pub struct MemoryError {
    block: usize,
    offset: u64,
    len: usize,
    why: String,
}

impl From<MemoryError> for io::Error {
    fn from(error: MemoryError) -> Self {
        Self::other(error)
    }
}

/// Blocks of pages.
pub trait Memory {
    /// What there is.
    fn blocks(&self) -> Vec<Block>;

    /// Copies bytes out.
    fn read(&self, block: usize, offset: u64, into: &mut [u8]) -> Result<(), MemoryError>;

    /// Copies bytes in.
    fn write(&self, block: usize, offset: u64, bytes: &[u8]) -> Result<(), MemoryError>;
}

/// The blocks of a guest's memory.
pub fn blocks(ram: &GuestRam) -> Vec<Block> {
    let regions = NAMES.iter().zip(ram.iter());
    regions.map(|(name, region)| Block { name: (*name).to_owned(), size: region.len() }).collect()
}

impl Memory for GuestRam {
    fn blocks(&self) -> Vec<Block> {
        blocks(self)
    }

    fn read(&self, block: usize, offset: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let len = into.len();
        let error = |why: String| MemoryError { block, offset, len, why };
        let region = self.iter().nth(block).ok_or_else(|| error("there is no such block".into()))?;
        region.read_slice(into, MemoryRegionAddress(offset)).map_err(|why| error(why.to_string()))
    }

    /// Marks what it writes, as devices' writes are marked.
    fn write(&self, block: usize, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let error = |why: String| MemoryError { block, offset, len: bytes.len(), why };
        let region = self.iter().nth(block).ok_or_else(|| error("there is no such block".into()))?;
        region.write_slice(bytes, MemoryRegionAddress(offset)).map_err(|why| error(why.to_string()))
    }
}
