//! Makes the guest's RAM: what does not fit under the hole goes on above it.

use super::sys::{Gap, HUGE, prefer_huge_pages};
use super::{GuestRam, Written, layout};
use thiserror::Error;
use vm_memory::mmap::FromRangesError;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestRegionMmap};

/// The least that makes sense: boot tables, and something of a kernel.
const LEAST: u64 = 2 << 20;
/// The most that KVM takes is 8 TiB in one piece, without its last page.
const MOST: u64 = 4 << 40;

/// Memory that a guest cannot have.
#[derive(Debug, Error)]
pub enum RamError {
    /// Too small, too large, or not whole pages.
    #[error(
        "a guest cannot have {0} bytes of memory: whole pages, at least 2 MiB and at most 4 TiB are possible"
    )]
    Size(u64),
    /// The host has not enough.
    #[error("cannot map {size} bytes for the guest's memory: {source}; a smaller --memory may do")]
    Map {
        /// How many.
        size: u64,
        /// Why.
        source: FromRangesError,
    },
}

/// Where `size` bytes of RAM are.
pub fn ranges(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(layout::HOLE);
    let mut ranges = vec![(0, low)];
    if size > low {
        ranges.push((layout::HIGH, size - low));
    }
    ranges
}

/// Maps `size` bytes of RAM, empty: pages come when they are touched, huge ones where the host has them.
pub fn new(size: u64) -> Result<GuestRam, RamError> {
    if !(LEAST..=MOST).contains(&size) || !size.is_multiple_of(4096) {
        return Err(RamError::Size(size));
    }
    let regions: Result<Vec<_>, _> =
        ranges(size).into_iter().map(|(start, len)| region(GuestAddress(start), len as usize)).collect();
    let ram = regions
        .and_then(|regions| GuestRam::from_regions(regions).map_err(FromRangesError::from))
        .map_err(|source| RamError::Map { size, source })?;
    for region in ram.iter() {
        prefer_huge_pages(region);
    }
    Ok(ram)
}

/// How many gaps of a region's size there may be that the kernel likes better. They cost addresses alone.
const TRIES: usize = 16;

/// Maps a region, at the edge of a huge page where the kernel lets it. It is memory all the same elsewhere.
fn region(start: GuestAddress, len: usize) -> Result<GuestRegionMmap<Written>, FromRangesError> {
    // What falls into another gap of the address space keeps that closed until one falls into ours.
    let mut elsewhere = Vec::new();
    loop {
        let gap = (len >= HUGE).then(|| Gap::new(len)).flatten();
        let last = gap.is_none() || elsewhere.len() == TRIES;
        match GuestRegionMmap::from_range(start, len, None) {
            Ok(region) if last || (region.as_ptr() as usize).is_multiple_of(HUGE) => return Ok(region),
            Ok(region) => elsewhere.push(region),
            // A host that counts addresses as memory may have had enough for one.
            Err(error) => return elsewhere.pop().ok_or(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn what_does_not_fit_under_the_hole_goes_on_above_it() {
        assert_eq!(ranges(512 << 20), [(0, 512 << 20)]);
        assert_eq!(ranges(layout::HOLE), [(0, layout::HOLE)]);
        assert_eq!(ranges(layout::HOLE + 4096), [(0, layout::HOLE), (layout::HIGH, 4096)]);
        // Nothing is touched, so a large guest costs nothing to make.
        let ram = new(5 << 30).unwrap();
        ram.write_obj(7_u8, GuestAddress(layout::HIGH + (2 << 30) - 1)).unwrap();
        ram.write_obj(7_u8, GuestAddress(layout::HIGH + (2 << 30))).unwrap_err();
        ram.write_obj(7_u8, GuestAddress(layout::HOLE)).unwrap_err();
        ram.write_obj(7_u8, GuestAddress(layout::HOLE - 1)).unwrap();
    }

    /// Not a whole number of huge pages, as kernels since 6.7 see to that by themselves otherwise.
    #[test]
    fn memory_begins_at_a_huge_pages_edge() {
        let starts = || {
            let ram = new((8 << 20) + 4096).unwrap();
            ram.iter().map(|region| region.as_ptr() as usize).collect::<Vec<_>>()
        };
        // Another thread may map something into the gap at that moment; hardly so many times.
        assert!((0..100).any(|_| starts().iter().all(|start| start.is_multiple_of(HUGE))));
    }

    #[test]
    fn odd_sizes_are_refused_with_a_reason() {
        for size in [0, 4096, (2 << 20) + 1, u64::MAX, !4095_u64] {
            let text = new(size).unwrap_err().to_string();
            assert!(text.contains(&size.to_string()), "{text}");
        }
    }
}
