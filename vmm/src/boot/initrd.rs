//! Where an initrd goes: as high as the kernel can reach it, so that the kernel has room to grow.

use super::{BootError, size_of};
use crate::memory::GuestRam;
use std::io::Seek;
use vm_memory::{Bytes, GuestAddress, ReadVolatile};

const PAGE: u64 = 4096;

/// Where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// Loads it between `from` and `to`.
pub(super) fn load<I: ReadVolatile + Seek>(
    ram: &GuestRam,
    initrd: Option<&mut I>,
    from: u64,
    to: u64,
) -> Result<Placed, BootError> {
    let Some(initrd) = initrd else { return Ok(Placed::default()) };
    let size = size_of(initrd, "initrd")?;
    if size == 0 {
        return Err(BootError::InitrdEmpty);
    }
    let start = to
        .checked_sub(size)
        .map(|start| start & !(PAGE - 1))
        .filter(|start| *start >= from)
        .ok_or(BootError::InitrdTooLarge { size, from, to })?;
    ram.read_exact_volatile_from(GuestAddress(start), initrd, size as usize)?;
    Ok(Placed { start, len: size })
}
