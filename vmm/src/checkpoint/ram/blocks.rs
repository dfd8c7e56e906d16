//! What the guest's RAM is made of, as both sides name it.

use crate::memory::GuestRam;
use std::fmt;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// A piece of RAM that is contiguous in the guest's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What streams call it: the first is `pc.ram`, as QEMU's is.
    pub name: String,
    /// Its first address in the guest.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// All of it, by address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks(Vec<Block>);

impl Blocks {
    /// The blocks of a guest's RAM: one for each region.
    pub fn of(ram: &GuestRam) -> Self {
        let name = |number: usize| match number {
            0 => "pc.ram".to_owned(),
            1 => "pc.ram.high".to_owned(),
            more => format!("pc.ram.{more}"),
        };
        let block = |(number, region): (usize, &_)| Block {
            name: name(number),
            start: GuestMemoryRegion::start_addr(region).0,
            len: GuestMemoryRegion::len(region),
        };
        Self(ram.iter().enumerate().map(block).collect())
    }

    /// Them.
    pub fn iter(&self) -> std::slice::Iter<'_, Block> {
        self.0.iter()
    }

    /// The one with this number.
    pub fn get(&self, number: usize) -> Option<&Block> {
        self.0.get(number)
    }

    /// The number of the one with this name.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.0.iter().position(|block| block.name.as_bytes() == name)
    }

    /// The number of the block that an address of the guest is in, and the offset there.
    pub fn place(&self, address: u64) -> Option<(usize, u64)> {
        let inside = |block: &Block| address.checked_sub(block.start).filter(|offset| *offset < block.len);
        self.0.iter().enumerate().find_map(|(number, block)| inside(block).map(|offset| (number, offset)))
    }

    /// Bytes of all.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|block| block.len).sum()
    }
}

impl<'a> IntoIterator for &'a Blocks {
    type Item = &'a Block;
    type IntoIter = std::slice::Iter<'a, Block>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, block) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{} ({} MiB at {:#x})", block.name, block.len >> 20, block.start)?;
        }
        Ok(())
    }
}
