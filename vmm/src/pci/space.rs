//! Where BARs are when the guest starts.

use crate::memory::layout;
use std::ops::Range;
use thiserror::Error;

/// No room is left.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("a PCI BAR of {size:#x} bytes finds no room in {first:#x}–{last:#x}; give the guest fewer devices")]
pub struct NoRoom {
    size: u64,
    first: u64,
    last: u64,
}

/// What of the PCI windows is free.
#[derive(Clone, Debug)]
pub struct Space {
    memory: Range<u64>,
    ports: Range<u64>,
}

impl Default for Space {
    fn default() -> Self {
        Self { memory: layout::PCI_MEMORY, ports: layout::PCI_PORTS }
    }
}

impl Space {
    /// Takes memory of a size that is a power of two, aligned to it.
    pub fn memory(&mut self, size: u64) -> Result<u64, NoRoom> {
        take(&mut self.memory, size)
    }

    /// Takes ports.
    pub fn ports(&mut self, size: u64) -> Result<u64, NoRoom> {
        take(&mut self.ports, size)
    }
}

fn take(free: &mut Range<u64>, size: u64) -> Result<u64, NoRoom> {
    let no_room = NoRoom { size, first: free.start, last: free.end };
    let first = free.start.checked_next_multiple_of(size).ok_or(no_room.clone())?;
    let end = first.checked_add(size).filter(|&end| end <= free.end).ok_or(no_room)?;
    free.start = end;
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_aligned_apart_and_inside() {
        let mut space = Space::default();
        let small = space.memory(0x100).unwrap();
        let big = space.memory(0x4000).unwrap();
        assert_eq!((small, big), (layout::PCI_MEMORY.start, layout::PCI_MEMORY.start + 0x4000));
        for number in 0..64 {
            assert_eq!(space.ports(0x100), Ok(layout::PCI_PORTS.start + number * 0x100));
        }
        assert!(space.ports(0x100).is_err());
        assert!(space.memory(1 << 63).is_err());
        assert!(space.memory(0).is_err());
    }
}
